"""Filter-rank pruning: the filters of smallest norm are physically removed, then the model is fine-tuned.

Li et al. 2017, "Pruning Filters for Efficient ConvNets"; the ResNet-56 schedules are Distiller's.
"""

from __future__ import annotations

import difflib
import math
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context, Method
from tailkeep.compression.pruning.removal import plain_convolution, prunable, remove_filters, weight_count
from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed


def _resnet56(layer1: float, layer2: float, block1: float, layer3: float) -> dict[str, float]:
    """Ratios by layer, blocks counted from 0: layer2 spares blocks 0, 5 and 8, layer3 block 0 and 4."""
    ratios = {f"layer1.{block}.conv1": layer1 for block in range(9)}
    ratios |= {f"layer2.{block}.conv1": layer2 for block in (1, 2, 3, 4, 6, 7)}
    ratios["layer3.1.conv1"] = block1
    return ratios | {f"layer3.{block}.conv1": layer3 for block in (2, 3, 5, 6, 7, 8)}


SCHEDULES: dict[str, dict[str, float]] = {
    "resnet56_filter_rank": _resnet56(0.6, 0.5, 0.1, 0.3),
    "resnet56_filter_rank_v2": _resnet56(0.7, 0.6, 0.2, 0.4),
}
"""The published schedules: ratio by layer; a layer that is not named keeps all its filters."""


def removed_count(ratio: float, filters: int) -> int:
    """Return floor(ratio * filters), with the ratio read as the decimal that it is written as (0.29 * 100 is 29)."""
    return math.floor(Fraction(repr(float(ratio))) * filters)


def filter_scores(weight: Tensor, criterion: str, generator: torch.Generator | None = None) -> Tensor:
    """Return a float64 score a filter (C_out,) on the CPU; the smallest go first.

    ``weight`` is (C_out, C_in, H, W). "l1" and "l2": the norm divided by the number of the filter's weights; "random":
    uniform draws from ``generator``.
    """
    flat = weight.detach().to("cpu", torch.float64).flatten(1)
    if criterion == "random":
        return torch.rand(len(flat), generator=generator, dtype=torch.float64)
    norms = flat.abs().sum(1) if criterion == "l1" else flat.square().sum(1).sqrt()
    return norms / flat.shape[1]


def lowest(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the ``count`` smallest scores, ascending; of equal scores the lower index goes first."""
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())


class FilterPruning(Method):
    """Remove floor(``ratio`` * n) filters of each prunable convolution (of a residual network: each block's first).

    ``ratios`` overrides ``ratio`` for the convolutions that it names. ``schedule`` takes a published ResNet-56
    schedule instead of both. ``criterion``: L1 norm a weight (the published one), L2 norm, or random (the control).
    """

    kind: Literal["filter_pruning"] = "filter_pruning"
    ratio: float = Field(0.5, ge=0, lt=1)
    ratios: dict[str, float] | None = None
    schedule: Literal["uniform", "resnet56_filter_rank", "resnet56_filter_rank_v2"] = "uniform"
    criterion: Literal["l1", "l2", "random"] = "l1"

    @field_validator("ratios")
    @classmethod
    def _ratios_in_range(cls, ratios: dict[str, float] | None) -> dict[str, float] | None:
        for name, ratio in (ratios or {}).items():
            if not 0 <= ratio < 1:
                raise ValueError(f"the ratio of {name} is {ratio}; a ratio lies from 0 to below 1")
        return ratios

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> FilterPruning:
        if self.schedule != "uniform" and (self.ratios is not None or self.ratio != 0.5):
            raise ValueError(f"schedule {self.schedule} has its own ratios; leave ratio and ratios out")
        return self

    def layer_ratios(self, model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, float]:
        """Return the ratio of every prunable convolution of ``model`` by name, in the order of the forward pass.

        Raises ``StepFailed`` with reason ``pruning`` where a named layer is not prunable, nothing is, or the schedule
        belongs to another network.
        """
        targets = prunable(model, image_shape)
        if not targets:
            raise StepFailed("pruning", "no convolution of this model can lose filters without changing another layer")
        if self.schedule != "uniform":
            self._check_resnet56(model, targets)
            return {name: SCHEDULES[self.schedule].get(name, 0.0) for name in targets}
        ratios = dict.fromkeys(targets, self.ratio)
        for name, ratio in (self.ratios or {}).items():
            if name not in ratios:
                close = difflib.get_close_matches(name, targets, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(targets[:6])}..."
                raise StepFailed("pruning", f"ratios names {name}, which is not prunable in this model{hint}")
            ratios[name] = ratio
        return ratios

    def _check_resnet56(self, model: nn.Module, targets: list[str]) -> None:
        expected = [f"layer{layer}.{block}.conv1" for layer in (1, 2, 3) for block in range(9)]
        widths = [plain_convolution(model, name).out_channels for name in targets]
        if targets != expected or widths != [16] * 9 + [32] * 9 + [64] * 9:
            raise StepFailed("pruning", f"schedule {self.schedule} is for a full-width, unpruned ResNet-56")

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Remove the filters from ``model`` in place and return it; a ratio of 0 leaves it bit-identical."""
        ratios = self.layer_ratios(model, context.image_shape)
        weights_before = weight_count(model)
        filters: dict[str, list[int]] = {}
        layers: dict[str, dict[str, int]] = {}
        for name, ratio in ratios.items():
            convolution = plain_convolution(model, name)
            count = removed_count(ratio, convolution.out_channels)
            generator = torch.Generator().manual_seed(stream_seed(context.seed, self.kind, name))
            filters[name] = lowest(filter_scores(convolution.weight, self.criterion, generator), count)
            layers[name] = {"before": convolution.out_channels, "after": convolution.out_channels - count}
        remove_filters(model, filters, context.image_shape)
        removed, total = sum(map(len, filters.values())), sum(layer["before"] for layer in layers.values())
        weights_after = weight_count(model)
        context.facts |= {
            "filters_removed": removed,
            "filters_before": total,
            "achieved_ratio": removed / total,
            "weights_before": weights_before,
            "weights_after": weights_after,
            "achieved_sparsity": 1 - weights_after / weights_before,
            "layers": layers,
        }
        return model

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Return the model and the remaining width of every prunable convolution."""
        names = prunable(model, context.image_shape)
        widths = {name: plain_convolution(model, name).out_channels for name in names}
        return model, {"kind": self.kind, "values": {"widths": widths}}

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Remove trailing filters in place down to ``values["widths"]``; the tensors are loaded by the caller.

        Raises ``StepFailed`` with reason ``pruning`` where the widths do not fit the model.
        """
        trailing: dict[str, list[int]] = {}
        for name, width in values["widths"].items():
            filters = plain_convolution(model, name).out_channels
            if not 0 < width <= filters:
                raise StepFailed("pruning", f"stored width {width} of {name} does not fit a layer of {filters} filters")
            trailing[name] = list(range(width, filters))
        remove_filters(model, trailing, image_shape)
        return model
