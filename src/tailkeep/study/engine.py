"""One loop over the plan's graph: from the goals back to what is missing, then forward through an executor.

The executor is injected: a thread in this process, or a pool of processes. Every step runs with the same number of
threads either way, so the number of workers never changes a result.
"""

from __future__ import annotations

import concurrent.futures as cf
import graphlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tailkeep.study.plan import Plan, Step
from tailkeep.study.store import Store

RETRIES = 2  # after a worker's death; a step that kills its worker three times is reported, not tried for ever


@dataclass(frozen=True)
class Event:
    """What the engine tells a display: "start", "done", "failed", "skipped" (a parent failed) or "retry"."""

    what: str
    step: Step
    detail: str = ""


@dataclass
class Outcome:
    """What a run did: keys done now, and keys failed with their reasons (a failed parent's among them)."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def needed(plan: Plan, store: Store, retry_failed: bool = False) -> dict[str, Step]:
    """Return the steps to do: the goals that are not stored, and what those need.

    A stored leaf needs no parent, nor does a stored failure that is not to be tried again.
    """
    todo = [key for key in plan.goals if store.status(plan.steps[key].kind, key) != "done"]
    found: dict[str, Step] = {}
    while todo:
        key = todo.pop()
        step = plan.steps[key]
        status = store.status(step.kind, key)
        if key in found or status == "done":
            continue
        found[key] = step
        if status == "missing" or retry_failed:
            todo += step.parents
    return found


class Engine:
    """Runs what is missing of a plan with ``work(step, runtime)``."""

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
    ) -> None:
        self.plan, self.store, self.work, self.runtime, self.workers = plan, store, work, runtime, workers
        self.on_event, self.on_wait, self.retry_failed = on_event, on_wait, retry_failed
        self.outcome = Outcome()
        self.attempts: dict[str, int] = {}

    def run(self) -> Outcome:
        """Do all the missing steps; a failed step stops its descendants alone."""
        steps = needed(self.plan, self.store, self.retry_failed)
        sorter = graphlib.TopologicalSorter({k: [p for p in s.parents if p in steps] for k, s in steps.items()})
        sorter.prepare()
        order = {key: position for position, key in enumerate(self.plan.steps)}
        ready: list[Step] = []
        running: dict[cf.Future[str], Step] = {}
        executor = self._executor()
        try:
            while sorter.is_active():
                ready += [steps[k] for k in sorter.get_ready()]
                ready.sort(key=lambda step: (step.key not in self.attempts, order[step.key]))
                while ready and self._may_start(ready[0], list(running.values())):
                    step = ready.pop(0)
                    if self._settled(step):
                        sorter.done(step.key)
                        continue
                    try:
                        running[self._submit(executor, step)] = step
                    except BrokenProcessPool:  # a worker died since the last look, perhaps an idle one
                        ready.insert(0, step)
                        if not running:
                            executor.shutdown(wait=False)
                            executor = self._executor()
                        break
                    self.on_event(Event("start", step))
                finished, _ = cf.wait(running, timeout=0.25, return_when=cf.FIRST_COMPLETED)
                self.on_wait()
                if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                    cf.wait(running, timeout=5)  # a broken pool ends all of them
                    executor.shutdown(wait=False, cancel_futures=True)
                    executor = self._executor()
                    finished = set(running)
                for future in finished:
                    step = running.pop(future)
                    if self._collect(step, future):
                        sorter.done(step.key)
                    else:
                        ready.append(step)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.kill()
            raise
        executor.shutdown()
        return self.outcome

    def _executor(self) -> cf.Executor:
        if self.workers == 1:
            return cf.ThreadPoolExecutor(1)
        # "spawn": a forked torch may hang in its thread pool
        return cf.ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("spawn"), _start_worker, (self.runtime,)
        )

    def _submit(self, executor: cf.Executor, step: Step) -> cf.Future[str]:
        future = executor.submit(self.work, step, self.runtime)
        if self.workers > 1:
            # The pool looks for its workers to watch at each submission, but before it spawns one for it; without a
            # second one the death of the youngest worker goes unseen until an elder one is done with its step.
            with suppress(BrokenProcessPool):  # the future above says so too
                executor.submit(_nothing)
        return future

    def _may_start(self, step: Step, running: list[Step]) -> bool:
        """Whether a worker is free for a step. A worker's death ends all the running steps, and nobody can tell whose
        it was: from then on each of them runs alone, so that none is reported for what its neighbour does. What
        measures time runs alone in any case.
        """
        alone = [one for one in (step, *running) if one.key in self.attempts or one.kind == "measure"]
        return not running if alone else len(running) < self.workers

    def _settled(self, step: Step) -> bool:
        """Whether a step needs no work: stored as failed before, or a parent failed."""
        broken = [parent for parent in step.parents if parent in self.outcome.failed]
        if broken and step.kind != "measure":  # which goes on without the files that could not be made
            root = self.outcome.failed[broken[0]].removeprefix("parent failed: ")
            self.outcome.failed[step.key] = f"parent failed: {root}"
            self.on_event(Event("skipped", step, self.outcome.failed[step.key]))
            return True
        if self.store.status(step.kind, step.key) == "failed":
            if self.retry_failed:
                self.store.forget(step.kind, step.key)
                return False
            return self._fail(step, reason_of(self.store.step(step.kind, step.key)))
        return False

    def _fail(self, step: Step, reason: str) -> bool:
        self.outcome.failed[step.key] = reason
        self.on_event(Event("failed", step, reason))
        return True

    def _collect(self, step: Step, future: cf.Future[str]) -> bool:
        """Take in a finished future; return False where the step is to be tried again."""
        try:
            status = future.result(timeout=0)
        except (BrokenProcessPool, cf.CancelledError, cf.TimeoutError):  # (3.10 has a TimeoutError of its own)
            self.attempts[step.key] = self.attempts.get(step.key, 0) + 1
            if self.attempts[step.key] <= RETRIES:
                self.on_event(Event("retry", step, "its worker process died"))
                return False
            reason = f"worker_died: {RETRIES + 1} workers in turn died at this step (out of memory?)"
            record = {"spec": step.spec, "label": step.label, "status": "failed", "facts": {}}
            self.store.discard_partial(step.kind, step.key)
            self.store.partial(step.kind, step.key)
            self.store.publish(step.kind, step.key, {**record, "reason": "worker_died", "detail": reason})
            return self._fail(step, reason)
        if status == "failed":
            return self._fail(step, reason_of(self.store.step(step.kind, step.key)))
        self.outcome.done.append(step.key)
        self.on_event(Event("done", step))
        return True


def reason_of(record: dict[str, Any]) -> str:
    """Return a failed step's reason and detail as one text."""
    detail = record.get("detail")
    return f"{record['reason']}: {detail}" if detail else str(record["reason"])


def _nothing() -> None:
    """Work that takes no time."""


def _start_worker(runtime: Any) -> None:
    """Before torch is imported in a worker: its libraries start no more threads than a step has."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(runtime.threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose run was killed would train on to its step's end, beside the run that took its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
