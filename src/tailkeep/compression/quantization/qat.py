"""Quantization-aware training: Jacob et al. 2018; DoReFa (Zhou et al. 2016), PACT (Choi et al. 2018), LSQ (Esser 2020).

With a recipe of 0 epochs it is post-training quantization by the same grids (``ptq`` has more ways to choose them).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.layers import QuantizedLayer
from tailkeep.compression.quantization.method import Quantization


class QuantizationAwareTraining(Quantization):
    """Integer weights and activations, trained through.

    ``weights``: "symmetric" or "asymmetric" (min-max), "dorefa", or "lsq" (learned step). ``activations``:
    "range_linear" (the observer's range), "pact" (learned clip), "lsq" (learned step) or "clip" (to [0, 1]).
    ``freeze_observers`` and ``freeze_norms`` are the shares of the training after which ranges, and batch-norm
    statistics, no longer move. ``pact_start`` is PACT's first clip, null to take it from the calibration batches.
    """

    kind: Literal["qat"] = "qat"
    weights: Literal["symmetric", "asymmetric", "dorefa", "lsq"] = "symmetric"
    activations: Literal["range_linear", "pact", "lsq", "clip"] = "range_linear"
    pact_start: float | None = Field(default=8.0, gt=0)
    pact_decay: float = Field(default=1e-4, ge=0)
    freeze_observers: float = Field(default=0.5, ge=0, le=1)
    freeze_norms: float = Field(default=0.9, ge=0, le=1)

    @property
    def version(self) -> int:
        """2: the grid is found in float32 also in bf16 training, and PACT's clip is the last step's."""
        return 2

    @property
    def weight_kind(self) -> str:
        """As the setting says."""
        return self.weights

    @model_validator(mode="after")
    def _kinds(self) -> QuantizationAwareTraining:
        if self.weights == "dorefa" and self.weight_bits == 8:
            raise ValueError("weight_bits: weights 'dorefa' take 2 to 7; their 8-bit grid, odd -255 to 255, is no int8")
        if self.weights == "dorefa" and self.weight_granularity == "tensor":
            raise ValueError("weight_granularity: weights 'dorefa' have one grid for the layer already; leave it out")
        if self.activation_symmetric and self.activations != "range_linear":
            raise ValueError(f"activation_symmetric is for activations 'range_linear', not {self.activations!r}")
        return self

    def _quantizer(self) -> act.ActivationQuantizer | None:
        if self.activation_bits == 32 or self.activations == "range_linear":
            return super()._quantizer()
        if self.activations == "pact":
            return act.Pact(self.activation_bits, self.pact_start)
        return act.Clip(self.activation_bits) if self.activations == "clip" else act.LearnedStep(self.activation_bits)

    @property
    def warning(self) -> str | None:
        """What freezing batch norms does to few bits, as measured."""
        if self.weight_bits > 3 or self.freeze_norms >= 1:
            return None
        return (
            f"{self.weight_bits}-bit weights that train on under frozen batch norms can diverge: "
            "a class-imbalanced ResNet-20 at W3A8 reached 52.6 % with freeze_norms 0.67 and "
            "56.4 % with 1, under a teacher 15.9 % and 57.1 % (docs/results/kd-w3.md); set freeze_norms: 1"
        )

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Freeze ranges, then batch-norm statistics, late in the training. A function of progress alone."""
        ranges, norms = progress >= self.freeze_observers, progress >= self.freeze_norms
        for module in model.modules():
            if isinstance(module, act.ActivationQuantizer):
                module.frozen = ranges
            elif isinstance(module, nn.BatchNorm2d) and norms:
                module.eval()

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """PACT's clips get their own weight decay, as in the paper, learned steps none; all else the recipe's."""
        clips = [module.alpha for module in model.modules() if isinstance(module, act.Pact)]
        steps = [module.step for module in model.modules() if isinstance(module, act.LearnedStep)]
        steps += [m.weight_step for m in model.modules() if isinstance(m, QuantizedLayer) and hasattr(m, "weight_step")]
        if not clips and not steps:
            return None
        known = {id(parameter) for parameter in [*clips, *steps]}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if p.requires_grad and id(p) not in known]}
        ]
        groups += [{"params": clips, "weight_decay": self.pact_decay}] if clips else []
        return groups + ([{"params": steps, "weight_decay": 0.0}] if steps else [])
