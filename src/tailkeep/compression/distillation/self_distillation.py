"""Born-again networks: the parent teaches a fresh network of its own shape (Furlanello et al. 2018)."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.taught import SoftLabels
from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed


class SelfDistillation(SoftLabels):
    """Train a fresh network of the parent's own architecture, with the parent as the teacher.

    The loss is distillation's. The paper softens nothing (T 1) and sums the two terms; the weights 0.5 and 0.5 (ours)
    halve that sum, so that the dense model's learning rate fits. A second generation is a second method with the first
    as its parent. A step that names a ``student`` trains that one: then this is plain distillation.
    """

    kind: Literal["self_distillation"] = "self_distillation"
    temperature: float = Field(1.0, gt=0)
    student_weight: float = Field(0.5, ge=0)
    teacher_weight: float = Field(0.5, ge=0)

    @property
    def compresses(self) -> bool:
        """The student is its teacher's size, unless the study names another."""
        return False

    def draw_student(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the study's student, else a fresh model: of ``context.build_fresh``, else by ``redrawn``."""
        if context.build_student is not None:
            return context.build_student()
        if context.build_fresh is not None:
            return context.build_fresh()
        return redrawn(model, stream_seed(context.seed, "init"))


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of ``model`` whose every layer drew itself anew by ``reset_parameters``; for use without a study.

    The global generator is left alone. Raises ``StepFailed`` where a layer holds tensors and cannot redraw them: it
    would keep what the parent learnt.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                raise StepFailed(
                    "fresh_model",
                    f"{name or 'the model'} ({type(module).__name__}) has no reset_parameters, so the parent cannot be "
                    "drawn afresh; name a 'student'",
                )
    return fresh
