from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from tailkeep.analysis import statistics
from tailkeep.analysis.verdict import label_of
from tailkeep.analysis.words import number, probability


def seeds(*tenths: int) -> dict[int, int]:
    return dict(enumerate(tenths))


def verdict_of(study, method: str = "pruned"):
    return next(v for v in study.verdicts if v.method == method)


@pytest.mark.parametrize(
    ("tenths", "label", "words"),
    [
        ((20, 25, 18, 22, 30), "not robust", "costs 2.3 pp more on imbalanced data than on balanced data"),
        ((-20, -25, -18, -22, -30), "more robust", "costs 2.3 pp less on imbalanced data than on balanced data"),
        ((1, -2, 0, 2, -1), "robust", "the extra cost is shown to lie below 1 pp"),
        ((20, -30, 40, -10, 5), "cannot tell", "neither an extra cost is shown nor that it lies below 1 pp"),
        ((20, 25, 18), "no claim", "no claim with fewer than 5 seeds"),
    ],
)
def test_every_label_is_reached(technique, analysed, tenths, label, words) -> None:
    verdict = verdict_of(analysed(technique(seeds(*tenths))))
    assert verdict.label == label
    assert words in verdict.sentence
    assert verdict.sentence.startswith("pruned (resnet20): ")
    assert verdict.seeds == len(tenths)
    assert (verdict.reference, verdict.twin) == ("dense", "full")


def test_a_small_certain_cost_is_not_robust_and_says_that_it_is_small(technique, analysed) -> None:
    verdict = verdict_of(analysed(technique(seeds(3, 4, 3, 4, 3))))
    assert verdict.label == "not robust"
    assert verdict.upper_simultaneous < 1.0
    assert "though shown to cost less than 1 pp" in verdict.sentence


def test_numbers_of_a_single_technique_equal_scipys(technique, analysed) -> None:
    values = [2.0, 2.5, 1.8, -0.4, 3.0]
    verdict = verdict_of(analysed(technique(seeds(*(round(10 * v) for v in values)))))
    theirs = stats.ttest_1samp(values, 0.0)
    interval = theirs.confidence_interval(0.95)
    assert verdict.excess_gap == pytest.approx(1.78)
    assert verdict.p == pytest.approx(theirs.pvalue)
    assert verdict.p_adjusted == pytest.approx(theirs.pvalue)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))
    assert verdict.sign_flip_floor == 2 / 32
    assert verdict.sign_flip_p == statistics.sign_flip_p(values)


def test_the_sentence_below_five_seeds(technique, analysed) -> None:
    verdict = verdict_of(analysed(technique(seeds(14, 30, 25))))
    assert verdict.sentence == (
        "pruned (resnet20): compression costs 2.3 pp more on imbalanced data than on balanced data "
        "(95 % interval 0.3 to 4.3, 3 seeds); no claim with fewer than 5 seeds."
    )
    assert verdict.p is None
    assert verdict.p_adjusted is None
    assert verdict.upper_simultaneous is None
    assert verdict.sign_flip_floor == 0.25


def test_one_seed_has_an_estimate_and_no_interval(technique, analysed) -> None:
    verdict = verdict_of(analysed(technique(seeds(14))))
    assert (verdict.label, verdict.low, verdict.high) == ("no claim", None, None)
    assert verdict.excess_gap == pytest.approx(1.4)
    assert "(1 seed, no interval)" in verdict.sentence


def test_identity_over_five_seeds_is_robust(technique, analysed) -> None:
    verdict = verdict_of(analysed(technique(seeds(0, 0, 0, 0, 0), method="identity")), "identity")
    assert verdict.label == "robust"
    assert (verdict.excess_gap, verdict.p, verdict.upper_simultaneous, verdict.sign_flip_p) == (0.0, 1.0, 0.0, 1.0)
    assert "costs as much on imbalanced data as on balanced data" in verdict.sentence


def test_the_family_is_one_models_techniques(technique, analysed) -> None:
    rows = technique(seeds(20, 25, 18, -4, 30)) + technique(seeds(5, -2, 8, 6, 2), method="A8")
    rows += technique(seeds(20, 25, 18, -4, 30), model="resnet56")
    study = analysed(rows)
    by_key = {(v.model, v.method): v for v in study.verdicts}
    pruned, a8 = by_key["resnet20", "pruned"], by_key["resnet20", "A8"]
    assert [pruned.p_adjusted, a8.p_adjusted] == pytest.approx(statistics.holm([pruned.p, a8.p]))
    alone = by_key["resnet56", "pruned"]
    assert alone.p_adjusted == pytest.approx(alone.p)
    assert pruned.p == pytest.approx(alone.p)
    assert pruned.upper_simultaneous > alone.upper_simultaneous


def test_the_contrast_is_averaged_over_settings_within_a_seed(technique, analysed) -> None:
    rows = technique(seeds(10, 20, 30, 40, 50), setting="a") + technique(seeds(30, 20, 10, 0, -10), setting="b")
    verdict = verdict_of(analysed(rows))
    # Every seed's mean is 2.0: no spread is left, though each setting has much.
    assert verdict.excess_gap == pytest.approx(2.0)
    assert verdict.low == pytest.approx(2.0)
    assert verdict.label == "not robust"
    assert verdict.sign_flip_p == verdict.sign_flip_floor


def test_a_seed_without_every_setting_is_left_out(technique, analysed) -> None:
    rows = technique(seeds(10, 20, 30), setting="a") + technique(seeds(10, 20), setting="b")
    study = analysed(rows)
    verdict = verdict_of(study)
    assert verdict.seeds == 2
    assert verdict.excess_gap == pytest.approx(1.5)
    assert "pruned (resnet20): the verdict leaves out seed 2, for want of a setting." in study.notes


def test_a_setting_without_twins_is_left_out(technique, analysed) -> None:
    rows = technique(seeds(10, 20), setting="a")
    rows += [r for r in technique(seeds(90, 90), setting="b") if r["twin"] == "imbalanced"]
    study = analysed(rows)
    assert verdict_of(study).excess_gap == pytest.approx(1.5)
    assert any("the verdict leaves out b, where E is not available" in note for note in study.notes)


def test_a_balanced_setting_does_not_thin_the_verdict(technique, rows_of, analysed) -> None:
    rows = technique(seeds(10, 20))
    for seed in (0, 1):
        for twin in ("imbalanced", "full"):
            common = {"setting": "balanced", "seed": seed, "twin": twin, "n": 1000, "counts": [1000, 1000]}
            rows += rows_of([950, 940], **common)
            rows += rows_of([950, 940], {"dense": [950, 940]}, method="pruned", role="technique", **common)
    study = analysed(rows)
    assert verdict_of(study).excess_gap == pytest.approx(1.5)
    assert any("toy, balanced: every class has as many images" in note for note in study.notes)


@pytest.mark.parametrize(
    ("keep", "twins", "reason"),
    [
        (lambda row: True, (), "no balanced twin is planned"),
        (lambda row: row["twin"] == "imbalanced", ("full",), "no seed has both the imbalanced cell and its full twin"),
        (lambda row: row["reference"] == "self", ("full",), "its reference model is missing"),
        (
            lambda row: (row["setting"], row["seed"]) in (("a", 0), ("b", 1)),
            ("full",),
            "no seed has all of the imbalance settings",
        ),
    ],
)
def test_what_is_not_available_says_why(technique, analysed, keep, twins, reason) -> None:
    rows = technique(seeds(10, 20), setting="a") + technique(seeds(10, 20), setting="b")
    verdict = verdict_of(analysed([row for row in rows if keep(row)], twins=twins))
    assert (verdict.label, verdict.twin, verdict.seeds, verdict.excess_gap) == ("not available", "none", 0, None)
    assert f"the excess gap is not available: {reason}" in verdict.sentence


def test_the_drop_is_told_where_the_excess_gap_is_not_available(technique, analysed) -> None:
    verdict = verdict_of(analysed(technique(seeds(10, 20)), twins=()))
    assert verdict.sentence.endswith("no balanced twin is planned; compression costs 1.5 pp on imbalanced data.")


def test_a_technique_of_which_every_cell_failed_is_told(technique, analysed) -> None:
    failures = pd.DataFrame(
        [
            ("toy", "exponential-100", "imbalanced", "resnet20", method, 0, "nan", "step 7")
            for method in ("A4", "dense", "dense continued (A4 recipe)", "student alone (distilled)", "pruned")
        ],
        columns=["dataset", "setting", "twin", "model", "method", "seed", "reason", "detail"],
    )
    study = analysed(technique(seeds(10, 20)), failures=failures)
    assert [(v.method, v.label) for v in study.verdicts] == [("pruned", "no claim"), ("A4", "not available")]
    assert study.verdicts[1].sentence == "A4 (resnet20): the excess gap is not available: every cell of it failed."
    assert "5 cells failed; figures come from the others." in study.notes


def test_a_teachers_student_is_worded_so(technique, analysed) -> None:
    rows = technique(seeds(20, 25, 18, 22, 30), method="distilled", reference="teacher")
    verdict = verdict_of(analysed(rows), "distilled")
    assert verdict.reference == "teacher"
    assert "replacing the teacher by the student costs 2.3 pp more" in verdict.sentence
    rows = technique(seeds(-20, -25, -18, -22, -30), method="distilled", reference="teacher")
    assert "than its teacher" in verdict_of(analysed(rows), "distilled").sentence


def test_the_matched_twin_is_worded_so(technique, analysed) -> None:
    study = analysed(technique(seeds(20, 25), twin="matched"), twins=("matched",))
    assert "than on balanced data of the same size (95 %" in verdict_of(study).sentence


def test_several_datasets_are_named_and_are_families_of_their_own(technique, analysed) -> None:
    study = analysed(technique(seeds(20, 25)) + technique(seeds(10, 15), dataset="other"))
    assert [v.sentence.split(":")[0] for v in study.verdicts] == ["pruned (toy, resnet20)", "pruned (other, resnet20)"]


def test_the_margin_decides(technique, analysed) -> None:
    rows = technique(seeds(5, -10, 15, -5, 2))
    assert verdict_of(analysed(rows)).label == "cannot tell"
    wide = verdict_of(analysed(rows, margin=3.0))
    assert wide.label == "robust"
    assert "below 3 pp" in wide.sentence


def test_controls_have_no_verdict(technique, rows_of, analysed) -> None:
    rows = technique(seeds(20, 25))
    for seed in (0, 1):
        control = {"method": "dense continued (pruned recipe)", "role": "control", "seed": seed, "n": 1000}
        rows += rows_of([905, 605], {"dense": [900, 600]}, counts=[1000, 10], **control)
    study = analysed(rows)
    assert [v.method for v in study.verdicts] == ["pruned"]
    assert "dense continued (pruned recipe)" in set(study.gaps["method"])


@pytest.mark.parametrize(
    ("excess", "p", "upper", "label"),
    [
        (0.5, 0.04, 0.9, "not robust"),
        (-0.5, 0.04, 0.2, "more robust"),
        (0.5, 0.05, 0.9, "robust"),
        (0.5, 0.05, 1.0, "cannot tell"),
    ],
)
def test_the_rules_at_their_edges(excess: float, p: float, upper: float, label: str) -> None:
    assert label_of(excess, p, upper, margin=1.0) == label


def test_figures_in_words() -> None:
    assert [number(v) for v in (-0.04, 0.04, -0.06, 12.34)] == ["0.0", "0.0", "-0.1", "12.3"]
    assert [probability(p) for p in (0.0, 0.0004, 0.0123)] == ["p < 0.001", "p < 0.001", "p = 0.012"]
