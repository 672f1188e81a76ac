"""Several teachers that speak with one voice (Hinton, Vinyals and Dean 2015, section 2; Furlanello et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.compression.distillation.taught import wide


class Ensemble(nn.Module):
    """The mean of several classifiers over the same classes, as one module whose output serves as logits.

    ``average``: "probabilities" (the default) gives the log of the mean softmax at temperature 1, so that a softmax of
    the output is the mean of the teachers' probabilities; "logits" gives the mean of the logits, the geometric mean of
    the probabilities: a teacher that is very sure outvotes the others there. Raises ``ValueError`` without teachers.
    """

    def __init__(
        self, teachers: Sequence[nn.Module], average: Literal["probabilities", "logits"] = "probabilities"
    ) -> None:
        super().__init__()
        if not teachers:
            raise ValueError("an ensemble needs at least one teacher")
        if average not in ("probabilities", "logits"):
            raise ValueError(f"average: choose 'probabilities' or 'logits', not {average!r}")
        self.teachers = nn.ModuleList(teachers)
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to float32 logits (N, classes) (float64 where the teachers' are).

        Raises ``ValueError`` where the teachers disagree on the shape.
        """
        outputs = [wide(teacher(x)) for teacher in self.teachers]
        shapes = sorted({tuple(output.shape) for output in outputs})
        if len(shapes) > 1:
            raise ValueError(f"the teachers of an ensemble give logits of different shapes: {shapes}")
        if self.average == "logits":
            return torch.stack(outputs).mean(0)
        # In logs throughout: a class that every teacher rules out keeps a finite value and its order.
        return torch.stack([F.log_softmax(output, 1) for output in outputs]).logsumexp(0) - math.log(len(outputs))
