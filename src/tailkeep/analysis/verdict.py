"""The verdict between seeds: per model and technique, does imbalance make compression cost more?

One family of tests per (dataset, model), one contrast per technique: the primary excess gap E of each seed, averaged
over the imbalance settings. Seeds are paired, so the paired t test is a one-sample t test of E; Holm over the
techniques; below ``MIN_SEEDS`` seeds no claim.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis import statistics
from tailkeep.analysis.cells import PRIMARY_REFERENCES, Cells
from tailkeep.analysis.groups import Groups
from tailkeep.analysis.result import Verdict
from tailkeep.analysis.words import sentence

MIN_SEEDS = 5
ALPHA = 0.05


@dataclass(frozen=True)
class Contrast:
    """One technique's primary excess gap: ``values`` (pp) per seed of ``seeds``, averaged over ``settings``.

    ``left_out`` are the imbalance settings for which no seed has E. Without values ``reason`` says why, and ``drop``
    (pp) is what the compression costs on imbalanced data, NaN where that is not known either. ``repair``: the technique
    makes nothing smaller.
    """

    dataset: str
    model: str
    method: str
    reference: str
    values: NDArray[np.float64]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    left_out: tuple[str, ...]
    drop: float
    reason: str
    repair: bool = False


def contrasts(
    cells: Cells,
    groups: Groups,
    seed_table: pd.DataFrame,
    failures: pd.DataFrame,
    twin: str,
    untwinned: Collection[tuple[str, str, str]] = (),
    repairs: Collection[tuple[str, str, str]] = (),
) -> tuple[Contrast, ...]:
    """Return every technique's contrast, in the frame's order, techniques of which every cell failed last.

    ``seed_table`` is that of ``gaps.seed_gaps``; ``twin`` the primary one, or "none"; ``untwinned`` the (dataset,
    model, method) for which none is planned, whatever others have; ``repairs`` those that make nothing smaller.
    """
    arms = [arm for arm in cells.arms if arm.role == "technique"]
    found = {(arm.dataset, arm.model, arm.method): None for arm in arms}
    planned = {key: "none" if key in untwinned else twin for key in found}
    made = [_contrast(cells, groups, seed_table, key, its_twin) for key, its_twin in planned.items()]
    known = {(arm.dataset, arm.model, arm.method) for arm in cells.arms}
    lost = dict.fromkeys(
        (str(row.dataset), str(row.model), str(row.method))
        for row in failures.itertuples(index=False)
        if not _is_plain(str(row.method))
    )
    made.extend(_nothing(key, "every cell of it failed") for key in lost if key not in known)
    return tuple(replace(each, repair=(each.dataset, each.model, each.method) in repairs) for each in made)


def _is_plain(method: str) -> bool:
    # Failures name no role; dense models and controls are told by their names.
    return method.startswith(("dense", "student alone"))


def _nothing(key: tuple[str, str, str], reason: str, reference: str = "dense", drop: float = math.nan) -> Contrast:
    return Contrast(*key, reference, np.empty(0), (), (), (), drop, reason)


def _contrast(cells: Cells, groups: Groups, seed_table: pd.DataFrame, key: tuple[str, str, str], twin: str) -> Contrast:
    dataset, model, method = key
    mine = [a for a in cells.arms if (a.dataset, a.model, a.method) == key and a.role == "technique"]
    have = {reference for arm in mine for reference in cells.references(arm)}
    reference = next((name for name in PRIMARY_REFERENCES if name in have), None)
    if reference is None:
        return _nothing(key, "its reference model is missing")
    family = [a.setting for a in cells.arms if (a.dataset, a.model) == (dataset, model)]
    wanted = [s for s in dict.fromkeys(family) if groups.is_imbalanced(dataset, s)]
    table = seed_table[
        (seed_table["dataset"] == dataset)
        & (seed_table["model"] == model)
        & (seed_table["method"] == method)
        & (seed_table["role"] == "technique")
        & (seed_table["reference"] == reference)
        & seed_table["setting"].isin(wanted)
    ]
    drop = float(table["drop"].mean()) if len(table) else math.nan
    if not wanted:
        return _nothing(key, "no setting is imbalanced", reference, drop)
    if twin == "none":
        return _nothing(key, "no balanced twin is planned", reference, drop)
    table = table[(table["twin"] == twin) & table["excess"].notna()]
    if not len(table):
        return _nothing(key, f"no seed has both the imbalanced cell and its {twin} twin", reference, drop)
    by_seed = table.pivot_table(index="seed", columns="setting", values="excess", sort=True)
    # A mean over other settings would be another quantity: only seeds with every setting count.
    complete = by_seed.dropna()
    if not len(complete):
        return _nothing(key, "no seed has all of the imbalance settings", reference, drop)
    used = tuple(s for s in wanted if s in by_seed.columns)
    return Contrast(
        *key,
        reference,
        values=complete.to_numpy(dtype=np.float64).mean(axis=1),
        seeds=tuple(int(seed) for seed in complete.index),
        settings=used,
        left_out=tuple(s for s in wanted if s not in used),
        drop=drop,
        reason="",
    )


def judge(made: Sequence[Contrast], twin: str, margin: float = 1.0, name_dataset: bool = False) -> tuple[Verdict, ...]:
    """Return the verdict on every contrast, in the given order; ``margin`` is in pp, and above 0.

    Not robust: E > 0 and the Holm-adjusted p < 0.05. More robust: E < 0 likewise. Robust: the simultaneous
    (Bonferroni) upper 95 % bound of E lies below the margin. Else cannot tell. ``name_dataset`` puts the dataset into
    the sentences.
    """
    tested: dict[tuple[str, str], list[int]] = {}
    for index, contrast in enumerate(made):
        if len(contrast.seeds) >= MIN_SEEDS:
            tested.setdefault((contrast.dataset, contrast.model), []).append(index)
    numbers: dict[int, dict[str, float]] = {}
    for family in tested.values():
        p_values = [statistics.paired_t_p(made[index].values) for index in family]
        for index, p, adjusted in zip(family, p_values, statistics.holm(p_values), strict=True):
            bound = statistics.upper_bound(made[index].values, contrasts=len(family), alpha=ALPHA)
            numbers[index] = {"p": p, "p_adjusted": adjusted, "upper_simultaneous": bound}
    return tuple(
        _verdict(contrast, twin, margin, numbers.get(index, {}), name_dataset) for index, contrast in enumerate(made)
    )


def label_of(excess: float, p_adjusted: float, upper: float, margin: float) -> str:
    """Return the verdict's word for a tested contrast, by the rules of ``judge``."""
    if p_adjusted < ALPHA and excess != 0:
        return "not robust" if excess > 0 else "more robust"
    return "robust" if upper < margin else "cannot tell"


def _verdict(contrast: Contrast, twin: str, margin: float, numbers: Mapping[str, float], name_dataset: bool) -> Verdict:
    label = "not available"
    low = high = excess = flip = floor = None
    count = len(contrast.seeds)
    if count:
        label = "no claim"
        excess = statistics.mean_and_spread(contrast.values)[0]
        flip, floor = statistics.sign_flip_p(contrast.values), statistics.sign_flip_floor(count)
        if count > 1:
            low, high = statistics.t_interval(contrast.values)
        if numbers:
            label = label_of(excess, numbers["p_adjusted"], numbers["upper_simultaneous"], margin)
    verdict = Verdict(
        dataset=contrast.dataset,
        model=contrast.model,
        method=contrast.method,
        reference=contrast.reference,
        twin=twin if count else "none",
        label=label,
        seeds=count,
        excess_gap=excess,
        low=low,
        high=high,
        upper_simultaneous=numbers.get("upper_simultaneous"),
        p=numbers.get("p"),
        p_adjusted=numbers.get("p_adjusted"),
        sign_flip_p=flip,
        sign_flip_floor=floor,
    )
    words = sentence(
        verdict, margin, MIN_SEEDS, contrast.reason, contrast.drop, name_dataset, contrast.left_out, contrast.repair
    )
    return Verdict(**{**verdict.__dict__, "sentence": words})
