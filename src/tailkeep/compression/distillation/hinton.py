"""Knowledge distillation by softened logits (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Context, Method, StepLoss
from tailkeep.errors import StepFailed


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of the softmaxes at temperature T: scalar, sum over classes, batch mean.

    Both arguments are logits (N, C); computed in float32 (float64 where the student's logits are float64). In the
    literature's shorthand this is "KL(student || teacher)": the student's log-probabilities come first in the call.
    """
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    log_student = F.log_softmax(student.to(dtype) / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.to(dtype) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class Distillation(Method):
    """``student_weight`` * the study's loss + ``teacher_weight`` * T^2 * divergence from the teacher's soft labels.

    The student is the step's own model spec, freshly drawn; a step without one trains a copy of the parent. The
    teacher is the step's teacher, else the parent. Defaults: T 4, weights 0.1 and 0.9 (mdistiller); Distiller's are T
    1 to 5, 0.3 and 0.7.
    """

    kind: Literal["distillation"] = "distillation"
    temperature: float = Field(4.0, gt=0)
    student_weight: float = Field(0.1, ge=0)
    teacher_weight: float = Field(0.9, ge=0)

    @property
    def needs_teacher(self) -> bool:
        """Always: the parent, unless the study names another."""
        return True

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the student; freeze the teacher (``context.teacher``, set to ``model`` where the step has none)."""
        student = copy.deepcopy(model) if context.build_student is None else context.build_student()
        if context.teacher is None:
            context.teacher = model
        context.teacher.to(context.device).eval().requires_grad_(False)
        return student.to(context.device)

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the blended loss. Raises ``StepFailed`` where ``prepare`` has set no teacher."""
        teacher = context.teacher
        if teacher is None:
            raise StepFailed("teacher", "distillation has no teacher; name one, or let the parent be it")
        teacher.eval()

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                targets = teacher(images).float()
            logits = model(images).float()
            soft = softened_divergence(logits, targets, self.temperature)
            return self.student_weight * base_loss(logits, labels, progress) + self.teacher_weight * soft, logits

        return step
