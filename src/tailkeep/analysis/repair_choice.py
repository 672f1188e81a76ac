"""Which repaired model stands for its stage: picked on validation images alone, among models of about one size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailkeep.analysis.repair_rows import NONE, PLACES, Row, mean

SAME_SIZE = 1.1
"""How many times the largest of models that count as of one size may be as large as the smallest."""
DIGITS = 9
"""Decimals to which means are compared: equal ones may differ in their last bit."""


@dataclass(frozen=True)
class Group:
    """Compressed rows of about one size.

    ``smaller`` is (least, most) times smaller than the baseline, NaN where sizes are not known; ``picked`` is the row
    that stands for each stage, None where several are there and no validation images to pick one by.
    """

    smaller: tuple[float, float]
    rows: tuple[Row, ...]
    picked: dict[str, Row | None]


def best_on_validation(rows: Iterable[Row]) -> Row | None:
    """Return the row with the highest mean balanced accuracy on validation, the first of equals; None without any."""
    known = [row for row in rows if row.held_out]
    return max(known, key=lambda row: round(mean(row.held_out), DIGITS)) if known else None


def smaller(row: Row, baseline: Row) -> float:
    """Return how many times smaller a row's packed bytes are than the baseline's; NaN where one is not known."""
    packed = mean(row.packed)
    return mean(baseline.packed) / packed if packed > 0 else math.nan


def size_groups(rows: Sequence[Row], baseline: Row) -> list[Group]:
    """Put the compressed rows of about one size together, the largest models first.

    Stages can be compared within a group alone: of two sizes the larger model would win, wherever it is repaired.
    Rows of unknown size are one group, the last.
    """
    compressed = [row for row in rows if row.compressed]
    sized = [row for row in compressed if not math.isnan(smaller(row, baseline))]
    parts: list[list[Row]] = []
    least = math.nan
    for row in sorted(sized, key=lambda each: smaller(each, baseline)):
        times = smaller(row, baseline)
        if times <= SAME_SIZE * least:
            parts[-1].append(row)
        else:
            parts.append([row])
            least = times
    parts.append([row for row in compressed if math.isnan(smaller(row, baseline))])
    # Within a group the frame's order holds, so that the first of equals is the study's first.
    pairs = [{row.pair for row in part} for part in parts if part]
    return [_group([row for row in compressed if row.pair in mine], baseline) for mine in pairs]


def _turn(stage: str) -> tuple[int, int]:
    """Return where a stage stands: no repair first, then one place, then several."""
    places = [] if stage == NONE else stage.split(" + ")
    return len(places), PLACES.index(places[0]) if places else 0


def _group(part: Sequence[Row], baseline: Row) -> Group:
    times = [smaller(row, baseline) for row in part]
    picked: dict[str, Row | None] = {}
    for stage in sorted({row.stage for row in part}, key=_turn):
        mine = [row for row in part if row.stage == stage]
        # A lone row needs no choice, and so no validation images.
        picked[stage] = mine[0] if len(mine) == 1 else best_on_validation(mine)
    return Group((min(times), max(times)), tuple(part), picked)
