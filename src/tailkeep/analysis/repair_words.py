"""Where to repair, in words: what each place of the repair gives at one size, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailkeep.analysis.repair_choice import DIGITS, Group
from tailkeep.analysis.repair_rows import NONE, Difference, Row, mean, paired
from tailkeep.analysis.verdict import MIN_SEEDS
from tailkeep.analysis.words import SMALL, number, plural


@dataclass(frozen=True)
class Namer:
    """Names rows: the method, and the model where there are several."""

    models: tuple[str, ...]

    def of(self, row: Row) -> str:
        """Return "4-bit (plain)"."""
        return f"{row.method} ({row.model})" if len(self.models) > 1 else row.method


def make_sentences(
    groups: Sequence[Group], baseline: Row, best: Row | None, ranked: Sequence[Row], names: Namer
) -> list[str]:
    """Return a text a size that holds a repaired model, then the order of the repaired models of full size."""
    told = [group for group in groups if any(row.repaired for row in group.rows)]
    found = [_size(group, baseline, best, names) for group in told]
    return [*found, *([_order(ranked, baseline, names)] if ranked else [])]


def _size(group: Group, baseline: Row, best: Row | None, names: Namer) -> str:
    """Say what stands for each place at one size, the most on validation first; how sure the first is of its lead."""
    picked = [(stage, row) for stage, row in group.picked.items() if row is not None]
    ranked = len(picked) > 1 and all(row.held_out for _, row in picked)
    if ranked:
        picked.sort(key=lambda each: -round(mean(each[1].held_out), DIGITS))
    parts = [f"{_smaller(group)}, {_first(*picked[0], baseline, best, names, ranked)}"] if picked else []
    others = [f"{_place(stage)}: {_figures(row, baseline)}" for stage, row in picked[1:]]
    parts += [_capital("; ".join(others))] if others else []
    if ranked:
        parts.append(_lead(picked[0][1], picked[1][1]))
    for stage, row in group.picked.items():
        if row is None:
            parts.append(_unpicked(stage, group) if parts else f"{_smaller(group)}, {_unpicked(stage, group)}")
    return ". ".join(_capital(part) for part in parts) + "."


def _smaller(group: Group) -> str:
    least, most = group.smaller
    if math.isnan(least):
        return "Compressed, to sizes that are not known"
    texts = list(dict.fromkeys(f"{value:.1f}x" for value in (least, most)))
    return f"At {' to '.join(texts)} smaller"


def _place(stage: str) -> str:
    """Return "before and during"."""
    places = stage.split(" + ")
    return (
        "no repair" if stage == NONE else " and ".join([*([", ".join(places[:-1])] if places[:-1] else []), places[-1]])
    )


def _first(stage: str, row: Row, baseline: Row, best: Row | None, names: Namer, ranked: bool) -> str:
    doing = "compressing without a repair" if stage == NONE else f"repairing {_place(stage)} compression"
    text = f"{doing} gives the most on validation: {names.of(row)}" if ranked else f"{doing}, {names.of(row)}"
    whom = f"the baseline, {names.of(baseline)} at full size"
    text += f" reaches {number(mean(row.balanced))} % balanced accuracy, "
    text += _difference(paired(row.balanced, baseline.balanced), whom)
    if best is not None:
        whom = f"{names.of(best)}, the best repaired at full size"
        text += f", and {_difference(paired(row.balanced, best.balanced), whom)}"
    return text


def _figures(row: Row, baseline: Row) -> str:
    """Return "66.9 %, +8.9 (7.9 to 9.9)"; too few seeds for a claim have no interval."""
    found = paired(row.balanced, baseline.balanced)
    sign = "+" if found.mean >= SMALL else ""
    spread = f" ({number(found.low)} to {number(found.high)})" if found.seeds >= MIN_SEEDS else ""
    return f"{number(mean(row.balanced))} %, {sign}{number(found.mean)}{spread}"


def _lead(first: Row, second: Row) -> str:
    found = _difference(paired(first.balanced, second.balanced), "the second")
    return f"the first {'gives' if found.startswith('as much') else 'is'} {found}"


def _difference(found: Difference, whom: str) -> str:
    """Return "8.4 points above it (95 % interval 7.7 to 9.1)", the interval in the direction that the words have."""
    if abs(found.mean) < SMALL:
        return f"as much as {whom} ({_evidence(found)})"
    side = "above" if found.mean > 0 else "below"
    unsure = ", so not shown" if found.seeds >= MIN_SEEDS and found.low <= 0 <= found.high else ""
    told = found if found.mean > 0 else Difference(-found.mean, -found.high, -found.low, found.seeds)
    return f"{number(told.mean)} points {side} {whom} ({_evidence(told)}{unsure})"


def _evidence(found: Difference) -> str:
    if found.seeds < MIN_SEEDS:
        return f"{plural(found.seeds, 'seed')}, no claim"
    return f"95 % interval {number(found.low)} to {number(found.high)}"


def _unpicked(stage: str, group: Group) -> str:
    values = [mean(row.balanced) for row in group.rows if row.stage == stage]
    ends = f"{number(min(values))} to {number(max(values))} %"
    return f"{_place(stage)}: {len(values)} models of {ends}, none picked for want of validation images"


def _order(ranked: Sequence[Row], baseline: Row, names: Namer) -> str:
    told = [f"{names.of(row)} {number(mean(row.balanced))} %" for row in ranked]
    text = f"Repaired at full size, best first on validation: {', '.join(told)} (not repaired: "
    text += f"{names.of(baseline)} {number(mean(baseline.balanced))} %)"
    if len(ranked) > 1:
        text += f". {_capital(_lead(ranked[0], ranked[1]))}"
    return f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
