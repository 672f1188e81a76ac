"""Which filters go: how many, ranked layer by layer or all together, and how far until a target is met."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tailkeep.compression.pruning.counting import Ledger
from tailkeep.compression.pruning.coupling import Plan
from tailkeep.errors import StepFailed

Filters = dict[str, list[int]]
"""Layer -> filters by index, ascending."""


def exact(ratio: float) -> Fraction:
    """Return a ratio as the decimal that it is written as: 0.29 is 29/100."""
    return Fraction(repr(float(ratio)))


def removed_count(ratio: float, filters: int) -> int:
    """Return floor(ratio * filters), with the ratio read as the decimal that it is written as (0.29 * 100 is 29)."""
    return math.floor(exact(ratio) * filters)


def lowest(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the ``count`` smallest scores, ascending; of equal scores the lower index goes first."""
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())


def comparable(scores: Tensor, dead: list[int]) -> Tensor:
    """Return the scores divided by their mean size over the filters not ``dead``, so that layers can be compared.

    Raw scores differ between layers by their fan-in and depth alone, and a global ranking would empty whole layers.
    Molchanov et al. 2017 divide by a layer's Euclidean norm, DepGraph (Fang et al. 2023) by its mean as here (of the
    absolute values: a consistency score can be negative). A layer whose mean is zero stays as it is.
    """
    alive = torch.ones(len(scores), dtype=torch.bool)
    alive[dead] = False
    mean = scores[alive].abs().mean() if bool(alive.any()) else scores.new_zeros(())
    return scores / mean if mean > 0 else scores


def removal_order(
    scores: Mapping[str, Tensor], dead: Mapping[str, list[int]], scope: str, min_filters: int
) -> list[tuple[str, int]]:
    """Return (layer, filter) in the order in which filters go, the last ``min_filters`` of each layer left out.

    ``scope`` "global": by score (``comparable``); "layer": so that at every point all layers have lost the same share,
    to one filter. What is dead comes first; ties go by layer, then by index.
    """
    keyed = []
    for number, (name, values) in enumerate(scores.items()):
        gone = set(dead[name])
        ranked = torch.argsort(_dead_first(values, dead[name]), stable=True).tolist()
        worth = comparable(values, dead[name]).tolist()
        for rank, index in enumerate(ranked[: max(len(gone), len(ranked) - min_filters)]):
            value = worth[index] if scope == "global" else (rank + 1) / len(ranked)
            keyed.append((index not in gone, value, number, rank, name, index))
    return [(name, index) for *_, name, index in sorted(keyed)]


def first_of(order: list[tuple[str, int]], count: int, layers: Mapping[str, object]) -> Filters:
    """Return the first ``count`` of an order, by layer."""
    chosen: Filters = {name: [] for name in layers}
    for name, index in order[:count]:
        chosen[name].append(index)
    return {name: sorted(indices) for name, indices in chosen.items()}


@dataclass(frozen=True)
class Goal:
    """How much is to go from a model, in the end, and by which ranking.

    ``ratios`` by layer, all the same unless ``scope`` is "layer" and ``target`` "filters". ``books`` is the cost of the
    whole model and ``plan`` what goes with a filter, both needed for the other targets alone.
    """

    ratios: dict[str, float]
    widths: dict[str, int]
    scope: str
    target: str
    min_filters: int
    plan: Plan | None = None
    books: Ledger | None = None

    def met(self, dead: Mapping[str, list[int]], share: float) -> bool:
        """Whether the ``dead`` filters are all that is due at ``share`` (0 to 1) of the goal. Asks for no scores."""
        if self.target != "filters":
            order = [(name, index) for name, indices in dead.items() for index in indices]
            _, taken = self._taken(order, self._wanted(share))
            return taken
        if self.scope == "global":
            return sum(map(len, dead.values())) >= self._count(share)
        return all(len(dead[name]) >= count for name, count in self._counts(share).items())

    def choose(self, scores: Mapping[str, Tensor], dead: Mapping[str, list[int]], share: float) -> Filters:
        """Return the filters that are to be gone at ``share`` of the goal, what is dead among them.

        Each layer keeps at least ``min_filters``. Raises ``StepFailed`` with reason ``pruning`` where that many cannot
        go.
        """
        if self.target == "filters" and self.scope == "layer":
            counts = self._counts(share)
            return {
                name: lowest(_dead_first(values, dead[name]), max(counts[name], len(dead[name])))
                for name, values in scores.items()
            }
        order = removal_order(scores, dead, self.scope, self.min_filters)
        if self.target == "filters":
            count = self._count(share)
            if count > len(order):
                words = f"{count} of {sum(self.widths.values())} filters cannot go: with min_filters {self.min_filters}"
                raise StepFailed("pruning", f"{words} in each of {len(self.widths)} layers at most {len(order)} can")
            return first_of(order, max(count, sum(map(len, dead.values()))), scores)
        count, taken = self._taken(order, self._wanted(share))
        if not taken:
            raise StepFailed("pruning", self._out_of_reach(order, share))
        return first_of(order, max(count, sum(map(len, dead.values()))), scores)

    def _ratio(self) -> float:
        return next(iter(self.ratios.values()))

    def _wanted(self, share: float) -> Fraction:
        return exact(self._ratio() * share)

    def _count(self, share: float) -> int:
        return removed_count(self._ratio() * share, sum(self.widths.values()))

    def _counts(self, share: float) -> dict[str, int]:
        return {
            name: min(removed_count(ratio * share, self.widths[name]), max(0, self.widths[name] - self.min_filters))
            for name, ratio in self.ratios.items()
        }

    def _taken(self, order: list[tuple[str, int]], wanted: Fraction) -> tuple[int, bool]:
        """Return after how many filters of an order the share ``wanted`` of the whole cost is gone, and whether it is.

        The smallest such number: the cost never rises along the order.
        """
        assert self.books is not None
        assert self.plan is not None
        books = copy.deepcopy(self.books)
        before = books.cost
        for number, (name, index) in enumerate(order):
            if before - books.cost >= wanted * before:
                return number, True
            books.remove(self.plan.touches[name], index)
        return len(order), before - books.cost >= wanted * before

    def _out_of_reach(self, order: list[tuple[str, int]], share: float) -> str:
        assert self.books is not None
        assert self.plan is not None
        books = copy.deepcopy(self.books)
        before = books.cost
        for name, index in order:
            books.remove(self.plan.touches[name], index)
        most = math.floor((1 - books.cost / before) * 1000) / 1000
        return (
            f"the ratio {self._ratio():g} of the model's {self.target} cannot be reached: with min_filters "
            f"{self.min_filters} in each of {len(self.widths)} prunable layers at most {most:g} can go, for the other "
            "layers keep theirs"
        )


def _dead_first(scores: Tensor, dead: list[int]) -> Tensor:
    values = scores.clone()
    values[dead] = -math.inf
    return values
