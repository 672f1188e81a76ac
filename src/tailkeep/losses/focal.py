"""Focal loss: cross-entropy that looks away from what the model is sure of (Lin et al. 2017)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import LossFunction, wide
from tailkeep.losses.reweighting import Reweighted


class Focal(Reweighted):
    """(1 - p_y)^gamma * CE, p_y the softmax probability of the label; ``gamma`` 0 is cross-entropy.

    With ``drw: 0`` it is the class-balanced focal loss of Cui et al. 2019 in its softmax form.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats."""
        gamma = self.gamma
        mean = self.mean(class_counts, device)

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            losses = F.cross_entropy(wide(logits), labels, reduction="none")
            # 1 - p without cancellation; never 0, where a power below 1 has no slope
            other = -torch.expm1(-losses)
            return mean(other.clamp_min(torch.finfo(other.dtype).tiny).pow(gamma) * losses, labels, progress)

        return loss
