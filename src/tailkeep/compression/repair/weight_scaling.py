"""Learnable weight scaling, LWS: one factor a class, all weights frozen (Kang et al. 2020)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context
from tailkeep.compression.repair.classifier import ClassifierOnly


class ScaledClassifier(nn.Module):
    """A classifier while its factors are learnt."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.factors = nn.Parameter(torch.ones_like(linear.weight[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, C): factor_c * (w_c x + b_c)."""
        logits: Tensor = self.linear(x) * self.factors
        return logits


class WeightScaling(ClassifierOnly):
    """Learn f_c of the logits f_c * (w_c x + b_c), then fold them into weights and bias.

    As published under ``sampler: {kind: class_balanced}``, which the study's entry names; a loss for imbalanced data
    does instead. The factors have no weight decay, which would pull them to 0 and not to 1.
    """

    kind: Literal["weight_scaling"] = "weight_scaling"

    def free(self, model: nn.Module, name: str, layer: nn.Linear, context: Context) -> None:
        """Put factors of 1 behind the layer; they alone train."""
        _put(model, name, ScaledClassifier(layer))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """The factors, without weight decay."""
        return [{"params": [_scaled(model)[1].factors], "weight_decay": 0.0}]

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Fold the factors; the shape is the parent's."""
        name, scaled = _scaled(model)
        with torch.no_grad():
            scaled.linear.weight *= scaled.factors[:, None]
            if scaled.linear.bias is not None:
                scaled.linear.bias.mul_(scaled.factors)
        context.facts["factors"] = scaled.factors.tolist()
        _put(model, name, scaled.linear)
        return super().finish(model, context)


def _scaled(model: nn.Module) -> tuple[str, ScaledClassifier]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, ScaledClassifier))


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
