"""A layer in its two lives: training through the integer grid, and finished with integer weights.

Both compute  y = op(integers of x, integers of w) * (scale of x * scale of w) + bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.compression.quantization.activations import ActivationQuantizer
from tailkeep.compression.quantization.grid import RoundClamp
from tailkeep.compression.quantization.weights import QUANTIZERS

Layer = nn.Conv2d | nn.Linear


def geometry(layer: Layer) -> dict[str, Any]:
    """Return the plain values that say how a layer's operation runs."""
    if isinstance(layer, nn.Linear):
        return {"op": "linear"}
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError("only convolutions with explicit zero padding can be quantized")
    names = ("stride", "padding", "dilation")
    return {"op": "conv2d", "groups": layer.groups, **{name: list(getattr(layer, name)) for name in names}}


def apply_op(how: dict[str, Any], x: Tensor, weight: Tensor) -> Tensor:
    """Run the layer's operation without its bias."""
    if how["op"] == "linear":
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, how["stride"], how["padding"], how["dilation"], how["groups"])


def per_channel(values: Tensor, how: dict[str, Any]) -> Tensor:
    """Shape (C_out,) so that it multiplies the operation's output."""
    return values if how["op"] == "linear" else values.view(-1, 1, 1)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer while it trains: float master weights, integer forward."""

    def __init__(
        self, layer: Layer, weight_bits: int, weight_kind: str, activation: ActivationQuantizer | None
    ) -> None:
        super().__init__()
        self.how = geometry(layer)
        self.weight = layer.weight
        self.bias = layer.bias
        self.weight_bits = weight_bits
        self.weight_kind = weight_kind
        self.activation = activation

    def integers(self) -> tuple[Tensor, Tensor]:
        """Return the weights' integers and scale (C_out,); the float weights and ones at 32 bits."""
        if self.weight_bits == 32:
            return self.weight, torch.ones(self.weight.shape[0], device=self.weight.device)
        return QUANTIZERS[self.weight_kind](self.weight, self.weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Integer operation, then one multiplication by the scales."""
        scale_x: Tensor | None = None
        if self.activation is not None:
            x, scale_x = self.activation(x)
            if scale_x is None:  # calibration sees the float network
                y = apply_op(self.how, x, self.weight)
                return y if self.bias is None else y + per_channel(self.bias, self.how).to(y.dtype)
        weight, scale = self.integers()
        y = apply_op(self.how, x, weight)
        if scale_x is not None:
            scale = scale * scale_x
        if self.weight_bits != 32 or scale_x is not None:
            y = y * per_channel(scale, self.how).to(y.dtype)
        return y if self.bias is None else y + per_channel(self.bias, self.how).to(y.dtype)


class IntegerLayer(nn.Module):
    """The finished layer: int8 weights, a scale an output channel, a bias, and the range of its input.

    Buffers: ``weight`` int8 (float32 at 32 bits), ``weight_scale`` (C_out,), ``bias`` (C_out,), ``activation_scale``
    and ``activation_zero_point`` (0-d; unused at 32 bits). A batch norm is folded into scale and bias.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    activation_scale: Tensor
    activation_zero_point: Tensor

    def __init__(self, how: dict[str, Any], shape: tuple[int, ...], weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        self.how, self.weight_bits, self.activation_bits = how, weight_bits, activation_bits
        dtype = torch.float32 if weight_bits == 32 else torch.int8
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype))
        self.register_buffer("weight_scale", torch.ones(shape[0]))
        self.register_buffer("bias", torch.zeros(shape[0]))
        self.register_buffer("activation_scale", torch.ones(()))
        self.register_buffer("activation_zero_point", torch.zeros(()))

    @torch.no_grad()
    def fill(self, layer: QuantizedLayer, norm: nn.BatchNorm2d | None) -> None:
        """Take weights, range and the following batch norm over from the trained layer."""
        integers, scale = layer.integers()
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach().clone()
        factor = torch.ones_like(scale)
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            factor = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
            bias = (bias - norm.running_mean) * factor + (0.0 if norm.bias is None else norm.bias)
        sign = torch.where(factor < 0, -1.0, 1.0)  # runtimes want positive scales: the sign goes into the integers
        shape = (-1,) + (1,) * (integers.dim() - 1)
        self.weight.copy_(integers * sign.view(shape))
        self.weight_scale.copy_(scale * factor.abs())
        self.bias.copy_(bias)
        if layer.activation is not None:
            self.activation_scale.copy_(layer.activation.scale)
            self.activation_zero_point.copy_(layer.activation.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """y = op(x integers, w integers) * scales + bias, in the dtype of ``x``."""
        scale = self.weight_scale
        if self.activation_bits != 32:
            zero, levels = self.activation_zero_point, 2**self.activation_bits - 1
            x = RoundClamp.apply(x, self.activation_scale, -zero, levels - zero)  # type: ignore[no-untyped-call]
            scale = scale * self.activation_scale
        y = apply_op(self.how, x, self.weight.to(x.dtype))
        return y * per_channel(scale, self.how).to(y.dtype) + per_channel(self.bias, self.how).to(y.dtype)
