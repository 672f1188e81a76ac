from __future__ import annotations

from dataclasses import replace

import pytest

from tailkeep.analysis.gate import Check, CheckResult, Gate
from tailkeep.report import audit_gate
from tailkeep.report.audit_view import AuditView, cleaned_audit


def result(name: str, estimate: float, decision: str, **changes) -> CheckResult:
    """One check of a class of 500 images with a limit of 2 pp."""
    check = Check("drop", "class", name, 500, 250, 250, 0.02)
    check = replace(check, **{key: changes.pop(key) for key in ("kind", "unit", "limit") if key in changes})
    ends = {"low": estimate - 0.02, "high": estimate + 0.02}
    return replace(
        CheckResult(
            check,
            estimate,
            **ends,
            p_broken=0.5,
            p_broken_adjusted=1.0,
            p_kept=0.5,
            decision=decision,
            exact=True,
            images_needed=None,
        ),
        **changes,
    )


def gate(*results: CheckResult) -> Gate:
    decisions = {r.decision for r in results}
    decision = "fail" if "broken" in decisions else "pass" if decisions == {"kept"} else "cannot tell"
    return Gate(results, 0.95, decision)


def test_one_broken_class_is_said_with_its_limit() -> None:
    made = gate(result("truck", 0.073, "broken"), result("cat", 0.0, "kept"), result("dog", 0.01, "cannot tell"))
    assert audit_gate.sentence(made) == (
        "truck loses 7.3 pp of recall, shown to be more than the limit of 2 pp. Of the others, 1 is shown to keep the "
        "limit of 2 pp and 1 cannot be told."
    )


def test_many_broken_classes_stand_by_their_loss() -> None:
    made = gate(*(result(f"c{i}", 0.04 + i / 100, "broken") for i in range(7)))
    assert audit_gate.sentence(made) == (
        "7 of 7 classes are shown to break the limit of 2 pp: c6 loses 10.0 pp, c5 loses 9.0 pp, c4 loses 8.0 pp, c3 "
        "loses 7.0 pp, c2 loses 6.0 pp and 2 more."
    )


def test_a_pass_names_the_nearest() -> None:
    made = gate(result("cat", -0.01, "kept"), result("dog", 0.005, "kept"))
    assert audit_gate.sentence(made) == (
        "All 2 classes are shown to keep the limit of 2 pp. Nearest to it: dog loses 0.5 pp (interval −1.5 to 2.5)."
    )


def test_what_cannot_be_told_says_what_it_takes() -> None:
    made = gate(
        result("cat", 0.01, "cannot tell", images_needed=3345),
        result("dog", 0.02, "cannot tell"),
        result("ox", 0.0, "cannot tell", images_needed=900),
        result("yak", 0.0, "cannot tell", images_needed=400),
    )
    assert "4 of 4 classes are not shown to keep it either" in audit_gate.sentence(made)
    assert audit_gate.needs(made) == [
        "ox: about 900 test images (it has 500)",
        "cat: about 3,345 test images (it has 500)",
        "yak: images enough if nothing was lost, so the loss is likely near the limit",
        "dog: no number of images that could be named",
    ]


def test_a_class_with_two_checks_is_one_class() -> None:
    floor = result("cat", 0.61, "broken", kind="recall", limit=0.7)
    made = gate(result("cat", 0.05, "broken"), floor, result("few", 0.01, "kept", unit="group"))
    said = audit_gate.sentence(made)
    assert said.startswith("1 of 2 classes and groups is shown to break the limits: cat is at 61.0 %, its floor 70 %")


def test_a_class_called_by_a_number_is_said_to_be_a_class() -> None:
    assert audit_gate.loss_words(result("9", 0.3, "broken")) == "class 9 loses 30.0 pp"
    assert audit_gate.loss_words(result("few", 0.3, "broken", unit="group")) == "group few loses 30.0 pp"
    unsure = gate(result("cat", 0.01, "cannot tell", images_needed=900))
    assert audit_gate.needs(unsure, "positives") == ["cat: about 900 positives (it has 500)"]


def test_nothing_asked_nothing_judged() -> None:
    empty = Gate((), 0.95, "pass")
    assert audit_gate.verdict(empty) == "no limit"
    assert "judges nothing" in audit_gate.sentence(empty)


@pytest.mark.parametrize(
    ("costs", "headline"),
    [
        ({"a": 30.0}, "Fail: "),
        ({"a": 30.0, "b": 30.0}, "Fail: a, b."),
        ({"a" * 60: 30.0, "b" * 60: 30.0}, "Of 2 candidates: 2 fail."),
    ],
)
def test_the_outcome_is_one_sentence(make_audit, costs: dict[str, float], headline: str) -> None:
    said = audit_gate.headline(AuditView(cleaned_audit(make_audit(candidates=costs))))
    assert said.startswith(headline)
    assert said.endswith(".")


def test_the_bar_fills_its_width(audit) -> None:
    card = audit_gate.cards(AuditView(cleaned_audit(audit)))[0]
    assert sum(float(part["width"]) for part in card["strip"]) == pytest.approx(100, abs=0.05)
    assert card["big"].startswith("−")
