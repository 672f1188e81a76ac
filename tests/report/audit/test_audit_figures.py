from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tailkeep.errors import BadInput
from tailkeep.report import audit_charts, audit_forest, audit_plots
from tailkeep.report.audit_view import AuditView, cleaned_audit, judged


def view_of(audit) -> AuditView:
    return AuditView(cleaned_audit(audit))


def test_classes_stand_by_training_images_then_test_images_then_index(audit) -> None:
    view = view_of(audit)
    shuffled = audit.candidates[0].classes.sample(frac=1, random_state=2)
    assert list(view.ordered(shuffled)["class_index"]) == list(range(10))
    unknown = shuffled.assign(train_count=np.nan, n=[10 * (i % 2) for i in range(10)])
    first = replace(audit.candidates[0], classes=unknown)
    view = view_of(replace(audit, candidates=(first,)))
    frame = view.ordered(unknown)
    assert list(frame["n"]) == sorted(frame["n"], reverse=True)
    assert list(frame[frame["n"] == 10]["class_index"]) == sorted(frame[frame["n"] == 10]["class_index"])


def test_of_many_classes_the_ends_are_shown(make_audit) -> None:
    view = view_of(make_audit(classes=[f"c{i}" for i in range(60)], n=200))
    rows, left = audit_forest.change_rows(view, view.candidates[0])
    change = view.candidates[0].classes["change"].sort_values().to_numpy()
    assert left == 30
    assert np.allclose(rows["value"], [*change[:20], *change[-10:]])


def test_each_row_carries_its_interval_limit_and_decision(audit) -> None:
    view = view_of(audit)
    rows, left = audit_forest.change_rows(view, view.candidates[0])
    assert left == 0
    assert set(rows["limit"]) == {-2.0}
    checks = judged(audit.candidates[0].gate, "class")
    for row, wanted in zip(rows.to_dict("records"), audit.candidates[0].classes.to_dict("records"), strict=True):
        assert (row["value"], row["low"], row["high"]) == tuple(
            wanted[k] for k in ("change", "change_low", "change_high")
        )
        styles = {"broken": "lost", "kept": "kept", "cannot tell": "unsure"}
        assert row["style"] == styles[checks[wanted["class_name"]].decision]


def test_a_group_with_a_broken_floor_is_marked(make_audit) -> None:
    view = view_of(make_audit(recall_floor=90.0))
    rows, _ = audit_forest.group_rows(view, view.candidates[0])
    assert dict(zip(rows["label"], rows["style"], strict=True))["rare"] == "lost"
    assert "camera: phone" in set(rows["label"])


def test_names_written_alike_stay_two_rows(make_audit) -> None:
    view = view_of(make_audit(classes=("a\x00", "a\x01", "b")))
    rows, _ = audit_forest.change_rows(view, view.candidates[0])
    assert list(rows["label"]) == ["a� (#0)", "a� (#1)", "b"]


def test_an_interval_without_end_does_not_hide_the_rest(audit) -> None:
    classes = audit.candidates[0].classes.copy()
    classes.loc[3, "change_low"] = -95.0
    view = view_of(replace(audit, candidates=(replace(audit.candidates[0], classes=classes),)))
    figure = audit_forest.change_figure(view, view.candidates[0])
    assert figure is not None
    assert "are cut" in figure.caption


def test_calibration_is_drawn_as_it_is(audit) -> None:
    view = view_of(audit)
    figure = audit_charts.calibration_figure(view)
    assert figure is not None
    rows, _ = audit_charts._pairs(view, view.candidates[0], "ece_baseline", "ece", "ece_change", up=False)
    assert rows["after"].iloc[-1] == pytest.approx(audit.candidates[0].classes["ece"].iloc[-1])


def test_a_plot_shows_offline_and_is_written(audit, tmp_path) -> None:
    for plot in (audit_plots.change, audit_plots.recall, audit_plots.groups, audit_plots.calibration):
        shown = plot(audit)._repr_html_()
        assert shown.startswith("<div")
        assert "<svg" in shown
        assert "<script" not in shown
        assert "var(--" not in shown
        assert "http" not in shown.replace("http://www.w3.org", "")
    drawn = audit_plots.change(audit)
    assert drawn._repr_html_() == audit_plots.change(audit)._repr_html_()
    assert drawn.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in drawn.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    with pytest.raises(BadInput, match=r"\.svg or \.png"):
        drawn.save(tmp_path / "a.pdf")
    assert drawn.to_altair().to_dict()["vconcat"]


def test_a_plot_of_one_candidate(make_audit) -> None:
    audit = make_audit(candidates={"a": 3.0, "b": 9.0})
    assert "· b" in audit_plots.change(audit, "b").figure.title
    with pytest.raises(BadInput, match="no candidate 'c'; there are a, b"):
        audit_plots.change(audit, "c")


def test_what_cannot_be_drawn_says_why(make_audit, audit) -> None:
    with pytest.raises(BadInput, match="scores"):
        audit_plots.calibration(make_audit(scores=False))
    groups = pd.DataFrame(columns=audit.candidates[0].groups.columns)
    bare = replace(audit, candidates=(replace(audit.candidates[0], groups=groups),))
    with pytest.raises(BadInput, match="no groups"):
        audit_plots.groups(bare)
