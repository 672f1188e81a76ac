"""Logit adjustment while training: cross-entropy of logits shifted by the log prior (Menon et al. 2021)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import LossFunction, need_every_class, per_class, wide
from tailkeep.losses.reweighting import Reweighted


class LogitAdjustment(Reweighted):
    """CE(z + tau * log pi_c), pi_c the share of class c in the training set; at ``tau`` 1 it is balanced softmax.

    The shift is left out when the model is used. (Its post-hoc form, for a model that is trained already, is the method
    ``logit_adjustment_post_hoc``.)
    """

    kind: Literal["logit_adjustment"] = "logit_adjustment"
    rebalances: ClassVar[bool] = True
    tau: float = Field(1.0, ge=0)

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats.

        Raises ``BadInput`` where a class has no training image.
        """
        need_every_class(self.kind, class_counts)
        total = sum(class_counts)
        shifts = per_class([self.tau * math.log(count / total) for count in class_counts], device)
        mean = self.mean(class_counts, device)

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            logits = wide(logits)
            return mean(F.cross_entropy(logits + shifts[logits.dtype], labels, reduction="none"), labels, progress)

        return loss
