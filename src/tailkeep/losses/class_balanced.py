"""Cross-entropy under class-balanced weights: the inverse of a class's effective number of images (Cui et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import LossFunction, wide
from tailkeep.losses.reweighting import Reweighted


class ClassBalancedCrossEntropy(Reweighted):
    """CE weighted by (1 - beta) / (1 - beta^n_c), normalised to sum to C; from the start unless ``drw`` defers it."""

    kind: Literal["class_balanced_cross_entropy"] = "class_balanced_cross_entropy"
    rebalances: ClassVar[bool] = True
    drw: float = Field(0.0, ge=0, le=1)

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar weighted mean, in nats.

        Raises ``BadInput`` where a class has no training image.
        """
        mean = self.mean(class_counts, device)

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            return mean(F.cross_entropy(wide(logits), labels, reduction="none"), labels, progress)

        return loss
