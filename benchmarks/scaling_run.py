"""One point of the curve: the real plan, engine, store, leases and publishing; only a step's work is a sleep."""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling_files import counted
from scaling_schedule import Task, bound, critical_path, efficiency, makespan

from tailkeep.study.carry import HELD, carry_out
from tailkeep.study.engine import Engine, needed
from tailkeep.study.limits import own_failure
from tailkeep.study.plan import Plan, Step
from tailkeep.study.store import Store

FILES = {"predict": "predictions.npz", "export": "model.onnx", "measure": "times.json"}


@dataclass(frozen=True)
class Runtime:
    """What a worker needs beside the step, as ``steps.Runtime``."""

    store: str
    threads: int = 1


@dataclass
class Tally:
    """What the workers of this process did: seconds slept by step, seconds of CPU and of wall-clock time beside that,
    and how often a step turned out to be another's.
    """

    slept: list[tuple[str, float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


TALLY = Tally()


def nap(step: Step, runtime: Runtime) -> str:
    """Do a step as ``steps.run_step`` does; its work is a sleep of ``step.extra["nap"]`` seconds and a tiny file."""
    began, cpu = time.perf_counter(), time.thread_time()
    store = Store(Path(runtime.store))
    slept = 0.0

    def act(folder: Path) -> dict[str, Any]:
        nonlocal slept
        started = time.perf_counter()
        time.sleep(step.extra["nap"])
        slept = time.perf_counter() - started
        (folder / FILES.get(step.kind, "model.safetensors")).write_bytes(step.key.encode("ascii"))
        return {"cost": {"weights": 270896, "macs": 40813184}}

    record = {"spec": step.spec, "label": step.label, "environment": {}, "facts": {}}
    status = carry_out(step, store, record, act, lambda error: own_failure(error, lambda: None))
    TALLY.held.append(step.key) if status == HELD else TALLY.slept.append((step.key, slept))
    TALLY.cpu.append(time.thread_time() - cpu)
    TALLY.beside.append(time.perf_counter() - began - slept)
    return status


class Sleepers:
    """Threads of this process as workers: they sleep, so that a small machine can stand for many."""

    def __init__(self, workers: int) -> None:
        self._threads = cf.ThreadPoolExecutor(workers)

    def submit(self, work: Callable[..., str], step: Step, runtime: Any, limit: float | None) -> cf.Future[str]:
        return self._threads.submit(work, step, runtime)

    def shutdown(self, now: bool = False) -> None:
        self._threads.shutdown(cancel_futures=now)


class TimedEngine(Engine):
    """The engine, with a clock on its waits; what is no wait is its own work."""

    waited = 0.0

    def _finished(self, patience: float) -> list[cf.Future[str]]:
        started = time.perf_counter()
        try:
            return super()._finished(patience)
        finally:
            self.waited += time.perf_counter() - started


@dataclass(frozen=True)
class Point:
    """What one run was and took; seconds.

    ``bound`` is the work over the workers or the critical path, ``order`` what the engine's order of steps takes where
    nothing but work takes time, ``engine_busy`` the engine thread's wall-clock time that was no wait. ``operations`` by
    who and what; None, as what the workers took beside the work, where workers were processes.
    """

    workers: int
    how: str
    cells: int
    steps: int
    scale: float
    work: float
    critical_path: float
    bound: float
    order: float
    wall: float
    efficiency: float
    engine_cpu: float
    engine_busy: float
    step_cpu: float | None
    step_beside: float | None
    operations: dict[str, dict[str, int]] | None
    leases_lost: int
    steps_twice: int
    left: int
    look_again: float

    def per_step(self, seconds: float | None) -> float | None:
        """Return milliseconds a step."""
        return None if seconds is None else 1000 * seconds / max(1, self.steps)

    @property
    def operations_a_step(self) -> float | None:
        """Operations on the store's files for a step, the engine's and the worker's."""
        if self.operations is None:
            return None
        return sum(sum(counts.values()) for counts in self.operations.values()) / max(1, self.steps)

    def plain(self) -> dict[str, Any]:
        """Return the point as plain values."""
        per_step = {
            f"{name}_ms_a_step": self.per_step(getattr(self, name))
            for name in ("engine_cpu", "engine_busy", "step_cpu", "step_beside")
        }
        return {**dataclasses.asdict(self), **per_step, "operations_a_step": self.operations_a_step}


def scaled(plan: Plan, seconds: dict[str, float], scale: float, cells: int) -> Plan:
    """Return the plan of the first cells, each of whose steps knows how long to sleep."""
    steps = {
        key: dataclasses.replace(step, extra={**step.extra, "nap": seconds[key] * scale})
        for key, step in plan.steps.items()
    }
    return Plan(plan.name, steps, plan.cells[:cells])


def tasks_of(steps: dict[str, Step], order: Plan, seconds: dict[str, float]) -> list[Task]:
    """Return steps as the scheduler sees them, in the plan's order."""
    return [
        Task(key, tuple(dict.fromkeys(p for p in step.parents if p in steps)), seconds[key])
        for key, step in order.steps.items()
        if key in steps
    ]


def run_point(
    plan: Plan, seconds: dict[str, float], workers: int, scale: float, cells: int, root: Path, processes: bool = False
) -> Point:
    """Run a plan's first ``cells`` cells with ``workers`` on a new store at ``root``, which is removed afterwards.

    ``processes``: with the engine's own pool of worker processes instead of threads that sleep.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    part = scaled(plan, seconds, scale, cells)
    steps = needed(part, Store(root))
    tasks = tasks_of(steps, part, {key: step.extra["nap"] for key, step in steps.items()})
    for told in dataclasses.fields(Tally):
        getattr(TALLY, told.name).clear()
    executor = None if processes else lambda: Sleepers(workers)
    engine = TimedEngine(part, Store(root), nap, Runtime(str(root)), workers, executor=executor)
    try:
        with counted(root) as operations:
            began, cpu = time.perf_counter(), time.thread_time()
            outcome = engine.run()
            wall, cpu = time.perf_counter() - began, time.thread_time() - cpu
        began = time.thread_time()
        left = needed(part, Store(root))
        look = time.thread_time() - began
    finally:
        shutil.rmtree(root, ignore_errors=True)
    work = sum(task.seconds for task in tasks)
    done = [key for key, _ in TALLY.slept]
    return Point(
        workers=workers,
        how="processes" if processes else "threads",
        cells=len(part.cells),
        steps=len(steps),
        scale=scale,
        work=work,
        critical_path=critical_path(tasks),
        bound=bound(tasks, workers),
        order=makespan(tasks, workers),
        wall=wall,
        efficiency=efficiency(work, workers, wall),
        engine_cpu=cpu,
        engine_busy=wall - engine.waited,
        step_cpu=None if processes else sum(TALLY.cpu),
        step_beside=None if processes else sum(TALLY.beside),
        operations=None if processes else operations.counts(),
        leases_lost=len(TALLY.held) + len(outcome.elsewhere),
        steps_twice=len(done) - len(set(done)),
        left=len(left) + len(outcome.failed),
        look_again=look,
    )
