"""Quantization-aware training (Jacob et al. 2018; DoReFa, Zhou et al. 2016; PACT, Choi et al. 2018).

With a recipe of 0 epochs it is post-training quantization: the ranges come from the calibration batches alone.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context, Method
from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer, geometry
from tailkeep.compression.quantization.structure import following_norms, layers_in_call_order, replace_module
from tailkeep.errors import StepFailed


class QuantizationAwareTraining(Method):
    """Integer weights and activations, trained through.

    ``weights``: "symmetric" (per-channel min-max) or "dorefa". ``activations``: "range_linear" (asymmetric, moving
    average of the range), "pact" (learned clip) or "clip" (to [0, 1]). 32 bits leave a side as it is.
    ``keep_first_last`` leaves the first convolution and the last linear layer in float. ``freeze_observers`` and
    ``freeze_norms`` are the shares of the training after which ranges, and batch-norm statistics, no longer move.
    ``pact_start`` is PACT's first clip, null to take it from the calibration batches.
    """

    kind: Literal["qat"] = "qat"
    weight_bits: int = Field(default=8, ge=2, le=32)
    activation_bits: int = Field(default=8, ge=2, le=32)
    weights: Literal["symmetric", "dorefa"] = "symmetric"
    activations: Literal["range_linear", "pact", "clip"] = "range_linear"
    keep_first_last: bool = True
    calibration_batches: int = Field(default=8, ge=1)
    pact_start: float | None = Field(default=8.0, gt=0)
    pact_decay: float = Field(default=1e-4, ge=0)
    freeze_observers: float = Field(default=0.5, ge=0, le=1)
    freeze_norms: float = Field(default=0.67, ge=0, le=1)

    @property
    def version(self) -> int:
        """2: the grid is found in float32 also in bf16 training, and PACT's clip is the last step's."""
        return 2

    @model_validator(mode="after")
    def _bits(self) -> QuantizationAwareTraining:
        for name in ("weight_bits", "activation_bits"):
            if 8 < getattr(self, name) < 32:
                raise ValueError(f"{name}: choose 2 to 8, or 32 for none")
        if self.weights == "dorefa" and self.weight_bits == 8:
            raise ValueError("weight_bits: weights 'dorefa' take 2 to 7; their 8-bit grid, odd -255 to 255, is no int8")
        return self

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Replace the layers by quantized ones and calibrate their ranges. 32/32 bits leave the model as it is."""
        if self.weight_bits == 32 and self.activation_bits == 32:
            return model
        if any(isinstance(module, IntegerLayer) for module in model.modules()):
            raise StepFailed("already_quantized", "the parent is quantized; quantization must come last")
        batches = list(context.calibration(self.calibration_batches))
        names = self._layers(model, batches[0])
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            try:
                new = QuantizedLayer(layer, self.weight_bits, self.weights, self._quantizer())
            except ValueError as error:
                raise StepFailed("unsupported_layer", f"{name}: {error}") from error
            replace_module(model, name, new.to(context.device))
        calibrate(model, batches)
        context.facts["quantized_layers"] = len(names)
        return model

    def _layers(self, model: nn.Module, example: Tensor) -> list[str]:
        """Name the layers to quantize, in call order."""
        order = layers_in_call_order(model, example[:2])
        if self.keep_first_last:
            linear = [name for name in order if isinstance(model.get_submodule(name), nn.Linear)]
            order = [name for name in order[1:] if name not in linear[-1:]]
        if not order:
            raise StepFailed("nothing_to_quantize", "the model has no convolution or linear layer left to quantize")
        return order

    def _quantizer(self) -> act.ActivationQuantizer | None:
        if self.activation_bits == 32:
            return None
        if self.activations == "pact":
            return act.Pact(self.activation_bits, self.pact_start)
        return act.Clip(self.activation_bits) if self.activations == "clip" else act.RangeLinear(self.activation_bits)

    def on_step(self, model: nn.Module, progress: float, context: Context) -> None:
        """Freeze ranges, then batch-norm statistics, late in the training. A function of progress alone."""
        ranges, norms = progress >= self.freeze_observers, progress >= self.freeze_norms
        for module in model.modules():
            if isinstance(module, act.ActivationQuantizer):
                module.frozen = ranges
            elif isinstance(module, nn.BatchNorm2d) and norms:
                module.eval()

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """PACT's clips get their own weight decay, as in the paper; all else the recipe's."""
        clips = [module.alpha for module in model.modules() if isinstance(module, act.Pact)]
        if not clips:
            return None
        known = {id(clip) for clip in clips}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest}, {"params": clips, "weight_decay": self.pact_decay}]

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Convert to integer layers, batch norms folded; say how far simulation and conversion agree."""
        trained = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
        if not trained:
            return model, None
        model.eval()
        for layer in trained.values():
            if layer.activation is not None:
                layer.activation.settle()  # the last step moved PACT's clip, and no forward pass has followed it
        simulated = copy.deepcopy(model)
        layers: dict[str, Any] = {}
        norms = following_norms(_plain(model, trained))
        for name, layer in trained.items():
            bits = 32 if layer.activation is None else layer.activation.bits
            new = IntegerLayer(layer.how, tuple(layer.weight.shape), layer.weight_bits, bits).to(layer.weight.device)
            norm = norms.get(name)
            norm_module = model.get_submodule(norm) if norm else None
            assert norm_module is None or isinstance(norm_module, nn.BatchNorm2d)
            new.fill(layer, norm_module)
            replace_module(model, name, new)
            if norm:
                replace_module(model, norm, nn.Identity())
            layers[name] = {"weight_bits": layer.weight_bits, "activation_bits": bits, "norm": norm}
        _agreement(simulated, model, context)
        return model, {"kind": self.kind, "values": {"layers": layers}}

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Put empty integer layers where the change says."""
        for name, facts in values["layers"].items():
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            shape = tuple(layer.weight.shape)
            new = IntegerLayer(geometry(layer), shape, int(facts["weight_bits"]), int(facts["activation_bits"]))
            replace_module(model, name, new)
            if facts["norm"]:
                replace_module(model, str(facts["norm"]), nn.Identity())
        return model


@torch.no_grad()
def calibrate(model: nn.Module, batches: list[Tensor]) -> None:
    """Let every activation quantizer observe the float network on the batches, then settle its range."""
    quantizers = [module for module in model.modules() if isinstance(module, act.ActivationQuantizer)]
    was_training = model.training
    model.eval()
    for quantizer in quantizers:
        quantizer.mode = act.OBSERVE
    for batch in batches:
        model(batch)
    for quantizer in quantizers:
        quantizer.settle()
        quantizer.mode = act.QUANTIZE
        quantizer.settle()
    model.train(was_training)


def _plain(model: nn.Module, trained: dict[str, QuantizedLayer]) -> nn.Module:
    """A copy with ordinary layers in place of quantized ones, which torch.fx can trace as leaves.

    On the meta device they draw no weights, and so leave the global generator alone.
    """
    twin = copy.deepcopy(model)
    for name, layer in trained.items():
        out, inner = layer.weight.shape[0], layer.weight.shape[1]
        plain: nn.Module = nn.Conv2d(inner, out, 1, device="meta")
        if layer.how["op"] == "linear":
            plain = nn.Linear(inner, out, device="meta")
        replace_module(twin, name, plain)
    return twin


@torch.no_grad()
def _agreement(simulated: nn.Module, converted: nn.Module, context: Context) -> None:
    """Record on one calibration batch how often the converted model predicts what the simulated one does."""
    batch = next(iter(context.calibration(1)))
    expected, given = simulated(batch).float(), converted(batch).float()
    context.facts["converted_agreement"] = float((expected.argmax(1) == given.argmax(1)).float().mean())
    context.facts["converted_largest_difference"] = float((expected - given).abs().max())
