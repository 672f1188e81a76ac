"""Steps as tasks of a Ray cluster: an executor, as the pool of processes is one, over machines.

Ray schedules, and says what died; it never tries a task again by itself (``max_retries=0``), since the engine counts
the tries. A task answers with plain values, so that an error arrives as what it was. Torch is imported in a task only
once its number of threads is set.
"""

from __future__ import annotations

import concurrent.futures as cf
import importlib.metadata
import os
import pickle
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tailkeep import __version__
from tailkeep.errors import CELLS_FAILED, BadInput, TailkeepError
from tailkeep.study.limits import TryAgain
from tailkeep.study.pool import Work

LOOK = 0.1
"""Seconds between looks at what is new to wait for."""
GOODBYE = 15.0
"""Seconds that tasks have to end in when they are cancelled."""


class ClusterLost(TailkeepError):
    """The Ray cluster does not answer any more. Nothing is half stored; the same command goes on later."""

    exit_code = CELLS_FAILED


@dataclass(frozen=True)
class Share:
    """What a step takes of a cluster, and where it works: CPUs, a part of a GPU, the folder that relative paths of the
    study start from.
    """

    cpus: int = 1
    gpus: float = 0.0
    folder: str = ""


@dataclass
class _Task:
    """A step under way: what Ray knows it by, who waits for it, and when it must have ended (monotonic seconds)."""

    step: Any
    reference: Any
    future: cf.Future[str]
    limit: float | None
    deadline: float | None = None
    hung: bool = False


class InRay:
    """Runs steps as Ray tasks; this process is connected to a cluster already.

    A future ends with ``TryAgain`` where Ray says that the worker or its node died, ran out of memory, or where the
    step's limit was passed; with ``ClusterLost`` where Ray itself is gone; else as the step did.
    """

    retries_alone = False
    """Unlike one machine, a cluster need not stand still for a step that is tried again."""

    def __init__(self, share: Share, whole_node: Callable[[bool], dict[str, Any]] = lambda measures: {}) -> None:
        """``whole_node`` returns Ray's settings of a task that has a node for itself: to measure time or for memory."""
        import ray

        self._ray, self._share, self._whole_node = ray, share, whole_node
        self._greedy: set[str] = set()
        self._tasks: list[_Task] = []
        self._changed = threading.Condition()
        self._closed = False
        self._watcher = threading.Thread(target=self._watch, name="tailkeep-ray", daemon=True)
        self._watcher.start()

    def submit(self, work: Work, step: Any, runtime: Any, limit: float | None) -> cf.Future[str]:
        """Hand a step to Ray; ``limit`` counts in seconds from its begin on a worker, imports apart."""
        blob = pickle.dumps((work, step, runtime))
        # Only what has a limit tells that it has begun: that takes a stream of answers, which Ray Client has not.
        settings = {**self._resources(step), "max_retries": 0, "num_returns": 1 if limit is None else "streaming"}
        task = self._ray.remote(attempt if limit is None else attempt_and_tell).options(**settings)
        future: cf.Future[str] = cf.Future()
        future.set_running_or_notify_cancel()
        reference = task.remote(blob, self._share.cpus, self._share.folder, versions())
        with self._changed:
            self._tasks.append(_Task(step, reference, future, limit))
            self._changed.notify()
        return future

    def shutdown(self, now: bool = False) -> None:
        """Wait for the running steps, or with ``now`` cancel them and wait until their processes are gone."""
        with self._changed:
            running = list(self._tasks)
            self._closed = True
            self._changed.notify()
        if now:
            for task in running:
                self._cancel(task)
            deadline = time.monotonic() + GOODBYE
            while self._tasks and time.monotonic() < deadline:
                time.sleep(LOOK)
        else:
            cf.wait([task.future for task in running])
        self._watcher.join(GOODBYE)

    def _resources(self, step: Any) -> dict[str, Any]:
        """What Ray reserves for a step. A measurement has one node for itself, and so has what ran out of memory."""
        resources = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}
        if step.kind == "measure":
            return {**resources, "num_gpus": 0, **self._whole_node(True)}
        return {**resources, **self._whole_node(False)} if step.key in self._greedy else resources

    def _cancel(self, task: _Task) -> None:
        with suppress(Exception):  # it has ended, or Ray has
            self._ray.cancel(task.reference, force=True)

    def _watch(self) -> None:
        """The thread that takes in what Ray answers."""
        try:
            while True:
                with self._changed:
                    if not self._tasks:
                        if self._closed:
                            return
                        self._changed.wait(LOOK)
                    waiting = {task.reference: task for task in self._tasks}
                if waiting:
                    ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=LOOK)
                    for reference in ready:
                        self._take_in(waiting[reference])
                    self._end_the_slow()
        except Exception as error:
            lost = ClusterLost(
                f"the Ray cluster does not answer any more ({type(error).__name__}: {_first_line(error)}). What was "
                "finished is stored, nothing is half stored, and the same command goes on where it stopped"
            )
            lost.__cause__ = error
            for task in list(self._tasks):
                self._settle(task, lost)

    def _take_in(self, task: _Task) -> None:
        try:
            reference = task.reference if task.limit is None else next(task.reference)
            answer = self._ray.get(reference, timeout=GOODBYE)
        except Exception as error:
            self._settle(task, self._lost(task, error))
            return
        if "begun" in answer:
            assert task.limit is not None
            task.deadline = time.monotonic() + task.limit
        elif "error" in answer:
            raised = answer["error"]
            raised.__cause__ = _Remote(answer["traceback"])
            if isinstance(raised, TryAgain) and raised.reason == "out_of_memory":
                self._greedy.add(task.step.key)
            self._settle(task, raised)
        else:
            self._settle(task, None, str(answer["status"]))

    def _end_the_slow(self) -> None:
        """Cancel what has passed its limit. That is told once its process is gone, so that its lease is free."""
        now = time.monotonic()
        for task in [task for task in self._tasks if task.deadline is not None and task.deadline < now]:
            if task.hung:
                self._settle(task, _hang(task))
            else:
                task.hung, task.deadline = True, now + GOODBYE
                self._cancel(task)

    def _settle(self, task: _Task, error: BaseException | None, status: str = "") -> None:
        with self._changed:
            self._tasks.remove(task)
        if error is None:
            task.future.set_result(status)
        else:
            task.future.set_exception(error)

    def _lost(self, task: _Task, error: Exception) -> Exception:
        """What Ray says of a task that did not answer, as the engine's words."""
        from ray import exceptions

        if task.hung:
            return _hang(task)
        if self._closed:
            return cf.CancelledError()
        text = _first_line(error)
        if isinstance(error, exceptions.OutOfMemoryError):
            self._greedy.add(task.step.key)
            return TryAgain("out_of_memory", f"Ray ended the worker process for want of memory ({text})")
        if isinstance(error, (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError)):
            return BadInput(
                f"--engine ray: a node cannot run a step ({str(error).strip().splitlines()[-1][:300]}); every node "
                "needs the same tailkeep, torch and Python as this one"
            )
        if isinstance(error, (exceptions.RayError, StopIteration)):
            return TryAgain("worker_killed", f"a worker or its node ended ({type(error).__name__}: {text})")
        return error


class _Remote(Exception):
    """The traceback of an error in a task, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text}")


def _hang(task: _Task) -> TryAgain:
    assert task.limit is not None
    return TryAgain("hang", f"no end after {task.limit / 60:g} minutes (--step-limit)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# What follows runs in Ray's worker processes.


def attempt(task: bytes, threads: int, folder: str, expected: dict[str, str]) -> dict[str, Any]:
    """Do a step in a worker process; return its status, or its error with the traceback's text."""
    try:
        work, step, runtime = _load(task, threads, folder, expected)
        return {"status": work(step, runtime)}
    except Exception as error:
        return {"error": _sendable(error), "traceback": traceback.format_exc()}


def attempt_and_tell(task: bytes, threads: int, folder: str, expected: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Do a step as ``attempt`` does, and say before that it begins: what it needs is imported."""
    try:
        work, step, runtime = _load(task, threads, folder, expected)
    except Exception as error:
        yield {"error": _sendable(error), "traceback": traceback.format_exc()}
        return
    yield {"begun": True}
    try:
        yield {"status": work(step, runtime)}
    except Exception as error:
        yield {"error": _sendable(error), "traceback": traceback.format_exc()}


def _load(task: bytes, threads: int, folder: str, expected: dict[str, str]) -> Any:
    """Unpack a task, which imports what it needs, with no more threads than a step has."""
    set_threads(threads)
    with suppress(OSError):  # another node need not have it: the nodes' check has seen to the paths that count
        os.chdir(folder)
    here = versions()
    if here != expected:  # a node that joined after the others were checked
        differ = ", ".join(f"{name} {here[name]} there, {expected[name]} here" for name in here if here != expected)
        raise BadInput(f"--engine ray: node {platform.node()} has other versions ({differ}); install the same ones")
    return pickle.loads(task)  # noqa: S301 (from this run's own process, never from a disk)


def set_threads(threads: int) -> None:
    """Set, before torch is imported, how many threads this process uses."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def versions() -> dict[str, str]:
    """Return what must be the same on every node, by name, without an import of anything heavy."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"tailkeep": __version__, "python": ".".join(platform.python_version_tuple()[:2]), **libraries}


def _sendable(error: Exception) -> Exception:
    """Return the error, or its words where it does not come through a pickle."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (made in this line)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
