"""Cross-entropy: the loss that takes the training set as it is."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import Loss, LossFunction


class CrossEntropy(Loss):
    """Mean cross-entropy, with optional label smoothing (Szegedy et al. 2016)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats."""
        smoothing = self.label_smoothing

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)

        return loss
