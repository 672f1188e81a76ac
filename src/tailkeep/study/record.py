"""A study's record in the store, and the sign that a process is at work there.

The record remembers on what data and in what environment a study ran. Where that has changed, the next run stops and
shows the differences, since its cells would no longer be comparable.
"""

from __future__ import annotations

import json
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tailkeep.errors import BadInput
from tailkeep.files import read_json, readable_json
from tailkeep.spec import content_key
from tailkeep.study.lease import Holder
from tailkeep.study.limits import storage_errors
from tailkeep.study.store import Store

MATTERS = ("torch", "numpy", "machine", "cpu", "device", "threads", "gpu")
UNSEALED = {"name", "spec", "goals", "environment", "data", "steps"}
RUN, GC = "run.", "gc"
"""Names of leases that are no step's."""


def check_record(
    store: Store, name: str, data: dict[str, Any], environment: dict[str, Any], new_data: bool, new_env: bool
) -> None:
    """Compare with the study's last run; raises ``BadInput`` with the differences unless they are allowed."""
    path = store.study_file(name)
    if not path.is_file():
        return
    last = read_record(path)
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
    """Write the record, atomically, with a hash of itself."""
    store.put(f"studies/{name}.json", readable_json({**record, "self": content_key(record)}).encode("utf-8"))


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; raises ``BadInput`` where it is not what was written."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise BadInput(f"{path}: is no record of a study")
    whole = path.read_bytes() == readable_json(record).encode("utf-8")
    seal = record.pop("self", None)
    if seal is None and set(record) == UNSEALED:  # written before records had a hash
        return record
    if seal != content_key(record) or not whole:
        raise BadInput(f"{path}: this record has changed since it was written; `tailkeep verify` moves it aside")
    return record


@contextmanager
def at_work(store: Store, study: str = "", goals: Sequence[str] = ()) -> Iterator[None]:
    """Show in the store that this process is at work on a study, as long as it is.

    Processes share a store, and a study. A run waits for a garbage collection that is under way. Raises ``BadInput``
    where another process is at work on a study of the same name that has other goals, since they share one record, or
    where a version of tailkeep that does not share holds the store.
    """
    with storage_errors(store.root):
        _refuse_unshared(store.root / "lock.json")
        store.leases.tidy()
        own = store.leases.take(f"{RUN}{secrets.token_hex(8)}", _label(study, goals))
        assert own is not None
        with own:
            while store.leases.busy(GC) is not None:
                time.sleep(store.leases.poll)
            for holder in runs(store):
                name, other = _named(holder)
                if study and name == study and other != _named(own.holder)[1]:
                    raise BadInput(
                        f"{store.address}: {holder} runs a study that is named {study!r} too and has other cells; wait "
                        "for it, or give this one another name"
                    )
            yield


def runs(store: Store) -> list[Holder]:
    """Return the living processes that are at work on a store."""
    found = [store.leases.busy(name) for name in store.leases.names() if name.startswith(RUN)]
    return [holder for holder in found if holder is not None]


def study_of(holder: Holder) -> str:
    """Return the name of the study that a process is at work on; "" where it has none."""
    return _named(holder)[0]


def _label(study: str, goals: Sequence[str]) -> str:
    return f"{study} | {content_key(sorted(goals))[:16]}"


def _named(holder: Holder) -> tuple[str, str]:
    name, _, digest = holder.what.rpartition(" | ")
    return name, digest


def _refuse_unshared(path: Path) -> None:
    """Name the living holder of the lock of versions before 0.2, which took a store for themselves."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        here = facts["host"] == platform.node()
        alive = not here or abs(psutil.Process(facts["pid"]).create_time() - facts["started"]) < 2
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return
    if alive:
        raise BadInput(
            f"{path.parent}: process {facts['pid']} on {facts['host']} is at work on this store, with an earlier "
            "version of tailkeep that does not share it; wait for it, or give another --store (if it is no more, "
            f"remove {path})"
        )
