"""Worker processes, a step each at a time. A worker's death or a step's time limit costs that step alone.

``concurrent.futures.ProcessPoolExecutor`` ends all its workers when one dies, cannot say whose step it was, and cannot
end a step that hangs. Here each worker has its own process and pipe, minded by a thread of the parent.
"""

from __future__ import annotations

import concurrent.futures as cf
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from tailkeep.study.limits import TryAgain, memory_kills

Work = Callable[..., str]
SEND_FAILED = (BrokenPipeError, ConnectionResetError)


class Executor(Protocol):
    """What the engine asks of anything that runs steps: threads, worker processes, a cluster.

    A future that ends with ``TryAgain`` is a try that was lost for a reason outside the step.
    """

    def submit(self, work: Work, step: Any, runtime: Any, limit: float | None) -> cf.Future[str]:
        """Start ``work(step, runtime)``; ``limit`` is in seconds of wall-clock time, None for none."""
        ...

    def shutdown(self, now: bool = False) -> None:
        """End the workers; with ``now`` also those that are at work."""
        ...


class InThread:
    """One step at a time in a thread of this process; it cannot be limited in time."""

    def __init__(self) -> None:
        self._executor = cf.ThreadPoolExecutor(1)

    def submit(self, work: Work, step: Any, runtime: Any, limit: float | None) -> cf.Future[str]:
        """Start a step."""
        return self._executor.submit(work, step, runtime)

    def shutdown(self, now: bool = False) -> None:
        """Take no more steps. A thread cannot be ended: with ``now`` it is left to itself."""
        self._executor.shutdown(wait=not now, cancel_futures=now)


class InProcesses:
    """A pool of worker processes of this machine."""

    def __init__(self, workers: int, runtime: Any) -> None:
        self._threads = cf.ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._runtime = runtime
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Work, step: Any, runtime: Any, limit: float | None) -> cf.Future[str]:
        """Start a step on a free worker."""
        return self._threads.submit(self._run, work, step, runtime, limit)

    def shutdown(self, now: bool = False) -> None:
        """Wait for the running steps, or with ``now`` kill them; then end the workers."""
        if not now:
            self._threads.shutdown()
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.kill()  # which its thread sees
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def _run(self, work: Work, step: Any, runtime: Any, limit: float | None) -> str:
        for _ in range(3):
            worker = self._worker()
            try:
                return worker.run((work, step, runtime), limit)
            except SEND_FAILED:  # it died between two steps, and has not begun this one
                worker.end()
        raise TryAgain("worker_killed", "workers die before they begin")

    def _worker(self) -> _Worker:
        """This thread's worker, a new one where there is none that lives."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is not None and worker.process.is_alive():
            return worker
        with self._lock:
            if self._closed:
                raise cf.CancelledError
            if worker is not None:
                worker.end()
                self._workers.remove(worker)
            self._own.worker = worker = _Worker(self._runtime)
            self._workers.append(worker)
        return worker


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, runtime: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, runtime))
        self.process.start()
        theirs.close()

    def run(self, task: tuple[Work, Any, Any], limit: float | None) -> str:
        """Run a task and wait for it; raises what it raised, or ``TryAgain`` where the process died or was too slow."""
        before = memory_kills()
        self.pipe.send(task)
        try:
            answer = self.pipe.recv()
            if "begun" in answer:  # a new process first imports what the step needs, which counts for nothing
                if not wait([self.pipe], limit):
                    self.end()
                    assert limit is not None
                    raise TryAgain("hang", f"no end after {limit / 60:g} minutes (--step-limit)")
                answer = self.pipe.recv()
        except (EOFError, OSError):
            raise self._lost(before) from None
        if "error" in answer:
            raise answer["error"] from _Remote(answer["traceback"])
        return str(answer["status"])

    def _lost(self, memory_kills_before: int) -> TryAgain:
        self.process.join(5)
        code = self.process.exitcode
        self.end()
        if code == -signal.SIGKILL and memory_kills() > memory_kills_before:
            return TryAgain("out_of_memory", "the system killed the worker process for want of memory")
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return TryAgain("worker_killed", f"the worker process ended in the middle of the step ({how})")

    def end(self) -> None:
        """Kill the process, and wait until it is gone, so that its lease is seen to be free."""
        self.process.kill()
        self.process.join(10)
        with suppress(OSError):
            self.pipe.close()


class _Remote(Exception):
    """The traceback of an error in a worker process, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text}")


def _serve(pipe: Connection, runtime: Any) -> None:
    """The life of a worker: take a task, do it, answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes; the parent decides
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(runtime.threads)  # before torch is imported: no more threads than a step has
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, *SEND_FAILED):  # the parent is done, or gone
        while True:
            _answer(pipe)


def _answer(pipe: Connection) -> None:
    answer: dict[str, Any] = {}
    try:
        task = pipe.recv()  # which imports what the work needs
    except (EOFError, *SEND_FAILED):
        raise
    except Exception as error:
        answer = {"error": error, "traceback": traceback.format_exc()}
    else:
        pipe.send({"begun": True})
        try:
            work, step, runtime = task
            answer = {"status": work(step, runtime)}
        except Exception as error:
            answer = {"error": error, "traceback": traceback.format_exc()}
    try:
        pipe.send(answer)
    except SEND_FAILED:
        raise
    except Exception:  # an error that cannot be sent is told in words
        text = answer["traceback"]
        pipe.send({"error": RuntimeError(text.strip().splitlines()[-1]), "traceback": text})


def _end_with_parent() -> None:
    """A worker whose run was killed would train on to its step's end, beside the run that took its place."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
