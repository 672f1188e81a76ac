"""Balanced softmax: cross-entropy of logits shifted by the log of each class's training count (Ren et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tailkeep.errors import BadInput
from tailkeep.spec import Spec


class BalancedSoftmax(Spec):
    """CE(z + log n_c): the softmax that is unbiased on a balanced test set when the training set is not."""

    kind: Literal["balanced_softmax"] = "balanced_softmax"

    @property
    def head(self) -> Literal["linear", "normalized"]:
        """The head that this loss needs."""
        return "linear"

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> Callable[[Tensor, Tensor, float], Tensor]:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats.

        Raises ``BadInput`` where a class has no training image (its log count is not finite).
        """
        empty = [index for index, count in enumerate(class_counts) if count < 1]
        if empty:
            raise BadInput(f"loss balanced_softmax needs a training image of every class; none of class {empty[0]}")
        shift = torch.tensor([math.log(count) for count in class_counts], dtype=torch.float64, device=device)
        shifts = {torch.float64: shift, torch.float32: shift.float()}

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            logits = logits if logits.dtype == torch.float64 else logits.float()
            return F.cross_entropy(logits + shifts[logits.dtype], labels)

        return loss
