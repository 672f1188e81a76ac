from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailkeep.analysis.classes import SIZE_COLUMNS
from tailkeep.analysis.deployment import FILE_COLUMNS, LATENCY_COLUMNS, latency_table, percent
from tailkeep.errors import BadInput

CELL = {
    "dataset": "toy",
    "setting": "exponential-100",
    "twin": "imbalanced",
    "model": "resnet20",
    "method": "pruned",
    "role": "technique",
}


def sizes(*rows: dict[str, Any]) -> pd.DataFrame:
    """A row a seed: exported files that agree but for what is given."""
    whole = {"weights": 100, "macs": 200, "packed_bytes": 400, "file_bytes": 500.0, "gzip_bytes": 450.0}
    same = {"agreement": 1.0, "worst_agreement": 1.0, "worst_agreement_class": "class0", "largest_difference": 1e-6}
    return pd.DataFrame([{**CELL, "seed": seed, **whole, **same, **row} for seed, row in enumerate(rows)])


def times(**changes: Any) -> pd.DataFrame:
    figures = {"median_ms": 2.0, "low_ms": 1.8, "high_ms": 2.4, "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.8}
    return pd.DataFrame([{**CELL, "batch": 1, **figures, "threads": 1, "bits_note": "", **changes}])


def lies(study: Any) -> list[str]:
    return [note for note in study.notes if note.startswith("The simulation lies")]


def test_files_are_means_over_seeds_and_the_worst_is_the_worst_of_any(technique, analysed) -> None:
    given = sizes(
        {"file_bytes": 500.0, "agreement": 1.0, "worst_agreement": 0.99, "largest_difference": 0.2},
        {"file_bytes": 700.0, "agreement": 0.998, "worst_agreement": 0.97, "worst_agreement_class": "class1"},
    )
    row = analysed(technique({0: 20, 1: 20}), sizes=given).size.iloc[0]
    assert (row["file_bytes"], row["gzip_bytes"]) == (600, 450)
    assert row["agreement"] == pytest.approx(0.999)
    assert (row["worst_agreement"], row["worst_agreement_class"]) == (0.97, "class1")
    assert row["largest_difference"] == 0.2
    assert row["worst_recall"] == pytest.approx(58.0)


def test_seeds_without_a_file_do_not_count(technique, analysed) -> None:
    nothing = dict.fromkeys(FILE_COLUMNS, math.nan) | {"worst_agreement_class": None}
    row = analysed(technique({0: 20, 1: 20}), sizes=sizes(nothing, {"file_bytes": 700.0})).size.iloc[0]
    assert (row["file_bytes"], row["worst_agreement_class"]) == (700, "class0")


@pytest.mark.parametrize("columns", [{}, dict.fromkeys(FILE_COLUMNS, math.nan)])
def test_a_study_without_exports_keeps_its_table(technique, analysed, columns: dict[str, float]) -> None:
    given = sizes({}, {}).drop(columns=FILE_COLUMNS).assign(**columns)
    study = analysed(technique({0: 20, 1: 20}), sizes=given)
    assert list(study.size.columns) == SIZE_COLUMNS
    assert not lies(study)
    assert study.latency.empty


def test_a_file_whose_predictions_are_not_there_yet_has_its_bytes(technique, analysed) -> None:
    given = sizes({}, {}).drop(columns=FILE_COLUMNS[2:])
    study = analysed(technique({0: 20, 1: 20}), sizes=given)
    assert list(study.size.columns) == [*SIZE_COLUMNS[:9], *FILE_COLUMNS, *SIZE_COLUMNS[9:]]
    assert math.isnan(study.size.iloc[0]["agreement"])
    assert not lies(study)


def test_speedup_is_one_over_the_ratio() -> None:
    row = latency_table(times()).iloc[0]
    assert (row["speedup"], row["speedup_low"], row["speedup_high"]) == pytest.approx((2.0, 1.25, 2.5))


def test_what_was_not_timed_keeps_its_reason() -> None:
    nothing = dict.fromkeys(("median_ms", "low_ms", "high_ms", "ratio", "ratio_low", "ratio_high"), np.nan)
    table = latency_table(times(bits_note="no kernel", **nothing))
    assert list(table.columns) == LATENCY_COLUMNS
    assert math.isnan(table.iloc[0]["speedup"])
    assert table.iloc[0]["bits_note"] == "no kernel"


def test_a_latency_that_lacks_a_column_is_refused(technique, analysed) -> None:
    with pytest.raises(BadInput, match="latency: columns are missing: ratio_low"):
        analysed(technique({0: 10}), latency=times().drop(columns="ratio_low"))


def test_a_file_that_predicts_something_else_is_said_first(technique, analysed) -> None:
    given = sizes({"agreement": 0.9949}, {"agreement": 0.98, "worst_agreement": 0.996})
    study = analysed(technique({0: 20, 1: 20}), sizes=given, notes=("from outside",))
    assert study.notes[0].startswith("The simulation lies: pruned (toy, resnet20): ")
    assert "only 98 % of all test images (exponential-100, seed 1); 2 of 2 files below 99.5 %" in study.notes[0]
    assert "class class" not in study.notes[0]
    assert study.notes[1] == "from outside"


def test_a_class_with_images_enough_is_warned_of(technique, analysed) -> None:
    given = sizes({}, {"worst_agreement": 0.95, "worst_agreement_class": "class1"})
    note = lies(analysed(technique({0: 20, 1: 20}), sizes=given))
    assert len(note) == 1
    assert "only 95 % of the images of class class1 (exponential-100, seed 1); 1 of 2 files" in note[0]


def test_one_image_of_a_small_class_is_no_warning(rows_of, analysed) -> None:
    rows = rows_of([90, 60], n=[1000, 199], method="pruned", role="technique")
    given = sizes({"worst_agreement": 0.9, "worst_agreement_class": "class1"})
    study = analysed(rows, sizes=given, twins=())
    assert not lies(study)
    assert study.size.iloc[0]["worst_agreement"] == 0.9


def test_exactly_the_least_agreement_is_enough(technique, analysed) -> None:
    given = sizes({"agreement": 0.995, "worst_agreement": 0.995})
    assert not lies(analysed(technique({0: 20}), sizes=given))


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.995, "99.5 %"), (0.9999, "99.99 %"), (0.5, "50 %")]
)
def test_a_share_is_rounded_down(share: float, text: str) -> None:
    assert percent(share) == text
