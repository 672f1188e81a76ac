"""Balanced softmax: cross-entropy of logits shifted by the log of each class's training count (Ren et al. 2020)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tailkeep.losses.base import Loss, LossFunction, need_every_class, per_class, wide


class BalancedSoftmax(Loss):
    """CE(z + log n_c): the softmax that is unbiased on a balanced test set when the training set is not."""

    kind: Literal["balanced_softmax"] = "balanced_softmax"
    rebalances: ClassVar[bool] = True

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats.

        Raises ``BadInput`` where a class has no training image (its log count is not finite).
        """
        need_every_class(self.kind, class_counts)
        shifts = per_class([math.log(count) for count in class_counts], device)

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            logits = wide(logits)
            return F.cross_entropy(logits + shifts[logits.dtype], labels)

        return loss
