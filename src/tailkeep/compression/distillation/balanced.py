"""Balanced knowledge distillation, BKD (Zhang et al., "Balanced Knowledge Distillation for Long-tailed Learning")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tailkeep.compression.distillation.taught import SoftLabels
from tailkeep.compression.groups import class_balanced_weights


class BalancedDistillation(SoftLabels):
    """``student_weight`` * the study's loss + ``teacher_weight`` * T^2 * divergence from reweighted soft labels.

    The teacher's softmax at temperature T is multiplied by class-balanced weights (Cui et al. 2019, ``beta``) and
    normalised again: what a biased teacher says of the rare classes is heard. Defaults: T 2, both weights 1 (the
    authors' alpha), beta 0.9999.
    """

    kind: Literal["balanced_distillation"] = "balanced_distillation"
    temperature: float = Field(2.0, gt=0)
    student_weight: float = Field(1.0, ge=0)
    teacher_weight: float = Field(1.0, ge=0)
    beta: float = Field(0.9999, ge=0, lt=1)

    @property
    def answers_imbalance(self) -> bool:
        """The teacher speaks louder of rare classes."""
        return True

    def teacher_shift(self, class_counts: Sequence[int]) -> tuple[float, ...] | None:
        """Return T * log w_c: softmax((z + T log w) / T) is w * softmax(z / T), normalised."""
        return tuple(self.temperature * math.log(w) for w in class_balanced_weights(class_counts, self.beta))
