"""Long-tailed knowledge distillation, LTKD (Kim, "Distilling Balanced Knowledge from a Biased Teacher", 2026)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Context, StepLoss
from tailkeep.compression.distillation.taught import Taught, wide
from tailkeep.compression.groups import frequency_thirds


def group_divergences(
    student: Tensor,
    teacher: Tensor,
    groups: Sequence[Tensor],
    temperature: float,
    rebalance: bool = True,
    reweight: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the cross-group and the within-group divergence (N,), each times T^2.

    ``student`` and ``teacher`` are logits (N, C); ``groups`` are int64 class indices that together are all C. With P_g
    a group's probability at temperature T, the softened divergence of an image is exactly KL of the P_g plus the sum
    over g of P_g(teacher) * KL within g. ``rebalance`` divides the teacher's P_g by their mean over the batch, so that
    the groups are equally probable in it, and normalises each image's again; ``reweight`` gives every group the same
    weight 1 / G in place of P_g(teacher). Computed in float32, or float64 with the student.
    """
    student = wide(student) / temperature
    teacher = teacher.to(student.dtype) / temperature
    whole_s, whole_t = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    mass_s, mass_t = (torch.stack([whole[:, g].logsumexp(1) for g in groups], 1) for whole in (whole_s, whole_t))
    target = mass_t
    if rebalance:
        mean = mass_t.logsumexp(0) - math.log(len(mass_t))
        target = F.log_softmax(mass_t - mean, 1)
    cross = F.kl_div(mass_s, target, reduction="none", log_target=True).sum(1)
    inner = [
        F.kl_div(F.log_softmax(student[:, g], 1), F.log_softmax(teacher[:, g], 1), reduction="none", log_target=True)
        for g in groups
    ]
    each = torch.stack([part.sum(1) for part in inner], 1)
    within = each.mean(1) if reweight else (mass_t.exp() * each).sum(1)
    return temperature**2 * cross, temperature**2 * within


class LongTailDistillation(Taught):
    """``student_weight`` * the study's loss + ``alpha`` * cross-group + ``beta`` * within-group divergence.

    Groups are head, medium and tail, thirds of the classes by frequency. A biased teacher finds the head probable on
    every image, and plain distillation weighs what it says within a group by that; ``rebalance`` and ``reweight`` undo
    either. Without both, and with equal weights, it is plain distillation. Our defaults, the author's are unconfirmed:
    all weights 1, T 4.
    """

    kind: Literal["long_tail_distillation"] = "long_tail_distillation"
    temperature: float = Field(4.0, gt=0)
    student_weight: float = Field(1.0, ge=0)
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(1.0, ge=0)
    rebalance: bool = True
    reweight: bool = True

    @property
    def answers_imbalance(self) -> bool:
        """Where the teacher's groups, or its words within them, are rebalanced."""
        return self.rebalance or self.reweight

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the blended loss. Raises ``StepFailed`` where ``prepare`` has set no teacher."""
        teacher = self.teacher_of(context)
        groups = [torch.tensor(group, device=context.device) for group in frequency_thirds(context.class_counts)]

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                targets = teacher(images).float()
            logits = model(images).float()
            cross, within = group_divergences(logits, targets, groups, self.temperature, self.rebalance, self.reweight)
            soft = (self.alpha * cross + self.beta * within).mean()
            return self.student_weight * base_loss(logits, labels, progress) + soft, logits

        return step
