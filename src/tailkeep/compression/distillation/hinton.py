"""Knowledge distillation by softened logits (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from typing import Literal

from tailkeep.compression.distillation.taught import SoftLabels


class Distillation(SoftLabels):
    """``student_weight`` * the study's loss + ``teacher_weight`` * T^2 * divergence from the teacher's soft labels.

    The student is the step's own model spec, freshly drawn; a step without one trains a copy of the parent. The
    teacher is the step's teacher, else the parent. Defaults: T 4, weights 0.1 and 0.9 (mdistiller); Distiller's are T
    1 to 5, 0.3 and 0.7.
    """

    kind: Literal["distillation"] = "distillation"
