"""Filter pruning that asks what each filter is worth to every class, not to the images as they come."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Context
from tailkeep.compression.groups import frequency_thirds
from tailkeep.compression.pruning.class_scores import consistency_scores, group_importance, share_scores
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.selection import Filters, Goal


class ClassAwarePruning(FilterPruning):
    """``filter_pruning`` by criteria that keep the classes apart; all its other settings hold.

    ``criterion`` "cic": the mean over the classes of a filter's Taylor importance, less ``alpha`` times its standard
    deviation: what serves all classes alike is kept. "group_share": filters are kept so that each class's share of the
    layer's importance stays what it was (FairGRAPE); layer by layer only. ``groups`` "thirds" takes head, medium and
    tail in place of the single classes. The images, balanced unless ``calibration_draw`` says otherwise, must hold
    every class (with "thirds", every third).
    """

    kind: Literal["class_aware_pruning"] = "class_aware_pruning"  # type: ignore[assignment]
    criterion: Literal["cic", "group_share"] = "cic"  # type: ignore[assignment]
    alpha: float = Field(1.0, ge=0)
    groups: Literal["class", "thirds"] = "class"
    calibration_draw: Literal["random", "balanced", "tail"] = "balanced"

    @property
    def answers_imbalance(self) -> bool:
        """Filters stay by what they are to single classes."""
        return True

    @property
    def looks_at_images(self) -> bool:
        """Both criteria do."""
        return True

    @model_validator(mode="after")
    def _settings_of_one_criterion(self) -> ClassAwarePruning:
        if self.criterion == "group_share" and self.alpha != 1:
            raise ValueError("alpha belongs to criterion cic")
        if self.criterion == "group_share" and self.scope == "global":
            raise ValueError("criterion group_share keeps the shares of each layer; leave scope out, or take cic")
        return self

    def _scores(self, model: nn.Module, goal: Goal, dead: Filters, context: Context) -> dict[str, Tensor]:
        counts = context.class_counts
        there = [index for index, count in enumerate(counts) if count > 0]
        groups = [(index,) for index in there] if self.groups == "class" else frequency_thirds(counts)
        form = "gate" if self.criterion == "cic" else "squares"
        batches = context.labelled(self.calibration_batches, self.calibration_draw)
        found = group_importance(model, dead, batches, groups, form)
        if self.criterion == "cic":
            return {name: consistency_scores(values, self.alpha) for name, values in found.items()}
        return {name: share_scores(values) for name, values in found.items()}
