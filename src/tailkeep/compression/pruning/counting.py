"""What a model costs, and what it will cost once filters are gone: counted, so that a target can be met exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tailkeep.compression.pruning.coupling import TRANSPOSED, Touch
from tailkeep.compression.pruning.removal import example_input

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)


def counted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield (name, module, weight) of every convolution and linear layer, a weight that two of them share once."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, COUNTED) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            yield name, module, module.weight


def positions(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return how often one image (C, H, W) uses each weight of a layer, by the layer's name, over all its calls.

    Found by one forward pass of zeros in evaluation mode; a layer that is never called has none. Weights times
    positions are the layer's multiply-accumulates (MACs).
    """
    found: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if not isinstance(module, COUNTED):
            continue

        def count(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            used = inputs[0] if isinstance(module, TRANSPOSED) else output
            found[name] = found.get(name, 0) + used.numel() // len(_weight(module))

        handles.append(module.register_forward_hook(count))
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(example_input(model, image_shape))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    return found


def total(model: nn.Module, image_shape: tuple[int, int, int], what: Literal["macs", "bytes"]) -> int:
    """Return the MACs of one image, or the weights ("bytes": in float32 four times as many), of a whole model.

    Biases and normalisations are not counted.
    """
    if what == "bytes":
        return sum(weight.numel() for _, _, weight in counted_layers(model))
    modules = dict(model.named_modules())
    return sum(uses * _weight(modules[name]).numel() for name, uses in positions(model, image_shape).items())


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module, COUNTED)
    return module.weight


@dataclass
class Ledger:
    """A running count of a model's cost while filters go one by one, without touching the model.

    ``sizes``: layer -> [channels out, channels in (a group), weights of one kernel]; ``prices``: cost of one weight.
    """

    sizes: dict[str, list[int]]
    prices: dict[str, int]
    cost: int

    @classmethod
    def of(cls, model: nn.Module, uses: Mapping[str, int], what: Literal["macs", "bytes"]) -> Ledger:
        """Open the books on ``model`` as it stands; ``uses`` are its ``positions``."""
        sizes: dict[str, list[int]] = {}
        if what == "bytes":
            layers = [(name, module) for name, module, _ in counted_layers(model)]
        else:
            layers = [(name, model.get_submodule(name)) for name in uses]
        for name, module in layers:
            first, second, *kernel = _weight(module).shape
            channels = [second, first] if isinstance(module, TRANSPOSED) else [first, second]
            sizes[name] = [*channels, math.prod(kernel)]
        prices = {name: uses[name] if what == "macs" else 1 for name in sizes}
        return cls(sizes, prices, sum(prices[name] * math.prod(size) for name, size in sizes.items()))

    def remove(self, touches: Sequence[Touch], index: int) -> int:
        """Take away one filter with all that depends on it; return the cost that is left."""
        for touch in touches:
            size = self.sizes.get(touch.module)
            if size is None:  # a normalisation costs nothing
                continue
            self.cost -= self.prices[touch.module] * math.prod(size)
            size[0 if touch.side == "out" else 1] -= len(touch.channels[index])
            self.cost += self.prices[touch.module] * math.prod(size)
        return self.cost
