"""What was measured of the exported files: their size, how far they agree with the simulated models, their speed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep.analysis.cells import Cells
from tailkeep.analysis.words import plural
from tailkeep.errors import BadInput
from tailkeep.evaluation.metrics import agreement

CELL_COLUMNS = ["dataset", "setting", "twin", "model", "method", "role"]
FILE_COLUMNS = [
    *("file_bytes", "gzip_bytes", "agreement"),
    *("worst_agreement", "worst_agreement_class", "largest_difference"),
]
"""The columns of a size table that are there where a model was exported."""
TIMES = ["median_ms", "low_ms", "high_ms", "ratio", "ratio_low", "ratio_high"]
SPEEDUPS = ["speedup", "speedup_low", "speedup_high"]
LATENCY_COLUMNS = [*CELL_COLUMNS, "batch", *TIMES, *SPEEDUPS, "threads", "bits_note"]

LEAST_AGREEMENT = 0.995
"""Share of test images below which the file is another model than the one that was studied."""
ENOUGH_IMAGES = 200
"""Test images from which a class's share is warned of: with fewer, one image is more than half a percent."""


def agreement_facts(
    simulated: NDArray[np.float32], ran: NDArray[np.float32], labels: NDArray[np.int64], names: list[str]
) -> dict[str, Any]:
    """Return what a size table holds of two predictions (N, C) of the same images: a model's and its file's."""
    found = agreement(simulated, ran, labels, len(names))
    shares = [(share, name) for share, name in zip(found.share_by_class, names, strict=True) if share is not None]
    worst, name = min(shares, key=lambda pair: pair[0])
    return {
        "agreement": found.share,
        "worst_agreement": worst,
        "worst_agreement_class": name,
        "largest_difference": found.largest_difference,
    }


def with_files(sizes: pd.DataFrame) -> pd.DataFrame | None:
    """Return the sizes with every column of an exported file, NaN where one is not given; None where none is known."""
    given = [name for name in FILE_COLUMNS if name in sizes.columns and sizes[name].notna().any()]
    if not given:
        return None
    return sizes.assign(**{name: np.nan for name in FILE_COLUMNS if name not in given})


def file_figures(sizes: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell with the figures of its files, over the seeds that have one.

    Bytes and agreement are means. ``worst_agreement`` is the lowest share of any class and seed, with its class, and
    ``largest_difference`` the largest of any seed.
    """
    rows = []
    for key, group in sizes.groupby(CELL_COLUMNS, sort=False):
        worst = group[group["worst_agreement"].notna()].sort_values("worst_agreement", kind="stable").head(1)
        rows.append(
            {
                **dict(zip(CELL_COLUMNS, key, strict=True)),
                **{name: float(group[name].mean()) for name in ("file_bytes", "gzip_bytes", "agreement")},
                "worst_agreement": float(worst["worst_agreement"].iloc[0]) if len(worst) else math.nan,
                "worst_agreement_class": _name(worst["worst_agreement_class"].iloc[0]) if len(worst) else "",
                "largest_difference": float(group["largest_difference"].max()),
            }
        )
    return pd.DataFrame(rows, columns=[*CELL_COLUMNS, *FILE_COLUMNS])


def latency_table(latency: pd.DataFrame | None) -> pd.DataFrame:
    """Return the latencies with the speed-up, how many times as fast as the dense model: 1 / ratio.

    Raises BadInput where ``latency`` has rows but lacks a column.
    """
    if latency is None or latency.empty:
        return pd.DataFrame(columns=LATENCY_COLUMNS)
    lacking = [name for name in LATENCY_COLUMNS if name not in (*SPEEDUPS, *latency.columns)]
    if lacking:
        raise BadInput(f"latency: columns are missing: {', '.join(lacking)}")
    table = latency.reset_index(drop=True).astype(dict.fromkeys(TIMES, "float64"))
    # The slowest quarter of the rounds is the least speed-up.
    for speedup, ratio in zip(SPEEDUPS, ("ratio", "ratio_high", "ratio_low"), strict=True):
        table[speedup] = 1 / table[ratio].where(table[ratio] > 0)
    table["bits_note"] = [_name(note) for note in table["bits_note"]]
    return table[LATENCY_COLUMNS]


def agreement_notes(sizes: pd.DataFrame, cells: Cells) -> list[str]:
    """Say of which methods the exported file is another model than the one that the study measured."""
    files = with_files(sizes)
    if files is None:
        return []
    files = files[files["agreement"].notna()]
    images = _test_images(cells)
    notes = []
    for (dataset, model, method), rows in files.groupby(["dataset", "model", "method"], sort=False):
        low = rows[rows["agreement"] < LEAST_AGREEMENT].sort_values("agreement", kind="stable")
        many = [images.get((str(dataset), _name(name)), 0) for name in rows["worst_agreement_class"]]
        by_class = rows[(rows["worst_agreement"] < LEAST_AGREEMENT) & (np.array(many) >= ENOUGH_IMAGES)]
        by_class = by_class.sort_values("worst_agreement", kind="stable")
        if low.empty and by_class.empty:
            continue
        said = [f"{percent(row['agreement'])} of all test images ({_where(row)})" for row in _first(low)]
        said += [
            f"{percent(row['worst_agreement'])} of the images of class {row['worst_agreement_class']} ({_where(row)})"
            for row in _first(by_class)
        ]
        bad = len(set(low.index) | set(by_class.index))
        notes.append(
            f"The simulation lies: {method} ({dataset}, {model}): the exported file predicts the class that the "
            f"simulated model predicts for only {' and '.join(said)}; {bad} of {plural(len(rows), 'file')} below "
            f"{percent(LEAST_AGREEMENT)}. Do not rely on what the study says of {method}: it did not measure that file."
        )
    return notes


def percent(share: float) -> str:
    """Write a share of 0..1 in percent, rounded down: "100 %" means all of them."""
    return f"{math.floor(round(share * 1e4, 6)) / 100:.4g} %"


def _first(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.head(1).to_dict("records")]


def _where(row: dict[str, Any]) -> str:
    twin = "" if row["twin"] == "imbalanced" else f", {row['twin']} twin"
    return f"{row['setting']}{twin}, seed {row['seed']}"


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


def _test_images(cells: Cells) -> dict[tuple[str, str], int]:
    """Return the test images of each (dataset, class)."""
    return {
        (cell.arm.dataset, name): int(count)
        for cell, block in cells.own.items()
        for name, count in zip(block.class_names, block.n, strict=True)
    }
