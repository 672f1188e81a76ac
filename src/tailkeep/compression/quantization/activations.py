"""Activation quantizers: each holds its range, turns a float tensor into integers and tells their scale.

All state is in parameters and buffers, so a checkpoint of the model is a checkpoint of the quantizer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tailkeep.compression.quantization.grid import PactRound, RoundClamp

OBSERVE, QUANTIZE = "observe", "quantize"


class ActivationQuantizer(nn.Module):
    """Base: ``forward`` returns (integers minus the zero point, scale); the scale is detached and 0-d."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.levels = 2**bits - 1
        self.mode = QUANTIZE
        self.frozen = False
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def observe(self, x: Tensor) -> None:
        """Take in a batch of calibration or training activations."""

    def settle(self) -> None:
        """Derive scale and zero point from what was observed or learned."""

    def grid(self, x: Tensor) -> Tensor:
        """Return integers minus the zero point."""
        return RoundClamp.apply(x, self.scale, -self.zero_point, self.levels - self.zero_point)  # type: ignore[no-untyped-call,no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Quantize, or observe and pass through in calibration."""
        if self.mode == OBSERVE:
            self.observe(x.detach())
            return x, None
        if self.training and not self.frozen:
            self.observe(x.detach())
            self.settle()
        return self.grid(x), self.scale.detach()


class RangeLinear(ActivationQuantizer):
    """Asymmetric range-linear with an exponential moving average of each batch's minimum and maximum."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int, momentum: float = 0.05) -> None:
        super().__init__(bits)
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def observe(self, x: Tensor) -> None:
        """Move the averages; the first batch sets them. Zero always lies in the range, since padding is zero."""
        low, high = (extreme.float() for extreme in torch.aminmax(x))
        low, high = low.clamp_max(0), high.clamp_min(0)
        self.low.copy_(torch.where(self.seen, self.low + self.momentum * (low - self.low), low))
        self.high.copy_(torch.where(self.seen, self.high + self.momentum * (high - self.high), high))
        self.seen.fill_(True)

    def settle(self) -> None:
        """scale = range / levels; the zero point is the integer that means 0."""
        scale = (self.high - self.low) / self.levels
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        self.zero_point.copy_(torch.round(-self.low / self.scale).clamp(0, self.levels))


class Clip(ActivationQuantizer):
    """Unsigned, clipped to [0, 1]: the activations of DoReFa (Zhou et al. 2016)."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.scale.fill_(1.0 / self.levels)


class Pact(ActivationQuantizer):
    """Unsigned, clipped to [0, alpha] with alpha learned (PACT, Choi et al. 2018).

    ``start`` is alpha's first value; None takes the average over the calibration batches of the 99.9th percentile,
    which a short fine-tune needs: from 8.0 alpha would not come down in so few steps.
    """

    total: Tensor
    batches: Tensor

    def __init__(self, bits: int, start: float | None = 8.0) -> None:
        super().__init__(bits)
        self.start = start
        self.alpha = nn.Parameter(torch.tensor(8.0 if start is None else start))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    def observe(self, x: Tensor) -> None:
        """In calibration, collect the percentile of each batch; in training alpha learns and nothing is observed."""
        if self.mode == OBSERVE and self.start is None:
            flat = x.float().flatten()
            rank = max(1, int(0.999 * flat.numel()))
            self.total += torch.kthvalue(flat, rank).values.clamp_min(1e-3)
            self.batches += 1

    def settle(self) -> None:
        """scale = alpha / levels."""
        if self.mode == OBSERVE and self.start is None and float(self.batches) > 0:
            self.alpha.data.copy_(self.total / self.batches)
        self.alpha.data.clamp_min_(1e-3)  # a clip at or below zero would divide by zero
        self.scale.copy_(self.alpha.detach() / self.levels)

    def grid(self, x: Tensor) -> Tensor:
        """Integers from 0 to 2**bits - 1, with the gradient of alpha."""
        return PactRound.apply(x, self.alpha, self.levels)  # type: ignore[no-untyped-call,no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the base; alpha moved in the last step, so the scale follows it here also when nothing is observed."""
        if self.mode == QUANTIZE:
            self.settle()
        return super().forward(x)
