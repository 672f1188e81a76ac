"""Mixed precision whose bits are dealt out by what they cost the class that suffers most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Context
from tailkeep.compression.groups import frequency_thirds
from tailkeep.compression.pruning.counting import counted_layers
from tailkeep.compression.pruning.coupling import TRANSPOSED
from tailkeep.compression.quantization.bit_search import Bits, Damage, allocate, weight_bytes
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.errors import StepFailed

FLOAT_BYTES = 4

Objective = Literal["worst_class", "tail", "mean"]


class TailAwareBits(QuantizationAwareTraining):
    """``qat`` with a number of weight bits for each layer, chosen before the training under a budget of bytes.

    Every layer starts at ``weight_bits``; one bit after another goes where it adds least, for each byte saved, to the
    ``objective``: the loss that quantization adds for the class that it hurts most ("worst_class"), on the mean over
    the rarest third of the classes ("tail"), or over all images ("mean": the control). Measured on ``search_batches``
    of the calibration images, training images drawn balanced unless ``calibration_draw`` says otherwise. No layer falls
    below ``least_bits``. The budget: ``average_bits`` gives the quantized weights the bytes that so many bits
    everywhere would take; ``times_smaller`` in its place makes the whole model's packed bytes so many times fewer than
    those of the parent in float32. All settings of ``qat`` hold; of a recipe without epochs only the search is left,
    for which ``weights`` "symmetric_mse" is there as well.
    """

    kind: Literal["tail_aware_bits"] = "tail_aware_bits"  # type: ignore[assignment]
    weights: Literal["symmetric", "symmetric_mse", "asymmetric", "dorefa", "lsq"] = "lsq"  # type: ignore[assignment]
    calibration_draw: Literal["random", "balanced", "tail"] = "balanced"
    objective: Objective = "worst_class"
    average_bits: float | None = Field(4.0, ge=2, le=8)
    times_smaller: float | None = Field(None, gt=1)
    least_bits: int = Field(2, ge=2, le=8)
    search_batches: int = Field(2, ge=1)

    @property
    def answers_imbalance(self) -> bool:
        """Bits go where the worst class needs them."""
        return True

    @model_validator(mode="before")
    @classmethod
    def _other_budget(cls, values: Any) -> Any:
        """Write out that a given ``times_smaller`` stands in place of the default."""
        if isinstance(values, dict) and values.get("times_smaller") is not None and "average_bits" not in values:
            return {**values, "average_bits": None}
        return values

    @model_validator(mode="after")
    def _one_budget(self) -> TailAwareBits:
        if (self.average_bits is None) == (self.times_smaller is None):
            raise ValueError("give one budget, average_bits or times_smaller")
        if self.least_bits > self.weight_bits:
            raise ValueError(f"least_bits {self.least_bits} are more than weight_bits {self.weight_bits}")
        if self.average_bits is not None and self.average_bits < self.least_bits:
            raise ValueError(f"average_bits {self.average_bits:g} are fewer than least_bits {self.least_bits}")
        return self

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Quantize and calibrate as ``qat`` does, then search the bits.

        Raises ``StepFailed`` as ``qat`` does, and with reason ``bits`` where the budget is out of reach.
        """
        if self.weight_bits == 32 or any(isinstance(module, IntegerLayer) for module in model.modules()):
            return super().prepare(model, context)
        images = list(context.labelled(self.search_batches, self.calibration_draw))
        names = self._layers(model, images[0][0])
        sizes = {name: _weight(model.get_submodule(name)).numel() for name in names}
        fixed, whole = self.packed_bytes(model, dict.fromkeys(names, 0)), self.packed_bytes(model, {})
        budget = self._budget(sizes, fixed, whole)
        classes = len(context.class_counts)
        before = class_losses(model, images, classes)
        model = super().prepare(model, context)
        measured: dict[tuple[int, ...], Damages] = {}

        def measure(bits: Bits) -> Damage:
            for name in names:
                layer = model.get_submodule(name)
                assert isinstance(layer, QuantizedLayer)
                if layer.weight_bits != bits[name]:
                    layer.set_bits(bits[name])
            found = Damages.of(class_losses(model, images, classes) - before, images, context.class_counts)
            measured[tuple(bits.values())] = found
            return getattr(found, self.objective), found.mean

        try:
            chosen = allocate(sizes, self.weight_bits, self.least_bits, budget, measure)
        except ValueError as error:
            raise StepFailed("bits", f"{error}; give a larger budget, or lower least_bits") from error
        measure(chosen.bits)  # the last trial left other bits behind
        context.facts["weight_bits_by_layer"] = chosen.bits
        context.facts["bit_search"] = {
            "objective": self.objective,
            "measurements": chosen.measurements,
            "weight_bytes": chosen.bytes,
            "packed_bytes": fixed + chosen.bytes,
            "parent_packed_bytes": whole,
            "added_loss": measured[tuple(chosen.bits.values())].plain(),
        }
        return model

    def _budget(self, sizes: dict[str, int], fixed: int, whole: int) -> int:
        """Bytes for the weights that are quantized."""
        if self.average_bits is not None:
            return weight_bytes(sizes, dict.fromkeys(sizes, self.average_bits))
        assert self.times_smaller is not None
        return math.floor(whole / self.times_smaller) - fixed

    def packed_bytes(self, model: nn.Module, bits: Mapping[str, int]) -> int:
        """Return the packed bytes of a float model whose layers named in ``bits`` are quantized to as many bits.

        Sum of bits * weights / 8, and 4 bytes for each scale and each bias, batch norms folded.
        """
        total = 0
        for name, module, weight in counted_layers(model):
            own = bits.get(name, 32)
            outputs = weight.shape[1] * int(module.groups) if isinstance(module, TRANSPOSED) else weight.shape[0]
            scales = 0 if own == 32 else (1 if self._per_tensor else outputs) + (self.activation_bits < 32)
            total += math.ceil(own * weight.numel() / 8) + FLOAT_BYTES * (outputs + scales)
        return total


@dataclass(frozen=True)
class Damages:
    """The loss, in nats, that quantization adds: by class (C,), for the class it hurts most, in the tail, on average.

    A class without an image has NaN; it counts in none of the three.
    """

    by_class: Tensor
    worst_class: float
    tail: float
    mean: float

    @classmethod
    def of(cls, added: Tensor, batches: Sequence[tuple[Tensor, Tensor]], class_counts: Sequence[int]) -> Damages:
        """Summarise the ``added`` loss (C,) on labelled images; the tail is the rarest third of the classes."""
        shown = torch.bincount(torch.cat([labels for _, labels in batches]).cpu(), minlength=len(added)).double()
        there = shown > 0
        tail = torch.zeros_like(there)
        tail[list(frequency_thirds(class_counts)[-1])] = True
        rare = added[there & tail]
        mean = float((added[there] * shown[there]).sum() / shown.sum())
        return cls(added, float(added[there].max()), float(rare.mean()) if len(rare) else mean, mean)

    def plain(self) -> dict[str, Any]:
        """Return plain values; null for what is not finite."""
        found = {name: _finite(getattr(self, name)) for name in ("worst_class", "tail", "mean")}
        return {**found, "by_class": [_finite(value) for value in self.by_class.tolist()]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    return layer.weight


@torch.no_grad()
def class_losses(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Return the mean cross-entropy of each class's images (C,), float64 on the CPU; NaN for a class without one.

    In evaluation mode; training flags come back as they were.
    """
    sums, counts = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    for images, labels in batches:
        losses = F.cross_entropy(model(images).float(), labels, reduction="none")
        sums.index_add_(0, labels.cpu(), losses.cpu().double())
        counts += torch.bincount(labels.cpu(), minlength=classes)
    for module, flag in flags:
        module.training = flag
    return sums / counts
