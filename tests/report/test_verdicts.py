from __future__ import annotations

from dataclasses import replace

from tailkeep.analysis.words import sentence
from tailkeep.report import HEADS, verdict_rows, verdict_table, verdict_text, write_report
from tailkeep.report.lost import worst_off
from tailkeep.report.select import View
from tailkeep.report.verdicts import said, summary


def test_the_table_holds_the_plain_values(analysis) -> None:
    rows = verdict_table(analysis)
    assert [row["excess_gap"] for row in rows] == [v.excess_gap for v in analysis.verdicts]
    assert [row["verdict"] for row in rows] == [v.label for v in analysis.verdicts]


def test_rows_are_text_and_leave_out_what_does_not_differ(analysis, make_analysis) -> None:
    row = verdict_rows(analysis)[0]
    assert all(isinstance(value, str) for value in row.values())
    assert set(row) == (set(HEADS) - {"dataset", "model"}) | {"sentence", "sign", "style"}
    assert "model" in verdict_rows(make_analysis(models=("resnet20", "resnet56")))[0]


def test_the_text_keeps_to_its_width(make_analysis) -> None:
    analysis = make_analysis(seeds=range(5))
    for width in (40, 80, 120):
        lines = verdict_text(analysis, width).splitlines()
        assert max(len(line) for line in lines) <= width
        for verdict in analysis.verdicts:
            assert verdict.label in verdict_text(analysis, width).lower()


def test_the_text_steers_no_terminal(analysis) -> None:
    hostile = replace(analysis, verdicts=(replace(analysis.verdicts[0], method="a\x1b[2J\rb"),))
    text = verdict_text(hostile, 100)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\x1b" not in str(verdict_rows(hostile)) + str(verdict_table(hostile))


def test_no_technique_is_said(analysis) -> None:
    assert verdict_text(replace(analysis, verdicts=()), 80) == "No technique to judge.\n"


def test_the_summary_is_one_sentence(analysis, make_analysis) -> None:
    assert summary(View(analysis)) == "Too few seeds: no claim on any of 4 techniques."
    bare = make_analysis(twin="none")
    unknown = replace(bare, recall=bare.recall.assign(change=float("nan")))
    assert summary(View(unknown)) == "The excess gap is not available for any of 4 techniques."
    five = summary(View(make_analysis(seeds=range(5))))
    assert five == "Not robust: filter-rank 0.5, distilled x0.5. Cannot tell: QAT W8A8, QAT W8A4."
    two_models = View(make_analysis(seeds=range(5), models=("resnet20", "resnet56")))
    assert summary(two_models).startswith("Of 8 pairs of technique and model: ")
    long = [replace(v, method=v.method * 9) for v in make_analysis(seeds=range(5)).verdicts]
    assert summary(View(replace(analysis, verdicts=tuple(long)))) == "Of 4 techniques: 2 not robust, 2 cannot tell."
    one = replace(analysis, verdicts=(replace(analysis.verdicts[0], label="robust"),))
    assert summary(View(one)) == "The one technique: robust."


def test_a_card_does_not_repeat_its_head(analysis) -> None:
    verdict = replace(analysis.verdicts[0], method="kd", sentence="kd (resnet20): compression costs more.")
    assert said(verdict) == "Compression costs more."
    assert said(replace(verdict, sentence="Another text.")) == "Another text."


def test_numbers_on_a_card_have_a_real_minus_and_stay_beside_their_unit(analysis) -> None:
    sentence = "kd (r): costs 1.2 pp more (95 % interval -0.5 to 4.7, 3 seeds, without step-100)."
    words = said(replace(analysis.verdicts[0], method="kd", sentence=sentence))
    gap = "\u00a0"
    assert words == f"Costs 1.2{gap}pp more (95{gap}% interval −0.5 to 4.7, 3{gap}seeds, without step-100)."


def test_a_verdict_on_fewer_settings_says_so(make_analysis) -> None:
    verdict = make_analysis(seeds=range(5)).verdicts[0]
    assert "5 seeds, without step-100); " in sentence(verdict, 1.0, 5, left_out=("step-100",))
    assert "without" not in sentence(verdict, 1.0, 5)


def test_without_a_twin_the_class_that_fares_worst_comes_first(make_analysis, tmp_path) -> None:
    analysis = make_analysis(twin="none")
    view = View(analysis)
    recall = analysis.recall[(analysis.recall["role"] == "technique") & (analysis.recall["twin"] == "imbalanced")]
    for verdict in analysis.verdicts:
        mine = recall[(recall["method"] == verdict.method) & (recall["reference"] == verdict.reference)]
        found = worst_off(view, verdict)
        assert found.change == mine["change"].min()
        assert mine.set_index("change").loc[found.change, "class_name"] == found.class_name
    least = {v.method: worst_off(view, v).change for v in analysis.verdicts}
    best, worst = max(least, key=least.get), min(least, key=least.get)
    said_all = summary(view)
    assert said_all.startswith("The most that a class loses: ")
    assert said_all.index(f"with {best}") < said_all.index(f"with {worst}")
    page = write_report(analysis, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("recall of the class that fares worst") == len(analysis.verdicts)
    assert "excess gap not available" not in page


def test_with_a_twin_the_excess_gap_stays_first(analysis, tmp_path) -> None:
    assert "fares worst" not in write_report(analysis, tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_class_loses_where_each_gains(make_analysis) -> None:
    analysis = make_analysis(twin="none")
    gaining = replace(analysis, recall=analysis.recall.assign(change=0.3), verdicts=analysis.verdicts[:1])
    assert summary(View(gaining)).startswith("The most that a class loses: 0.0 pp (")


def test_of_several_models_the_first_line_names_which(make_analysis) -> None:
    view = View(make_analysis(twin="none", models=("resnet20", "resnet56")))
    found = [worst_off(view, verdict) for verdict in view.analysis.verdicts]
    best, worst = max(found, key=lambda each: each.change), min(found, key=lambda each: each.change)
    assert best.technique.endswith(("(resnet20)", "(resnet56)"))
    assert f"with {best.technique}, " in summary(view)
    assert summary(view).endswith(f"with {worst.technique}.")
