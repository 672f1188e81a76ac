"""The policy: what a file may say, what each check asks, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.auditing.policy import Counts, Limits, Policy, checks, make_policy, read_policy
from tailkeep.errors import BadInput

FILE = """\
max_class_drop: 3
classes:
  cat: {max_drop: 0.5, min_recall: 90}
  "no": {max_drop: null}
  owl: {min_recall: 70}
groups:
  few: {max_drop: 1}
  site=B: {min_recall: 80}
"""


def counts(*names: str) -> Counts:
    size = len(names)
    n = np.arange(size) * 10 + 100
    return Counts(names, n, np.arange(size) % 5 + 5, np.arange(size) % 5 + 2, n - 20)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str, **given: float) -> Policy:
        path = tmp_path / "policy.yaml"
        path.write_text(text, encoding="utf-8")
        return read_policy(path, **given)

    return write


def refused(call: Any, *words: str) -> None:
    with pytest.raises(BadInput) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_without_a_file_every_class_gets_the_one_limit() -> None:
    made = checks(make_policy(max_class_drop=2), counts("cat", "dog"))
    assert [(c.kind, c.unit, c.name, c.n, c.n10, c.n01, c.limit) for c in made] == [
        ("drop", "class", "cat", 100, 5, 2, 0.02),
        ("drop", "class", "dog", 110, 6, 3, 0.02),
    ]


def test_a_file_sets_limits_floors_and_groups(written: Any) -> None:
    made = checks(written(FILE), counts("cat", "no", "owl", "dog"), counts("many", "few", "site=A", "site=B"))
    assert [(c.kind, c.unit, c.name, c.limit) for c in made] == [
        ("drop", "class", "cat", 0.005),
        ("recall", "class", "cat", 0.9),
        ("drop", "class", "owl", 0.03),
        ("recall", "class", "owl", 0.7),
        ("drop", "class", "dog", 0.03),
        ("drop", "group", "few", 0.01),
        ("recall", "group", "site=B", 0.8),
    ]
    floor = made[1]
    assert (floor.n10, floor.n01) == (20, 80), "a floor counts images wrong and right"


def test_the_command_line_replaces_the_numbers_of_the_file(written: Any) -> None:
    policy = written(FILE, max_class_drop=5, confidence=0.9)
    assert (policy.max_class_drop, policy.confidence) == (5, 0.9)
    assert policy.classes["owl"].max_drop == 5
    assert policy.classes["cat"].max_drop == 0.5


def test_a_policy_written_out_asks_the_same(written: Any) -> None:
    policy = written(FILE)
    assert Policy.model_validate(policy.plain()) == policy
    assert policy != make_policy()
    made = Policy(max_class_drop=3, classes={"owl": Limits(min_recall=70), "no": Limits(max_drop=None)})
    assert made.classes["owl"].max_drop == 3
    assert made.classes["no"].max_drop is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_class_drop: 3", "max_clas_drop: 3", [":1:", "did you mean 'max_class_drop'?"]),
        ("min_recall: 90", "min_recal: 90", [":3:", "did you mean 'min_recall'?", "max_drop"]),
        ("max_drop: 0.5", "max_drop: 100.5", [":3:", "classes.cat.max_drop", "less than 100", "100.5"]),
        ("max_drop: 0.5", "max_drop: -1", [":3:", "greater than or equal to 0", "-1"]),
        ("max_drop: 0.5", "max_drop: .nan", [":3:", "finite"]),
        ("min_recall: 70", "min_recall: high", [":5:", "valid number", "high"]),
        ("max_class_drop: 3", "confidence: 1", [":1:", "confidence", "less than or equal to 0.9999"]),
        ("max_class_drop: 3", "max_class_drop: 100", [":1:", "less than 100"]),
        ("min_recall: 70", "min_recall: 0", [":5:", "greater than 0"]),
        ('"no"', "no", [":4:", 'put it in quotes: "no"']),
        ("few: {max_drop: 1}", "few: {}", ["'few' has no limit"]),
        ("groups:", "classes:", [":6:", "stands twice"]),
        ("{max_drop: 1}", "&a {max_drop: 1}", [":7:", "not allowed in a policy file"]),
    ],
)
def test_a_mistake_is_told_with_its_line(written: Any, old: str, new: str, words: list[str]) -> None:
    assert old in FILE
    refused(lambda: written(FILE.replace(old, new, 1)), "policy.yaml", *words)


def test_a_file_that_is_no_policy(written: Any, tmp_path: Path) -> None:
    refused(lambda: written("- a\n"), "a policy file is a mapping (max_class_drop")
    refused(lambda: read_policy(tmp_path / "none.yaml"), "none.yaml: there is no such file")


def test_unknown_names_are_refused_with_the_line(written: Any) -> None:
    policy = written(FILE)
    refused(lambda: checks(policy, counts("cats", "no", "owl")), "policy.yaml:3:", "'cat'", "did you mean 'cats'?")
    known = counts("cat", "no", "owl")
    refused(lambda: checks(policy, known, counts("few", "site=A")), "policy.yaml:8:", "did you mean 'site=A'?")
    refused(lambda: checks(policy, known), "policy.yaml:7:", "there are no groups", "--train-counts")
    many = counts(*(f"class {i}" for i in range(1000)))
    refused(lambda: checks(Policy(classes={"class x": Limits()}), many), "policy: classes", "did you mean")
    with pytest.raises(BadInput) as caught:
        checks(Policy(classes={"class x": Limits()}), many)
    assert len(str(caught.value)) < 200, "a thousand names are not listed"


def test_a_policy_that_checks_nothing_is_refused() -> None:
    off = Limits(max_drop=None)
    refused(lambda: checks(Policy(classes={"a": off, "b": off}), counts("a", "b")), "checks nothing")


def test_numbers_out_of_range_name_the_option() -> None:
    refused(lambda: make_policy(max_class_drop=101), "--max-class-drop 101", "100")
    refused(lambda: make_policy(max_class_drop=float("nan")), "--max-class-drop")
    refused(lambda: make_policy(confidence=0.5), "--confidence 0.5")


def test_counts_that_cannot_be_are_a_fault() -> None:
    n = np.array([10])
    with pytest.raises(ValueError, match="lost"):
        Counts(("a",), n, np.array([5]), np.array([0]), np.array([8]))
    with pytest.raises(ValueError, match="shape"):
        Counts(("a", "b"), n, n, n, n)
