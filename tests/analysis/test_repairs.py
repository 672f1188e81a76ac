"""Where to repair: differences paired by seed, choices on validation images alone, and what the sentences claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tailkeep import frame as frames
from tailkeep.analysis.repairs import REPAIR_COLUMNS, STAGE_COLUMNS, repair_table, repair_tables
from tailkeep.analysis.result import RepairAnalysis
from tailkeep.errors import BadInput

SEEDS = (0, 1, 2, 3, 4)
NO, YES = False, True
# (model, method): (role, before, during, after, compressed, bytes, right of 100 by class on test, points on validation)
ARMS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("plain", "dense"): ("dense", NO, NO, NO, NO, 8000, [90, 80, 60, 10], 60),
    ("balanced", "dense"): ("dense", YES, NO, NO, NO, 8000, [84, 78, 70, 60], 75),
    ("plain", "adjusted"): ("technique", NO, NO, YES, NO, 8008, [85, 80, 66, 49], 80),
    ("plain", "int4"): ("technique", NO, NO, NO, YES, 1000, [88, 78, 54, 0], 54),
    ("balanced", "int4"): ("technique", YES, NO, NO, YES, 1000, [80, 74, 66, 52], 70),
    ("plain", "int4 + balanced"): ("technique", NO, YES, NO, YES, 1000, [81, 74, 62, 51], 66),
    ("balanced", "int4 + balanced"): ("technique", YES, YES, NO, YES, 1000, [70, 70, 66, 66], 69),
    ("plain", "int4 + adjusted"): ("technique", NO, NO, YES, YES, 1004, [80, 72, 60, 40], 62),
}
WOBBLE = {0: 0, 1: 2, 2: 4, 3: 1, 4: 3}
"""What a seed adds to the right images of every class of every model."""
Rows = Callable[..., list[dict[str, Any]]]


def tables(
    rows_of: Rows,
    arms: dict[tuple[str, str], tuple[Any, ...]] = ARMS,
    seeds: Iterable[int] = SEEDS,
    validation: bool = True,
    **place: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The frame, the stages and the sizes of these arms; dense models wobble by seed, the others by one more."""
    rows, stages, sizes = [], [], []
    for (model, method), (role, before, during, after, compressed, packed, right, held_out) in arms.items():
        cell = {"model": model, "method": method, "role": role, **place}
        names = {"dataset": "toy", "setting": "exponential-100", **place, "twin": "imbalanced"}
        places = {"before": before, "during": during, "after": after, "compressed": compressed}
        stages.append({**names, "model": model, "method": method, **places})
        for seed in seeds:
            more = WOBBLE[seed] + (seed % 2 if role == "technique" else 0)
            rows += rows_of([value + more for value in right], seed=seed, **cell)
            if validation:
                # Other images, and another order than on test.
                rows += rows_of([held_out + more] * 4, seed=seed, split="validation", **cell)
            sizes.append(
                {**names, "model": model, "method": method, "role": role, "seed": seed, "packed_bytes": packed}
            )
    return frames.build(rows), pd.DataFrame(stages, columns=STAGE_COLUMNS), pd.DataFrame(sizes)


NO_GAPS = pd.DataFrame()


def found(rows_of: Rows, **options: Any) -> RepairAnalysis:
    analysis = repair_table(*tables(rows_of, **options), NO_GAPS)
    assert analysis is not None
    return analysis


def row_of(analysis: RepairAnalysis, model: str, method: str) -> pd.Series:
    table = analysis.table
    return table[(table["model"] == model) & (table["method"] == method)].iloc[0]


def test_a_row_a_model_with_its_stage_and_size(rows_of: Rows) -> None:
    analysis = found(rows_of)
    assert list(analysis.table.columns) == REPAIR_COLUMNS
    assert list(zip(analysis.table["model"], analysis.table["method"], strict=True)) == list(ARMS)
    stages = ["none", "before", "after", "none", "before", "during", "before + during", "after"]
    assert list(analysis.table["stage"]) == stages
    assert analysis.baseline == ("plain", "dense")
    row = row_of(analysis, "balanced", "int4")
    assert (row["times_smaller"], row["packed_bytes"], row["seeds"], row["compressed"]) == (8.0, 1000, 5, True)


def test_gains_are_paired_by_seed(rows_of: Rows) -> None:
    row = row_of(found(rows_of), "balanced", "int4")
    gains = [8 + seed % 2 for seed in SEEDS]
    mean, error = np.mean(gains), stats.sem(gains)
    low, high = stats.t.interval(0.95, 4, mean, error)
    assert row[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([mean, low, high])
    assert row["balanced_accuracy"] == pytest.approx(68 + 2 + 0.4)
    assert row["worst_class_recall"] == pytest.approx(52 + 2.4)
    assert row["tail_recall"] == pytest.approx(52 + 2.4), "one class of four is the rare third"
    assert row["gain_worst"] == pytest.approx(42.4)
    assert row["validation_accuracy"] == pytest.approx(72.4)


def test_the_best_is_chosen_on_validation_not_on_test(rows_of: Rows) -> None:
    analysis = found(rows_of)
    assert (analysis.best, analysis.best_chosen_on) == (("plain", "adjusted"), "validation")
    table = analysis.table[~analysis.table["compressed"]]
    on_test = table.loc[table["balanced_accuracy"].idxmax()]
    assert (on_test["model"], on_test["method"]) == ("balanced", "dense"), "the test images would choose another"
    row = row_of(analysis, "balanced", "dense")
    assert row["below_best"] == pytest.approx(70 - 73 + 0.4)
    assert row["below_best_low"] < row["below_best"] < row["below_best_high"] < 0
    assert row["below_best_worst"] == pytest.approx(49 - 60 + 0.4)
    assert analysis.order == (("plain", "adjusted"), ("balanced", "dense"))


def test_a_model_has_no_interval_against_itself(rows_of: Rows) -> None:
    analysis = found(rows_of)
    own, best = row_of(analysis, "plain", "dense"), row_of(analysis, "plain", "adjusted")
    assert own["gain"] == 0.0
    assert best["below_best"] == 0.0
    assert np.isnan([own["gain_low"], own["gain_worst_high"], best["below_best_low"], best["below_best_high"]]).all()


def test_without_validation_nothing_is_chosen(rows_of: Rows) -> None:
    analysis = found(rows_of, validation=False)
    assert (analysis.best, analysis.best_chosen_on, analysis.order) == (None, "", ())
    assert analysis.table[["below_best", "below_best_worst_low", "validation_accuracy"]].isna().all(axis=None)
    assert analysis.table["gain"].notna().all()
    assert any(note.startswith("No validation images were predicted") for note in analysis.notes)
    assert not any("most on validation" in text for text in analysis.sentences)


def test_one_seed_gives_estimates_without_intervals(rows_of: Rows) -> None:
    analysis = found(rows_of, seeds=(3,))
    assert analysis.table["gain"].notna().all()
    assert analysis.table[["gain_low", "gain_high", "below_best_low"]].isna().all(axis=None)
    assert "(1 seed, no claim)" in analysis.sentences[0]


def test_the_sentence_answers_the_question(rows_of: Rows) -> None:
    first, last = found(rows_of).sentences
    assert first == (
        "At 8.0x smaller, repairing before compression gives the most on validation: int4 (balanced) reaches 70.4 % "
        "balanced accuracy, 8.4 points above the baseline, dense (plain) at full size (95 % interval 7.7 to 9.1), and "
        "2.0 points below adjusted (plain), the best repaired at full size (95 % interval 2.0 to 2.0). "
        "Before and during: 70.4 %, +8.4 (7.7 to 9.1); during: 69.4 %, +7.4 (6.7 to 8.1); after: 65.4 %, +3.4 "
        "(2.7 to 4.1); no repair: 57.4 %, -4.6 (-5.3 to -3.9). The first gives as much as the second (95 % interval "
        "0.0 to 0.0)."
    )
    assert last.startswith("Repaired at full size, best first on validation: adjusted (plain) 72.4 %, dense (balanced)")
    assert last.endswith("The first is 2.6 points below the second (95 % interval 1.9 to 3.3).")


def test_few_seeds_make_no_claim(rows_of: Rows) -> None:
    text = " ".join(found(rows_of, seeds=(0, 1, 2)).sentences)
    assert "3 seeds, no claim" in text
    assert "95 %" not in text


def test_a_difference_around_zero_is_not_shown(rows_of: Rows) -> None:
    arms = {key: ARMS[key] for key in (("plain", "dense"), ("plain", "int4 + adjusted"))}
    arms["plain", "int4 + adjusted"] = ("technique", NO, NO, YES, YES, 1000, [90, 80, 60, 10], 60)
    text = found(rows_of, arms=arms).sentences[0]
    assert "0.4 points above the baseline, dense at full size (95 % interval -0.3 to 1.1, so not shown)" in text


def test_stages_are_compared_at_one_size_alone(rows_of: Rows) -> None:
    arms = {
        **ARMS,
        ("plain", "int8 + balanced"): ("technique", NO, YES, NO, YES, 2000, [94, 90, 80, 70], 94),
        ("plain", "odd"): ("technique", NO, NO, YES, YES, float("nan"), [70, 70, 70, 70], 70),
    }
    where = found(rows_of, arms=arms).where
    sizes = where.drop_duplicates(["smaller_from", "smaller_to"])
    assert sizes["smaller_from"].fillna(0).tolist() == pytest.approx([4.0, 8000 / 1004, 0])
    mine = where[where["smaller_to"] == 8.0].set_index("stage")
    assert mine["model"].to_dict() == {
        "none": "plain", "before": "balanced", "during": "plain", "before + during": "balanced", "after": "plain",
    }  # fmt: skip
    assert (where["chosen_on"] == "the only one").all()


def test_the_best_of_a_stage_is_chosen_on_validation(rows_of: Rows) -> None:
    arms = {**ARMS, ("ldam", "int4"): ("technique", YES, NO, NO, YES, 1000, [95, 95, 95, 95], 50)}
    where = found(rows_of, arms=arms).where.set_index("stage")
    assert where.loc["before", ["model", "rows", "chosen_on"]].tolist() == ["balanced", 2, "validation"]
    blind = found(rows_of, arms=arms, validation=False)
    where = blind.where.set_index("stage")
    assert where.loc["before", ["model", "chosen_on"]].tolist() == ["", ""]
    assert np.isnan(where.loc["before", "gain"])
    assert "Before: 2 models of 70.4 to 97.4 %, none picked" in blind.sentences[0]
    assert where.loc["during", "chosen_on"] == "the only one"


def test_the_summary_spans_the_models_of_a_method(rows_of: Rows) -> None:
    arms = {**ARMS, ("ldam", "int4"): ("technique", YES, NO, NO, YES, 1000, [60, 60, 60, 60], 50)}
    rows = found(rows_of, arms=arms).summary.set_index(["method", "stage"])
    row = rows.loc[("int4", "before")]
    assert (row["rows"], row["gain_least"], row["gain_most"]) == (2, pytest.approx(0.4), pytest.approx(8.4))


def test_figures_come_from_the_seeds_that_both_have(rows_of: Rows) -> None:
    frame, stages, sizes = tables(rows_of)
    lost = (frame["model"] == "plain") & (frame["method"] == "dense") & (frame["seed"] == 4)
    gone = (frame["method"] == "int4 + adjusted") & frame["seed"].isin((0, 1))
    never = (frame["method"] == "int4 + balanced") & (frame["model"] == "plain") & (frame["seed"] != 4)
    analysis = repair_table(frame[~(lost | gone | never)], stages, sizes, NO_GAPS)
    assert analysis is not None
    table = analysis.table.set_index(["model", "method"])
    assert table.loc[("balanced", "int4"), "seeds"] == 4
    assert table.loc[("plain", "int4 + adjusted"), "seeds"] == 2
    wobble = (WOBBLE[2] + WOBBLE[3] + 1) / 2
    assert table.loc[("plain", "int4 + adjusted"), "balanced_accuracy"] == pytest.approx(63 + wobble)
    assert ("plain", "int4 + balanced") not in table.index
    assert "Fewer seeds than the baseline's 4: int4 + adjusted (plain) (2)." in analysis.notes
    assert any("left out: int4 + balanced (plain)" in note for note in analysis.notes)


def test_the_excess_gap_is_against_the_rows_own_dense_model(rows_of: Rows) -> None:
    base = {"dataset": "toy", "setting": "exponential-100", "model": "balanced", "method": "int4", "seeds": 5}
    gaps = pd.DataFrame(
        [
            {**base, "twin": twin, "reference": reference, "excess": e, "excess_low": e - 1, "excess_high": e + 1}
            for twin, reference, e in (("matched", "dense", 7.0), ("full", "continued", 9.0), ("full", "dense", 2.0))
        ]
    )
    analysis = repair_table(*tables(rows_of), gaps)
    assert analysis is not None
    row = row_of(analysis, "balanced", "int4")
    assert row[["excess", "excess_low", "excess_high"]].tolist() == [2.0, 1.0, 3.0]
    assert np.isnan(row_of(analysis, "plain", "int4")["excess"])


def test_an_ordinary_study_has_no_such_analysis(rows_of: Rows) -> None:
    plain = {key: ARMS[key] for key in (("plain", "dense"), ("plain", "int4"))}
    assert repair_table(*tables(rows_of, arms=plain), NO_GAPS) is None
    no_baseline = {key: value for key, value in ARMS.items() if key != ("plain", "dense")}
    assert repair_table(*tables(rows_of, arms=no_baseline), NO_GAPS) is None


def test_the_baseline_can_be_named(rows_of: Rows) -> None:
    arms = {**ARMS, ("wide", "dense"): ("dense", NO, NO, NO, NO, 16000, [90, 80, 60, 20], 60)}
    given = tables(rows_of, arms=arms)
    first, named = repair_table(*given, NO_GAPS), repair_table(*given, NO_GAPS, "wide")
    assert first is not None
    assert named is not None
    assert (first.baseline, named.baseline) == (("plain", "dense"), ("wide", "dense"))
    assert row_of(named, "balanced", "int4")["times_smaller"] == 16.0
    assert "The baseline is dense (plain); also trained without a repair: dense (wide)." in first.notes
    assert repair_table(*given, NO_GAPS, "balanced") is None, "a repaired model is no baseline"


def test_one_analysis_a_setting(rows_of: Rows) -> None:
    one, other = tables(rows_of), tables(rows_of, setting="step-10", seeds=(0,))
    both = [pd.concat(pair, ignore_index=True) for pair in zip(one, other, strict=True)]
    found = repair_tables(*both, NO_GAPS)
    assert [(each.setting, each.table["seeds"].max()) for each in found] == [("exponential-100", 5), ("step-10", 1)]
    with pytest.raises(ValueError, match="repair_tables"):
        repair_table(*both, NO_GAPS)


def test_twins_and_controls_are_not_read(rows_of: Rows) -> None:
    frame, stages, sizes = tables(rows_of)
    control = rows_of([1, 1, 1, 1], model="plain", method="continued", role="control", seed=0)
    twin = rows_of(
        [99, 99, 99, 99], model="plain", method="int4", role="technique", twin="full", seed=0, counts=[9] * 4
    )
    alone = repair_table(frame, stages, sizes, NO_GAPS)
    more = repair_table(frames.build([*frame.to_dict("records"), *control, *twin]), stages, sizes, NO_GAPS)
    assert alone is not None
    assert more is not None
    pd.testing.assert_frame_equal(alone.table, more.table)


def test_figures_from_validation_say_so(rows_of: Rows) -> None:
    frame, stages, sizes = tables(rows_of)
    analysis = repair_table(frame[frame["split"] == "validation"], stages, sizes, NO_GAPS, split="validation")
    assert analysis is not None
    assert row_of(analysis, "balanced", "int4")["balanced_accuracy"] == pytest.approx(72.4)
    assert any("flatter" in note for note in analysis.notes)


def test_sizes_may_be_missing(rows_of: Rows) -> None:
    frame, stages, _ = tables(rows_of)
    analysis = repair_table(frame, stages, pd.DataFrame(), NO_GAPS)
    assert analysis is not None
    assert analysis.table["times_smaller"].isna().all()
    assert analysis.sentences[0].startswith("Compressed, to sizes that are not known, repairing before compression")


def test_missing_columns_are_refused(rows_of: Rows) -> None:
    frame, stages, sizes = tables(rows_of)
    with pytest.raises(BadInput, match="stages: columns are missing: after"):
        repair_table(frame, stages.drop(columns="after"), sizes, NO_GAPS)
    with pytest.raises(BadInput, match="sizes: columns are missing: packed_bytes"):
        repair_table(frame, stages, sizes.drop(columns="packed_bytes"), NO_GAPS)


def test_a_study_holds_it_only_where_stages_are_given(rows_of: Rows, analysed: Callable[..., Any]) -> None:
    frame, stages, sizes = tables(rows_of)
    sizes = sizes.assign(weights=1, macs=1)
    rows = frame.to_dict("records")
    assert analysed(rows, sizes=sizes).repairs == ()
    (repairs,) = analysed(rows, sizes=sizes, stages=stages).repairs
    alone = repair_table(frame, stages, sizes, NO_GAPS)
    assert alone is not None
    pd.testing.assert_frame_equal(repairs.table, alone.table)
    assert repairs.sentences == alone.sentences
