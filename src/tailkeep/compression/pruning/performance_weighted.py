"""The performance-weighted loss for pruned models (Meyer and Wong 2022, "A Fair Loss Function for Network Pruning")."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Change, Context, StepLoss
from tailkeep.compression.distillation.taught import Taught, wide
from tailkeep.compression.pruning.class_aware import ClassAwarePruning
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.weight_magnitude import WeightPruning

Pruning = Annotated[FilterPruning | ClassAwarePruning | WeightPruning, Field(discriminator="kind")]


def performance_weights(teacher: Tensor, labels: Tensor, theta: float, gamma: float) -> Tensor:
    """Return theta + (1 - theta) * (1 - p_y)^gamma (N,); p_y is the label's in ``teacher``'s logits (N, C)."""
    right = wide(teacher).softmax(1).gather(1, labels[:, None])[:, 0]
    return theta + (1 - theta) * (1 - right) ** gamma


def corrected_targets(teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the teacher's probabilities (N, C) where its first class is the label, else the label one-hot."""
    soft = wide(teacher).softmax(1)
    hard = F.one_hot(labels, soft.shape[1]).to(soft.dtype)
    return torch.where((teacher.argmax(1) == labels)[:, None], soft, hard)


def performance_weighted_loss(student: Tensor, teacher: Tensor, labels: Tensor, theta: float, gamma: float) -> Tensor:
    """Return the mean over the batch (scalar) of weight * cross-entropy against ``corrected_targets``.

    ``student`` and ``teacher`` are logits (N, C). Computed in float32, or float64 with the student.
    """
    student = wide(student)
    teacher = teacher.to(student.dtype)
    losses = -(corrected_targets(teacher, labels) * F.log_softmax(student, 1)).sum(1)
    return (performance_weights(teacher, labels, theta, gamma) * losses).mean()


class PerformanceWeighted(Taught):
    """Fine-tune a pruned model by its unpruned one: the images on which that was poor count most.

    weight * cross-entropy against the unpruned model's soft labels where it was right, else against the label; the
    weight is ``theta`` + (1 - ``theta``) * (1 - p_y)^``gamma`` with the unpruned model's p_y. ``pruning`` is a pruning
    method with its settings, which prunes a copy of the parent under this loss; the parent is then the unpruned model.
    Without it the parent is fine-tuned as it is, and the step names its unpruned model as the teacher.
    ``student_weight`` adds the study's own loss, which plays no part otherwise.
    """

    kind: Literal["performance_weighted"] = "performance_weighted"
    pruning: Pruning | None = None
    theta: float = Field(0.75, ge=0, le=1)
    gamma: float = Field(5.0, ge=0)
    student_weight: float = Field(0.0, ge=0)

    @property
    def answers_imbalance(self) -> bool:
        """Images that the unpruned model finds hard weigh more."""
        return True

    @property
    def version(self) -> int:
        """That of the pruning method within."""
        return 1 if self.pruning is None else self.pruning.version

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the student, pruned as the settings say; freeze the teacher. Raises as the pruning method does."""
        student = super().prepare(model, context)
        return student if self.pruning is None else self.pruning.prepare(student, context)

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the loss of a step. Raises ``StepFailed`` where ``prepare`` has set no teacher."""
        teacher = self.teacher_of(context)

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                reference = teacher(images).float()
            logits = model(images).float()
            total = performance_weighted_loss(logits, reference, labels, self.theta, self.gamma)
            if self.student_weight:
                total = total + self.student_weight * base_loss(logits, labels, progress)
            return total, logits

        return step

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """As the pruning method has it."""
        if self.pruning is not None:
            self.pruning.on_step(model, progress, context)

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Return what the pruning method makes of it, its change under that method's own kind."""
        return (model, None) if self.pruning is None else self.pruning.finish(model, context)

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the model: a change of shape is stored, and rebuilt, under the pruning method's kind."""
        return model
