"""Garbage collection: what no recorded study needs any more goes, and what a living process works at never does."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import is_temporary, remove_folder
from tailkeep.study.lease import Holder, Lease, busy
from tailkeep.study.limits import storage_errors
from tailkeep.study.plan import VERSIONS
from tailkeep.study.record import GC, read_record, runs, study_of
from tailkeep.study.store import Store
from tailkeep.study.verify import check_store

Steps = set[tuple[str, str]]
OLD = 3600.0
"""Seconds after which a temporary file is no living process's."""


@dataclass(frozen=True)
class Item:
    """Something that can go: a finished step, the unfinished work of one, a damaged one, or a process's leftover."""

    what: str
    kind: str
    key: str
    path: Path
    bytes: int


@dataclass
class Collected:
    """What was (with ``dry_run``: would be) removed, and what of it all was kept."""

    store: str
    dry_run: bool
    studies: list[str]
    removed: list[Item] = field(default_factory=list)
    kept_steps: int = 0
    kept_damaged: list[Item] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes in what was removed."""
        return sum(item.bytes for item in self.removed)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        facts = asdict(self)
        for name in ("removed", "kept_damaged"):
            facts[name] = [{**item, "path": str(item["path"])} for item in facts[name]]
        return {**facts, "bytes": self.bytes}


def collect(root: Path, studies: Sequence[str] = (), dry_run: bool = False, damaged: bool = False) -> Collected:
    """Remove what none of ``studies`` needs (all recorded ones where none is named); return what that was.

    Needed are all the steps of a study's last run, unfinished work on them included; a study that a process is at work
    on is needed whether it is named or not. Damaged steps stay unless ``damaged`` says otherwise. Runs that start
    meanwhile wait. Raises ``BadInput`` where a record is missing or damaged, or a process without a study is at work.
    """
    check_store(root)
    store = Store(root)
    with storage_errors(root):
        lease = Lease.take(root / "leases" / GC, "gc")
        if lease is None:
            raise BadInput(f"{root}: {busy(root / 'leases' / GC)} is collecting garbage here already")
        with lease:
            needed, names = _needed(store, list(studies))
            found = Collected(str(root), dry_run, names)
            for item in _items(root):
                if item.what == "damaged" and not damaged:
                    found.kept_damaged.append(item)
                elif item.what in ("step", "unfinished") and _wanted(store, item, needed):
                    found.kept_steps += item.what == "step"
                else:
                    found.removed.append(item)
            if not dry_run:
                for item in found.removed:
                    _remove(item.path)
    return found


def _needed(store: Store, named: list[str]) -> tuple[Steps, list[str]]:
    """The steps that must stay, and the names of their studies."""
    recorded = sorted(path.stem for path in (store.root / "studies").glob("*.json"))
    unknown = [name for name in named if name not in recorded]
    if unknown:
        raise BadInput(f"--study {unknown[0]}: the store has {', '.join(recorded) or 'no study'}")
    names = set(named or recorded)
    for holder in runs(store):
        study = study_of(holder)
        if not study or study not in recorded:
            raise BadInput(f"{store.root}: {holder} is at work here on what no record names; wait for it to end")
        names.add(study)
    needed: Steps = set()
    for name in names:
        needed |= {(kind, key) for kind, key in read_record(store.study_file(name))["steps"]}
    return needed, sorted(names)


def _wanted(store: Store, item: Item, needed: Steps) -> bool:
    return (item.kind, item.key) in needed or _living(store, item) is not None


def _living(store: Store, item: Item) -> Holder | None:
    return busy(store.lease(item.kind, item.key))


def _items(root: Path) -> list[Item]:
    """Everything in the folders of steps, and what killed processes left in the other two."""
    found = []
    for folder in [root / name for name in (*VERSIONS, "studies", "leases") if (root / name).is_dir()]:
        for path in sorted(folder.iterdir()):
            what = _what(path)
            if what:
                key = path.name.partition(".")[0] or path.name
                found.append(Item(what, folder.name, key, path, _size(path)))
    return found


def _what(path: Path) -> str:
    """What a name says of itself; "" for what is none of this module's business."""
    _, _, rest = path.name.partition(".")
    if path.name.startswith("."):
        gone = path.name.endswith(".gone")
        return "leftover" if gone or (is_temporary(path) and time.time() - path.stat().st_mtime > OLD) else ""
    if rest.startswith("damaged") or path.name.endswith(".json.damaged"):
        return "damaged"
    if path.parent.name not in VERSIONS:
        return ""
    return {"partial": "unfinished", "": "step"}.get(rest, "")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
