"""Hand-made frames: counts are given, not trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailkeep import frame as frames
from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.study import analyse

CELL: dict[str, Any] = {
    "dataset": "toy",
    "setting": "exponential-100",
    "twin": "imbalanced",
    "model": "resnet20",
    "method": "dense",
    "role": "dense",
    "seed": 0,
    "split": "test",
}
SIZE_COLUMNS = ["dataset", "setting", "twin", "model", "method", "role", "seed", "weights", "macs", "packed_bytes"]
FAILURE_COLUMNS = ["dataset", "setting", "twin", "model", "method", "seed", "reason", "detail"]


def cell_rows(
    tp: list[int],
    references: dict[str, list[int]] | None = None,
    n: int | list[int] = 100,
    counts: list[int] | None = None,
    loss_sum: list[float] | None = None,
    **cell: Any,
) -> list[dict[str, Any]]:
    """The rows of a cell with ``tp`` right per class, against references with theirs; as many agree as can."""
    classes = len(tp)
    ns = [n] * classes if isinstance(n, int) else n
    train = counts or [1000 // (index + 1) for index in range(classes)]
    rows = []
    for reference, other in {"self": tp, **(references or {})}.items():
        for index in range(classes):
            both = min(tp[index], other[index])
            n10, n01 = other[index] - both, tp[index] - both
            fn = [a - b for a, b in zip(ns, tp, strict=True)]
            rows.append(
                {
                    **CELL,
                    **cell,
                    "class_index": index,
                    "class_name": f"class{index}",
                    "train_count": train[index],
                    "reference": reference,
                    "n": ns[index],
                    "tp": tp[index],
                    "fp": fn[index - 1],
                    "fn": fn[index],
                    "n11": both,
                    "n10": n10,
                    "n01": n01,
                    "n00": ns[index] - both - n10 - n01,
                    "changed": n10 + n01,
                    "loss_sum": loss_sum[index] if loss_sum else float(fn[index]),
                }
            )
    return rows


def technique_rows(
    excess: dict[int, int], method: str = "pruned", reference: str = "dense", twin: str = "full", **cell: Any
) -> list[dict[str, Any]]:
    """Dense and compressed cells of two classes of 1000 images with E = ``excess[seed]`` / 10 pp on two classes."""
    rows = []
    for seed, tenth in excess.items():
        common = {"seed": seed, "n": 1000, **cell}
        compressed = {"method": method, "role": "technique", **common}
        # Half of an E of tenth / 10 pp over 2000 images is one image a class for each tenth.
        for which, dense, lost in (("imbalanced", [900, 600], tenth), (twin, [950, 940], 0)):
            counts = [1000, 10] if which == "imbalanced" else [1000, 1000]
            own = [value - lost for value in dense]
            rows += cell_rows(dense, {"other_seed": dense}, twin=which, counts=counts, **common)
            rows += cell_rows(own, {reference: dense}, twin=which, counts=counts, **compressed)
    return rows


def run(rows: list[dict[str, Any]], twins: tuple[str, ...] = ("full",), **options: Any) -> StudyAnalysis:
    """Analyse the rows (a repeated key keeps its first)."""
    unique = pd.DataFrame(rows).drop_duplicates(list(frames.KEY)) if rows else pd.DataFrame()
    frame = frames.build(unique.to_dict("records"))
    given = {
        "sizes": pd.DataFrame(columns=SIZE_COLUMNS),
        "failures": pd.DataFrame(columns=FAILURE_COLUMNS),
        "name": "toy",
        "provenance": {},
        **options,
    }
    return analyse(frame, given.pop("sizes"), given.pop("failures"), planned_twins=twins, **given)


@pytest.fixture
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    return cell_rows


@pytest.fixture
def technique() -> Callable[..., list[dict[str, Any]]]:
    return technique_rows


@pytest.fixture
def analysed() -> Callable[..., StudyAnalysis]:
    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
