"""Weight quantizers: float weights -> integers and the scale of each output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from tailkeep.compression.quantization.grid import StraightRound


def symmetric(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric per-channel min-max: integers in [-q, q], q = 2**(bits-1) - 1, and a scale (C_out,).

    A per-channel scale commutes with folding the batch norm that follows (its factor multiplies the scale and leaves
    the integers as they are, but for a sign), so the fold needs no second quantization.
    """
    top = 2 ** (bits - 1) - 1
    largest = weight.detach().abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest / top, torch.ones_like(largest))
    shape = (-1,) + (1,) * (weight.dim() - 1)
    return StraightRound.apply(weight / scale.view(shape)), scale  # type: ignore[no-untyped-call]


def dorefa(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """DoReFa (Zhou et al. 2016): 2 * round((tanh(w) / (2 max|tanh w|) + 1/2) * n) - n, n = 2**bits - 1, scale 1/n.

    The grid has no zero and spans [-1, 1] for the whole tensor; the batch norm that follows takes up the new scale.
    """
    levels = 2**bits - 1
    squashed = torch.tanh(weight)
    largest = squashed.detach().abs().amax().clamp_min(1e-12)
    unit = squashed / (2 * largest) + 0.5
    integers = 2 * StraightRound.apply(unit * levels) - levels  # type: ignore[no-untyped-call]
    return integers, torch.full((weight.shape[0],), 1.0 / levels, device=weight.device)


QUANTIZERS = {"symmetric": symmetric, "dorefa": dorefa}
