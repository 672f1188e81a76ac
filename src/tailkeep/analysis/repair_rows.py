"""The models that are compared in "where to repair": one row a (model, method), its figures by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from tailkeep import frame as frames
from tailkeep.analysis import statistics
from tailkeep.analysis.cells import Arm, Block, Cells, read_cells
from tailkeep.analysis.groups import Groups
from tailkeep.evaluation import metrics

Pair = tuple[str, str]
"""(model, method)."""
Figures = Mapping[int, float]
"""A figure by seed, in percentage points; what is not known is left out."""

PLACES = ("before", "during", "after")
NONE = "none"


class Difference(NamedTuple):
    """A mean over paired seeds with its 95 % t interval, in percentage points; NaN where it is not known."""

    mean: float
    low: float
    high: float
    seeds: int


UNKNOWN = Difference(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Row:
    """One (model, method) on the imbalanced data. ``stage`` is "none", or what of ``PLACES`` holds, joined by " + ".

    ``balanced`` (mean recall), ``worst`` (the lowest recall) and ``tail`` (mean recall of the rarest group) are of the
    split that the study reports, ``held_out`` is the mean recall on validation; all by seed, in percentage points.
    ``packed`` is bytes by seed.
    """

    model: str
    method: str
    role: str
    stage: str
    compressed: bool
    balanced: Figures
    worst: Figures
    tail: Figures
    held_out: Figures
    packed: Figures = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        """What names the row."""
        return self.model, self.method

    @property
    def repaired(self) -> bool:
        """Whether anything answers imbalance, at any place."""
        return self.stage != NONE

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with a balanced accuracy, ascending."""
        return tuple(sorted(self.balanced))

    def only(self, seeds: Iterable[int]) -> Row:
        """Return the row with these seeds alone."""
        kept = set(seeds)

        def of(figures: Figures) -> dict[int, float]:
            return {seed: value for seed, value in figures.items() if seed in kept}

        return replace(
            self,
            balanced=of(self.balanced),
            worst=of(self.worst),
            tail=of(self.tail),
            held_out=of(self.held_out),
            packed=of(self.packed),
        )


def mean(figures: Figures) -> float:
    """Return the mean over the seeds; NaN without any."""
    return statistics.mean_and_spread(list(figures.values()))[0]


def paired(one: Figures, other: Figures) -> Difference:
    """Return ``one`` minus ``other`` over the seeds that both have."""
    values = [one[seed] - other[seed] for seed in sorted(set(one) & set(other))]
    return Difference(statistics.mean_and_spread(values)[0], *statistics.t_interval(values), len(values))


def stage_text(before: bool, during: bool, after: bool) -> str:
    """Return "none", "before", "before + after"..."""
    return " + ".join(name for name, holds in zip(PLACES, (before, during, after), strict=True) if holds) or NONE


def read_imbalanced(frame: pd.DataFrame, split: str) -> Cells:
    """Return the dense models and techniques on imbalanced data, of one split; controls and twins are left out."""
    wanted = (frame["twin"] == "imbalanced") & frame["role"].isin(("dense", "technique"))
    # A cell's own counts are the same against every reference.
    own = frame[wanted].drop_duplicates([name for name in frames.KEY if name != "reference"])
    return read_cells(own, split)


def read_rows(
    place: tuple[str, str],
    cells: Cells,
    held_out: Cells | None,
    groups: Groups,
    stages: pd.DataFrame,
    sizes: pd.DataFrame,
) -> list[Row]:
    """Return the rows of one (dataset, setting), in the frame's order; a cell that ``stages`` lacks is left out.

    ``cells`` are those of the reported split, ``held_out`` of validation (None: there is none).
    """
    known = {(m, n): (s, bool(c)) for m, n, s, c in _staged(_of(stages, place))}
    packed = _packed(_of(sizes, place))
    rows = []
    for arm in cells.arms:
        pair = (arm.model, arm.method)
        if (arm.dataset, arm.setting) == place and pair in known:
            blocks = _blocks(cells, arm)
            balanced = _each(blocks, lambda b, _: metrics.mean_of_recalls(b.recall))
            rows.append(
                Row(
                    *(arm.model, arm.method, arm.role, *known[pair]),
                    balanced=balanced,
                    worst=_each(blocks, lambda b, _: metrics.worst_of_recalls(b.recall)[1]),
                    tail=_each(blocks, lambda b, seed: _tail(b, groups, (*place, seed))),
                    held_out=_each(_blocks(held_out, arm), lambda b, _: metrics.mean_of_recalls(b.recall)),
                    packed=packed.get(pair, {}),
                )
            )
    return rows


def _of(table: pd.DataFrame, place: tuple[str, str]) -> pd.DataFrame:
    if table.empty:
        return table
    mine = (table["dataset"] == place[0]) & (table["setting"] == place[1])
    return table[mine & (table["twin"] == "imbalanced")]


def _staged(stages: pd.DataFrame) -> list[tuple[str, str, str, bool]]:
    names = ["model", "method", *PLACES, "compressed"]
    return [
        (str(model), str(method), stage_text(bool(before), bool(during), bool(after)), bool(compressed))
        for model, method, before, during, after, compressed in stages.reindex(columns=names).itertuples(index=False)
    ]


def _packed(sizes: pd.DataFrame) -> dict[Pair, dict[int, float]]:
    found: dict[Pair, dict[int, float]] = {}
    if len(sizes):
        known = sizes[sizes["packed_bytes"].notna()]
        for model, method, seed, packed in known[["model", "method", "seed", "packed_bytes"]].itertuples(index=False):
            found.setdefault((str(model), str(method)), {})[int(seed)] = float(packed)
    return found


def _blocks(cells: Cells | None, arm: Arm) -> dict[int, Block]:
    if cells is None:
        return {}
    found = {seed: cells.block(arm, "imbalanced", seed, "self") for seed in cells.seeds(arm, "imbalanced")}
    return {seed: block for seed, block in found.items() if block is not None}


def _each(blocks: Mapping[int, Block], figure: Callable[[Block, int], float]) -> dict[int, float]:
    found = {seed: 100 * figure(block, seed) for seed, block in blocks.items()}
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def _tail(block: Block, groups: Groups, place: tuple[str, str, int]) -> float:
    rare = groups.positions(place).get("few", np.array([], dtype=np.int64))
    return metrics.mean_of_recalls(block.recall[rare])
