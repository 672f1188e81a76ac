"""What the durability benchmarks share: a tiny study, children by fork, a journal of what they did, and faults.

A fault happens at the n-th operation on a file below the store: the process is killed there, or the operation fails
with ENOSPC or EIO (a write after half of its bytes), or a write takes half of its bytes and says so ("short").
The operations are Python's: opens, reads, writes, syncs, renames, links, removals, folders made and listed.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # children are forked: no threads before that

from tailkeep.errors import TailkeepError
from tailkeep.files import readable_json, sha256_file
from tailkeep.spec import content_key
from tailkeep.study.results import result_hash
from tailkeep.study.runner import Options, Study, open_study
from tailkeep.study.store import NOT_STORED, Store

RECIPE = {"batch_size": 32, "precision": "float32"}
SPEC: dict[str, Any] = {
    "name": "durable",
    "data": {"source": {"kind": "digits"}},
    "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 60}],
    "balanced": "none",
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": {**RECIPE, "epochs": 3, "lr": 0.1},
    "controls": {"continued": False, "churn_floor": False},
    "methods": [],
    "seeds": [0],
}
METHODS = [
    {
        "name": "pruned",
        "method": {"kind": "filter_pruning", "ratio": 0.5},
        "recipe": {**RECIPE, "epochs": 2, "lr": 0.02},
    },
    {"name": "A8", "method": {"kind": "qat"}, "recipe": {**RECIPE, "epochs": 2, "lr": 0.01}},
    {
        "name": "pruned A8",
        "parent": "pruned",
        "method": {"kind": "qat"},
        "recipe": {**RECIPE, "epochs": 2, "lr": 0.01},
    },
]
REAL = {name: getattr(os, name) for name in ("open", "write", "close", "rename", "kill")}


class NaiveStore(Store):
    """The planted fault: a step that exists is done. It works in the step's own folder, without sync or rename.

    Undisturbed it gives the same result hash as the real one.
    """

    def is_whole(self, kind: str, key: str) -> bool:
        return self.folder(kind, key).is_dir()

    def adopt(self, kind: str, key: str, token: str) -> Path:
        self.folder(kind, key).mkdir(parents=True, exist_ok=True)
        return self.folder(kind, key)

    def publish(self, kind: str, key: str, step: dict[str, Any], token: str = "work") -> bool:
        folder = self.folder(kind, key)
        (folder / "step.json").write_text(readable_json(step), encoding="utf-8")
        for path in [path for path in folder.iterdir() if path.name in NOT_STORED]:
            path.unlink()
        files = {p.name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
        body = {"key": key, "files": files}
        (folder / "manifest.json").write_text(readable_json({**body, "self": content_key(body)}), encoding="utf-8")
        return True


def study_of(folder: Path, methods: int = 3, seeds: int = 1, epochs: int = 3) -> Study:
    """Open the tiny study: a dense model and some methods, each trained and predicted with."""
    spec = {**SPEC, "methods": METHODS[:methods], "seeds": list(range(seeds))}
    spec["recipe"] = {**spec["recipe"], "epochs": epochs}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return open_study(path, Options(store=folder / "none", workers=1, checkpoint_every=0.2))


def placed(study: Study, root: Path, kind: type[Store] = Store, **options: Any) -> Study:
    """The same study over another store."""
    return dataclasses.replace(
        study, store=kind(root), options=dataclasses.replace(study.options, store=root, **options)
    )


def warm(study: Study, root: Path) -> None:
    """Do one step here, so that no child spends its time on imports. It needs no thread: children are forked."""
    from tailkeep.study.steps import run_step

    here = placed(study, fresh(root))
    for step in here.plan.steps.values():
        run_step(step, here.runtime())


def fork(action: Callable[[], int]) -> int:
    """Run ``action`` in a child; return its process number. What it raises becomes an exit code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = action()
    except TailkeepError as error:
        code = error.exit_code
        print(f"    {type(error).__name__}: {str(error).splitlines()[0][:150]}", file=sys.stderr) if VERBOSE else None
    except BaseException:
        if VERBOSE:
            traceback.print_exc()
    finally:
        os._exit(code)


VERBOSE = "--verbose" in sys.argv


def run(study: Study, journal: Path | None = None, fault: tuple[int, str] | None = None) -> Callable[[], int]:
    """Return what a child does: the study, with its steps noted in a journal, and a fault if one is given."""

    def action() -> int:
        import tailkeep.study.steps as steps

        kind = type(study.store)  # the naive one, where that is on trial
        steps.worker_store = lambda address: kind(Path(address))
        note_steps(type(study.store), journal)
        operations = Faults(study.store.root, *fault) if fault else None
        if operations:
            operations.install()
        outcome = study.run()
        if journal and operations:
            note(journal, f"operations {operations.count}")
        return 3 if outcome.failed else 0

    return action


def wait(pid: int, seconds: float = 1e9) -> int | None:
    """Wait for a child; kill it after ``seconds``. Return its exit code, minus the signal's number, None if killed."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def note(journal: Path, line: str) -> None:
    """Append a line, whole: several processes write one journal."""
    handle = REAL["open"](journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    REAL["write"](handle, f"{line}\n".encode())
    REAL["close"](handle)


def note_steps(kind: type[Store], journal: Path | None) -> None:
    """Note where a step's work begins, is published, or gives way to another's."""
    if journal is None:
        return
    adopt, publish = kind.adopt, kind.publish

    def begin(self: Store, name: str, key: str, token: str) -> Path:
        note(journal, f"begin {key} {os.getpid()} {time.time()}")
        return adopt(self, name, key, token)

    def end(self: Store, name: str, key: str, step: dict[str, Any], token: str = "work") -> bool:
        published = publish(self, name, key, step, token)
        note(journal, f"{'published' if published else 'gave-way'} {key} {os.getpid()} {time.time()}")
        return published

    kind.adopt, kind.publish = begin, end  # type: ignore[method-assign]


def lines(journal: Path) -> list[list[str]]:
    """The journal's lines, split."""
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []


def finished(root: Path) -> set[str]:
    """Keys of the steps that are stored whole, by the strict store."""
    store = Store(root)
    return {key for kind, key in store.steps() if store.is_whole(kind, key)} if root.is_dir() else set()


def complaints(study: Study, expected: str, kind: type[Store] = Store) -> list[str]:
    """What is wrong with a finished store: another result hash, or a step that was accepted and does not check."""
    found = []
    here = placed(study, study.store.root, kind)
    try:
        got = result_hash(here.plan, here.store)
    except Exception as error:
        return [f"the results cannot be read ({type(error).__name__})"]
    if got != expected:
        found.append(f"result hash {got[:12]}, not {expected[:12]}")
    strict = Store(study.store.root)
    for name, key in study.store.steps():
        if here.store.is_whole(name, key) and strict.faults(strict.folder(name, key), key):
            found.append(f"{name} {key[:8]} is accepted and does not check")
    return found


def fresh(root: Path) -> Path:
    """An empty place for a store."""
    shutil.rmtree(root, ignore_errors=True)
    return root


class Faults:
    """Counts operations on files below ``root``; at number ``at`` (from 0) does what ``kind`` says. -1: only counts."""

    def __init__(self, root: Path, at: int, kind: str) -> None:
        self.root, self.at, self.kind = str(root.resolve()), at, kind
        self.count = 0

    def hit(self, path: Any, writes: bool = False) -> bool:
        """Count one operation; return whether the fault is here. ``short`` counts writes alone."""
        if not self._ours(path) or (self.kind == "short" and not writes):
            return False
        self.count += 1
        return self.count - 1 == self.at

    def _ours(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        try:
            return os.path.abspath(os.fspath(path)).startswith(self.root)
        except TypeError:
            return False

    def fail(self, path: Any) -> None:
        """The fault of an operation that is no write."""
        if self.kind == "kill":
            REAL["kill"](os.getpid(), signal.SIGKILL)
        number = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}[self.kind]
        raise OSError(number, os.strerror(number), None if isinstance(path, int) else os.fspath(path))

    def install(self) -> None:
        """Put the faults into this process."""
        import tailkeep.study.steps as steps

        for name in (
            "open",
            "fsync",
            "rename",
            "replace",
            "link",
            "unlink",
            "mkdir",
            "rmdir",
            "utime",
            "scandir",
            "listdir",
        ):
            setattr(os, name, self._wrapped(getattr(os, name)))
        real = io.open
        opening = self._opening(real)
        io.open = builtins.open = opening

        def save_file(tensors: Any, path: Path) -> None:
            from safetensors.torch import save

            with opening(path, "wb") as file:
                file.write(save(tensors))

        steps.save_file = save_file

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Any = ".", *rest: Any, **named: Any) -> Any:
            if self.hit(path):
                self.fail(path)
            return real(path, *rest, **named)

        return operation

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                if not faults.hit(self.name, writes=True):
                    return super().write(data)
                half = memoryview(data).cast("B")[: max(1, len(memoryview(data).cast("B")) // 2)]
                done = super().write(half)
                if faults.kind != "short":
                    faults.fail(self.name)
                return done

            def readinto(self, buffer: Any) -> int | None:
                if faults.hit(self.name):
                    faults.fail(self.name)
                return super().readinto(buffer)

            def readall(self) -> bytes:
                if faults.hit(self.name):
                    faults.fail(self.name)
                return super().readall()

        def opening(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if isinstance(path, int) or not faults._ours(path):
                return real(path, mode, *rest, **named)
            if faults.hit(path):
                faults.fail(path)
            raw = Raw(os.fspath(path), mode.replace("b", "").replace("t", ""))
            kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
            file = kind(raw)  # type: ignore[arg-type]
            if "b" in mode:
                return file
            return io.TextIOWrapper(
                file, encoding=named.get("encoding"), errors=named.get("errors"), newline=named.get("newline")
            )

        return opening


def chooser(seed: int) -> random.Random:
    """Random numbers of a benchmark."""
    return random.Random(seed)
