"""Filters that are gone for the training but still take room: held at zero until they are removed.

Which ones is kept in boolean buffers of the touched modules, so that a checkpoint holds it. Beside a filter's weights,
bias, batch norms and depthwise convolutions also the weights that *read* it are zero: the masked network computes what
the removed one will, whatever lies between (a sigmoid of zero is not zero), and no score counts a dead input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tailkeep.compression.pruning.coupling import TRANSPOSED, Plan

KEEP = {"out": "pruning_keep_out", "in": "pruning_keep_in"}
PLAN = "_pruning_plan"
"""A plain attribute of the model: a function of its shape, made anew wherever the model is prepared anew."""


def attach(model: nn.Module, plan: Plan) -> None:
    """Give every touched module a buffer (channels,) of what it keeps: all, to begin with."""
    model.__dict__[PLAN] = plan
    for touches in plan.touches.values():
        for touch in touches:
            module = model.get_submodule(touch.module)
            weight = _weight(module)
            size = len(weight) if touch.side == "out" else weight.shape[_reading(module)]
            keep = torch.ones(size, dtype=torch.bool, device=weight.device)
            module.register_buffer(KEEP[touch.side], keep)


def detach(model: nn.Module) -> None:
    """Take the buffers away again; the zeros stay."""
    for module in model.modules():
        for name in KEEP.values():
            module._buffers.pop(name, None)
    model.__dict__.pop(PLAN, None)


def plan_on(model: nn.Module) -> Plan | None:
    """Return the plan that ``attach`` left on the model, if it did."""
    plan: Plan | None = model.__dict__.get(PLAN)
    return plan


def gone(model: nn.Module, names: Iterable[str]) -> dict[str, list[int]]:
    """Return the masked filters of each named layer, ascending. It waits for the device once."""
    layers = list(names)
    keeps = [model.get_submodule(name).get_buffer(KEEP["out"]) for name in layers]
    flat = iter(torch.cat(keeps).tolist() if keeps else [])
    return {
        name: [index for index in range(len(keep)) if not next(flat)] for name, keep in zip(layers, keeps, strict=True)
    }


@torch.no_grad()
def mark(model: nn.Module, filters: Mapping[str, list[int]]) -> None:
    """Mask filters, by index, with all that depends on them; what was masked stays so."""
    plan: Plan = model.__dict__[PLAN]
    for name, indices in filters.items():
        for touch in plan.touches[name]:
            channels = [channel for index in indices for channel in touch.channels[index]]
            keep = model.get_submodule(touch.module).get_buffer(KEEP[touch.side])
            keep[torch.tensor(channels, dtype=torch.int64, device=keep.device)] = False


@torch.no_grad()
def apply(model: nn.Module) -> None:
    """Set everything that is masked to zero again; momentum moves it at every optimizer step."""
    for module in model.modules():
        outs, ins = (module._buffers.get(KEEP[side]) for side in ("out", "in"))
        if outs is not None:
            for parameter in (module.weight, module.bias):
                if isinstance(parameter, Tensor):
                    parameter.masked_fill_(_along(~outs, parameter, 0), 0)
        if ins is not None:
            weight = _weight(module)
            weight.masked_fill_(_along(~ins, weight, _reading(module)), 0)


def _along(mask: Tensor, parameter: Tensor, dimension: int) -> Tensor:
    shape = [1] * parameter.ndim
    shape[dimension] = -1
    return mask.view(shape)


def _reading(module: nn.Module) -> int:
    """The dimension of the weight along which a module reads its input."""
    return 0 if isinstance(module, TRANSPOSED) else 1


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
