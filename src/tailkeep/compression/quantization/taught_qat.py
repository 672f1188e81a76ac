"""Quantization-aware training under a teacher: the loss of distillation, the grids of ``qat``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.taught import SoftLabels
from tailkeep.compression.quantization.qat import QuantizationAwareTraining


class QuantizedDistillation(QuantizationAwareTraining, SoftLabels):
    """``qat`` of a copy of the parent, or of the study's fresh student, under a teacher (the parent by default).

    The two losses as in ``distillation``. Batch-norm statistics stay free to the end by default, other than in ``qat``:
    frozen ones let taught students of 3 and of 4 bits collapse (docs/results/keep-every-class.md). Of low bits and a
    high temperature beware: Distiller publishes a collapse of ResNet-20 on CIFAR-10 at W3A8 and T = 5, from 91.44 %
    without a teacher to 80.86 %.
    """

    kind: Literal["qat_distillation"] = "qat_distillation"  # type: ignore[assignment]
    freeze_norms: float = Field(default=1.0, ge=0, le=1)

    @property
    def warning(self) -> str | None:
        """The published collapse, where these settings come near it, and what was found of it here."""
        frozen = super().warning
        if self.weight_bits == 4 and self.freeze_norms < 1 and self.teacher_weight > 0:
            frozen = (
                "4-bit weights under a teacher can collapse when batch norms freeze: two of three trainings of a "
                "class-imbalanced ResNet-20 fell from 70 % to 64 and 67 % (docs/results/keep-every-class.md); leave "
                "freeze_norms at 1"
            )
        if self.weight_bits > 3 or self.temperature < 5 or self.teacher_weight == 0:
            return frozen
        published = (
            f"a teacher at temperature {self.temperature:g} over {self.weight_bits}-bit weights is a published trap: "
            "Distiller's ResNet-20 on CIFAR-10 (W3A8) fell from 91.44 % without a teacher to 80.86 % at T = 5"
        )
        ours = "ours did so at T = 1, 2 and 5 where batch norms were frozen, and not where they were free"
        return f"{published}; {ours}" if frozen is None else f"{published}; {ours}; {frozen}"

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the quantized student; freeze the teacher."""
        return QuantizationAwareTraining.prepare(self, SoftLabels.prepare(self, model, context), context)
