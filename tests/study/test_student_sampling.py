"""A student drawn by a sampler of its own: the method's ``sampler`` reaches the step that trains it, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tailkeep.study import steps
from tailkeep.study.runner import Study


@pytest.mark.parametrize("kind", ["distillation", "balanced_distillation", "adjusted_distillation"])
def test_a_student_sees_its_classes_equally_often(
    kind: str, small: dict[str, Any], opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    distilled = {**small["methods"][3], "method": {"kind": kind}, "sampler": {"kind": "class_balanced"}}
    small |= {"balanced": "none", "methods": [distilled]}
    small["controls"] = {"continued": False, "student_alone": False, "churn_floor": False}
    for recipe in (small["recipe"], distilled["recipe"]):
        recipe |= {"epochs": 1}
    made: dict[str, tuple[Any, Any]] = {}
    batches = steps.TrainingBatches

    def note(*arguments: Any, **settings: Any) -> Any:
        made[now[0]] = batches(*arguments, **settings), np.asarray(arguments[1])
        return made[now[0]][0]

    now, work = [""], steps.run_step

    def run(step: Any, runtime: Any) -> str:
        now[0] = step.kind
        return work(step, runtime)

    monkeypatch.setattr(steps, "TrainingBatches", note)
    monkeypatch.setattr(steps, "run_step", run)
    study = opened(small)
    study.run()
    drawn = {
        step: np.bincount(labels[trained.order(0).numpy()], minlength=10) for step, (trained, labels) in made.items()
    }
    counts = study.plan.cells[0].counts
    assert tuple(drawn["train"]) == tuple(counts), "the dense model sees what there is"
    assert max(counts) == 10 * min(counts)
    assert np.ptp(drawn["transform"]) <= 1
    assert drawn["transform"].sum() == sum(counts)
    assert drawn["transform"].min() > min(counts)
