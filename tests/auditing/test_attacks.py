"""What a new user ran into: each of these was once accepted, hung, overwrote a file or was told in the wrong words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tailkeep
from tailkeep import cli
from tailkeep.analysis import power
from tailkeep.analysis.gate import Check, gate
from tailkeep.auditing.cells import check_text
from tailkeep.auditing.outputs.sentences import need, of_check
from tailkeep.auditing.places import check_places, written
from tailkeep.auditing.policy import read_policy
from tailkeep.errors import BadInput
from tailkeep.report.audit_words import p_value

HALF = np.tile([0, 1], 50)


def csv(path: Path, labels: Any, predicted: Any) -> Path:
    rows = "\n".join(f"{a},{b}" for a, b in zip(labels, predicted, strict=True))
    path.write_text(f"label,prediction\n{rows}\n", encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[Any, str]]:
    monkeypatch.chdir(tmp_path)
    csv(tmp_path / "a.csv", HALF, HALF)
    csv(tmp_path / "b.csv", HALF, HALF[::-1])

    def call(*more: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["audit", "--baseline", "a.csv", "--candidate", "b.csv", "--resamples", "10", *more])
        shown = capsys.readouterr()
        return left.value.code, " ".join((shown.out + shown.err).split())

    return call


@pytest.mark.parametrize("place", ["a.csv", "b.csv", "./x/../b.csv", "policy.yaml", "link.csv"])
def test_no_output_is_written_over_an_input(run: Any, tmp_path: Path, place: str) -> None:
    (tmp_path / "policy.yaml").write_text("max_class_drop: 3\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to("a.csv")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, said = run("--policy", "policy.yaml", "--output", f"json={place}")
    assert code == 2
    assert "would be lost" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_places_that_collide_are_refused(tmp_path: Path) -> None:
    for outputs, report, inputs, words in (
        (["a.json", "./a.json"], None, [], "written already"),
        (["r/report.html"], "r", [], "written already"),
        (["r/report_files/a.json"], "r", [], "lies in what --report"),
        (["images/a.json"], None, [("--data", tmp_path / "images")], "lies in the folder of --data"),
        ([], "r", [("--baseline", tmp_path / "r/report_files/a.csv")], "would be lost"),
        (["a" * 300], None, [], "cannot be written"),
    ):
        with pytest.raises(BadInput, match=words):
            check_places([tmp_path / name for name in outputs], None if report is None else tmp_path / report, inputs)
    with pytest.raises(BadInput, match="device or a pipe"):
        check_places([Path(os.devnull)], None, [])
    with pytest.raises(BadInput, match=r"--output x: cannot be written \(No space"), written("--output", Path("x")):
        raise OSError(28, "No space left on device")


def test_a_mistyped_format_is_no_file_name(run: Any, tmp_path: Path) -> None:
    code, said = run("--output", "jsn=y.json")
    assert code == 2
    assert "did you mean json" in said
    assert not (tmp_path / "jsn=y.json").exists()


def test_an_option_that_replaces_a_policys_number_says_so(run: Any, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("confidence: 0.9\nmax_class_drop: 0.5\n", encoding="utf-8")
    said = run("--policy", "policy.yaml", "--max-class-drop", "2")[1]
    assert "--max-class-drop 2 replaces the 0.5 of policy.yaml:2" in said
    assert "replaces the" not in run("--policy", "policy.yaml", "--max-class-drop", "0.5")[1]


@pytest.mark.parametrize("value", ["0.999999999999", "0.99991", "1"])
def test_a_confidence_beyond_what_p_values_can_tell_is_refused(run: Any, tmp_path: Path, value: str) -> None:
    code, said = run("--confidence", value)
    assert (code, "--confidence" in said) == (2, True)
    (tmp_path / "policy.yaml").write_text(f"confidence: {value}\n", encoding="utf-8")
    assert run("--policy", "policy.yaml")[0] == 2
    with pytest.raises(BadInput, match="confidence"):
        tailkeep.audit(HALF, HALF, HALF, confidence=float(value))
    with pytest.raises(BadInput, match="confidence"):
        gate([Check("drop", "class", "a", 9, 1, 1, 0.02)], float(value))


def test_the_search_for_a_critical_value_ends() -> None:
    with pytest.raises(ValueError, match="alpha"):
        power.critical_values(100, 0.02, 1e-12)


def multilabel() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((5000, 2), dtype=np.uint8)
    labels[:500, 0] = labels[250:1750, 1] = 1
    return labels, np.ones_like(labels)


def test_a_model_that_says_yes_to_everything_is_not_passed_in_silence() -> None:
    labels, yes = multilabel()
    found = tailkeep.audit(labels, labels, yes, n_boot=10, class_names=["cat", "dog"])
    assert found.decision == "pass"
    text = str(found)
    assert "False positives were not gated" in text.splitlines()[0]
    (warning,) = found.candidates[0].warnings
    assert text.splitlines()[1] == f"WARNING: {warning}"
    assert 'class "cat": precision 100.0 to 10.0 %, false positives 0 to 4,500 of 4,500 negatives (shown' in warning
    assert warning in json.loads(found.to_json())["notes"]
    table = found.classes.set_index("class_name")
    assert table.loc["dog", ["negatives", "false_positives", "precision"]].tolist() == [3500, 3500, 30]
    same = tailkeep.audit(labels, labels, labels, n_boot=10)
    assert not same.candidates[0].warnings


def test_a_limit_on_false_positives_is_gated() -> None:
    labels, yes = multilabel()
    found = tailkeep.audit(labels, labels, yes, n_boot=10, class_names=["cat", "dog"], max_false_positive_rise=2)
    checks = [
        (r.check.kind, r.check.name, r.check.n, r.check.n10, r.decision) for r in found.candidates[0].gate.results
    ]
    assert ("rise", "cat", 4500, 4500, "broken") in checks
    assert found.decision == "fail"
    assert "not gated" not in str(found)
    assert "wrongly given to 100 percentage points more" in str(found).splitlines()[0]
    assert tailkeep.audit(labels, labels, labels, n_boot=10, max_false_positive_rise=2).decision == "pass"


def test_negatives_of_several_classes_are_counted() -> None:
    rng = np.random.default_rng(1)
    labels, before, after = rng.integers(0, 3, (3, 500))
    found = tailkeep.audit(labels, before, after, n_boot=10, max_false_positive_rise=2).candidates[0].gate.results
    for result in found:
        if result.check.kind == "rise":
            of, other = int(result.check.name), labels != int(result.check.name)
            n10 = int((other & (before != of) & (after == of)).sum())
            n01 = int((other & (before == of) & (after != of)).sum())
            assert (result.check.n, result.check.n10, result.check.n01) == (int(other.sum()), n10, n01)


def test_average_precision_stands_in_the_text() -> None:
    labels, _ = multilabel()
    scores = np.where(labels == 1, 0.9, 0.1)
    text = str(tailkeep.audit(labels, scores, np.clip(scores + 0.01, 0, 1), n_boot=10))
    assert "AP" in text
    assert "average precision" in text


def test_classes_are_the_numbers_that_occur(tmp_path: Path) -> None:
    labels = np.array([5, 7, 9])[np.arange(900) % 3]
    found = tailkeep.audit(labels, labels, labels, n_boot=10)
    assert (found.analysis.class_names, found.decision) == (("5", "7", "9"), "pass")
    assert any("3 whole numbers that occur" in note for note in found.analysis.notes)
    ten = np.arange(20) % 10
    ten[ten == 4] = 5
    counted = tailkeep.audit(ten, ten, ten, n_boot=10, train_counts=list(range(50, 60)))
    assert len(counted.analysis.class_names) == 10, "the counts say how many classes there are"


def result_of(n: int, n10: int, n01: int, kind: str = "drop", limit: float = 0.02) -> Any:
    return gate([Check(kind, "class", "cat", n, n10, n01, limit)]).results[0]


@pytest.mark.parametrize(
    ("given", "outlook", "words"),
    [
        ((100, 3, 0), "over the limit", "about the limit or more (3 points seen, 2 allowed)"),
        ((1000, 18, 2), "loses", "seems to lose (1.6 points seen, 2 allowed"),
        ((100, 1, 1), "more images", "if it truly loses nothing"),
        ((0, 0, 0), "no images", "has no test image"),
        ((50, 20, 30, "recall", 0.7), "over the limit", "seems to lie below its floor (60 % seen, 70 asked)"),
        ((50, 10, 40, "recall", 0.7), "more images", "if its true recall is what was seen"),
    ],
)
def test_what_would_tell_is_said_by_what_was_seen(given: Any, outlook: str, words: str) -> None:
    result = result_of(*given)
    assert (result.decision, result.outlook) == ("cannot tell", outlook)
    assert words in need(result)
    assert words in of_check(result, 0.95)
    if outlook == "over the limit":
        assert "sooner show a fail" in need(result)


def test_notes_name_their_candidate_and_equal_models_are_told(run: Any, tmp_path: Path) -> None:
    found = tailkeep.audit(HALF, HALF, {"copy": HALF, "other": 1 - HALF}, n_boot=10)
    notes = found.analysis.notes
    assert any(note.startswith("copy: no prediction differs from the baseline's") for note in notes)
    assert not any(note.startswith("other: no prediction differs") for note in notes)
    (tmp_path / "c.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    assert "byte for byte" in run("--candidate", "c=c.csv")[1]


def test_capitals_are_named_as_the_likely_cause() -> None:
    names = np.array(["Cat", "Dog"])[HALF]
    found = tailkeep.audit(names, names, np.char.lower(names), n_boot=10)
    assert any("labels say 'Cat' and predictions 'cat'" in note for note in found.analysis.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_true": HALF[:, None]}, r"shape \(100, 1\); give classes as \(100,\)"),
        ({"candidate": HALF * 0.8 + 0.1}, r"probabilities of two classes are \(N, 2\)"),
        ({"candidate": {"a\ud800": HALF}}, "lone surrogate"),
        ({"class_names": ["a", "b\ud800"]}, "lone surrogate"),
        ({"groups": {"site": ["a\udcff"] * 100}}, "lone surrogate"),
        ({"max_class_drop": True}, "max_class_drop True: expected a number"),
        ({"confidence": 2}, "^confidence 2"),
        ({"n_boot": 0}, "n_boot 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_the_python_door_speaks_of_its_own_arguments(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        tailkeep.audit(**{"y_true": HALF, "baseline": HALF, "candidate": HALF, **change})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("- a\n", "not a list"),
        ("max_class_drop: true\n", ":1: max_class_drop: expected a number, not true or false"),
        ("classes: {cat: {min_recall: yes}}\n", "expected a number, not true or false"),
        ("classes: {cat: 2}\n", "expected limits, such as {max_drop: 1}"),
        ("groups: {few: {max_drop: 1, max_false_positive_rise: 1}}\n", "is a limit of classes"),
    ],
)
def test_a_policys_faults_are_told_in_its_own_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        read_policy(tmp_path / "p.yaml")
    assert words in str(caught.value)
    assert "NoneType" not in str(caught.value)


def test_wordings(run: Any, tmp_path: Path) -> None:
    assert "--candidate .: is a folder" in run("--candidate", ".")[1]
    csv(tmp_path / "a.csv", ["only"] * 3, ["only"] * 3)
    csv(tmp_path / "b.csv", ["only"] * 3, ["only"] * 3)
    assert "holds one class only ('only')" in run()[1]
    with pytest.raises(BadInput, match="lone surrogate"):
        check_text("x", "a\ud800")


@pytest.mark.parametrize("value", ["0", "-5"])
def test_resamples_are_one_or_more(run: Any, value: str) -> None:
    assert run("--resamples", value)[0] == 2


def test_p_values_have_the_digits_that_the_level_asks_for() -> None:
    assert p_value(0.0002, 0.05) == "< 0.001"
    assert p_value(0.0002, 0.0001) == "0.00020"
    assert p_value(0.05004, 0.05) == "0.05004"
    assert p_value(0.6, 0.05) == "0.60"


def test_groups_are_explained_and_no_hint_asks_for_what_was_given() -> None:
    policy = tailkeep_policy(groups={"few": {"max_drop": 1}})
    with pytest.raises(BadInput) as caught:
        tailkeep.audit(HALF, HALF, HALF, n_boot=10, train_counts=[500, 300], policy=policy)
    assert "training counts decide" in str(caught.value)
    assert "--train-counts" not in str(caught.value)
    assert "Groups by training images: " in str(tailkeep.audit(HALF, HALF, HALF, n_boot=10, train_counts=[500, 300]))


def test_a_class_with_two_open_checks_names_each() -> None:
    policy = tailkeep_policy(classes={"0": {"max_drop": 2, "min_recall": 99}})
    text = str(tailkeep.audit(HALF, HALF, HALF, n_boot=10, policy=policy))
    assert 'class "0" (loss) needs' in text
    assert 'class "0" (floor) needs' in text


def tailkeep_policy(**values: Any) -> Any:
    from tailkeep.auditing.policy import Policy

    return Policy.model_validate(values)
