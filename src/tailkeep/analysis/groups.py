"""Which classes are frequent and which are rare: groups of a comparison, a cell and its twin.

A twin takes the groups and the ranks of the imbalanced cell it stands beside. The rule is one for the whole study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailkeep.analysis.cells import Cells
from tailkeep.errors import BadInput

Ints = NDArray[np.int64]
Place = tuple[str, str, int]
"""(dataset, setting, seed): what a comparison of groups belongs to."""

OLTR = ("many", "medium", "few")
THIRDS = ("frequent", "middle", "rare")
STEP = ("majority", "minority")


@dataclass(frozen=True)
class Groups:
    """The classes of every (dataset, setting, seed) by frequency.

    ``rank`` maps to int arrays (C,): 0 for the most frequent class, ties in class order. ``members`` maps to the group
    name of every class, empty for a setting whose classes all have as many images. ``names`` lists the names in use,
    most frequent first; ``rule`` is one sentence on how they were made.
    """

    names: tuple[str, ...]
    rule: str
    rank: Mapping[Place, Ints]
    members: Mapping[Place, tuple[str, ...]]
    counts: Mapping[Place, Ints]

    def positions(self, place: Place) -> dict[str, Ints]:
        """Return the class indices of "many", "medium" and "few", whatever the study calls them.

        Two groups: "medium" is lacking. A setting without groups gives {}.
        """
        members = self.members.get(place, ())
        if not members:
            return {}
        family = next(names for names in (OLTR, THIRDS, STEP) if set(members) <= set(names))
        slots = OLTR if len(family) == 3 else ("many", "few")
        found = {slot: np.flatnonzero(np.array(members) == name) for slot, name in zip(slots, family, strict=True)}
        return {slot: indices for slot, indices in found.items() if indices.size}

    def is_imbalanced(self, dataset: str, setting: str) -> bool:
        """Say whether the setting's classes differ in their number of training images, in any seed."""
        mine = [c for (d, s, _), c in self.counts.items() if (d, s) == (dataset, setting)]
        return any(len(set(c.tolist())) > 1 for c in mine)

    def rotates(self, dataset: str, setting: str) -> bool:
        """Say whether the order of the classes by frequency differs between seeds."""
        return len({tuple(r.tolist()) for (d, s, _), r in self.rank.items() if (d, s) == (dataset, setting)}) > 1


def frequency_rank(counts: Sequence[int] | Ints) -> Ints:
    """Return the rank of every class by training images, int (C,): 0 = most frequent, ties in class order."""
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def oltr_groups(counts: Sequence[int] | Ints, cuts: tuple[int, int] = (20, 100)) -> tuple[str, ...]:
    """Return "many" (more than ``cuts[1]`` images), "medium" or "few" (fewer than ``cuts[0]``) per class.

    The convention of OLTR (Liu et al. 2019).
    """
    low, high = cuts
    return tuple("many" if c > high else "few" if c < low else "medium" for c in np.asarray(counts).tolist())


def third_groups(counts: Sequence[int] | Ints) -> tuple[str, ...]:
    """Return "frequent", "middle" or "rare" per class: C // 3 classes at either end by rank, the others between.

    Ten classes give three, four and three. Fewer than three classes give one at either end.
    """
    rank = frequency_rank(counts)
    classes = len(rank)
    size = max(1, classes // 3)
    return tuple("frequent" if r < size else "rare" if r >= classes - size else "middle" for r in rank.tolist())


def step_groups(counts: Sequence[int] | Ints) -> tuple[str, ...]:
    """Return "majority" or "minority" per class, for counts of exactly two sizes; raises ValueError otherwise."""
    values = np.asarray(counts).tolist()
    if len(set(values)) != 2:
        raise ValueError(f"step groups need counts of two sizes, got {sorted(set(values))}")
    return tuple("majority" if c == max(values) else "minority" for c in values)


def make_groups(cells: Cells, cuts: tuple[int, int] = (20, 100)) -> Groups:
    """Return the groups of every (dataset, setting, seed), by one rule for the study.

    The cut points hold if no group of theirs is empty in any setting; else the whole study uses thirds by frequency
    rank, and settings of two class sizes use majority and minority. Raises BadInput where ``cuts`` are not
    0 < low <= high, or cells of one place have different training counts.
    """
    low, high = cuts
    if not 0 < low <= high:
        raise BadInput(f"groups: cut points must be 0 < low <= high, got {low} and {high}")
    counts = _counts(cells)
    uneven = {place: c for place, c in counts.items() if len(set(c.tolist())) > 1}
    lacking = [place for place, c in uneven.items() if len(set(oltr_groups(c, cuts))) < 3]
    if not lacking:
        made = {place: oltr_groups(c, cuts) for place, c in uneven.items()}
        rule = f"many: more than {high} training images; medium: {low} to {high}; few: fewer than {low}"
    else:
        made = {p: step_groups(c) if len(set(c.tolist())) == 2 else third_groups(c) for p, c in uneven.items()}
        rule = _fallback_rule(made, lacking, cuts)
    used = {name for members in made.values() for name in members}
    names = tuple(name for name in (*OLTR, *THIRDS, *STEP) if name in used)
    if not uneven:
        rule = "no groups: no setting has classes of different sizes"
    return Groups(
        names=names,
        rule=rule,
        rank={place: frequency_rank(c) for place, c in counts.items()},
        members=made,
        counts=counts,
    )


def _fallback_rule(made: Mapping[Place, tuple[str, ...]], lacking: Sequence[Place], cuts: tuple[int, int]) -> str:
    thirds = [len(members) for members in made.values() if set(members) <= set(THIRDS)]
    steps = [members for members in made.values() if set(members) <= set(STEP)]
    parts = []
    if thirds:
        size = max(1, max(thirds) // 3)
        sizes = f" ({size} frequent, {size} rare, the others between)" if len(set(thirds)) == 1 else ""
        parts.append(f"thirds by frequency rank{sizes}")
    if steps:
        parts.append("majority and minority" + (" for step imbalance" if thirds else ""))
    settings = ", ".join(dict.fromkeys(setting for _, setting, _ in lacking))
    return f"{', '.join(parts)}, since the cut points {cuts[0]} and {cuts[1]} leave a group empty in {settings}"


def _counts(cells: Cells) -> dict[Place, Ints]:
    """Return the training counts (C,) of the imbalanced cells; raises BadInput where two cells of a place differ."""
    found: dict[Place, Ints] = {}
    for cell, block in cells.own.items():
        if cell.twin != "imbalanced":
            continue
        place = (cell.arm.dataset, cell.arm.setting, cell.seed)
        before = found.setdefault(place, block.train_count)
        if not np.array_equal(before, block.train_count):
            raise BadInput(f"frame: {place}: cells of one setting and seed have different training counts")
    return found
