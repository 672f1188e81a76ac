"""How long and how fast a model trains: a recipe and its learning-rate schedule.

A schedule is a pure function of the step, so training can resume at any step with no schedule state.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tailkeep.spec import Spec
from tailkeep.training.mixing import AnyMix


class Constant(Spec):
    """The peak learning rate throughout."""

    kind: Literal["constant"] = "constant"

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the multiplier of the peak learning rate at ``epoch`` of ``epochs``."""
        return 1.0


class Milestones(Spec):
    """Multiply by ``gamma`` at each milestone (in epochs): the schedule of He et al. 2016 and LDAM-DRW."""

    kind: Literal["milestones"] = "milestones"
    at: tuple[float, ...]
    gamma: float = Field(default=0.1, gt=0)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the multiplier of the peak learning rate at ``epoch`` of ``epochs``."""
        return self.gamma ** sum(epoch >= milestone for milestone in self.at)


class Decay(Spec):
    """Constant until ``start`` (epochs), then times ``gamma`` each epoch: Distiller's fine-tuning of pruned filters."""

    kind: Literal["decay"] = "decay"
    start: float = Field(default=10, ge=0)
    gamma: float = Field(default=0.95, gt=0)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the multiplier of the peak learning rate at ``epoch`` of ``epochs``."""
        return self.gamma ** max(0, math.floor(epoch - self.start) + 1) if epoch >= self.start else 1.0


class Cosine(Spec):
    """Half a cosine from the peak to ``final`` times the peak (Loshchilov and Hutter 2017, without restarts)."""

    kind: Literal["cosine"] = "cosine"
    final: float = Field(default=0.0, ge=0, le=1)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the multiplier of the peak learning rate at ``epoch`` of ``epochs``."""
        share = epoch / epochs if epochs else 0.0
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class OneCycle(Spec):
    """Linear from ``start`` times the peak up to the peak at ``peak_at`` of the run, then linear down to ``final``.

    The one-cycle policy of Smith and Topin 2018 in its piecewise-linear form.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    peak_at: float = Field(default=0.3, gt=0, lt=1)
    start: float = Field(default=0.1, ge=0, le=1)
    final: float = Field(default=0.0, ge=0, le=1)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the multiplier of the peak learning rate at ``epoch`` of ``epochs``."""
        share = min(epoch / epochs, 1.0) if epochs else 0.0
        if share < self.peak_at:
            return self.start + (1 - self.start) * share / self.peak_at
        return 1 - (1 - self.final) * (share - self.peak_at) / (1 - self.peak_at)


Schedule = Annotated[Constant | Milestones | Decay | Cosine | OneCycle, Field(discriminator="kind")]


class Recipe(Spec):
    """SGD with momentum for a length given in epochs *or* steps; a length of 0 is allowed and trains nothing.

    ``lr`` is the peak learning rate, ``warmup`` a linear warm-up in epochs that multiplies the schedule.
    ``precision``: "auto" becomes "bf16" or "float32" by what the machine does fast, before a key is made. ``mix`` mixes
    the images of a batch in pairs (``training.mixing``).
    """

    epochs: float | None = Field(default=None, ge=0)
    steps: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup: float = Field(default=0.0, ge=0)
    schedule: Schedule = OneCycle()
    precision: Literal["auto", "bf16", "float32"] = "auto"
    mix: AnyMix | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_mixed(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``mix`` out where it is null: it came later, and no stored recipe's key must move."""
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if name != "mix" or value is not None}

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give the length as either 'epochs' or 'steps', not both and not neither")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps for a set with so many batches an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return round(self.epochs * steps_per_epoch)

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        epochs = self.total_steps(steps_per_epoch) / steps_per_epoch
        epoch = step / steps_per_epoch
        warm = min(1.0, (step + 1) / (self.warmup * steps_per_epoch)) if self.warmup else 1.0
        return self.lr * warm * self.schedule.factor(epoch, epochs)
