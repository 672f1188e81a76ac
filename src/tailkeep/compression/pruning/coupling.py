"""What depends on each filter: the channels of other layers that exist, or are read, only with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch_pruning.ops import OPTYPE

from tailkeep.compression.pruning.removal import out_pruner, plain_layer, traced

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Touch:
    """A module that loses channels with a layer's filters.

    ``side`` "out": channels that it makes or normalises (the layer itself, batch norms, depthwise convolutions); "in":
    channels that it reads. ``channels[filter]`` are their numbers in that module; one filter is several inputs of a
    linear layer behind a flattening.
    """

    module: str
    side: Literal["in", "out"]
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plan:
    """A model's ``touches`` by prunable layer, the layer itself among them, and the batch norm that follows a layer.

    ``norms`` holds the layers whose output goes to one batch norm and nowhere else.
    """

    touches: dict[str, tuple[Touch, ...]]
    norms: dict[str, str]


def plan_of(model: nn.Module, names: Iterable[str], image_shape: tuple[int, int, int]) -> Plan:
    """Trace ``model`` once and return the ``Plan`` of the named layers.

    Raises ``StepFailed`` with reason ``pruning`` where the model cannot be traced.
    """
    touches: dict[str, tuple[Touch, ...]] = {}
    norms: dict[str, str] = {}
    own = {module: name for name, module in model.named_modules()}
    with traced(model, image_shape) as graph:
        for name in names:
            layer = plain_layer(model, name)
            touches[name] = tuple(_touches(graph, layer, own))
            readers = graph.module2node[layer].outputs
            if len(readers) == 1 and readers[0].type == OPTYPE.BN:
                norms[name] = own[readers[0].module]
    return Plan(touches, norms)


def _touches(graph: Any, layer: nn.Conv2d | nn.Linear, own: dict[nn.Module, str]) -> Iterable[Touch]:
    filters = layer.weight.shape[0]
    group = graph.get_pruning_group(layer, out_pruner(layer), idxs=list(range(filters)))
    for item in group.items:
        target = item.dep.target
        if target.type not in (OPTYPE.CONV, OPTYPE.LINEAR, OPTYPE.DEPTHWISE_CONV, OPTYPE.BN):
            continue  # reshapes, activations, the slopes of a PReLU: nothing of them is counted or masked
        if target.module.weight is None:
            continue  # a batch norm without scale and shift
        inside = target.type in (OPTYPE.CONV, OPTYPE.LINEAR) and graph.is_in_channel_pruning_fn(item.dep.handler)
        channels: list[list[int]] = [[] for _ in range(filters)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            channels[root].append(int(index))
        yield Touch(own[target.module], "in" if inside else "out", tuple(tuple(sorted(found)) for found in channels))
