"""What the distillation methods share: who the student and the teacher are, and the softened divergence."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Context, Method, StepLoss
from tailkeep.errors import StepFailed


def wide(values: Tensor) -> Tensor:
    """Return the values in float32, or as they are where they are float64: losses never run in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of the softmaxes at temperature T: scalar, sum over classes, batch mean.

    Both arguments are logits (N, C); computed in float32 (float64 where the student's logits are float64). In the
    literature's shorthand this is "KL(student || teacher)": the student's log-probabilities come first in the call.
    """
    student = wide(student)
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.to(student.dtype) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class Taught(Method):
    """Base of the methods that train a student under a teacher which never changes.

    The student is the step's own model spec, freshly drawn; a step without one trains a copy of the parent. The
    teacher is the step's teacher, else the parent.
    """

    @property
    def needs_teacher(self) -> bool:
        """Always: the parent, unless the study names another."""
        return True

    def draw_student(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the module that will be trained: the study's student, or a copy of the parent ``model``."""
        return copy.deepcopy(model) if context.build_student is None else context.build_student()

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the student; freeze the teacher (``context.teacher``, set to ``model`` where the step has none)."""
        student = self.draw_student(model, context)
        if context.teacher is None:
            context.teacher = model
        context.teacher.to(context.device).eval().requires_grad_(False)
        return student.to(context.device)

    def teacher_of(self, context: Context) -> nn.Module:
        """Return the teacher in evaluation mode. Raises ``StepFailed`` where ``prepare`` has set none."""
        if context.teacher is None:
            raise StepFailed("teacher", "distillation has no teacher; name one, or let the parent be it")
        return context.teacher.eval()


class SoftLabels(Taught):
    """Base of the methods that blend the study's loss with the softened divergence from the teacher's logits."""

    temperature: float = Field(4.0, gt=0)
    student_weight: float = Field(0.1, ge=0)
    teacher_weight: float = Field(0.9, ge=0)

    @model_validator(mode="after")
    def _some_loss(self) -> SoftLabels:
        if self.student_weight == self.teacher_weight == 0:
            raise ValueError("student_weight and teacher_weight are both 0: there would be nothing to learn")
        return self

    def teacher_shift(self, class_counts: Sequence[int]) -> tuple[float, ...] | None:
        """Return what is added to the teacher's logits, a number a class; None leaves them as they are."""
        return None

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the blended loss. Raises ``StepFailed`` where ``prepare`` has set no teacher."""
        teacher = self.teacher_of(context)
        added = self.teacher_shift(context.class_counts)
        shift = None if added is None else torch.tensor(added, dtype=torch.float32, device=context.device)

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                targets = teacher(images).float()
                targets = targets if shift is None else targets + shift
            logits = model(images).float()
            soft = softened_divergence(logits, targets, self.temperature)
            return self.student_weight * base_loss(logits, labels, progress) + self.teacher_weight * soft, logits

        return step
