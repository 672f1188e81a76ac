"""The training loop: short, the same for every model and method; what varies arrives as callables.

A step is a function of (model, step number): the batch, its augmentation, the learning rate and any dropout mask are
derived from the seed and the step, never from how the run got there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed
from tailkeep.training.checkpoint import Checkpoint
from tailkeep.training.recipe import Recipe

StepLoss = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, Tensor]]
CHECK_EVERY = 20  # steps between looks at the loss: a look waits for the device


class Batches(Protocol):
    """Training batches as a pure function of the step."""

    steps_per_epoch: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) and labels (N,) of a step, on the device."""
        ...


@dataclass(frozen=True)
class Progress:
    """What a display is told: steps done of steps in all, the mean loss since the last word, images a second."""

    step: int
    steps: int
    loss: float
    images_per_second: float


@dataclass
class Training:
    """Everything that one training is, but the model. ``precision`` is "bf16" or "float32", already resolved."""

    batches: Batches
    loss: StepLoss
    recipe: Recipe
    seed: int
    precision: str
    on_step: Callable[[nn.Module, float], None] = lambda model, progress: None
    param_groups: list[dict[str, Any]] | None = None
    checkpoint: Checkpoint | None = None
    report: Callable[[Progress], None] = lambda progress: None
    log: list[dict[str, Any]] = field(default_factory=list)


def optimizer_for(model: nn.Module, recipe: Recipe, groups: list[dict[str, Any]] | None) -> torch.optim.Optimizer:
    """Return SGD over ``groups`` or over every parameter that is trained.

    A group may carry ``lr_scale``, the multiple of the recipe's learning rate that its parameters get.
    """
    params = groups if groups is not None else [{"params": [p for p in model.parameters() if p.requires_grad]}]
    return torch.optim.SGD(
        params, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )


def fit(model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Train ``model`` in place to the recipe's length; return the log, a row an epoch.

    Raises StepFailed("nan") where the loss is no longer finite. Resumes from ``training.checkpoint`` if it holds a
    state of the same step.
    """
    recipe, batches = training.recipe, training.batches
    per_epoch = batches.steps_per_epoch
    total = recipe.total_steps(per_epoch)
    if total == 0:
        return training.log
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise StepFailed("nothing_to_train", "the model has no weights that train (is it quantized already?)")
    device = next(model.parameters()).device
    optimizer = optimizer_for(model, recipe, training.param_groups)
    first = 0
    if training.checkpoint is not None:
        first, training.log = training.checkpoint.restore(model, optimizer)
    model.train()
    meter = _Meter(device, training)
    for step in range(first, total):
        progress = step / total
        training.on_step(model, progress)
        lr = recipe.lr_at(step, per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        torch.manual_seed(stream_seed(training.seed, "step", step))  # dropout and the like, on every device
        images, labels = batches.batch(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            loss, logits = training.loss(model, images, labels, progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        meter.add(loss, logits, labels, step + 1, total, lr, per_epoch)
        if training.checkpoint is not None and step + 1 < total and training.checkpoint.due():
            meter.look(step + 1, total)  # a checkpoint of a model that is already NaN would be no use
            training.checkpoint.save(model, optimizer, step + 1, training.log)
    _check_weights(model)
    return training.log


class _Meter:
    """Sums on the device, so that a step never waits for a number that nobody reads."""

    def __init__(self, device: torch.device, training: Training) -> None:
        self.training = training
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right, images: of the epoch
        self.seen = 0.0
        self.since = time.perf_counter()
        self.images = 0

    def add(
        self, loss: Tensor, logits: Tensor, labels: Tensor, done: int, total: int, lr: float, per_epoch: int
    ) -> None:
        with torch.no_grad():
            right = (logits.detach().argmax(1) == labels).sum()
            count = torch.full_like(self.sums[0], len(labels))
            self.sums += torch.stack([loss.detach().double() * count, right.double(), count])
        self.images += len(labels)
        if done % CHECK_EVERY == 0 or done == total:
            self.look(done, total)
        if done % per_epoch == 0 or done == total:
            loss_sum, hits, count = self.sums.tolist()
            row = {"step": done, "epoch": done / per_epoch, "lr": lr}
            self.training.log.append({**row, "loss": loss_sum / count, "accuracy": hits / count})
            self.sums.zero_()

    def look(self, done: int, total: int) -> None:
        """Wait for the device, raise on NaN, tell the display."""
        loss_sum, _, count = self.sums.tolist()
        mean = loss_sum / count if count else self.seen
        if mean != mean or mean in (float("inf"), float("-inf")):
            raise StepFailed("nan", f"the loss was no longer finite by step {done} of {total}; lower the learning rate")
        self.seen = mean
        now = time.perf_counter()
        self.training.report(Progress(done, total, mean, self.images / max(now - self.since, 1e-9)))
        self.since, self.images = now, 0


def _check_weights(model: nn.Module) -> None:
    """A last step can break the weights after its finite loss; a model with NaN is never stored as done."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise StepFailed("nan", f"the weights of {name!r} are not finite after the last step")
