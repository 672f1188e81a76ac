"""The engine: what fails, dies or is interrupted costs only itself; and what a plan is said to cost."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tailkeep.study.engine import RETRIES, Engine, Event, Outcome, needed
from tailkeep.study.estimate import duration, estimate, step_seconds
from tailkeep.study.lease import lease_name
from tailkeep.study.limits import StorageFailed
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.results import result_hash
from tailkeep.study.runner import Study
from tailkeep.study.store import Store

sys.path.append(str(Path(__file__).parent))  # from where a spawned worker imports it too
toy = importlib.import_module("toy_work")
diary_of, wait_until = toy.diary_of, toy.wait_until


def plan_of(**steps: tuple[str, list[str]]) -> Plan:
    """A plan of steps by name, each (what it does, its parents); those that nobody reads are goals."""
    plan = Plan("toy")
    for name, (what, parents) in steps.items():
        leaf = all(name not in above for _, above in steps.values())
        spec = {"what": what, "parents": {f"p{i}": parent for i, parent in enumerate(parents)}}
        plan.steps[name] = Step(name, "predict" if leaf else "train", spec, name)
        if leaf:
            plan.cells.append(Cell({"role": "technique"}, name, name, (1, 1)))
    return plan


@pytest.fixture
def engine(runtime: Any) -> Callable[..., Engine]:
    """An engine over toy work."""

    def make(plan: Plan, workers: int = 1, **settings: Any) -> Engine:
        return Engine(plan, Store(Path(runtime.store)), toy.act, runtime, workers, **settings)

    return make


def statuses(plan: Plan, runtime: Any) -> dict[str, str]:
    return {key: Store(Path(runtime.store)).status(step.kind, key) for key, step in plan.steps.items()}


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failing_step_fails_its_descendants_alone(engine: Any, runtime: Any) -> None:
    events: list[Event] = []
    plan = plan_of(
        a=("do", []), bad=("fail", ["a"]), c=("do", ["bad"]), leaf1=("do", ["c"]), leaf2=("do", ["a"]),
        other=("do", []), leaf3=("do", ["other"]), both=("do", ["other", "bad"]),
    )  # fmt: skip
    outcome = engine(plan, on_event=events.append).run()
    assert sorted(outcome.done) == ["a", "leaf2", "leaf3", "other"]
    assert set(outcome.failed) == {"bad", "c", "leaf1", "both"}
    assert outcome.failed.pop("bad") == "nan: of rate"
    for reason in outcome.failed.values():
        assert reason == "parent failed: nan: of rate", "the cause is handed down, and said once"
    assert sorted(diary_of(runtime)) == ["a", "bad", "leaf2", "leaf3", "other"], "descendants are not tried"
    assert Counter(event.what for event in events) == {"start": 5, "done": 4, "failed": 1, "skipped": 3}
    assert statuses(plan, runtime)["c"] == "missing", "a step that was not tried is not stored as failed"


def test_parents_come_before_children_and_in_the_plans_order(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), b=("do", []), c=("do", ["b"]), d=("do", ["a", "c"]), e=("do", ["a"]))
    assert engine(plan).run().done == diary_of(runtime)
    place = diary_of(runtime).index
    assert place("a") < place("b") < place("c") < place("d")
    assert place("a") < place("e")


def test_finished_steps_are_never_redone(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), bad=("fail", []), leaf=("do", ["a"]), lost=("do", ["bad"]))
    engine(plan).run()
    first = diary_of(runtime)
    stored = {path: path.stat().st_mtime_ns for path in Path(runtime.store).rglob("manifest.json")}
    outcome = engine(plan).run()
    assert outcome.done == []
    assert outcome.failed == {"bad": "nan: of rate", "lost": "parent failed: nan: of rate"}
    assert diary_of(runtime) == first, "nor is a failure tried again unless it is asked for"
    assert {path: path.stat().st_mtime_ns for path in Path(runtime.store).rglob("manifest.json")} == stored


def test_retry_failed_tries_failures_again_and_nothing_else(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), bad=("fail", []), leaf=("do", ["a"]), lost=("do", ["bad"]))
    engine(plan).run()
    again = engine(plan, retry_failed=True).run()
    assert again.failed["bad"] == "nan: of rate"
    assert diary_of(runtime).count("bad") == 2, "once a run"
    Path(runtime.mended).touch()
    assert engine(plan, retry_failed=True).run() == Outcome(done=["bad", "lost"])
    assert diary_of(runtime).count("a") == diary_of(runtime).count("leaf") == 1
    assert set(statuses(plan, runtime).values()) == {"done"}


def test_a_stored_leaf_needs_no_missing_parent(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), b=("do", ["a"]), leaf1=("do", ["b"]), leaf2=("do", ["b"]), leaf3=("do", ["a"]))
    store = Store(Path(runtime.store))
    assert set(needed(plan, store)) == set(plan.steps)
    for key in ("leaf1", "leaf2", "b"):
        store.partial(plan.steps[key].kind, key)
        store.publish(plan.steps[key].kind, key, {"status": "done"})
    assert set(needed(plan, store)) == {"leaf3", "a"}
    engine(plan).run()
    assert diary_of(runtime) == ["a", "leaf3"]
    assert needed(plan, store) == {}


def test_a_damaged_parent_of_a_stored_leaf_is_done_again(engine: Any, runtime: Any) -> None:
    """A leaf can stand without its parent, but a result names the parent's hash: it must not come out otherwise."""
    plan = plan_of(a=("do", []), b=("do", ["a"]), leaf=("do", ["b"]))
    engine(plan).run()
    store = Store(Path(runtime.store))
    manifest = store.folder(plan.steps["b"].kind, "b") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    assert set(needed(plan, Store(Path(runtime.store)))) == {"b"}
    engine(plan).run()
    assert diary_of(runtime) == ["a", "b", "leaf", "b"]
    assert store.is_whole(plan.steps["b"].kind, "b")
    assert needed(plan, Store(Path(runtime.store))) == {}


def test_a_stored_failure_needs_its_missing_parents_only_to_be_tried_again(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), b=("do", ["a"]), leaf=("do", ["b"]))
    store = Store(Path(runtime.store))
    store.partial(plan.steps["b"].kind, "b")
    store.publish(plan.steps["b"].kind, "b", {"status": "failed", "reason": "nan"})
    assert set(needed(plan, store)) == {"leaf", "b"}
    assert engine(plan).run() == Outcome(failed={"b": "nan", "leaf": "parent failed: nan"})
    assert diary_of(runtime) == []
    assert set(needed(plan, store, retry_failed=True)) == {"leaf", "b", "a"}


def test_an_unexpected_error_stops_the_run(engine: Any, runtime: Any) -> None:
    with pytest.raises(RuntimeError, match="a fault of tailkeep"):
        engine(plan_of(a=("crash", []), leaf=("do", ["a"]))).run()
    assert diary_of(runtime) == ["a"]


# --- worker processes ------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_retried_and_then_reported_and_the_rest_go_on(engine: Any, runtime: Any) -> None:
    """``slow`` runs beside the killer, in a process of its own."""
    events: list[Event] = []
    plan = plan_of(
        killer=("die", []), slow=("linger", []), after=("do", ["killer"]), leaf=("do", ["slow"]), fine=("do", [])
    )  # fmt: skip
    outcome = engine(plan, workers=2, on_event=events.append).run()
    assert set(outcome.failed) == {"killer", "after"}
    assert outcome.failed["killer"].startswith("worker_killed: 3 times in turn")
    assert sorted(outcome.done) == ["fine", "leaf", "slow"]
    assert diary_of(runtime).count("killer") == 1 + RETRIES
    assert diary_of(runtime).count("fine") == diary_of(runtime).count("slow") == 1
    record = Store(Path(runtime.store)).step("train", "killer")
    assert (record["status"], record["reason"]) == ("failed", "worker_killed")
    retried = Counter(event.step.key for event in events if event.what == "retry")
    assert retried == {"killer": RETRIES}, "its neighbour is left alone"
    assert not list(Path(runtime.store).glob("*/*.partial"))


def test_what_runs_out_of_memory_is_tried_again_alone_and_then_reported(engine: Any, runtime: Any) -> None:
    events: list[Event] = []
    plan = plan_of(greedy=("memory", []), leaf=("do", ["greedy"]), other=("do", []))
    outcome = engine(plan, on_event=events.append).run()
    assert outcome.done == ["other"]
    assert outcome.failed["greedy"] == "out_of_memory: 3 times in turn; the last time: no room for 8 GB"
    assert diary_of(runtime).count("greedy") == 1 + RETRIES
    assert Store(Path(runtime.store)).step("train", "greedy")["reason"] == "out_of_memory"
    assert [event.detail for event in events if event.what == "retry"] == ["out_of_memory: no room for 8 GB"] * RETRIES


def test_bad_luck_that_passes_costs_nothing_but_time(engine: Any, runtime: Any) -> None:
    plan = plan_of(greedy=("memory", []), leaf=("do", ["greedy"]))
    plan.steps["greedy"].spec["times"] = 2
    assert engine(plan).run() == Outcome(done=["greedy", "leaf"])


def test_a_step_that_hangs_is_ended_at_its_limit_and_its_neighbour_is_not(engine: Any, runtime: Any) -> None:
    plan = plan_of(stuck=("hang", []), leaf=("do", ["stuck"]), slow=("hang", []), fine=("do", ["slow"]))
    plan.steps["slow"].spec["times"] = 1
    outcome = engine(plan, workers=2, step_limit=1.2).run()
    assert outcome.failed["stuck"] == ("hang: 3 times in turn; the last time: no end after 0.02 minutes (--step-limit)")
    assert sorted(outcome.done) == ["fine", "slow"]
    assert (diary_of(runtime).count("stuck"), diary_of(runtime).count("slow")) == (1 + RETRIES, 2)


def test_one_worker_with_a_limit_is_a_process(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), leaf=("do", ["a"]))
    assert engine(plan, step_limit=60.0).run().done == ["a", "leaf"]
    pids = {line.split()[1] for line in Path(runtime.diary).read_text(encoding="utf-8").splitlines()}
    assert str(os.getpid()) not in pids
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_24_a_full_disk_stops_the_run_with_words(engine: Any, runtime: Any, workers: int) -> None:
    plan = plan_of(a=("full", []), leaf=("do", ["a"]), other=("do", []))
    with pytest.raises(StorageFailed, match="no space is left") as caught:
        engine(plan, workers=workers).run()
    assert (caught.value.reason, caught.value.exit_code) == ("disk_full", 3)
    assert statuses(plan, runtime)["a"] == "missing", "what could not be stored has not failed"


# --- several processes ------------------------------------------------------------------------------------------------


def test_23_a_step_that_another_process_holds_is_waited_for_and_the_others_are_done(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), leaf1=("do", ["a"]), b=("do", []), leaf2=("do", ["b"]))
    store = Store(Path(runtime.store))
    lease = store.leases.take(lease_name("train", "a"), "a")
    assert lease is not None

    def other_process() -> None:
        if lease.mine() and len(diary_of(runtime)) == 2:
            assert made.waiting["a"] == lease.holder
            assert diary_of(runtime) == ["b", "leaf2"], "what is free is done meanwhile"
            store.partial("train", "a")
            store.publish("train", "a", {"status": "done"})
            lease.release()

    made = engine(plan, on_wait=other_process)
    assert made.run() == Outcome(done=["b", "leaf2", "leaf1"], elsewhere=["a"])
    assert diary_of(runtime) == ["b", "leaf2", "leaf1"], "and what the other did is not done again"


def test_a_failure_of_another_process_is_taken_over(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), leaf=("do", ["a"]))
    store = Store(Path(runtime.store))
    lease = store.leases.take(lease_name("train", "a"))
    assert lease is not None

    def other_process() -> None:
        if lease.mine():
            store.partial("train", "a")
            store.publish("train", "a", {"status": "failed", "reason": "nan"})
            lease.release()

    assert engine(plan, on_wait=other_process).run().failed == {"a": "nan", "leaf": "parent failed: nan"}


def test_damaged_steps_that_were_moved_aside_are_done_again(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("do", []), leaf=("do", ["a"]))
    engine(plan).run()
    store = Store(Path(runtime.store))
    (store.folder("train", "a") / "step.json").write_text("{}", encoding="utf-8")
    store.move_aside("train", "a")
    assert set(needed(plan, store)) == {"a"}
    assert engine(plan).run().done == ["a"]
    assert needed(plan, store) == {}


# --- worker processes, continued --------------------------------------------------------------------------------------


def test_a_pool_that_broke_while_idle_is_replaced(engine: Any, runtime: Any) -> None:
    """A worker may die between two steps (the machine is short of memory), and nobody waits for it then."""
    plan = plan_of(a=("do", []), b=("do", ["a"]), leaf=("do", ["b"]))

    def kill_the_idle(event: Event) -> None:
        if (event.what, event.step.key) == ("done", "a"):
            for child in multiprocessing.active_children():
                child.kill()
            wait_until(lambda: not multiprocessing.active_children())
            time.sleep(0.3)  # the pool learns of it in a thread of its own

    outcome = engine(plan, workers=2, on_event=kill_the_idle).run()
    assert (outcome.done, outcome.failed) == (["a", "b", "leaf"], {})


def test_an_interrupt_leaves_no_child_process(engine: Any, runtime: Any) -> None:
    plan = plan_of(a=("sleep", []), b=("sleep", []), leaf=("do", ["a", "b"]))
    before = set(multiprocessing.active_children())
    pids: set[int] = set()
    deadline = time.monotonic() + 60

    def interrupt() -> None:
        lines = Path(runtime.diary).read_text(encoding="utf-8").splitlines() if diary_of(runtime) else []
        if len(lines) == 2:
            pids.update(int(line.split()[1]) for line in lines)
            raise KeyboardInterrupt
        assert time.monotonic() < deadline, "the workers did not start"

    with pytest.raises(KeyboardInterrupt):
        engine(plan, workers=2, on_wait=interrupt).run()
    wait_until(lambda: not set(multiprocessing.active_children()) - before)
    assert len(pids - {os.getpid()}) == 2, "two workers were at it"
    assert not set(multiprocessing.active_children()) - before
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert set(statuses(plan, runtime).values()) == {"missing"}


def tiny(small: dict[str, Any]) -> dict[str, Any]:
    """One training, one pruning, and what predicts with them."""
    small["recipe"]["epochs"], small["balanced"], small["controls"] = 1, "none", {"continued": False}
    small["methods"] = small["methods"][:1]
    return small


def test_a_pool_of_processes_gives_the_result_of_one(
    small: dict[str, Any], opened: Callable[..., Study], tmp_path: Path
) -> None:
    one, two = (opened(tiny(small), store=tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert len(one.plan.steps) == 4
    outcomes = [study.run() for study in (one, two)]
    assert all(not outcome.failed and len(outcome.done) == 4 for outcome in outcomes)
    assert result_hash(one.plan, one.store) == result_hash(two.plan, two.store)
    assert one.run() == Outcome(), "nothing is left to do"


# --- the estimate ----------------------------------------------------------------------------------------------------


def test_an_estimate_follows_work_and_is_corrected_by_what_was_measured(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    plan, store = opened(tiny(small)).plan, opened(small).store
    dense = next(step for step in plan.steps.values() if step.kind == "train")
    seconds = step_seconds(dense, plan)
    longer = {**dense.spec, "recipe": {**dense.spec["recipe"], "epochs": 100}}
    assert step_seconds(Step("k", "train", longer, "", dense.extra), plan) > 5 * seconds
    larger = Step("k", "train", dense.spec, "", {"macs": 1e9})
    assert step_seconds(larger, plan) > 5 * seconds
    by_steps = {**dense.spec, "recipe": {**dense.spec["recipe"], "epochs": None, "steps": 0}}
    assert 0 < step_seconds(Step("k", "train", by_steps, "", dense.extra), plan) < seconds

    guess = estimate(plan, store, plan.steps)
    assert not guess.measured
    assert guess.seconds == pytest.approx(sum(step_seconds(step, plan) for step in plan.steps.values()))
    todo = {key: step for key, step in plan.steps.items() if step is not dense}
    store.partial("train", dense.key)
    store.publish("train", dense.key, {"status": "done", "seconds": 7 * seconds})
    corrected = estimate(plan, store, todo)
    assert corrected.measured
    assert corrected.seconds == pytest.approx(7 * sum(step_seconds(step, plan) for step in todo.values()))
    assert corrected.bytes < guess.bytes


def test_the_summary_counts_what_is_left(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    study = opened(tiny(small))
    before = study.summary()
    assert (before["trainings"], before["trainings_to_do"], before["steps_to_do"]) == (2, 2, 4)
    assert (before["trainings_stored"], before["estimate_from_measurements"]) == (0, False)
    study.run()
    after = study.summary()
    assert (after["trainings"], after["trainings_to_do"], after["steps_to_do"]) == (2, 0, 0)
    assert (after["trainings_stored"], after["estimate_seconds"]) == (2, 0)
    assert after["estimate_from_measurements"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 second"),
        (12.3, "about 13 seconds"),
        (89.5, "about 90 seconds"),
        (91, "about 2 minutes"),
        (3600 * 3, "about 3.0 hours"),
    ],
)
def test_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
