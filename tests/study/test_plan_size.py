"""A big plan is work in proportion to its steps: counted in lines of Python and in keys, never timed."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tailkeep.study import plan as planning
from tailkeep.study.plan import Plan, build_plan
from tailkeep.study.resolve import Where, resolve
from tailkeep.study.spec import StudySpec


def resolved(study: dict[str, Any]) -> Any:
    return resolve(StudySpec.model_validate(study), Where())


def lines_of(study: dict[str, Any]) -> tuple[Plan, int]:
    """Plan a study; return the plan, and how many lines of plan.py that took."""
    ready, lines = resolved(study), 0

    def inside(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return inside

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return inside if frame.f_code.co_filename == planning.__file__ else None

    sys.settrace(trace)
    try:
        plan = build_plan(ready)
    finally:
        sys.settrace(None)
    return plan, lines


def settings(count: int) -> list[dict[str, Any]]:
    return [{"kind": "exponential", "ratio": 2 + i / 4, "n_max": 60} for i in range(count)]


def test_a_steps_planning_does_not_grow_with_the_plan(small: dict[str, Any]) -> None:
    small["imbalance"] = settings(4)
    found = [lines_of({**small, "seeds": list(range(seeds))}) for seeds in (8, 48)]
    (few, lines_of_few), (many, lines_of_many) = found
    assert len(many.steps) > 5000
    assert lines_of_many / len(many.steps) < 1.05 * lines_of_few / len(few.steps)


def test_nor_does_that_of_a_measurement_with_the_settings(small: dict[str, Any]) -> None:
    """Each setting's measurement gathers its own cells' files, and looks at no other setting's."""
    small["export"] = {"latency": True}
    small["controls"] = {"continued": False, "student_alone": False}
    found = [lines_of({**small, "imbalance": settings(count)}) for count in (10, 100)]
    (few, lines_of_few), (many, lines_of_many) = found
    assert (len(few.measures), len(many.measures)) == (10, 100)
    assert all(len(measure.methods) == 5 for measure in many.measures), "dense and four methods; no kernel runs A4"
    assert lines_of_many / len(many.cells) < 1.05 * lines_of_few / len(few.cells)


def test_an_ensembles_teachers_are_planned_once(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    taught = {**small["methods"][3], "name": "taught", "teacher": "pruned", "teacher_seeds": "all"}
    small |= {"methods": [small["methods"][0], taught], "balanced": "none", "seeds": list(range(20))}
    keys, content_key = 0, planning.content_key

    def counting(value: Any) -> str:
        nonlocal keys
        keys += 1
        return content_key(value)

    ready = resolved(small)
    monkeypatch.setattr(planning, "content_key", counting)
    plan = build_plan(ready)
    teachers = [len(step.parents) for step in plan.steps.values() if step.label.startswith("taught")]
    assert teachers == [21] * 20, "its parent, and the pruned models of all 20 seeds"
    assert keys < 2 * len(plan.steps)
