"""Quantized layers in the form that runtimes exchange: quantize, dequantize, and an ordinary float operation between.

A runtime recognises the pattern and puts its integer kernel in its place. The modules run in torch as they are, with
the same rounding as the file that is exported from them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.errors import StepFailed

BYTE = 255
"""Activations are stored as uint8: the type for which x86 runtimes have kernels."""

LARGEST_BIAS = 2**29
"""Runtimes turn a bias into an int32 of the scale that input and weights have together; a quarter of its range."""


def quantized_ops() -> Any:
    """Return torch's namespace of quantize and dequantize operations, which importing a private module registers."""
    try:
        import torch.ao.quantization.fx._decomposed
    except ImportError as error:
        reason = f"torch {torch.__version__} has no quantized_decomposed operations ({error})"
        raise StepFailed("export", reason) from error
    return torch.ops.quantized_decomposed


class QuantDequant(nn.Module):
    """Round a float tensor to a grid of ``bits`` bits, stored in uint8, and come back to float.

    value = (clamp(round(x / scale) + zero_point, 0, 2**bits - 1) - zero_point) * scale. ``zero_point`` is the integer
    that means 0. Raises ``ValueError`` where ``bits`` is not 2 to 8, or scale or zero point do not fit them.
    """

    def __init__(self, scale: float, zero_point: int, bits: int) -> None:
        super().__init__()
        levels = 2**bits - 1
        if not 2 <= bits <= 8 or not 0 < scale < math.inf or not 0 <= zero_point <= levels:
            raise ValueError(f"no grid of uint8: scale {scale}, zero point {zero_point}, {bits} bits")
        self.scale, self.zero_point, self.bits = float(scale), int(zero_point), bits
        self.low, self.high = -zero_point * self.scale, (levels - zero_point) * self.scale
        quantized_ops()

    def forward(self, x: Tensor) -> Tensor:
        """Map (any shape) float32 to the same shape on the grid."""
        if self.bits < 8:  # the exchange format saturates at the type's range alone, so a narrower one is clipped first
            x = x.clamp(self.low, self.high)
        grid = (self.scale, self.zero_point, 0, BYTE, torch.uint8)
        ops = torch.ops.quantized_decomposed
        result: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)
        return result


class FloatGrid(QuantDequant):
    """The same grid in float arithmetic, for the input of a layer whose weights stay float.

    Such a layer has no integer kernel; but between two quantized tensors onnxruntime quantizes its weights unasked.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (any shape) float32 to the same shape on the grid, by the simulation's own product with 1 / scale."""
        inverse = float(torch.tensor(self.scale).reciprocal())
        integers = torch.round(x * inverse).clamp(-self.zero_point, 2**self.bits - 1 - self.zero_point)
        return integers * self.scale


class ReferenceLayer(nn.Module):
    """A convolution or linear layer: quantized input, int8 weights that are dequantized, float bias.

    ``how`` is the layer's geometry; ``weight`` int8 with ``weight_scale`` (C_out,), or float32 that is multiplied by it
    here once and for all; ``bias`` (C_out,); ``activation`` is None where the input stays float.
    """

    weight: Tensor
    bias: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor

    def __init__(
        self, how: dict[str, Any], weight: Tensor, weight_scale: Tensor, bias: Tensor, activation: QuantDequant | None,
        weight_zero_point: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.how, self.activation = how, activation
        self.integer = not weight.is_floating_point()
        if self.integer:
            zero = torch.zeros_like(weight_scale) if weight_zero_point is None else weight_zero_point
            if activation is not None:
                weight, weight_scale = bounded_bias(weight, weight_scale, zero, bias, activation.scale)
            self.register_buffer("weight_scale", weight_scale.detach().clone())
            # torch subtracts in the wider of both types, and an int8 would wrap around; in the file it is int8
            self.register_buffer("weight_zero_point", zero.detach().to(torch.int64))
            quantized_ops()
        else:
            weight = weight * weight_scale.view(-1, *(1,) * (weight.dim() - 1))
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize the input, then run the layer in float."""
        if self.activation is not None:
            x = self.activation(x)
        weight = self.weight
        if self.integer:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                weight, self.weight_scale, self.weight_zero_point, 0, -128, 127, torch.int8
            )
        if self.how["op"] == "linear":
            return F.linear(x, weight, self.bias)
        places = [self.how[name] for name in ("stride", "padding", "dilation", "groups")]
        return F.conv2d(x, weight, self.bias, *places)


def bounded_bias(
    weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor, input_scale: float
) -> tuple[Tensor, Tensor]:
    """Return weights (C_out, ...) int8 and scales (C_out,) under which the bias fits into an int32.

    A channel that training has let die has weights, and a scale, near zero: its bias over that scale would overflow and
    come out with another sign. Its scale is raised and its integers shrink, which moves its output by at most
    255 / 2**30 of the bias for each of its weights.
    """
    least = bias.abs() / (input_scale * LARGEST_BIAS)
    raised = torch.maximum(scale, least)
    raised = torch.where(raised > 0, raised, torch.ones_like(raised))
    shape = (-1, *(1,) * (weight.dim() - 1))
    zero = zero_point.float().view(shape)
    return (torch.round((weight.float() - zero) * (scale / raised).view(shape)) + zero).to(torch.int8), raised
