"""LDAM: a margin for every class, the larger the rarer it is (Cao et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import LossFunction, need_every_class, per_class, wide
from tailkeep.losses.reweighting import Reweighted


def margins(class_counts: tuple[int, ...], largest: float) -> list[float]:
    """Return n_c^(-1/4) of every class, scaled so that the rarest class's is ``largest``; counts must be positive."""
    return [largest * (min(class_counts) / count) ** 0.25 for count in class_counts]


class Ldam(Reweighted):
    """Label-distribution-aware margin: CE(z - scale * m_y at the label), m_c ~ n_c^(-1/4), the largest ``max_margin``.

    z is ``scale`` times the cosine of an image's features and a class's weights: the loss asks for the normalised head,
    which gives its logits already scaled, so that they are logits to whatever reads them later (a softmax, a student).
    ``drw: 0.8`` makes it LDAM-DRW, the paper's best.
    """

    kind: Literal["ldam"] = "ldam"
    max_margin: float = Field(0.5, gt=0, le=2)
    scale: float = Field(30.0, gt=0)

    @property
    def head(self) -> Literal["linear", "normalized"]:
        """Features and class weights of length 1: a margin means nothing where lengths are free."""
        return "normalized"

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return f(logits (N, C) = scale * cosine, labels (N,) int64, progress 0..1) -> scalar mean, in nats.

        Raises ``BadInput`` where a class has no training image.
        """
        need_every_class(self.kind, class_counts)
        shifts = per_class([self.scale * margin for margin in margins(class_counts, self.max_margin)], device)
        mean = self.mean(class_counts, device)

        def loss(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            logits = wide(logits)
            shift = shifts[logits.dtype][labels]
            moved = logits.scatter_add(1, labels[:, None], -shift[:, None])
            return mean(F.cross_entropy(moved, labels, reduction="none"), labels, progress)

        return loss
