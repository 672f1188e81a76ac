"""Activation quantizers: each holds its range, turns a float tensor into integers and tells their scale.

All state is in parameters and buffers, so a checkpoint of the model is a checkpoint of the quantizer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tailkeep.compression.quantization.grid import LearnedRound, PactRound, RoundClamp
from tailkeep.compression.quantization.observers import Observer, affine, batch_range

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
    """Range-linear, its range put together from what an observer sees in each batch (``observers.batch_range``).

    "ema", "percentile" and "mse": an exponential moving average over the batches; "minmax": the widest. The range of
    "mse" comes from the calibration alone, since a search in every training step would cost more than the step.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(
        self,
        bits: int,
        momentum: float = 0.05,
        observer: Observer = "ema",
        percentile: float = 99.9,
        symmetric: bool = False,
    ) -> None:
        super().__init__(bits)
        self.momentum, self.observer, self.percentile, self.symmetric = momentum, observer, percentile, symmetric
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def observe(self, x: Tensor) -> None:
        """Move the range; the first batch sets it. Zero always lies in it, since padding is zero."""
        if self.observer == "mse" and self.mode != OBSERVE:
            return
        low, high = batch_range(x, self.observer, self.percentile, self.bits, self.symmetric)
        if self.observer == "minmax":
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)  # both start at 0, which is in it
        else:
            low = torch.where(self.seen, self.low + self.momentum * (low - self.low), low)
            high = torch.where(self.seen, self.high + self.momentum * (high - self.high), high)
        self.low.copy_(low)
        self.high.copy_(high)
        self.seen.fill_(True)

    def settle(self) -> None:
        """Derive scale and zero point from the range."""
        scale, zero = affine(self.low, self.high, self.bits, self.symmetric)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero)


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


class LearnedStep(ActivationQuantizer):
    """The step itself is learned (LSQ, Esser et al. 2020), from 2 mean|x| / sqrt(top) over the calibration batches.

    Signed where the calibration saw a negative value, else unsigned; which of the two never changes afterwards.
    """

    total: Tensor
    batches: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    def observe(self, x: Tensor) -> None:
        """In calibration, collect the mean of |x| and whether x goes below zero; in training the step learns."""
        if self.mode == OBSERVE:
            if bool((x < 0).any()):
                self.zero_point.fill_(2 ** (self.bits - 1))
            self.total += x.float().abs().mean()
            self.batches += 1

    def settle(self) -> None:
        """The scale follows the step; at the end of the calibration the step takes its first value."""
        if self.mode == OBSERVE and float(self.batches) > 0:
            top = self.levels - float(self.zero_point)
            self.step.data.copy_(2 * self.total / self.batches / top**0.5)
        self.step.data.clamp_min_(1e-8)
        self.scale.copy_(self.step.detach())

    def grid(self, x: Tensor) -> Tensor:
        """Return integers minus the zero point, with the gradient of the step."""
        return LearnedRound.apply(  # type: ignore[no-untyped-call,no-any-return]
            x, self.step, -self.zero_point, self.levels - self.zero_point, x[0].numel()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the base; the step moved in the last step of the training, so the scale follows it here."""
        if self.mode == QUANTIZE:
            self.settle()
        return super().forward(x)


class Shared(nn.Module):
    """The input of a layer that a ``Point`` has quantized already: the same integers again, and nothing observed."""

    def __init__(self, source: ActivationQuantizer) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple, so that its buffers are not stored a second time

    @property
    def bits(self) -> int:
        """Bits of the source."""
        return self._source[0].bits

    @property
    def scale(self) -> Tensor:
        """Scale of the source."""
        return self._source[0].scale

    @property
    def zero_point(self) -> Tensor:
        """Zero point of the source."""
        return self._source[0].zero_point

    def settle(self) -> None:
        """Nothing: the source settles itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Find the integers of an already quantized tensor."""
        source = self._source[0]
        if source.mode == OBSERVE:
            return x, None
        zero = source.zero_point
        grid = RoundClamp.apply(x, source.scale, -zero, source.levels - zero)  # type: ignore[no-untyped-call]
        return grid, source.scale.detach()


class Point(nn.Module):
    """A place between layers whose values are quantized while the model trains: what enters and leaves an addition."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return integers times scale. In bf16 that product still rounds back to its integer: 255 / 512 < 1/2."""
        grid, scale = self.quantizer(x)
        values: Tensor = grid if scale is None else (grid * scale).to(x.dtype)
        return values
