"""Distillation of inner maps: FitNets (Romero et al. 2015) and attention transfer (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import BaseLoss, Change, Context, StepLoss
from tailkeep.compression.distillation.features import attention_distance, outputs_of, pair_layers, same_size
from tailkeep.compression.distillation.taught import Taught, softened_divergence, wide
from tailkeep.randomness import stream_seed

# For attention that of the authors' code and mdistiller, on 32x32 images. For fitnet ours: mdistiller's 100 is for a
# regressor with batch normalisation; without it, at the learning rates of a dense model, the loss grew without end.
WEIGHTS = {"fitnet": 1.0, "attention": 1000.0}


class StudentWithRegressors(nn.Module):
    """What is trained: the student, and the regressors that are dropped at the end. Logits are the student's."""

    def __init__(self, student: nn.Module, pairs: list[tuple[str, str]], regressors: list[nn.Conv2d]) -> None:
        super().__init__()
        self.student = student
        self.regressors = nn.ModuleList(regressors)
        self.pairs = pairs

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.student(x)
        return logits


class FeatureDistillation(Taught):
    """The study's loss, a distance between the student's and the teacher's maps, and soft labels if wanted.

    ``student_weight`` * loss + ``feature_weight`` * (sum over ``layers`` of the distance) + ``teacher_weight`` * T^2 *
    divergence. ``form``: "fitnet", the mean squared difference from the teacher's maps after a learned 1x1 convolution
    (the regressor, dropped at the end), or "attention", that of the normalised attention maps. ``layers`` are module
    names, or "student:teacher" where they differ; null takes the last map at each spatial size that both have. The two
    may differ in width and depth; the larger maps are pooled to the smaller's size. ``feature_weight`` is 1 for fitnet
    (ours) and 1000 for attention (the authors') unless given. All terms train together; FitNets trained the hint first.
    """

    kind: Literal["feature_distillation"] = "feature_distillation"
    form: Literal["fitnet", "attention"] = "fitnet"
    layers: tuple[str, ...] | None = Field(default=None, min_length=1)
    student_weight: float = Field(1.0, ge=0)
    feature_weight: float = Field(WEIGHTS["fitnet"], ge=0)
    teacher_weight: float = Field(0.0, ge=0)
    temperature: float = Field(4.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _weight_of_the_form(cls, values: Any) -> Any:
        """Write out the form's own weight, so that a stored spec says what was used."""
        if isinstance(values, dict) and "feature_weight" not in values:
            form = values.get("form")
            return {**values, "feature_weight": WEIGHTS[form]} if isinstance(form, str) and form in WEIGHTS else values
        return values

    @field_validator("layers")
    @classmethod
    def _names(cls, layers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for number, name in enumerate(layers or ()):
            if not all(name.split(":")) or name.count(":") > 1:
                raise ValueError(f"layers: {name!r} is neither a module's name nor a pair 'student:teacher'")
            if name in (layers or ())[:number]:
                raise ValueError(f"layers: {name!r} stands twice")
        return layers

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the student with its regressors. Raises ``StepFailed("layers")`` where no maps can be compared."""
        student = super().prepare(model, context)
        found = pair_layers(student, self.teacher_of(context), context.image_shape, self.layers)
        context.facts["feature_layers"] = [f"{mine}:{other}" for mine, other, _, _ in found]
        regressors = []
        if self.form == "fitnet":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream_seed(context.seed, "regressors"))
                regressors = [nn.Conv2d(channels_in, channels_out, 1) for _, _, channels_in, channels_out in found]
        pairs = [(mine, other) for mine, other, _, _ in found]
        return StudentWithRegressors(student, pairs, regressors).to(context.device)

    def loss(self, base_loss: BaseLoss, context: Context) -> StepLoss:
        """Return the loss of a step, for what ``prepare`` returned. Raises ``StepFailed`` where it set no teacher."""
        teacher = self.teacher_of(context)

        def step(model: nn.Module, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
            assert isinstance(model, StudentWithRegressors)
            with torch.no_grad(), outputs_of(teacher, [other for _, other in model.pairs]) as theirs:
                targets = teacher(images).float()
            with outputs_of(model.student, [mine for mine, _ in model.pairs]) as ours:
                logits = model(images).float()
            total = self.student_weight * base_loss(logits, labels, progress)
            total = total + self.feature_weight * self.distance(model, ours, theirs)
            if self.teacher_weight:
                total = total + self.teacher_weight * softened_divergence(logits, targets, self.temperature)
            return total, logits

        return step

    def distance(self, model: StudentWithRegressors, ours: dict[str, Any], theirs: dict[str, Any]) -> Tensor:
        """Return the sum over the pairs of the form's distance (scalar) of maps by module name."""
        terms = []
        for number, (mine, other) in enumerate(model.pairs):
            student, teacher = same_size(ours[mine], theirs[other])
            if self.form == "fitnet":
                student = model.regressors[number](student)
                terms.append(F.mse_loss(wide(student), wide(teacher)))
            else:
                terms.append(attention_distance(wide(student), wide(teacher)))
        return torch.stack(terms).sum()

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Return the student alone: a plain module of its own shape, without regressors or hooks."""
        assert isinstance(model, StudentWithRegressors)
        return model.student, None
