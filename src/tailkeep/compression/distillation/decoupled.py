"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu and Liang 2022)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Context, StepLoss
from tailkeep.compression.distillation.taught import Taught, wide


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return TCKD (N,), NCKD (N,) and the teacher's probability of the label at temperature T (N,).

    ``student`` and ``teacher`` are logits (N, C), C >= 2; ``labels`` (N,). TCKD is T^2 * KL(teacher || student) of the
    two events "the label" and "any other class"; NCKD is T^2 * KL of the softmaxes over the other classes alone. The
    softened divergence of an image is TCKD + (1 - p) * NCKD, with p the third value: the better the teacher knows an
    image, the less plain distillation says of its other classes. Computed in float32, or float64 with the student.
    """
    student = wide(student)
    events_s, others_s = _split(student / temperature, labels)
    events_t, others_t = _split(teacher.to(student.dtype) / temperature, labels)
    target = F.kl_div(events_s, events_t, reduction="none", log_target=True).sum(1)
    other = F.kl_div(others_s, others_t, reduction="none", log_target=True).sum(1)
    return temperature**2 * target, temperature**2 * other, events_t[:, 0].exp()


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of (label, any other class) (N, 2), and those among the others (N, C-1)."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(labels), -1)
    index = index + (index >= labels[:, None])  # every class but the label's; a mask would wait for the device
    log_all = F.log_softmax(logits, dim=1)
    log_others = log_all.gather(1, index)
    log_rest = log_others.logsumexp(1, keepdim=True)
    return torch.cat([log_all.gather(1, labels[:, None]), log_rest], 1), F.log_softmax(logits.gather(1, index), dim=1)


class DecoupledDistillation(Taught):
    """``student_weight`` * the study's loss + ramp * (``alpha`` * TCKD + ``beta`` * NCKD), means over the batch.

    The ramp is min(progress / ``warmup``, 1), so the student hears the labels first; 0 switches it off. Defaults are
    those of mdistiller, the authors' code: alpha 1, T 4, a student weight of 1, a warm-up over 20 of 240 epochs; beta 2
    is theirs for ResNet-56 to ResNet-20, and 8 their default for other pairs.
    """

    kind: Literal["dkd"] = "dkd"
    temperature: float = Field(4.0, gt=0)
    student_weight: float = Field(1.0, ge=0)
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(2.0, ge=0)
    warmup: float = Field(0.083, ge=0, le=1)

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the blended loss. Raises ``StepFailed`` where ``prepare`` has set no teacher."""
        teacher = self.teacher_of(context)

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                targets = teacher(images).float()
            logits = model(images).float()
            target, other, _ = decoupled_divergences(logits, targets, labels, self.temperature)
            soft = (self.alpha * target + self.beta * other).mean()
            return self.student_weight * base_loss(logits, labels, progress) + self.ramp(progress) * soft, logits

        return step

    def ramp(self, progress: float) -> float:
        """Return the share, 0 to 1, of the teacher's terms at ``progress`` (0 to 1) of the training."""
        return min(progress / self.warmup, 1.0) if self.warmup else 1.0
