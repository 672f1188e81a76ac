"""Rounding to an integer grid, with the gradients that training through it needs.

Everything here returns *integers in floating point*: the convolution runs on them and the scales come after. Integers
up to 256 are exact in bf16, so a bf16 training step sees the same grid as the float32 prediction does; dequantized
values would be rounded once more on their way into a bf16 convolution and miss the grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RoundClamp(torch.autograd.Function):
    """clamp(round(x / scale), low, high); straight-through inside the range, no gradient outside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """``scale``, ``low`` and ``high`` are scalars (0-d tensors) on the device of ``x``."""
        inverse = scale.reciprocal()
        # In the scale's float32: a bf16 product would round twice and land beside the integer that a prediction sees.
        grid = (x.to(scale.dtype) * inverse).round_()
        clamped = torch.maximum(grid, low)
        torch.minimum(clamped, high, out=clamped)
        # In place, and a mask of ones and zeros in the dtype of ``x``: by booleans it multiplies thrice as slowly.
        ctx.save_for_backward(grid.eq_(clamped).to(x.dtype), inverse)
        return clamped.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of ``x`` alone."""
        inside, inverse = ctx.saved_tensors
        return (grads[0] * inside).mul_(inverse.to(grads[0].dtype)), None, None, None


class PactRound(torch.autograd.Function):
    """round(clamp(x, 0, alpha) * levels / alpha) with the gradients of PACT (Choi et al. 2018).

    The layer multiplies the integers by a detached scale alpha / levels, so the gradients here are those of the
    dequantized value divided by that scale: 1 inside the range for ``x``, 1 above it for ``alpha``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, levels: int) -> Tensor:
        """``alpha`` is a 0-d tensor, the learned clip; ``levels`` is 2**bits - 1."""
        inverse = levels / alpha
        wide = x.to(alpha.dtype)  # float32, for the same reason as above
        above = wide >= alpha
        grid = torch.round(wide * inverse).clamp_(0, levels)
        ctx.save_for_backward((x > 0) & ~above, above, inverse)
        return grid.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of ``x`` and ``alpha``."""
        inside, above, inverse = ctx.saved_tensors
        scaled = grads[0] * inverse.to(grads[0].dtype)
        return scaled * inside, (scaled * above).sum(dtype=torch.float32), None


class LearnedRound(torch.autograd.Function):
    """clamp(round(x / step), low, high) with the gradients of LSQ (Esser et al. 2020).

    The layer multiplies the integers by the detached step, so the gradients here are those of the dequantized value
    divided by it. Of the step: round(v) - v inside the range and the bound outside, v = x / step, times
    g = 1 / sqrt(features * top).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor, features: int) -> Tensor:
        """``step`` broadcasts over ``x``; ``low`` and ``high`` are 0-d; ``features``: values that share a step."""
        scaled = x.to(step.dtype) / step
        rounded = torch.round(scaled)
        grid = torch.minimum(torch.maximum(rounded, low), high)
        inside = (scaled > low) & (scaled < high)  # the paper's condition: clamped before it is rounded
        ctx.save_for_backward(inside, torch.where(inside, rounded - scaled, grid), step)
        ctx.gradient_scale = float(features * high) ** -0.5
        return grid.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return the gradients of ``x`` and ``step``."""
        inside, slope, step = ctx.saved_tensors
        scaled = grads[0].to(step.dtype) / step
        of_step = (scaled * slope * ctx.gradient_scale).sum_to_size(step.shape)
        return (scaled * inside).to(grads[0].dtype), of_step, None, None, None


class StraightRound(torch.autograd.Function):
    """round(x) forward, identity backward (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Round to the nearest integer, ties to even."""
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Pass the gradient through."""
        return grads[0]
