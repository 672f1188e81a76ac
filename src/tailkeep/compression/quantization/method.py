"""What quantization after and during training have in common: which layers, which grids, and the integer model."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tailkeep.compression.base import Change, Context, Method
from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer, geometry
from tailkeep.compression.quantization.observers import Observer
from tailkeep.compression.quantization.placement import (
    FinishedPoint,
    find_points,
    insert_points,
    layers_on_points,
    trace,
)
from tailkeep.compression.quantization.structure import compressible_layers, following_norms, replace_module
from tailkeep.errors import StepFailed


class Quantization(Method):
    """Settings and conversion of every quantization method. 32 bits leave a side as it is.

    ``weight_granularity``: a scale for each output channel, or one for the whole layer. ``activation_symmetric`` puts
    the zero point in the middle. ``observer`` says which range of a batch counts (``observers.batch_range``);
    ``percentile`` is for the observer of that name. ``calibration_draw`` says which training images calibrate:
    "random", "balanced" (as many of every class) or "tail" (more of the rarer). ``placement``: "inputs" quantizes what
    enters each layer; "runtime" also what enters and leaves each residual addition, so that a runtime can keep the
    whole network in integers. ``keep_first_last`` leaves the first convolution and the last linear layer in float.
    """

    weight_bits: int = Field(default=8, ge=2, le=32)
    activation_bits: int = Field(default=8, ge=2, le=32)
    weight_granularity: Literal["channel", "tensor"] = "channel"
    activation_symmetric: bool = False
    observer: Observer = "ema"
    percentile: float = Field(default=99.9, gt=50, le=100)
    placement: Literal["inputs", "runtime"] = "inputs"
    keep_first_last: bool = True
    calibration_batches: int = Field(default=8, ge=1)
    calibration_draw: Literal["random", "balanced", "tail"] = "random"

    @property
    def answers_imbalance(self) -> bool:
        """Where images that are drawn for rare classes set the ranges."""
        return self.calibration_draw != "random"

    @property
    def weight_kind(self) -> str:
        """Name of the weight quantizer in ``weights.QUANTIZERS``."""
        return "symmetric"

    @property
    def final(self) -> bool:
        """Integer weights do not train; at 32 bits there are none."""
        return not self.weight_bits == self.activation_bits == 32

    @model_validator(mode="after")
    def _bits(self) -> Quantization:
        for name in ("weight_bits", "activation_bits"):
            if 8 < getattr(self, name) < 32:
                raise ValueError(f"{name}: choose 2 to 8, or 32 for none")
        if self.placement == "runtime" and self.activation_bits != 8:
            raise ValueError("placement 'runtime' is for activations of 8 bits: no runtime here has kernels for fewer")
        return self

    def prepare(self, model: nn.Module, context: Context) -> nn.Module:
        """Replace the layers by quantized ones and calibrate their ranges. 32/32 bits leave the model as it is."""
        if self.weight_bits == 32 and self.activation_bits == 32:
            return model
        if any(isinstance(module, IntegerLayer) for module in model.modules()):
            raise StepFailed("already_quantized", "the parent is quantized; quantization must come last")
        batches = list(context.calibration(self.calibration_batches, self.calibration_draw))
        names = self._layers(model, batches[0])
        norms = following_norms(model) if self.weight_granularity == "tensor" else {}
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            norm = model.get_submodule(norms[name]) if name in norms else None
            assert norm is None or isinstance(norm, nn.BatchNorm2d)
            try:
                new = QuantizedLayer(
                    layer, self.weight_bits, self.weight_kind, self._quantizer(), self._per_tensor, norm
                )
            except ValueError as error:
                raise StepFailed("unsupported_layer", f"{name}: {error}") from error
            replace_module(model, name, new.to(context.device))
        if self.placement == "runtime":
            model = self._with_points(model, context)
        calibrate(model, batches)
        context.facts["quantized_layers"] = len(names)
        return model

    @property
    def _per_tensor(self) -> bool:
        return self.weight_granularity == "tensor"

    def _with_points(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the model as a graph with its points, the layers behind them sharing their grids."""
        graph = trace(model)
        names = find_points(graph)
        insert_points(graph, names, lambda: act.Point(self._range_linear()))
        graph.to(context.device)
        for layer, place in layers_on_points(graph).items():
            module, point = graph.get_submodule(layer), graph.get_submodule(place)
            assert isinstance(module, QuantizedLayer)
            assert isinstance(point, act.Point)
            module.activation = act.Shared(point.quantizer)
        graph.meta["points"] = names
        context.facts["quantized_points"] = len(names)
        return graph

    def _layers(self, model: nn.Module, example: Tensor) -> list[str]:
        """Name the layers to quantize, in call order."""
        order = compressible_layers(model, example[:2], self.keep_first_last)
        if not order:
            raise StepFailed("nothing_to_quantize", "the model has no convolution or linear layer left to quantize")
        return order

    def _range_linear(self) -> act.RangeLinear:
        return act.RangeLinear(
            self.activation_bits,
            observer=self.observer,
            percentile=self.percentile,
            symmetric=self.activation_symmetric,
        )

    def _quantizer(self) -> act.ActivationQuantizer | None:
        return None if self.activation_bits == 32 else self._range_linear()

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Convert to integer layers, batch norms folded; say how far simulation and conversion agree."""
        trained = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
        if not trained:
            return model, None
        model.eval()
        for module in model.modules():
            if isinstance(module, act.ActivationQuantizer):
                module.settle()  # the last step moved what is learned, and no forward pass has followed it
        simulated = copy.deepcopy(model)
        layers: dict[str, Any] = {}
        norms = following_norms(_plain(model, trained))
        for name, layer in trained.items():
            norm = norms.get(name)
            layers[name] = self._convert(model, name, layer, norm)
            if norm:
                replace_module(model, norm, nn.Identity())
        values: dict[str, Any] = {"layers": layers}
        points = {n: m for n, m in model.named_modules() if isinstance(m, act.Point)}
        if points:
            for name, point in points.items():
                finished = FinishedPoint(point.quantizer.bits).to(context.device)
                finished.scale.copy_(point.quantizer.scale)
                finished.zero_point.copy_(point.quantizer.zero_point)
                replace_module(model, name, finished)
            assert isinstance(model, torch.fx.GraphModule)
            values["points"] = {"names": list(model.meta["points"]), "bits": self.activation_bits}
        _agreement(simulated, model, context)
        return model, {"kind": self.kind, "values": values}  # type: ignore[attr-defined]

    def _convert(self, model: nn.Module, name: str, layer: QuantizedLayer, norm: str | None) -> dict[str, Any]:
        """Put the integer layer in the place of a trained one; return what ``rebuild`` needs to know of it."""
        bits = 32 if layer.activation is None else layer.activation.bits
        shifted = layer.weight_kind == "asymmetric" and layer.weight_bits != 32
        per_tensor = layer.per_tensor and layer.weight_bits != 32
        new = IntegerLayer(layer.how, tuple(layer.weight.shape), layer.weight_bits, bits, per_tensor, shifted)
        norm_module = model.get_submodule(norm) if norm else None
        assert norm_module is None or isinstance(norm_module, nn.BatchNorm2d)
        new.to(layer.weight.device).fill(layer, norm_module, integer_bias=self.placement == "runtime")
        replace_module(model, name, new)
        facts: dict[str, Any] = {"weight_bits": layer.weight_bits, "activation_bits": bits, "norm": norm}
        return facts | ({"per_tensor": True} if per_tensor else {}) | ({"shifted": True} if shifted else {})

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Put empty integer layers, and points, where the change says."""
        for name, facts in values["layers"].items():
            layer = model.get_submodule(name)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            new = IntegerLayer(
                geometry(layer),
                tuple(layer.weight.shape),
                int(facts["weight_bits"]),
                int(facts["activation_bits"]),
                bool(facts.get("per_tensor")),
                bool(facts.get("shifted")),
            )
            replace_module(model, name, new)
            if facts["norm"]:
                replace_module(model, str(facts["norm"]), nn.Identity())
        if "points" in values:
            graph = trace(model)
            insert_points(graph, list(values["points"]["names"]), lambda: FinishedPoint(int(values["points"]["bits"])))
            return graph
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
