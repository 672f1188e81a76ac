"""Garbage collection: what no recorded study needs any more goes, and what a living process works at never does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.study.imported import FOLDER, SUFFIX
from tailkeep.study.lease import Holder, lease_name
from tailkeep.study.limits import storage_errors
from tailkeep.study.record import GC, read_record, runs, study_of
from tailkeep.study.store import Store
from tailkeep.study.store_items import Item
from tailkeep.study.stores import Place, open_store

Steps = set[tuple[str, str]]


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


def collect(root: Place, studies: Sequence[str] = (), dry_run: bool = False, damaged: bool = False) -> Collected:
    """Remove what none of ``studies`` needs (all recorded ones where none is named); return what that was.

    Needed are all the steps of a study's last run, unfinished work on them included; a study that a process is at work
    on is needed whether it is named or not. Damaged steps stay unless ``damaged`` says otherwise. Runs that start
    meanwhile wait. Raises ``BadInput`` where a record is missing or damaged, or a process without a study is at work.
    """
    store = open_store(root)
    if not store.has_studies() and store.files_in(FOLDER, SUFFIX):
        raise BadInput(f"{store.address}: no study has run here, there are imported results alone; gc keeps those")
    store.check()
    with storage_errors(store.root):
        lease = store.leases.take(GC, "gc")
        if lease is None:
            raise BadInput(f"{store.address}: {store.leases.busy(GC)} is collecting garbage here already")
        with lease:
            needed, names = _needed(store, list(studies))
            found = Collected(store.address, dry_run, names)
            for item in store.items():
                if item.what == "damaged" and not damaged:
                    found.kept_damaged.append(item)
                elif item.what in ("step", "unfinished") and _wanted(store, item, needed):
                    found.kept_steps += item.what == "step"
                elif item.what != "upload" or _living(store, item) is None:
                    found.removed.append(item)
            if not dry_run:
                for item in found.removed:
                    store.remove(item)
    return found


def _needed(store: Store, named: list[str]) -> tuple[Steps, list[str]]:
    """The steps that must stay, and the names of their studies."""
    recorded = sorted(path.stem for path in store.files_in("studies", ".json"))
    unknown = [name for name in named if name not in recorded]
    if unknown:
        raise BadInput(f"--study {unknown[0]}: the store has {', '.join(recorded) or 'no study'}")
    names = set(named or recorded)
    for holder in runs(store):
        study = study_of(holder)
        if not study or study not in recorded:
            raise BadInput(f"{store.address}: {holder} is at work here on what no record names; wait for it to end")
        names.add(study)
    needed: Steps = set()
    for name in names:
        needed |= {(kind, key) for kind, key in read_record(store.study_file(name))["steps"]}
    return needed, sorted(names)


def _wanted(store: Store, item: Item, needed: Steps) -> bool:
    return (item.kind, item.key) in needed or _living(store, item) is not None


def _living(store: Store, item: Item) -> Holder | None:
    return store.leases.busy(lease_name(item.kind, item.key))
