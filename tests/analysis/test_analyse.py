from __future__ import annotations

import re
from dataclasses import fields

import pandas as pd
import pytest

from tailkeep import frame as frames
from tailkeep.analysis import result
from tailkeep.analysis.study import analyse
from tailkeep.errors import BadInput

TABLES = ("accuracy", "gaps", "recall", "tail", "size", "failures", "seed_gaps", "latency", "pareto")


def documented_columns() -> dict[str, list[str]]:
    """The columns that the contract's text promises, a list per table."""
    text = re.sub(r"\([^)]*\)", "", result.StudyAnalysis.__doc__ or "")
    parts = re.split(rf"^\s*({'|'.join(TABLES)}): ", text, flags=re.MULTILINE)
    return {name: columns.split() for name, columns in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_table_has_the_documented_columns(technique, analysed) -> None:
    promised = documented_columns()
    assert sorted(promised) == sorted(TABLES)
    for study in (analysed(technique({0: 10, 1: 20})), analysed([])):
        for table, columns in promised.items():
            assert sorted(getattr(study, table).columns) == sorted(columns), table


def test_an_empty_study_says_so_without_a_crash(analysed) -> None:
    study = analysed([])
    assert study.verdicts == ()
    assert study.seeds == ()
    assert all(len(getattr(study, table)) == 0 for table in TABLES)


def test_what_comes_in_goes_through(technique, analysed) -> None:
    given = {"result_hash": "abc", "steps": 3}
    study = analysed(technique({4: 10, 2: 20}), provenance=given, notes=("from outside",), margin=2.0)
    assert study.name == "toy"
    assert study.notes[0] == "from outside"
    assert study.provenance == given
    assert study.provenance is not given
    assert (study.margin, study.seeds, study.accuracy_is) == (2.0, (2, 4), "accuracy")
    assert any("conditional on this test set" in note for note in study.notes)
    assert len(study.notes) == len(set(study.notes))


def test_the_order_of_rows_changes_no_figure(technique, analysed) -> None:
    rows = technique({0: 10, 1: 25, 2: 7}) + technique({0: 0, 1: 3, 2: 9}, method="A8")
    one, two = analysed(rows), analysed(rows[::-1])
    for table in TABLES:
        first, second = getattr(one, table), getattr(two, table)
        keys = [c for c in first.columns if c in (*frames.CELL_COLUMNS, "reference", "rank", "seed")]
        pd.testing.assert_frame_equal(
            first.sort_values(keys).reset_index(drop=True), second.sort_values(keys).reset_index(drop=True)
        )
    assert sorted(v.sentence for v in one.verdicts) == sorted(v.sentence for v in two.verdicts)


def test_the_same_input_gives_the_same_bits(technique, analysed) -> None:
    rows = technique({0: 10, 1: 25, 2: 7})
    one, two = analysed(rows), analysed(rows)
    assert one.verdicts == two.verdicts
    for field in fields(one):
        if field.name in TABLES:
            pd.testing.assert_frame_equal(getattr(one, field.name), getattr(two, field.name), check_exact=True)


def test_splits_are_kept_apart(technique, analysed) -> None:
    rows = technique({0: 10, 1: 20}) + technique({0: 90, 1: 95}, split="validation")
    assert analysed(rows).verdicts[0].excess_gap == pytest.approx(1.5)
    assert analysed(rows, split="validation").verdicts[0].excess_gap == pytest.approx(9.25)


def test_the_frame_is_left_alone(technique) -> None:
    frame = frames.build(technique({0: 10, 1: 20}))
    before = frame.copy()
    analyse(frame, pd.DataFrame(), pd.DataFrame(), name="x", planned_twins=("full",), provenance={})
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"margin": 0.0}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"twins": ("half",)}, "planned twins"),
        ({"twins": ("full", "full")}, "planned twins"),
        ({"split": "train"}, "split"),
        ({"cuts": (100, 20)}, "cut points"),
        ({"failures": pd.DataFrame({"dataset": ["x"]})}, "failures: columns are missing"),
        ({"sizes": pd.DataFrame({"dataset": ["x"]})}, "sizes: columns are missing"),
    ],
)
def test_options_without_meaning_are_refused(technique, analysed, options: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        analysed(technique({0: 10}), **options)


def test_cells_of_other_classes_are_refused(rows_of, analysed) -> None:
    with pytest.raises(BadInput, match="different classes"):
        analysed(rows_of([50, 40]) + rows_of([50, 40, 30], seed=1))


@pytest.mark.parametrize("missing", range(8))
def test_no_single_missing_block_crashes(technique, analysed, missing: int) -> None:
    rows = technique({0: 10, 1: 20}) + technique({0: 5, 1: 9}, setting="step-10")
    blocks = list(dict.fromkeys((r["setting"], r["twin"], r["method"], r["seed"]) for r in rows))
    gone = blocks[2 * missing % len(blocks)]
    kept = [r for r in rows if (r["setting"], r["twin"], r["method"], r["seed"]) != gone]
    study = analysed(kept)
    assert study.verdicts[0].label in ("no claim", "not available")


def test_a_missing_parent_leaves_the_gap(technique, analysed) -> None:
    rows = [r for r in technique({0: 10, 1: 20}) if r["method"] == "pruned" and r["reference"] == "self"]
    study = analysed(rows)
    row = study.gaps.iloc[0]
    assert (row["reference"], row["seeds"]) == ("self", 2)
    assert row["gap"] == pytest.approx(94.5 - 73.5)
    assert study.verdicts[0].label == "not available"
