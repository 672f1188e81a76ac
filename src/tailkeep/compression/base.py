"""The contract that every compression method keeps, so that all of them go one way.

``prepare`` the parent (or build a student), train under the method's ``loss`` and ``on_step``, ``finish``. What comes
out is a plain module plus a list of *changes*: plain JSON values from which ``rebuild`` makes the same shape again in a
new process, before the tensors are loaded into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tailkeep.spec import Spec

BaseLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(logits (N, C) float32, labels (N,), progress 0..1) -> scalar loss."""

StepLoss = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(model, images, labels, progress) -> (scalar loss, float32 logits). Called inside the loop's autocast."""

Change = dict[str, Any]
"""One stored change of shape: {"kind": the method's kind, "values": plain JSON values for ``rebuild``}."""


@dataclass
class Context:
    """What a method may use. All randomness comes from ``seed`` by ``tailkeep.randomness.stream_seed``.

    ``labelled(count, draw)`` gives ``count`` batches (images (N, C, H, W) normalised, labels (N,)) of the training
    split in evaluation form (no augmentation); it is the only data that a method sees outside of the training loop, and
    never a test image. ``draw`` is "random", "balanced" or "tail" (``tailkeep.data.calibration``).
    """

    class_counts: tuple[int, ...]
    image_shape: tuple[int, int, int]
    seed: int
    device: torch.device
    labelled: Callable[..., Iterable[tuple[Tensor, Tensor]]] = lambda count, draw="random": ()
    build_student: Callable[[], nn.Module] | None = None
    build_fresh: Callable[[], nn.Module] | None = None  # the parent's own architecture, drawn anew
    teacher: nn.Module | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What the method measured while it worked (achieved ratio, agreement), as plain values; stored with the step."""

    def calibration(self, count: int, draw: str = "random") -> Iterator[Tensor]:
        """Yield the images of ``labelled`` alone."""
        return (images for images, _ in self.labelled(count, draw))


class Method(Spec):
    """A frozen spec with hooks. Every hook has a default that does nothing.

    ``version`` is part of the step's key: raise it where the same settings would give another model.
    """

    @property
    def version(self) -> int:
        """Version of the method's meaning."""
        return 1

    @property
    def needs_teacher(self) -> bool:
        """Whether training needs a teacher (the parent, unless the study names another)."""
        return False

    @property
    def trains(self) -> bool:
        """Whether the method has a training; one without takes no recipe."""
        return True

    @property
    def final(self) -> bool:
        """Whether nothing can be made of the finished model: its weights train no more."""
        return False

    @property
    def takes_quantized(self) -> bool:
        """Whether the parent may be quantized: a repair that moves a bias does not train."""
        return False

    @property
    def compresses(self) -> bool:
        """Whether the method makes the model smaller; a repair of the classifier does not."""
        return True

    @property
    def answers_imbalance(self) -> bool:
        """Whether the method itself, whatever its loss and sampler, does something for rare classes."""
        return False

    @property
    def warning(self) -> str | None:
        """What is known to go wrong with these settings, said before the run; None for nothing."""
        return None

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Change the parent in place (or build a student) and return the module that is trained."""
        return model

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the loss of one step; the default is ``base_loss`` of the model's logits."""

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            logits = model(images).float()
            return base_loss(logits, labels, progress), logits

        return step

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Called before every training step with progress in 0..1 (gradual schedules, freezing)."""

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Optimizer groups (``params`` and overrides such as ``weight_decay``), or None for the recipe's own."""
        return None

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Bake, fold or convert; return the final module and its change of shape (None if there is none).

        A method that builds a fresh student returns no change here: the step stores the student's model spec.
        """
        return model, None

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Make the finished shape again from the parent's shape and the change's ``values``, without its tensors."""
        return model
