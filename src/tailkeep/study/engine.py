"""One loop over the plan's graph: from the goals back to what is missing, then forward through an executor.

The executor is injected: a thread in this process, a pool of processes, or anything else that runs steps. Every step
runs with the same number of threads either way, so the number of workers never changes a result. Several processes may
run one plan on one store: a step that another one holds is waited for, while the others are done here.
"""

from __future__ import annotations

import concurrent.futures as cf
import graphlib
import heapq
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tailkeep.study.carry import HELD, holder_of, store_failure
from tailkeep.study.lease import Holder
from tailkeep.study.limits import RETRIES, TryAgain, storage_errors
from tailkeep.study.plan import Plan, Step
from tailkeep.study.pool import Executor, InProcesses, InThread
from tailkeep.study.store import Store

TICK = 0.25
"""Seconds between looks at steps that other processes hold, and the longest that a display waits for a word."""


@dataclass(frozen=True)
class Event:
    """What the engine tells a display: "start", "done", "failed", "skipped" (a parent failed) or "retry"."""

    what: str
    step: Step
    detail: str = ""


@dataclass
class Outcome:
    """What a run did: keys done now, keys failed with their reasons (a failed parent's among them), and keys that
    another process did meanwhile.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)


def needed(plan: Plan, store: Store, retry_failed: bool = False) -> dict[str, Step]:
    """Return the steps to do: the goals that are not stored, what those need, and what was found damaged.

    A stored leaf needs no parent that is gone, nor does a stored failure that is not to be tried again. A parent
    that is there and does not check is done again all the same: a result names the hash of its model.
    """
    todo = [key for kind, key in store.damaged() if key in plan.steps and plan.steps[key].kind == kind]
    todo += [key for _, key in store.broken((step.kind, key) for key, step in plan.steps.items())]
    todo += plan.goals
    found: dict[str, Step] = {}
    done: set[str] = set()
    while todo:
        key = todo.pop()
        if key in found or key in done:
            continue
        step = plan.steps[key]
        status = store.status(step.kind, key)
        if status == "done":
            done.add(key)
            continue
        found[key] = step
        if status == "missing" or retry_failed:
            todo += step.parents
    return found


class Engine:
    """Runs what is missing of a plan with ``work(step, runtime)``.

    ``step_limit`` is in seconds of wall-clock time for a step, measurements apart; None for none. ``executor`` makes
    what runs the steps, where it is not to be a thread or a pool of ``workers`` processes.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        work: Callable[[Step, Any], str],
        runtime: Any,
        workers: int = 1,
        on_event: Callable[[Event], None] = lambda event: None,
        on_wait: Callable[[], None] = lambda: None,
        retry_failed: bool = False,
        step_limit: float | None = None,
        executor: Callable[[], Executor] | None = None,
    ) -> None:
        self.plan, self.store, self.work, self.runtime, self.workers = plan, store, work, runtime, workers
        self.on_event, self.on_wait, self.retry_failed = on_event, on_wait, retry_failed
        self.step_limit, self.make_executor = step_limit, executor
        self.outcome = Outcome()
        self.attempts: dict[str, int] = {}
        self.waiting: dict[str, Holder | None] = {}
        """Steps that wait for another process, and for which."""
        self._ready: list[tuple[bool, int, str]] = []
        self._passed: list[tuple[bool, int, str]] = []
        self._look_again = 0.0
        self._running: dict[cf.Future[str], Step] = {}
        self._ended: queue.SimpleQueue[cf.Future[str]] = queue.SimpleQueue()
        self._order = {key: position for position, key in enumerate(plan.steps)}
        self._tried: set[str] = set()
        self._last: dict[str, TryAgain] = {}
        self._retries_alone = True

    def run(self) -> Outcome:
        """Do all the missing steps; a failed step stops its descendants alone. Raises ``StorageFailed``."""
        with storage_errors(self.store.root):
            steps = needed(self.plan, self.store, self.retry_failed)
            sorter = graphlib.TopologicalSorter({k: [p for p in s.parents if p in steps] for k, s in steps.items()})
            sorter.prepare()
            executor = self._executor()
            self._retries_alone = getattr(executor, "retries_alone", True)
            try:
                self._loop(sorter, executor)
            except BaseException:
                executor.shutdown(now=True)
                raise
            executor.shutdown()
        return self.outcome

    def _loop(self, sorter: graphlib.TopologicalSorter[str], executor: Executor) -> None:
        while sorter.is_active():
            for key in sorter.get_ready():
                self._queue(key)
            settled = self._start(executor)
            sorter.done(*settled)
            finished = self._finished(0 if settled else TICK)  # what was settled may have made others ready
            self.on_wait()
            for future in finished:
                step = self._running.pop(future)
                if self._collect(step, future):
                    sorter.done(step.key)
                else:
                    self._queue(step.key)

    def _finished(self, patience: float) -> list[cf.Future[str]]:
        """The futures that ended since the last look; waits up to ``patience`` seconds for one.

        They say so themselves: to look at all that run would cost each step in proportion to the workers.
        """
        found = []
        with suppress(queue.Empty):
            found.append(self._ended.get(timeout=patience))
            while True:
                found.append(self._ended.get_nowait())
        return found

    def _queue(self, key: str) -> None:
        heapq.heappush(self._ready, (key not in self.attempts, self._order[key], key))

    def _start(self, executor: Executor) -> list[str]:
        """Start what is ready, as far as workers are free; return the keys of steps that need no work (any more).

        A step that another process holds is passed over, and looked at again after ``TICK``: not at every step's end.
        """
        settled = []
        keeping: set[str] = set()
        if self._passed and time.monotonic() >= self._look_again:
            for entry in self._passed:
                heapq.heappush(self._ready, entry)
            self._passed.clear()
        while self._ready and self._may_start(step := self.plan.steps[self._ready[0][2]]):
            entry = heapq.heappop(self._ready)
            if self._settled(step) or self._give_up(step):
                settled.append(step.key)
                continue
            holder = holder_of(step, self.store)
            if holder is not None:
                self.waiting[step.key] = holder
                self._pass_over(entry)
                if holder.token in keeping:  # one lease that keeps two steps is a measurement's, and keeps all of them
                    break
                keeping.add(holder.token)
                continue
            self.waiting.pop(step.key, None)
            self._tried.add(step.key)
            limit = None if step.kind == "measure" else self.step_limit
            future = executor.submit(self.work, step, self.runtime, limit)
            self._running[future] = step
            future.add_done_callback(self._ended.put)
            self.on_event(Event("start", step))
        return settled

    def _pass_over(self, entry: tuple[bool, int, str]) -> None:
        if not self._passed:
            self._look_again = time.monotonic() + TICK
        self._passed.append(entry)

    def _executor(self) -> Executor:
        if self.make_executor is not None:
            return self.make_executor()
        if self.workers == 1 and self.step_limit is None:
            return InThread()
        return InProcesses(self.workers, self.runtime)

    def _may_start(self, step: Step) -> bool:
        """Whether a worker is free for a step. What lost a worker or its memory runs alone the next time, with all of
        the machine's memory, where the executor is one machine. What measures time runs alone in any case.
        """
        if not self._running:
            return True
        other = next(iter(self._running.values()))  # where one runs alone, it is this one
        return len(self._running) < self.workers and not (self._alone(step) or self._alone(other))

    def _alone(self, step: Step) -> bool:
        return step.kind == "measure" or (self._retries_alone and step.key in self.attempts)

    def _settled(self, step: Step) -> bool:
        """Whether a step needs no work: stored as failed before, a parent failed, or done by another process."""
        broken = [parent for parent in step.parents if parent in self.outcome.failed]
        if broken and step.kind != "measure":  # which goes on without the files that could not be made
            root = self.outcome.failed[broken[0]].removeprefix("parent failed: ")
            self.outcome.failed[step.key] = f"parent failed: {root}"
            self.on_event(Event("skipped", step, self.outcome.failed[step.key]))
            return True
        status = self.store.status(step.kind, step.key)
        if status == "failed":
            if self.retry_failed and step.key not in self._tried:
                self.store.forget(step.kind, step.key)
                return False
            return self._fail(step, reason_of(self.store.step(step.kind, step.key)))
        if status == "done":
            self.waiting.pop(step.key, None)
            self.outcome.elsewhere.append(step.key)
            self.on_event(Event("done", step))
            return True
        return False

    def _fail(self, step: Step, reason: str) -> bool:
        self.waiting.pop(step.key, None)
        self.outcome.failed[step.key] = reason
        self.on_event(Event("failed", step, reason))
        return True

    def _collect(self, step: Step, future: cf.Future[str]) -> bool:
        """Take in a finished future; return False where the step is to be tried again, or waited for."""
        self.store.refresh(step.kind, step.key)  # what was last seen of it was seen before
        try:
            status = future.result()
        except TryAgain as lost:
            return self._lost(step, lost)
        if status == HELD:
            self.on_event(Event("retry", step, "another process is at it"))
            return False
        if status == "failed":
            return self._fail(step, reason_of(self.store.step(step.kind, step.key)))
        self.outcome.done.append(step.key)
        self.on_event(Event("done", step))
        return True

    def _lost(self, step: Step, lost: TryAgain) -> bool:
        """Count a lost try; after the last one store the step as failed."""
        self.attempts[step.key] = self.attempts.get(step.key, 0) + 1
        if self.attempts[step.key] <= RETRIES:
            self.on_event(Event("retry", step, str(lost)))
            return False
        self._last[step.key] = lost
        return self._give_up(step)

    def _give_up(self, step: Step) -> bool:
        """Store a step as failed whose tries are used up; False where it has more, or where its holder, on another
        machine, is not yet seen to be dead: then it waits for that.
        """
        if step.key not in self._last:
            return False
        lost = self._last[step.key]
        detail = f"{self.attempts[step.key]} times in turn; the last time: {lost.detail}"
        with suppress(FileNotFoundError):
            if store_failure(step, self.store, lost.reason, detail):
                return self._settled(step) or self._fail(step, f"{lost.reason}: {detail}")
        return False


def reason_of(record: dict[str, Any]) -> str:
    """Return a failed step's reason and detail as one text."""
    detail = record.get("detail")
    return f"{record['reason']}: {detail}" if detail else str(record["reason"])
