"""A study that answers imbalance twice for one classifier is told; one that does so once is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailkeep.study.runner import Study

RECIPE = {"epochs": 1, "batch_size": 32, "lr": 0.01, "precision": "float32"}
ADJUSTED = {"name": "adjusted", "method": {"kind": "logit_adjustment_post_hoc"}}
PRUNED = {"name": "pruned", "method": {"kind": "filter_pruning"}, "recipe": RECIPE}
BALANCED, DRAWN = {"kind": "balanced_softmax"}, {"kind": "class_balanced"}


@pytest.fixture
def notes(small: dict[str, Any], opened: Callable[..., Study]) -> Callable[..., list[str]]:
    def of(model: dict[str, Any], *methods: dict[str, Any]) -> list[str]:
        models = [{"model": {"kind": "digits_net"}, **model}]
        study = opened({**small, "balanced": "none", "models": models, "methods": [*methods] or [PRUNED]})
        return [note for note in study.resolved.notes if "twice" in note or "already" in note]

    return of


@pytest.mark.parametrize("kind", ["balanced_softmax", "logit_adjustment", "class_balanced_cross_entropy"])
def test_loss_and_sampler_of_a_model(notes: Callable[..., list[str]], kind: str) -> None:
    (note,) = notes({"loss": {"kind": kind}, "sampler": DRAWN})
    assert f"loss {kind} and sampler class_balanced each make up for the imbalance" in note


def test_loss_and_sampler_of_a_method(notes: Callable[..., list[str]]) -> None:
    (note,) = notes({}, {**PRUNED, "loss": BALANCED, "sampler": DRAWN})
    assert note.startswith("pruned: loss balanced_softmax and sampler class_balanced")


@pytest.mark.parametrize(
    ("model", "methods", "trained", "how"),
    [
        ({"loss": BALANCED}, [ADJUSTED], "digits_net", "loss balanced_softmax"),
        ({"sampler": DRAWN}, [ADJUSTED], "digits_net", "sampler class_balanced"),
        ({}, [{**PRUNED, "loss": BALANCED}, {**ADJUSTED, "parent": "pruned"}], "pruned", "loss balanced_softmax"),
    ],
)
def test_an_adjustment_after_a_training_that_rebalanced(
    notes: Callable[..., list[str]], model: dict[str, Any], methods: list[dict[str, Any]], trained: str, how: str
) -> None:
    (note,) = notes(model, *methods)
    assert f"adjusted: takes the classes' prior off {trained!r}, which was trained by {how}" in note


@pytest.mark.parametrize(
    ("model", "methods"),
    [
        ({}, [ADJUSTED]),
        ({"loss": BALANCED}, []),
        ({"sampler": DRAWN}, []),
        ({"loss": {"kind": "focal"}, "sampler": DRAWN}, []),
        ({"loss": BALANCED}, [PRUNED, {**ADJUSTED, "parent": "pruned"}]),  # the plain fine-tune undid the repair
    ],
)
def test_once_is_no_reason_for_a_note(
    notes: Callable[..., list[str]], model: dict[str, Any], methods: list[dict[str, Any]]
) -> None:
    assert notes(model, *methods) == []
