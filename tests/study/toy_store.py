"""A small store of toy steps, for tests of its upkeep."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tailkeep.study.record import write_record
from tailkeep.study.store import Store


def key_of(name: str) -> str:
    """A key as long as a real one."""
    return hashlib.sha256(name.encode("ascii")).hexdigest()


def stored(store: Store, kind: str, name: str, **step: Any) -> Path:
    """A finished step, or one that failed for the ``reason`` given; return its folder."""
    work = store.partial(kind, key_of(name))
    (work / "model.safetensors").write_bytes(name.encode("ascii") * 1000)
    status = "failed" if "reason" in step else "done"
    store.publish(kind, key_of(name), {"status": status, "label": name, **step})
    return store.folder(kind, key_of(name))


def recorded(store: Store, study: str, *steps: tuple[str, str]) -> None:
    """A study's record that needs steps (kind, name)."""
    keys = [[kind, key_of(name)] for kind, name in steps]
    environment = {"torch": "2.13", "threads": 1}
    record = {"name": study, "spec": "", "goals": [keys[-1][1]], "environment": environment, "data": {}, "steps": keys}
    write_record(store, study, record)
