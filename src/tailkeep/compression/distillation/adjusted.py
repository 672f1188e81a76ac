"""Distillation from a teacher whose logits are adjusted for the class frequencies (Menon et al. 2021, post hoc)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tailkeep.compression.distillation.taught import SoftLabels
from tailkeep.compression.groups import log_prior


class AdjustedDistillation(SoftLabels):
    """The loss of ``distillation``, with the teacher's logits less ``tau`` * log(n_c / n).

    For a teacher that was trained on the imbalanced set by plain cross-entropy: with ``tau`` 1 its probabilities become
    those of a balanced set, as far as they were calibrated. One that was trained for balance is adjusted twice.
    """

    kind: Literal["adjusted_distillation"] = "adjusted_distillation"
    tau: float = Field(1.0, ge=0)

    @property
    def answers_imbalance(self) -> bool:
        """The teacher's prior is taken off."""
        return True

    def teacher_shift(self, class_counts: Sequence[int]) -> tuple[float, ...] | None:
        """Return -tau * log prior."""
        return tuple(-self.tau * value for value in log_prior(class_counts))
