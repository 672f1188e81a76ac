"""Weight quantizers: float weights -> integers (minus their zero point) and scales, one a channel or one in all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tailkeep.compression.quantization.grid import LearnedRound, StraightRound


def _spread(values: Tensor, weight: Tensor) -> Tensor:
    """Shape (C_out,) or (1,) so that it broadcasts over the weight."""
    return values.view((-1,) + (1,) * (weight.dim() - 1))


def _rows(weight: Tensor, per_tensor: bool) -> Tensor:
    flat = weight.detach().flatten(1)
    return flat.reshape(1, -1) if per_tensor else flat


def symmetric(weight: Tensor, bits: int, per_tensor: bool = False) -> tuple[Tensor, Tensor]:
    """Symmetric min-max: integers in [-q, q], q = 2**(bits-1) - 1, and scales (C_out,), or (1,) with ``per_tensor``.

    A per-channel scale commutes with folding the batch norm that follows (its factor multiplies the scale and leaves
    the integers as they are, but for a sign), so the fold needs no second quantization.
    """
    top = 2 ** (bits - 1) - 1
    largest = _rows(weight, per_tensor).abs().amax(1)
    scale = torch.where(largest > 0, largest / top, torch.ones_like(largest))
    return StraightRound.apply(weight / _spread(scale, weight)), scale  # type: ignore[no-untyped-call]


def symmetric_mse(weight: Tensor, bits: int, per_tensor: bool = False, candidates: int = 64) -> tuple[Tensor, Tensor]:
    """As ``symmetric``, but of ``candidates`` shares of each row's maximum, the one with the least squared error.

    What lies outside is clamped; a gain below 8 bits, where the largest weight alone would set the step of all.
    """
    top = 2 ** (bits - 1) - 1
    rows = _rows(weight, per_tensor)
    largest = rows.abs().amax(1).clamp_min(1e-12)
    best, best_error = largest, torch.full_like(largest, torch.inf)
    for step in range(candidates):
        trial = largest * (1 - step / (candidates + 16))
        scale = (trial / top)[:, None]
        error = (torch.round(rows / scale).clamp(-top, top) * scale - rows).square().sum(1)
        best, best_error = torch.where(error < best_error, trial, best), torch.minimum(error, best_error)
    scale = best / top
    rounded: Tensor = StraightRound.apply(weight / _spread(scale, weight))  # type: ignore[no-untyped-call]
    return rounded.clamp(-top, top), scale


def asymmetric(weight: Tensor, bits: int, per_tensor: bool = False) -> tuple[Tensor, Tensor]:
    """Asymmetric min-max: integers minus the zero point, 2**bits of them, the range always with zero in it."""
    levels = 2**bits - 1
    rows = _rows(weight, per_tensor)
    low, high = rows.amin(1).clamp_max(0), rows.amax(1).clamp_min(0)
    scale = torch.where(high > low, (high - low) / levels, torch.ones_like(low))
    zero = _spread(torch.round(-low / scale), weight)
    rounded = StraightRound.apply(weight / _spread(scale, weight))  # type: ignore[no-untyped-call]
    return torch.maximum(torch.minimum(rounded, levels - zero), -zero), scale


def dorefa(weight: Tensor, bits: int, per_tensor: bool = True) -> tuple[Tensor, Tensor]:
    """DoReFa (Zhou et al. 2016): 2 * round((tanh(w) / (2 max|tanh w|) + 1/2) * n) - n, n = 2**bits - 1, scale 1/n.

    The grid has no zero and spans [-1, 1] for the whole tensor; the batch norm that follows takes up the new scale.
    """
    levels = 2**bits - 1
    squashed = torch.tanh(weight)
    largest = squashed.detach().abs().amax().clamp_min(1e-12)
    unit = squashed / (2 * largest) + 0.5
    integers = 2 * StraightRound.apply(unit * levels) - levels  # type: ignore[no-untyped-call]
    return integers, torch.full((weight.shape[0],), 1.0 / levels, device=weight.device)


def first_step(weight: Tensor, bits: int, per_tensor: bool = False) -> Tensor:
    """Return LSQ's first step, 2 mean|w| / sqrt(top), (C_out,) or (1,)."""
    top = 2 ** (bits - 1) - 1
    mean: Tensor = _rows(weight, per_tensor).abs().mean(1)
    return (2 * mean / math.sqrt(top)).clamp_min(1e-8)


def learned(weight: Tensor, bits: int, step: Tensor) -> tuple[Tensor, Tensor]:
    """LSQ (Esser et al. 2020) with the integers in [-q, q]: a sign of a folded batch norm must fit int8 too."""
    top = torch.tensor(2.0 ** (bits - 1) - 1, device=weight.device)
    positive = step.clamp_min(1e-8)
    features = weight.numel() // step.numel()
    integers = LearnedRound.apply(weight, _spread(positive, weight), -top, top, features)  # type: ignore[no-untyped-call]
    return integers, positive.detach()


QUANTIZERS = {"symmetric": symmetric, "symmetric_mse": symmetric_mse, "asymmetric": asymmetric, "dorefa": dorefa}
