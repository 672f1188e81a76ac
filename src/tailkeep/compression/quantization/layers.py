"""A layer in its two lives: training through the integer grid, and finished with integer weights.

Both compute  y = op(integers of x, integers of w) * (scale of x * scale of w) + bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.compression.quantization.activations import ActivationQuantizer, Shared
from tailkeep.compression.quantization.grid import RoundClamp
from tailkeep.compression.quantization.reference import FloatGrid, QuantDequant, ReferenceLayer
from tailkeep.compression.quantization.weights import QUANTIZERS, first_step, learned

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
    """Shape (C_out,) or (1,) so that it multiplies the operation's output."""
    return values if how["op"] == "linear" else values.view(-1, 1, 1)


def norm_factor(norm: nn.BatchNorm2d) -> Tensor:
    """Return what a batch norm in evaluation multiplies its channels by, (C,)."""
    assert norm.running_var is not None
    return torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer while it trains: float master weights, integer forward.

    ``per_tensor``: one weight scale for the whole layer, which is found on the weights times the factor of the batch
    norm that follows (``norm``), since a runtime sees the folded weights (Jacob et al. 2018, section 3.2).
    """

    def __init__(
        self,
        layer: Layer,
        weight_bits: int,
        weight_kind: str,
        activation: ActivationQuantizer | Shared | None,
        per_tensor: bool = False,
        norm: nn.BatchNorm2d | None = None,
    ) -> None:
        super().__init__()
        self.how = geometry(layer)
        self.weight = layer.weight
        self.bias = layer.bias
        self.weight_bits = weight_bits
        self.weight_kind = weight_kind
        self.per_tensor = per_tensor
        self.activation: ActivationQuantizer | Shared | None = activation
        self._norm = (norm if per_tensor else None,)  # in a tuple: the norm is stored where it stands, not here again
        if weight_kind == "lsq" and weight_bits != 32:
            self.weight_step = nn.Parameter(first_step(self._folded()[0], weight_bits, per_tensor))

    def set_bits(self, bits: int) -> None:
        """Give the weights another number of bits, 2 to 8; a learned step begins anew."""
        self.weight_bits = bits
        if self.weight_kind == "lsq":
            self.weight_step.data.copy_(first_step(self._folded()[0], bits, self.per_tensor))

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        """The weights that are quantized, and the factor (C_out,) that they were multiplied by (None for none)."""
        norm = self._norm[0]
        if norm is None:
            return self.weight, None
        factor = norm_factor(norm)
        factor = torch.where(factor.abs() < 1e-5, torch.full_like(factor, 1e-5), factor).detach()
        return self.weight * factor.view((-1,) + (1,) * (self.weight.dim() - 1)), factor

    def integers(self) -> tuple[Tensor, Tensor]:
        """Return the weights' integers and scale (C_out,) or (1,); the float weights and ones at 32 bits."""
        if self.weight_bits == 32:
            return self.weight, torch.ones(self.weight.shape[0], device=self.weight.device)
        weight, factor = self._folded()
        if self.weight_kind == "lsq":
            integers, scale = learned(weight, self.weight_bits, self.weight_step)
        else:
            integers, scale = QUANTIZERS[self.weight_kind](weight, self.weight_bits, self.per_tensor)
        return integers, scale if factor is None else scale / factor

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
            y = y.mul_(per_channel(scale, self.how).to(y.dtype))  # no operation needs its own output to go back
        return y if self.bias is None else y + per_channel(self.bias, self.how).to(y.dtype)


class IntegerLayer(nn.Module):
    """The finished layer: int8 weights, a scale an output channel (or one), a bias, and the range of its input.

    Buffers: ``weight`` int8 (float32 at 32 bits), ``weight_scale`` (C_out,) or (1,), ``bias`` (C_out,),
    ``activation_scale`` and ``activation_zero_point`` (0-d; unused at 32 bits), and, for asymmetric weights,
    ``weight_zero_point`` (C_out,). A batch norm is folded into scale and bias.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    activation_scale: Tensor
    activation_zero_point: Tensor
    weight_zero_point: Tensor | None

    def __init__(
        self, how: dict[str, Any], shape: tuple[int, ...], weight_bits: int, activation_bits: int,
        per_tensor: bool = False, shifted: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.how, self.weight_bits, self.activation_bits = how, weight_bits, activation_bits
        dtype = torch.float32 if weight_bits == 32 else torch.int8
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype))
        self.register_buffer("weight_scale", torch.ones(1 if per_tensor else shape[0]))
        self.register_buffer("bias", torch.zeros(shape[0]))
        self.register_buffer("activation_scale", torch.ones(()))
        self.register_buffer("activation_zero_point", torch.zeros(()))
        self.register_buffer("weight_zero_point", torch.zeros(shape[0]) if shifted else None)

    @torch.no_grad()
    def fill(self, layer: QuantizedLayer, norm: nn.BatchNorm2d | None, integer_bias: bool = False) -> None:
        """Take weights, range and the following batch norm over from the trained layer.

        ``integer_bias`` makes the bias a whole number of the sums' scale, as integer runtimes add it. Left out, it was
        the largest difference between the simulated and the exported ResNet-20.
        """
        integers, scale = layer.integers()
        bias = torch.zeros_like(self.bias) if layer.bias is None else layer.bias.detach().clone()
        if norm is not None:
            factor = norm_factor(norm)
            assert norm.running_mean is not None
            bias = (bias - norm.running_mean) * factor + (0.0 if norm.bias is None else norm.bias)
            scale = scale * factor
        sign = torch.where(scale < 0, -1.0, 1.0)  # runtimes want positive scales: the sign goes into the integers
        spread = (-1,) + (1,) * (integers.dim() - 1)
        integers = integers * sign.view(spread)
        if self.weight_zero_point is not None:
            flat = integers.flatten(1)
            middle = torch.floor((flat.amin(1) + flat.amax(1) + 1) / 2)
            self.weight_zero_point.copy_(-middle)
            integers = integers - middle.view(spread)
        self.weight.copy_(integers)
        self.weight_scale.copy_(scale.abs()[: len(self.weight_scale)])
        if layer.activation is not None:
            self.activation_scale.copy_(layer.activation.scale)
            self.activation_zero_point.copy_(layer.activation.zero_point)
            if integer_bias and self.weight_bits != 32:
                step = (self.weight_scale * self.activation_scale).clamp_min(1e-30)
                bias = torch.round(bias / step) * step
        self.bias.copy_(bias)

    def signed_integers(self) -> Tensor:
        """Return the weights' integers minus their zero point, float32 (the weights themselves at 32 bits)."""
        weight = self.weight.float()
        if self.weight_zero_point is None:
            return weight
        return weight - self.weight_zero_point.view((-1,) + (1,) * (weight.dim() - 1))

    def forward(self, x: Tensor) -> Tensor:
        """y = op(x integers, w integers) * scales + bias, in the dtype of ``x``."""
        scale = self.weight_scale
        if self.activation_bits != 32:
            zero, levels = self.activation_zero_point, 2**self.activation_bits - 1
            x = RoundClamp.apply(x, self.activation_scale, -zero, levels - zero)  # type: ignore[no-untyped-call]
            scale = scale * self.activation_scale
        y = apply_op(self.how, x, self.signed_integers().to(x.dtype))
        return y * per_channel(scale, self.how).to(y.dtype) + per_channel(self.bias, self.how).to(y.dtype)

    def export_form(self) -> nn.Module:
        """Return the layer as quantize, dequantize and a float operation, which runtimes turn into integer kernels."""
        activation = None
        if self.activation_bits != 32:
            kind = FloatGrid if self.weight_bits == 32 else QuantDequant
            activation = kind(float(self.activation_scale), int(self.activation_zero_point), self.activation_bits)
        scales = self.weight_scale.expand(self.weight.shape[0])
        return ReferenceLayer(self.how, self.weight, scales, self.bias, activation, self.weight_zero_point)
