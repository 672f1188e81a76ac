"""The contract of a loss, and what the losses of imbalanced data share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tailkeep.errors import BadInput
from tailkeep.spec import Spec

LossFunction = Callable[[Tensor, Tensor, float], Tensor]
"""f(logits (N, C), labels (N,) int64, progress 0..1) -> scalar mean over the batch, in nats."""


class Loss(Spec):
    """A frozen spec that builds its function for one training set.

    A loss computes in float32 (float64 where the logits are float64), draws no random numbers, and depends on nothing
    but its arguments: ``progress`` is the share of the training that is done, the only clock that it has.
    """

    rebalances: ClassVar[bool] = False
    """Whether it makes up for the classes' counts by itself: a balanced sampler, or a later adjustment, would again."""

    @property
    def head(self) -> Literal["linear", "normalized"]:
        """The classifier that this loss needs; a loss that says "normalized" has a setting ``scale``."""
        return "linear"

    def build(self, class_counts: tuple[int, ...], device: torch.device) -> LossFunction:
        """Return the loss of a training set with ``class_counts`` images by class, its tensors on ``device``."""
        raise NotImplementedError


def wide(logits: Tensor) -> Tensor:
    """Return the logits in float32, or as they are where they are float64: a loss never runs in half precision."""
    return logits if logits.dtype == torch.float64 else logits.float()


def per_class(values: Sequence[float], device: torch.device) -> dict[torch.dtype, Tensor]:
    """Return values (C,), one a class, in both types that a loss runs in."""
    exact = torch.tensor(values, dtype=torch.float64, device=device)
    return {torch.float64: exact, torch.float32: exact.float()}


def need_every_class(kind: str, class_counts: tuple[int, ...]) -> None:
    """Raise ``BadInput`` where a class has no training image: what a loss makes of its count is then not finite."""
    empty = [index for index, count in enumerate(class_counts) if count < 1]
    if empty:
        raise BadInput(f"loss {kind} needs a training image of every class; none of class {empty[0]}")
