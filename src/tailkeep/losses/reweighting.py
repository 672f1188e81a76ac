"""Class-balanced weights (Cui et al. 2019), from the start or deferred (DRW: Cao et al. 2019), for any loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from tailkeep.losses.base import Loss, need_every_class, per_class


def class_balanced_weights(class_counts: tuple[int, ...], beta: float) -> list[float]:
    """Return (1 - beta) / (1 - beta^n_c) of every class, times what makes them sum to the number of classes.

    1 / n_c in the limit of ``beta`` 1, all equal at 0. Every count must be positive.
    """
    inverse = [1.0 if beta == 0 else (1 - beta) / -math.expm1(n * math.log(beta)) for n in class_counts]
    return [value * len(inverse) / sum(inverse) for value in inverse]


class Reweighted(Loss):
    """Base of the losses that can weigh an image by its class.

    ``drw``: the share of the training after which the class-balanced weights of ``beta`` count (Cao et al. 2019: 0.8);
    0 is from the start, null is never. A share, so that the schedule scales with the recipe's length. The weighted
    loss of a batch is sum(w_y * l) / sum(w_y), as in torch.
    """

    drw: float | None = Field(None, ge=0, le=1)
    beta: float = Field(0.9999, ge=0, lt=1)

    def mean(
        self, class_counts: tuple[int, ...], device: torch.device
    ) -> Callable[[Tensor, Tensor, float], Tensor]:  # fmt: skip
        """Return f(losses (N,) float, labels (N,), progress) -> scalar: their mean, weighted once ``drw`` has come.

        Raises ``BadInput`` where weights are asked for and a class has no training image.
        """
        start = self.drw
        if start is None:
            return lambda losses, labels, progress: losses.mean()
        need_every_class(str(type(self).model_fields["kind"].default), class_counts)
        weights = per_class(class_balanced_weights(class_counts, self.beta), device)

        def mean(losses: Tensor, labels: Tensor, progress: float) -> Tensor:
            if progress < start:
                return losses.mean()
            weight = weights[losses.dtype][labels]
            return (losses * weight).sum() / weight.sum()

        return mean
