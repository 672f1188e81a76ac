"""What makes no question, or none that can be answered: refused before any training, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailkeep.errors import BadInput

from .conftest import INTEGERS, PRUNED

OTHER = {"model": {"kind": "digits_net"}, "name": "repaired", "loss": {"kind": "balanced_softmax"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"smaller": 4, "max_bytes": 1000}, "--smaller and --max-bytes: give one budget"),
        ({"smaller": 0.5}, "1 or more"),
        ({"smaller": float("inf")}, "expected a finite number"),
        ({"max_class_drop": 0}, "--max-class-drop 0"),
        ({"confidence": 95}, "--confidence 95"),
        ({"baseline": "digits_ne"}, "did you mean"),
        ({"seed": 7}, "the study's seeds are 0"),
        ({"smalller": 4}, "unknown setting 'smalller'"),
    ],
)
def test_a_wrong_question(ask: Any, asked: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("(", r"\(")):
        ask(asked(INTEGERS), **settings)


def test_a_wrong_question_leaves_no_folder(
    ask: Any, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        ask(asked(INTEGERS), out=None, baseline="other")
    assert not (tmp_path / "tailkeep-results").exists()


def test_of_several_models_the_baseline_must_be_named(ask: Any, asked: Any) -> None:
    study = asked(INTEGERS)
    study["models"].append(OTHER)
    with pytest.raises(BadInput, match="--baseline"):
        ask(study)


def test_no_candidate(ask: Any, asked: Any) -> None:
    study = asked(*PRUNED[:1])
    study["models"].append({**OTHER, "name": "gone"})
    study["methods"] = [{**study["methods"][0], "models": []}]
    with pytest.raises(BadInput, match="there is no candidate"):
        ask(study, baseline="digits_net")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"imbalance": [{"kind": "natural"}, {"kind": "exponential", "ratio": 2}]}, "2 imbalance settings"),
        ({"validation_per_class": 500}, "hold out fewer"),
        ({"data": {"source": {"kind": "digits", "test_per_class": 160}}, "validation_per_class": 0}, "too few"),
    ],
)
def test_a_study_that_cannot_be_searched(ask: Any, asked: Any, part: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ask({**asked(INTEGERS), **part})


def test_a_budget_that_nothing_meets_trains_nothing(ask: Any, asked: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(BadInput, match=r"no candidate meets the budget .* nearest is 'int8' with"):
        ask(asked(INTEGERS, PRUNED[0]), max_bytes=10, store=store)
    trained = [path for path in store.glob("t*/*/log.jsonl") if path.read_text(encoding="utf-8")]
    assert not trained
