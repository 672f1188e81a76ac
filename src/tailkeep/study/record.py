"""A study's record in the store, and the lock that keeps two processes from one store.

The record remembers on what data and in what environment a study ran. Where that has changed, the next run stops and
shows the differences, since its cells would no longer be comparable.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tailkeep.errors import BadInput
from tailkeep.files import read_json, write_json
from tailkeep.study.store import Store

MATTERS = ("torch", "numpy", "machine", "cpu", "device", "threads", "gpu")


def check_record(
    store: Store, name: str, data: dict[str, Any], environment: dict[str, Any], new_data: bool, new_env: bool
) -> None:
    """Compare with the study's last run; raises ``BadInput`` with the differences unless they are allowed."""
    path = store.study_file(name)
    if not path.is_file():
        return
    last = read_json(path)
    if not new_data:
        changed = [
            f"  {label} ({split}): {last['data'][label][split][:12]} -> {data[label][split][:12]}"
            for label in data
            for split in ("train", "test")
            if label in last["data"] and last["data"][label][split] != data[label][split]
        ]
        _stop(changed, f"the data of study {name!r} changed since its last run", "--new-data")
    if not new_env:
        before = last["environment"]
        changed = [
            f"  {fact}: {before.get(fact)} -> {environment.get(fact)}"
            for fact in MATTERS
            if before.get(fact) != environment.get(fact)
        ]
        _stop(changed, f"the environment of study {name!r} changed since its last run", "--new-env")


def _stop(changed: list[str], what: str, option: str) -> None:
    if changed:
        raise BadInput(
            "\n".join(
                [f"{what}:", *changed, f"Results from both would stand side by side. To go on all the same: {option}"]
            )
        )


def write_record(store: Store, name: str, record: dict[str, Any]) -> None:
    """Write the record, atomically."""
    write_json(store.study_file(name), record)


@contextmanager
def lock(store: Store) -> Iterator[None]:
    """Hold the store for this process. A holder that is dead is passed over; a living one is named."""
    store.root.mkdir(parents=True, exist_ok=True)
    path = store.root / "lock.json"
    mine = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": platform.node()}
    for _ in range(5):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            holder = _holder(path)
            if holder is not None:
                raise BadInput(
                    f"{store.root}: process {holder['pid']} on {holder['host']} is at work on this store; "
                    "wait for it, or give another --store"
                ) from None
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(mine))
        break
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Any) -> dict[str, Any] | None:
    """Return who holds the lock, or None where that process is no more (or never finished writing its name)."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["host"] != platform.node():
            return dict(facts)
        alive = psutil.pid_exists(facts["pid"]) and psutil.Process(facts["pid"]).create_time() == facts["started"]
        return dict(facts) if alive else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
