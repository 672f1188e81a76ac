"""A short form of ``benchmarks/scaling.py``: the arithmetic of schedules by hand, and a small run that is counted."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tailkeep.errors import BadInput
from tailkeep.study.plan import Cell, Plan, Step, build_plan
from tailkeep.study.resolve import Where, resolve
from tailkeep.study.store import Store

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
scaling = importlib.import_module("scaling")
files, running, times = (importlib.import_module(f"scaling_{name}") for name in ("files", "run", "times"))
schedule, study = (importlib.import_module(f"scaling_{name}") for name in ("schedule", "study"))
Task = schedule.Task


# --- schedules -------------------------------------------------------------------------------------------------------

DIAMOND = [Task("a", (), 3), Task("b", (), 2), Task("c", ("a",), 1), Task("d", (), 2)]
"""Two workers: a 0-3, b 0-2, d 2-4, c 3-4."""


def test_a_schedule_by_hand() -> None:
    assert schedule.makespan(DIAMOND, 2) == 4
    assert schedule.efficiency(8, 2, 4) == 1
    assert schedule.makespan(DIAMOND, 1) == 8
    assert schedule.makespan(DIAMOND, 8) == schedule.critical_path(DIAMOND) == schedule.bound(DIAMOND, 8) == 4
    assert schedule.bound(DIAMOND, 1) == 8
    assert schedule.efficiency(8, 8, 4) == 0.25


def test_a_schedule_with_overhead_by_hand() -> None:
    """0.5 s of the engine, then 0.25 s of the worker for each step: a 0.5-3.75, b 1-3.25, d 3.75-6, c 4.25-5.5."""
    assert schedule.makespan(DIAMOND, 2, engine=0.5, step=0.25) == 6
    assert schedule.makespan(DIAMOND, 1, engine=0.5, step=0.25) == 8 + 4 * 0.75


def test_one_engine_thread_is_the_limit_of_many_workers() -> None:
    tasks = [Task(str(i), (), 1) for i in range(1000)]
    assert schedule.makespan(tasks, 1000) == 1
    assert schedule.makespan(tasks, 1000, engine=0.01) == pytest.approx(1000 * 0.01 + 1)


def test_the_plans_order_decides_who_goes_first() -> None:
    """Short steps before the long chain cost two workers a second; a scheduler that looked ahead would not pay it."""
    chain = [Task("x", (), 1), Task("y", (), 1), Task("z", (), 2), Task("zz", ("z",), 2)]
    assert schedule.makespan(chain, 2) == 5
    assert schedule.bound(chain, 2) == 4
    assert schedule.makespan(chain[2:] + chain[:2], 2) == 4


# --- a run -----------------------------------------------------------------------------------------------------------

TIMES = {
    "train": 4.0, "transform/filter_pruning": 2.0, "transform/qat": 2.0, "transform/distillation": 2.0,
    "transform/ptq": 0.1, "transform/logit_adjustment_post_hoc": 0.1, "predict/test": 0.2, "predict/validation": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build_plan(resolve(study.study_of(200), Where()))


@pytest.fixture(scope="module")
def seconds(plan: Plan) -> dict[str, float]:
    return {key: times.seconds_of(step, TIMES) for key, step in plan.steps.items()}


@pytest.fixture(scope="module")
def point(plan: Plan, seconds: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return running.run_point(plan, seconds, 8, 0.005, 200, tmp_path_factory.mktemp("scaling") / "store")


def test_a_small_run_does_every_step_once(plan: Plan, point: Any) -> None:
    assert (len(plan.cells), point.cells, point.steps) == (200, 200, 600)
    assert point.steps == len(plan.steps)
    assert sorted(key for key, _ in running.TALLY.slept) == sorted(plan.steps)
    assert (point.steps_twice, point.left, point.leases_lost) == (0, 0, 0)
    assert scaling.complaints(dataclasses.replace(point, engine_cpu=0.0)) == []


def test_its_efficiency_is_work_over_the_workers_time(seconds: dict[str, float], point: Any) -> None:
    assert point.work == pytest.approx(0.005 * sum(seconds.values()))
    assert point.efficiency == pytest.approx(point.work / (8 * point.wall))
    assert point.wall >= point.bound >= point.critical_path > 0, "a sleep is never shorter than asked for"
    assert point.order >= point.bound
    assert sum(slept for _, slept in running.TALLY.slept) >= point.work


def test_its_overhead_is_measured(point: Any) -> None:
    assert point.engine_cpu > 0
    assert 0 < point.engine_busy < point.wall, "a wait is no work"
    assert point.step_cpu > 0
    assert 0 < point.step_beside < 8 * point.wall - point.work


def test_its_operations_are_counted(point: Any) -> None:
    """A step is published by one rename; its two files, the manifest and the folders are synced."""
    engine, workers = point.operations["engine"], point.operations["workers"]
    assert engine["fsync"] == engine["rename"] == engine["open to write"] == 0, "the engine only looks"
    assert workers["fsync"] >= 5 * point.steps
    assert workers["rename"] >= point.steps
    assert point.operations_a_step == pytest.approx((sum(engine.values()) + sum(workers.values())) / point.steps)


def test_what_must_not_be_is_said(point: Any) -> None:
    bad = {"steps_twice": 2, "left": 3, "leases_lost": 4, "engine_cpu": point.steps * scaling.ENGINE_LIMIT}
    found = scaling.complaints(dataclasses.replace(point, **bad))
    assert [line.split(": ")[1].split()[0] for line in found] == ["2", "3", "4", "5"]


def test_a_part_of_the_cells_is_run_where_workers_are_few(plan: Plan, seconds: dict[str, float]) -> None:
    options = scaling.argparse.Namespace(seconds=6.0, nap=0.1)
    cells, scale = scaling.part(plan, seconds, 1, options)
    assert cells == 20
    part = running.scaled(plan, seconds, scale, cells)
    steps = running.needed(part, Store(Path("no such store")))
    assert sum(step.extra["nap"] for step in steps.values()) == pytest.approx(6.0)
    assert scaling.part(plan, seconds, 64, options)[0] == 200


def test_a_whole_study_is_computed_from_a_points_overheads(plan: Plan, seconds: dict[str, float], point: Any) -> None:
    free = scaling.at_recorded_times(plan, seconds, dataclasses.replace(point, engine_busy=0.0, step_beside=0.0))
    assert free["efficiency"] == free["efficiency_of_the_order"] <= 1
    slow = scaling.at_recorded_times(plan, seconds, dataclasses.replace(point, engine_busy=600.0, step_beside=0.0))
    assert slow["hours"] >= 600 / 3600, "one thread that needs a second a step needs 600 s for 600 steps"
    assert slow["efficiency"] < free["efficiency"]
    blind = dataclasses.replace(point, engine_busy=0.0, step_beside=None, operations=None, workers=1)
    idle = blind.wall - blind.work
    known = scaling.at_recorded_times(plan, seconds, dataclasses.replace(blind, step_beside=max(0.0, idle)))
    assert scaling.at_recorded_times(plan, seconds, blind) == known, "of processes, all that was no work is overhead"
    own = dataclasses.replace(point, engine_busy=0.0, step_beside=0.0, workers=1)
    own = dataclasses.replace(own, operations={"engine": {"stat": 1200}, "workers": {"stat": 3000}})
    far = scaling.at_recorded_times(plan, seconds, own, [100.0])["efficiency_at_latency_ms"]
    work = sum(seconds.values())
    assert far == {"100": pytest.approx(work / (work + 600 * 0.7))}, "2 + 5 operations a step, one after another"


# --- what is counted, what is recorded -------------------------------------------------------------------------------


def test_operations_are_told_apart_by_place_and_thread(tmp_path: Path) -> None:
    real = (os.open, os.stat, builtins.open)
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    with files.counted(here) as operations:
        elsewhere.write_text("x", encoding="utf-8")
        (here / "a").write_text("x", encoding="utf-8")
        (here / "a").read_text(encoding="utf-8")
        (here / "a").rename(here / "b")
        thread = threading.Thread(target=lambda: [(here / "b").stat(), (here / "none").exists(), list(here.iterdir())])
        thread.start()
        thread.join()
    assert (os.open, os.stat, builtins.open) == real
    found = operations.counts()
    assert {k: v for k, v in found["engine"].items() if v} == {"open to read": 1, "open to write": 1, "rename": 1}
    assert {k: v for k, v in found["workers"].items() if v} == {"stat": 2, "list": 1}


def test_times_are_recorded_by_what_a_step_does(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput, match="no finished step"):
        times.record(store.root, tmp_path / "times.json")
    qat = {"method": {"kind": "qat"}}
    for number, (kind, spec, took, status) in enumerate(
        [
            ("train", {}, 100.0, "done"), ("train", {}, 300.0, "done"), ("train", {}, 120.0, "done"),
            ("train", {}, 9000.0, "failed"), ("transform", qat, 50.0, "done"),
            ("predict", {"split": "test"}, 7.0, "done"),
        ]
    ):  # fmt: skip
        step = {"status": status, "seconds": took, "spec": spec, "environment": {"cpu": "x"}, "reason": "nan"}
        store.partial(kind, str(number))
        store.publish(kind, str(number), step)
    found = times.record(store.root, tmp_path / "times.json")
    assert found["seconds"] == {"predict/test": 7.0, "train": 120.0, "transform/qat": 50.0}
    assert found["steps"]["train"] == 3
    assert times.load(tmp_path / "times.json")["seconds"] == found["seconds"]
    assert times.seconds_of(Step("k", "transform", qat, ""), found["seconds"]) == 50.0
    with pytest.raises(BadInput, match="'transform/ptq'"):
        times.seconds_of(Step("k", "transform", {"method": {"kind": "ptq"}}, ""), found["seconds"])


def test_the_recorded_times_cover_the_study(plan: Plan) -> None:
    recorded = times.load()
    assert all(times.seconds_of(step, recorded["seconds"]) > 0 for step in plan.steps.values())
    assert recorded["study"]
    assert recorded["machine"]


def test_worker_processes_do_the_same(tmp_path: Path) -> None:
    plan = Plan("toy")
    for name in "abcd":
        plan.steps[name] = Step(name, "train", {"parents": {}}, name)
        plan.cells.append(Cell({"role": "technique"}, name, name, (1, 1)))
    point = running.run_point(plan, dict.fromkeys("abcd", 0.01), 2, 1.0, 4, tmp_path / "store", processes=True)
    assert (point.steps, point.left, point.leases_lost, point.operations) == (4, 0, 0, None)
