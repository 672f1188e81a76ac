"""What a method must know of a model's shape: the order in which layers run, and which batch norm follows which."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


def layers_in_call_order(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the convolutions and linear layers in the order in which a forward pass first calls them."""
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def note(_m: nn.Module, _i: object, _o: object, name: str = name) -> None:
                if name not in order:
                    order.append(name)

            handles.append(module.register_forward_hook(note))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return order


def compressible_layers(model: nn.Module, example: Tensor, keep_first_last: bool) -> list[str]:
    """Return ``layers_in_call_order``, with ``keep_first_last`` without the first of them and the last linear one."""
    order = layers_in_call_order(model, example)
    if keep_first_last:
        linear = [name for name in order if isinstance(model.get_submodule(name), nn.Linear)]
        order = [name for name in order[1:] if name not in linear[-1:]]
    return order


def following_norms(model: nn.Module) -> dict[str, str]:
    """Return {layer: batch norm} for each layer whose output goes to one batch norm and nowhere else.

    Empty where torch.fx cannot trace the model: its batch norms then stay as they are, which is correct and only
    less compact.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception:
        return {}
    modules = dict(model.named_modules())
    pairs: dict[str, str] = {}
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules.get(str(node.target)), (nn.Conv2d, nn.Linear)):
            continue
        users = list(node.users)
        if len(users) != 1 or users[0].op != "call_module":
            continue
        norm = str(users[0].target)
        once = calls[str(node.target)] == 1 and calls[norm] == 1
        if once and isinstance(modules.get(norm), nn.BatchNorm2d):
            pairs[str(node.target)] = norm
    return pairs


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the submodule ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
