"""Which layer gets how many bits: a greedy search that knows of a model only its sizes and a measure of the damage."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Bits = dict[str, int]
Damage = tuple[float, ...]
"""What bits cost, the first number before the second: a later one decides only where the earlier do not rise."""


def weight_bytes(sizes: Mapping[str, int], bits: Mapping[str, float]) -> int:
    """Return the sum over layers of ceil(bits * weights / 8)."""
    return sum(_layer_bytes(size, bits[name]) for name, size in sizes.items())


def _layer_bytes(size: int, bits: float) -> int:
    return math.ceil(bits * size / 8)


@dataclass(frozen=True)
class Allocation:
    """The chosen bits by layer, the bytes of these weights, the damage, and how often it was measured."""

    bits: Bits
    bytes: int
    damage: Damage
    measurements: int


def allocate(
    sizes: Mapping[str, int], most: int, least: int, budget: int, measure: Callable[[Bits], Damage]
) -> Allocation:
    """Start every layer at ``most`` bits and take one bit at a time until the weights fit into ``budget`` bytes.

    The bit goes from the layer in which that adds the least to the damage for each byte saved. Where it adds nothing to
    the first of its numbers the next decides, then the bytes, then the order of the layers. A price is taken anew only
    when its layer comes first at the price last found (lazy greedy, Minoux 1978): that is the plain greedy search as
    long as prices do not fall while other layers lose bits, at a small part of its measurements. What is not finite has
    an infinite price. ``sizes`` are weights by layer. Raises ``ValueError`` where ``least`` bits everywhere are more
    than the budget.
    """
    if weight_bytes(sizes, dict.fromkeys(sizes, least)) > budget:
        raise ValueError(f"{least} bits everywhere take more than {budget} bytes")
    order = {name: number for number, name in enumerate(sizes)}
    bits = dict.fromkeys(sizes, most)
    current, measurements, taken = measure(bits), 1, 0
    used = weight_bytes(sizes, bits)
    queue: list[tuple[tuple[float, ...], int, int, str, int, Damage]] = []

    def offer(name: str) -> None:
        nonlocal measurements
        if bits[name] > least:
            damage = measure({**bits, name: bits[name] - 1})
            measurements += 1
            saved = _layer_bytes(sizes[name], bits[name]) - _layer_bytes(sizes[name], bits[name] - 1)
            prices = tuple(_rise(new, old) / max(saved, 1) for new, old in zip(damage, current, strict=True))
            heapq.heappush(queue, (prices, -saved, order[name], name, taken, damage))

    if used > budget:
        for name in sizes:
            offer(name)
    while used > budget:
        _, saved, _, name, when, damage = heapq.heappop(queue)
        if when != taken:
            offer(name)
            continue
        bits[name] -= 1
        used += saved
        current, taken = damage, taken + 1
        offer(name)
    return Allocation(bits, used, current, measurements)


def _rise(new: float, old: float) -> float:
    return max(new - old, 0.0) if math.isfinite(new) and math.isfinite(old) else math.inf
