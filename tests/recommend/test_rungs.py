"""Successive halving by optuna's pruner, and recipes of a quarter of their length."""

from __future__ import annotations

import pytest

from tailkeep.recommend.rungs import halve, shortened
from tailkeep.training.recipe import Decay, Milestones, Recipe


def test_the_best_quarter_goes_on_whatever_the_order() -> None:
    scores = {f"c{i}": float((i * 5) % 12) for i in range(12)}
    best = {name for name, score in scores.items() if score >= 9}
    assert halve(scores) == best
    assert halve(dict(reversed(scores.items()))) == best


def test_equals_go_on_together_and_few_are_not_halved() -> None:
    assert halve({"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}) == {"a", "b"}
    assert halve({"a": 1.0, "b": 0.0, "c": -5.0}) == {"a", "b", "c"}


def test_a_schedule_shrinks_with_its_recipe() -> None:
    steps = Recipe(epochs=180, warmup=4, schedule=Milestones(at=(90, 135)))
    short = shortened(steps, 0.25)
    assert (short.epochs, short.warmup, short.schedule.at) == (45, 1, (22.5, 33.75))  # type: ignore[union-attr]
    for share in (0.1, 0.5, 0.9):
        assert short.lr_at(round(45 * share), 1) == steps.lr_at(round(45 * share) * 4, 1)
    slow = Recipe(steps=400, schedule=Decay(start=40, gamma=0.95))
    assert shortened(slow, 0.25).lr_at(60, 1) == pytest.approx(slow.lr_at(240, 1), rel=0.2)
    assert shortened(slow, 1) is slow
