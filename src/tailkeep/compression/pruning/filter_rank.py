"""Filter pruning: the filters of least worth are physically removed, before the training or in the course of it.

Li et al. 2017, "Pruning Filters for Efficient ConvNets"; the ResNet-56 schedules are Distiller's. Criteria,
schedules and targets each have a file of their own beside this one, with their sources.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context
from tailkeep.compression.pruning import counting, masking
from tailkeep.compression.pruning.counting import Ledger
from tailkeep.compression.pruning.coupling import plan_of
from tailkeep.compression.pruning.criteria import Criterion, filter_scores, score_layers
from tailkeep.compression.pruning.removal import prunable, remove_filters, weight_count, width
from tailkeep.compression.pruning.schedule import SCHEDULES, PacedMethod
from tailkeep.compression.pruning.selection import Filters, Goal, lowest, removed_count
from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed

__all__ = ["SCHEDULES", "FilterPruning", "filter_scores", "lowest", "removed_count"]

NAMES, GOAL, MET = "_pruned_layers", "_pruning_goal", "_pruning_met"
"""Plain attributes of a model between ``prepare`` and ``finish``: the layers that were prunable before they became
narrow, what is to go, and at what point that was last reached. All follow from the model's shape and buffers, so that a
resumed training finds them again.
"""


class FilterPruning(PacedMethod):
    """Remove the filters of least worth from each prunable convolution (of a residual network: each block's first).

    ``ratio``: the share that goes: with ``target`` "filters" floor(``ratio`` * n) of each layer; with "macs" or "bytes"
    as few filters as take that share from the *whole model's* multiply-accumulates or weights. ``scope``: each layer by
    itself, or one ranking over all. ``ratios`` overrides ``ratio`` for the layers that it names, ``schedule`` takes a
    published ResNet-56 schedule instead of both. ``criterion``: what makes a filter worth keeping; the L1 norm a weight
    is the published one, "random" the control. The Taylor criteria look at ``calibration_batches`` batches of training
    images by ``calibration_draw``. ``linear_layers``: also prune the hidden linear layers of MLPs. A layer keeps at
    least ``min_filters``.
    """

    kind: Literal["filter_pruning"] = "filter_pruning"
    ratio: float = Field(0.5, ge=0, lt=1)
    ratios: dict[str, float] | None = None
    schedule: Literal["uniform", "resnet56_filter_rank", "resnet56_filter_rank_v2"] = "uniform"
    criterion: Criterion = "l1"
    scope: Literal["layer", "global"] = "layer"
    target: Literal["filters", "macs", "bytes"] = "filters"
    min_filters: int = Field(1, ge=1)
    linear_layers: bool = False
    calibration_batches: int = Field(8, ge=1)
    calibration_draw: Literal["random", "balanced", "tail"] = "random"

    @property
    def answers_imbalance(self) -> bool:
        """Where images that are drawn for rare classes say which filters stay."""
        return self.calibration_draw != "random"

    @field_validator("ratios")
    @classmethod
    def _ratios_in_range(cls, ratios: dict[str, float] | None) -> dict[str, float] | None:
        for name, ratio in (ratios or {}).items():
            if not 0 <= ratio < 1:
                raise ValueError(f"the ratio of {name} is {ratio}; a ratio lies from 0 to below 1")
        return ratios

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> FilterPruning:
        if self.calibration_draw != "random" and not self.looks_at_images:
            raise ValueError(
                f"criterion {self.criterion} looks at no images; calibration_draw is for the Taylor criteria"
            )
        if self.schedule != "uniform" and (self.ratios is not None or self.ratio != 0.5):
            raise ValueError(f"schedule {self.schedule} has its own ratios; leave ratio and ratios out")
        by_name = self.schedule != "uniform" or self.ratios is not None
        if by_name and (self.scope != "layer" or self.target != "filters"):
            raise ValueError("ratios and schedule are shares of each layer's filters; scope and target need one ratio")
        return self

    @property
    def looks_at_images(self) -> bool:
        """Whether the criterion needs calibration images."""
        return self.criterion.startswith("taylor")

    def layer_ratios(self, model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, float]:
        """Return the ratio of every prunable layer of ``model`` by name, in the order of the forward pass.

        Raises ``StepFailed`` with reason ``pruning`` where a named layer is not prunable, nothing is, or the schedule
        belongs to another network.
        """
        targets = prunable(model, image_shape, self.linear_layers)
        if not targets:
            raise StepFailed("pruning", self._nothing(model, image_shape))
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
        widths = [width(model, name) for name in targets]
        if targets != expected or widths != [16] * 9 + [32] * 9 + [64] * 9:
            raise StepFailed("pruning", f"schedule {self.schedule} is for a full-width, unpruned ResNet-56")

    def _nothing(self, model: nn.Module, image_shape: tuple[int, int, int]) -> str:
        text = "no convolution of this model can lose filters without changing another layer"
        if not self.linear_layers and prunable(model, image_shape, True):
            return f"{text}; its hidden linear layers can, with linear_layers: true"
        return text

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Remove the filters from ``model`` in place and return it; a ratio of 0 leaves it bit-identical.

        With a schedule over the training nothing is removed yet: the model gets its masks. Raises ``StepFailed`` with
        reason ``pruning`` where nothing can be pruned, a named layer cannot, or the target is out of reach.
        """
        goal = self._goal(model, context)
        dead: Filters = {name: [] for name in goal.ratios}
        model.__dict__[NAMES] = list(dead)
        if self.when == "one_shot":
            return self._remove(model, goal.choose(self._scores(model, goal, dead, context), dead, 1.0), context)
        # whether the goal is in reach depends on no score: find out before the training
        goal.choose({name: torch.zeros(size) for name, size in goal.widths.items()}, dead, 1.0)
        masking.attach(model, goal.plan or plan_of(model, dead, context.image_shape))
        model.__dict__[GOAL] = goal
        return model

    def _goal(self, model: nn.Module, context: Context) -> Goal:
        ratios = self.layer_ratios(model, context.image_shape)
        widths = {name: width(model, name) for name in ratios}
        if self.target == "filters":
            return Goal(ratios, widths, self.scope, self.target, self.min_filters)
        plan = plan_of(model, ratios, context.image_shape)
        books = Ledger.of(model, counting.positions(model, context.image_shape), self.target)
        return Goal(ratios, widths, self.scope, self.target, self.min_filters, plan, books)

    def _scores(self, model: nn.Module, goal: Goal, dead: Filters, context: Context) -> dict[str, Tensor]:
        """The scores of every prunable layer; the random ones are the same at every look."""
        return score_layers(
            model,
            lambda: goal.plan or masking.plan_on(model) or plan_of(model, dead, context.image_shape),
            self.criterion,
            dead,
            lambda: context.labelled(self.calibration_batches, self.calibration_draw),
            lambda name: torch.Generator().manual_seed(stream_seed(context.seed, self.kind, name)),
        )

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Mask the filters that are due by now, and set all that are masked to zero again.

        A function of progress and of the model's tensors and buffers alone; what is masked stays masked.
        """
        if self.when != "one_shot":
            self._advance(model, progress, context)

    def _advance(self, model: nn.Module, progress: float, context: Context) -> Filters:
        """Return what is masked now."""
        goal = model.__dict__[GOAL]
        masking.apply(model)  # before any score is taken: the last optimizer step moved what is masked
        dead = masking.gone(model, goal.ratios)
        share = self.share(progress)
        if model.__dict__.get(MET) == (share, dead):
            return dead
        if goal.met(dead, share):
            model.__dict__[MET] = share, dead  # spares later steps the counting
            return dead
        masking.mark(model, goal.choose(self._scores(model, goal, dead, context), dead, share))
        masking.apply(model)
        return masking.gone(model, goal.ratios)

    def _remove(self, model: nn.Module, filters: Filters, context: Context) -> nn.Module:
        """Remove the filters in place and write down what that took away."""
        shape = context.image_shape
        weights_before = weight_count(model)
        layers = {
            name: {"before": width(model, name), "after": width(model, name) - len(filters[name])} for name in filters
        }
        cost_before = None if self.target == "filters" else counting.total(model, shape, self.target)
        remove_filters(model, filters, shape)
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
        if self.target != "filters" and cost_before is not None:
            after = counting.total(model, shape, self.target)
            facts = {"what": self.target, "wanted": self.ratio, "before": cost_before, "after": after}
            context.facts["target"] = {**facts, "achieved": 1 - after / cost_before}
        return model

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Return the model and the remaining width of every layer that was prunable.

        With a schedule this is where what is masked (all that is still due included) is removed; how far that moved the
        logits of a calibration batch is written down as ``removal_largest_difference``.
        """
        if self.when != "one_shot":
            filters = self._advance(model, 1.0, context)
            masking.detach(model)
            for name in (GOAL, MET):
                model.__dict__.pop(name, None)
            batches = list(context.calibration(1))[:1]
            masked = [_logits(model, batch) for batch in batches]
            self._remove(model, filters, context)
            for batch, logits in zip(batches, masked, strict=True):
                difference = (logits - _logits(model, batch)).abs().max()
                context.facts["removal_largest_difference"] = float(difference)
        names = model.__dict__.pop(NAMES, None) or prunable(model, context.image_shape, self.linear_layers)
        widths = {name: width(model, name) for name in names}
        return model, {"kind": self.kind, "values": {"widths": widths}}

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Remove trailing filters in place down to ``values["widths"]``; the tensors are loaded by the caller.

        Raises ``StepFailed`` with reason ``pruning`` where the widths do not fit the model.
        """
        trailing: dict[str, list[int]] = {}
        for name, size in values["widths"].items():
            filters = width(model, name)
            if not 0 < size <= filters:
                raise StepFailed("pruning", f"stored width {size} of {name} does not fit a layer of {filters} filters")
            trailing[name] = list(range(size, filters))
        remove_filters(model, trailing, image_shape)
        return model


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, C) in evaluation mode, float32."""
    logits: Tensor = model.eval()(images.to(next(model.parameters()).dtype))
    return logits.float()
