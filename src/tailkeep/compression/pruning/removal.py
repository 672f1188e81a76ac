"""Physical removal of filters (and of hidden units of linear layers), with all that reads or normalises their channels.

The dependencies come from torch-pruning's graph (Fang et al. 2023); which filters go is the caller's choice, by index.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from tailkeep.errors import StepFailed

CHANNELWISE = {OPTYPE.BN, OPTYPE.ELEMENTWISE, OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.RESHAPE, OPTYPE.SLICE, OPTYPE.PRELU}
"""What may lie between a prunable layer and the layers that read it: each channel is kept apart in it."""
MIXING = ("Bmm", "Softmax", "ScaledDotProduct")
"""Operations of attention that torch-pruning takes for element-wise ones."""


def example_input(model: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """Return zeros (1, C, H, W) with the device and the type of the model's first floating-point parameter."""
    first = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))
    return torch.zeros(1, *image_shape, device=first.device, dtype=first.dtype)


@contextmanager
def traced(model: nn.Module, image_shape: tuple[int, int, int]) -> Iterator[Any]:
    """Give torch-pruning's dependency graph of ``model``, traced in evaluation mode.

    Training flags and ``requires_grad`` come back afterwards, on removed-from parameters too. Raises ``StepFailed``
    with reason ``pruning`` where the model cannot be traced.
    """
    training = [(module, module.training) for module in model.modules()]
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                graph = tp.DependencyGraph().build_dependency(
                    model, example_inputs=(example_input(model, image_shape),), verbose=False
                )
            except Exception as error:
                raise StepFailed("pruning", f"it could not be traced: {type(error).__name__}: {error}") from error
            yield graph
    finally:
        for module, flag in training:
            module.training = flag
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(gradients.get(name, True))
            parameter.grad = None


def plain_layer(model: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    """Return the named convolution or linear layer.

    Raises ``StepFailed`` with reason ``pruning`` where it is another layer, or is quantized already.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise StepFailed("pruning", f"the model has no layer {name}") from error
    if not isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, "weight_bits"):
        kind = type(module).__name__
        raise StepFailed(
            "pruning", f"{name} is a {kind}, no plain convolution or linear layer; prune before quantizing"
        )
    return module


def width(model: nn.Module, name: str) -> int:
    """Return the filters (hidden units) of the named layer; raises as ``plain_layer`` does."""
    return int(plain_layer(model, name).weight.shape[0])


def out_pruner(layer: nn.Module) -> Any:
    """Return torch-pruning's function that removes output channels of such a layer."""
    return tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels


def prunable(model: nn.Module, image_shape: tuple[int, int, int], linear_layers: bool = False) -> list[str]:
    """Return the names of the convolutions whose filters may go, in the order of the model's modules.

    These are the model's ``first_convolutions()`` where it has that method; else every ungrouped ``nn.Conv2d`` whose
    removed channels are read by other layers alone: no output channel of another layer and no model output goes with
    them, but for depthwise convolutions, which lose the same channels. ``linear_layers`` adds the ``nn.Linear`` of
    which that is true, after the convolutions: the hidden layer of an MLP, never attention's projections.
    """
    declared: Callable[[], list[str]] | None = getattr(model, "first_convolutions", None)
    first = list(declared()) if callable(declared) else []
    kinds: list[type[nn.Module]] = [] if callable(declared) else [nn.Conv2d]
    kinds += [nn.Linear] if linear_layers else []
    candidates = [
        (name, module)
        for kind in kinds
        for name, module in model.named_modules()
        if isinstance(module, kind) and getattr(module, "groups", 1) == 1 and len(_weight(module)) > 1
    ]
    if not candidates:
        return first
    with traced(model, image_shape) as graph:
        return first + [name for name, module in candidates if _stands_alone(graph, module)]


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight


def _stands_alone(graph: Any, layer: nn.Module) -> bool:
    """Whether removing a filter touches only channel-wise layers and the inputs of convolutions and linear layers."""
    if layer not in graph.module2node:
        return False
    group = graph.get_pruning_group(layer, out_pruner(layer), idxs=[0])
    readers = 0
    for dependency, _ in group:
        target = dependency.target
        module = target.module
        if module is layer:
            if graph.is_in_channel_pruning_fn(dependency.handler):
                return False
        elif target.type == OPTYPE.DEPTHWISE_CONV:
            if module.in_channels != module.out_channels:
                return False
        elif target.type in (OPTYPE.CONV, OPTYPE.LINEAR) and graph.is_in_channel_pruning_fn(dependency.handler):
            if getattr(module, "groups", 1) != 1:  # it reads by groups of a fixed size: the others would shift
                return False
            readers += 1
        elif target.type not in CHANNELWISE or any(word in str(module) for word in MIXING):
            return False
    return readers > 0


def remove_filters(model: nn.Module, filters: Mapping[str, list[int]], image_shape: tuple[int, int, int]) -> None:
    """Remove, in place, the filters of each named layer by index, with all that depends on them.

    Nothing at all is touched where every list is empty. Raises ``StepFailed`` with reason ``pruning`` where a layer
    would lose all its filters or the model's output would change its shape.
    """
    wanted = {name: sorted(indices) for name, indices in filters.items() if indices}
    if not wanted:
        return
    layers = {name: plain_layer(model, name) for name in wanted}
    with traced(model, image_shape) as graph:
        before = _output_shape(model, image_shape)
        for name, indices in wanted.items():
            if len(indices) >= width(model, name):
                raise StepFailed("pruning", f"{name} would lose all {width(model, name)} filters")
            group = graph.get_pruning_group(layers[name], out_pruner(layers[name]), idxs=indices)
            group.prune(record_history=False)
        after = _output_shape(model, image_shape)
    if before != after:
        raise StepFailed("pruning", f"the model's output changed from {before} to {after}; name other layers in ratios")


def _output_shape(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    with torch.no_grad():
        try:
            return tuple(model(example_input(model, image_shape)).shape)
        except Exception as error:
            raise StepFailed("pruning", f"the model does not run: {type(error).__name__}: {error}") from error


def weight_count(model: nn.Module) -> int:
    """Return the weights of the convolutions and linear layers, without biases and batch normalisation."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
