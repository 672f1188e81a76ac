"""The engine over many steps and many workers: what each step costs it, counted, and who waits for what."""

from __future__ import annotations

import concurrent.futures as cf
import importlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tailkeep.study.carry import turn
from tailkeep.study.engine import Engine, Event, Outcome, needed
from tailkeep.study.lease import lease_name
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.store import Store

sys.path.append(str(Path(__file__).parent))
toy = importlib.import_module("toy_work")
diary_of, wait_until = toy.diary_of, toy.wait_until


def plan_of(**parents: list[str]) -> Plan:
    """A plan of steps by name with their parents; each of them is a goal."""
    plan = Plan("toy")
    for name, above in parents.items():
        spec = {"what": "do", "parents": {f"p{i}": parent for i, parent in enumerate(above)}}
        plan.steps[name] = Step(name, "train", spec, name)
        plan.cells.append(Cell({"role": "technique"}, name, name, (1, 1)))
    return plan


def many(count: int) -> Plan:
    """A plan of steps without parents."""
    return plan_of(**{f"s{i}": [] for i in range(count)})


@pytest.fixture
def engine(runtime: Any) -> Callable[..., Engine]:
    """An engine over toy work."""

    def make(plan: Plan, workers: int = 1, work: Any = toy.act, **settings: Any) -> Engine:
        return Engine(plan, Store(Path(runtime.store)), work, runtime, workers, **settings)

    return make


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, workers: int) -> None:
        self.pool = cf.ThreadPoolExecutor(workers)

    def submit(self, work: Any, step: Step, runtime: Any, limit: float | None) -> cf.Future[str]:
        return self.pool.submit(work, step, runtime)

    def shutdown(self, now: bool = False) -> None:
        self.pool.shutdown(wait=not now)


class ByHand:
    """Workers whose steps end when ``end`` is called: the oldest one each time."""

    def __init__(self) -> None:
        self.open: list[cf.Future[str]] = []
        self.most = 0

    def submit(self, work: Any, step: Step, runtime: Any, limit: float | None) -> cf.Future[str]:
        self.open.append(cf.Future())
        self.most = max(self.most, len(self.open))
        return self.open[-1]

    def end(self) -> None:
        if self.open:
            self.open.pop(0).set_result("done")

    def shutdown(self, now: bool = False) -> None:
        pass


def test_a_stored_status_is_looked_up_once_a_step(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(a=[], b=["a"], **{f"leaf{i}": ["a", "b"] for i in range(20)})
    store, asked = Store(Path(runtime.store)), Counter[str]()
    status = store.status
    monkeypatch.setattr(store, "status", lambda kind, key: (asked.update([key]), status(kind, key))[1])
    assert set(needed(plan, store)) == set(plan.steps)
    assert asked == dict.fromkeys(plan.steps, 1)
    store.partial("train", "a")
    store.publish("train", "a", {"status": "done"})
    asked.clear()
    assert set(needed(plan, store)) == set(plan.steps) - {"a"}
    assert asked == dict.fromkeys(plan.steps, 1), "nor are those that are done asked for by each child"


def test_a_steps_cost_does_not_grow_with_the_workers(engine: Any) -> None:
    """Counted in lines of Python that the engine's thread runs: no timing."""
    plan = many(300)

    def lines(workers: int) -> int:
        seen, hand = Counter[str](), ByHand()

        def trace(frame: Any, event: str, argument: Any) -> Any:
            seen[frame.f_code.co_filename.rpartition(os.sep)[2]] += event == "line"
            return trace

        made = engine(plan, workers, on_wait=hand.end, executor=lambda: hand)
        sys.settrace(trace)
        try:
            assert len(made.run().done) == 300
        finally:
            sys.settrace(None)
        assert hand.most == workers
        return seen["engine.py"] + seen["_base.py"]  # concurrent.futures'

    assert lines(100) < 1.1 * lines(4)


def test_what_another_process_did_frees_its_children_at_once(
    engine: Any, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``leaf`` starts while ``long`` runs, which waits for it: no worker waits for a tick."""
    monkeypatch.setattr("tailkeep.study.engine.TICK", 1000.0)
    plan = plan_of(long=[], a=[], leaf=["a"], end=["long"])
    store = Store(Path(runtime.store))

    def work(step: Step, runtime: Any) -> str:
        if step.key == "long":
            wait_until(lambda: "leaf" in diary_of(runtime))
            assert "leaf" in diary_of(runtime)
        return str(toy.act(step, runtime))

    def event(event: Event) -> None:
        if event.what == "start" and event.step.key == "long":
            store.partial("train", "a")
            store.publish("train", "a", {"status": "done"})

    made = engine(plan, 2, work, on_event=event, executor=lambda: Threads(2))
    assert made.run() == Outcome(done=["leaf", "long", "end"], elsewhere=["a"])


class Held:
    """Counts an engine's looks at holders; the engine's clock stands still until this says otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks, self.now = Counter[str](), 0.0
        module = importlib.import_module("tailkeep.study.engine")
        real = module.holder_of
        monkeypatch.setattr(
            module, "holder_of", lambda step, store: (self.looks.update([step.key]), real(step, store))[1]
        )
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(module, "TICK", 0.01)


def test_steps_that_others_hold_are_not_looked_at_for_every_step_that_ends(
    engine: Any, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = many(40)
    store, held = Store(Path(runtime.store)), Held(monkeypatch)
    leases = [store.leases.take(lease_name("train", f"s{i}")) for i in range(10)]

    def other_process() -> None:
        if len(diary_of(runtime)) == 30 and held.now == 0:
            assert set(made.waiting) == {f"s{i}" for i in range(10)}
            assert held.looks == dict.fromkeys(plan.steps, 1)
            for lease in leases:
                assert lease is not None
                lease.release()
            held.now = 1.0

    made = engine(plan, on_wait=other_process)
    assert set(made.run().done) == set(plan.steps)
    assert held.looks == {**dict.fromkeys(plan.steps, 1), **{f"s{i}": 2 for i in range(10)}}
    assert made.waiting == {}


def test_a_measurement_elsewhere_is_not_asked_about_for_every_step(
    engine: Any, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = many(40)
    store, held = Store(Path(runtime.store)), Held(monkeypatch)
    with turn(Step("m", "measure", {"parents": {}}, "times"), store) as lease:
        assert lease is not None
        lease.release()  # what is left is the lease of the machine's quiet
        waits: list[int] = []

        def other_process() -> None:
            waits.append(held.looks.total())
            if len(waits) == 1:
                quiet = next(path for path in (store.root / "leases").glob("measuring.*"))
                quiet.unlink()
                held.now = 1.0

        made = engine(plan, on_wait=other_process)
        assert set(made.run().done) == set(plan.steps)
    assert waits[0] == 2, "two steps that one lease keeps are enough to know that it keeps all"


def test_a_measurement_runs_beside_nothing_and_nothing_beside_it(engine: Any, runtime: Any) -> None:
    plan = many(12)
    for name in ("s4", "s7"):
        plan.steps[name] = Step(name, "measure", {"what": "do", "parents": {}}, name)
    now, lock = set[str](), threading.Lock()
    beside: dict[str, set[str]] = {}

    def work(step: Step, runtime: Any) -> str:
        with lock:
            now.add(step.key)
            for one in now:
                beside[one] = beside.get(one, set()) | now
        time.sleep(0.02)
        status = str(toy.act(step, runtime))
        with lock:
            now.discard(step.key)
        return status

    made = engine(plan, 4, work, executor=lambda: Threads(4))
    assert len(made.run().done) == 12
    assert beside["s4"] == {"s4"}
    assert beside["s7"] == {"s7"}
    assert max(len(names) for names in beside.values()) > 1, "the others do run beside each other"
