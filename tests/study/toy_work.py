"""Steps without any training, for tests of the engine. Imported by worker processes too, so it imports little."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.study.limits import StorageFailed, TryAgain
from tailkeep.study.plan import Step
from tailkeep.study.store import Store


class Odd(Exception):
    """An error that does not come through a pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def act(step: Step, runtime: Any) -> str:
    """A step's work without any training: what it does stands in its spec. Runs in this or in a worker process."""
    what = step.spec["what"]
    with open(runtime.diary, "a", encoding="utf-8") as diary:
        diary.write(f"{step.key} {os.getpid()}\n")
    if what == "die":
        wait_until(lambda: set(diary_of(runtime)) - {step.key})  # a neighbour is at work
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "killed" and diary_of(runtime).count(step.key) <= step.spec.get("times", 99):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "patient":
        wait_until(lambda: Path(runtime.mended).exists())
    if what == "nap":
        time.sleep(2.5)
    if what == "linger":
        wait_until(lambda: diary_of(runtime).count("killer"))
        time.sleep(1)  # longer than it takes to die with the killer
    if what == "sleep":
        time.sleep(600)
    if what == "hang":
        time.sleep(600 if diary_of(runtime).count(step.key) <= step.spec.get("times", 99) else 0)
    if what == "memory" and diary_of(runtime).count(step.key) <= step.spec.get("times", 99):
        raise TryAgain("out_of_memory", "no room for 8 GB")
    if what == "full":
        raise StorageFailed("disk_full", "disk_full: no space is left")
    if what == "input":
        raise BadInput("the data changed")
    if what == "odd":
        raise Odd("one", "two")
    if what == "crash":
        raise RuntimeError("a fault of tailkeep")
    status = "failed" if what == "fail" and not Path(runtime.mended).exists() else "done"
    store = Store(Path(runtime.store))
    store.partial(step.kind, step.key)
    record = {"status": status, "seconds": 1.0}
    store.publish(step.kind, step.key, record if status == "done" else {**record, "reason": "nan", "detail": "of rate"})
    return status


def surroundings(step: Step, runtime: Any) -> str:
    """What a worker process has around it when its step begins."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return " ".join([*(os.environ.get(name, "-") for name in names), str("torch" in sys.modules), os.getcwd()])


def wait_until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)


def diary_of(runtime: Any) -> list[str]:
    """Keys of the steps in the order in which they were worked at."""
    path = Path(runtime.diary)
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
