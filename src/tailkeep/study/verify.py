"""Every hash of a store, checked again: what a disk, a copy or a hand has changed since it was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.study.imported import imported
from tailkeep.study.record import read_record
from tailkeep.study.stores import Place, open_store

RECORD, IMPORT = "study", "import"


@dataclass(frozen=True)
class Damage:
    """A stored step, a study's record (kind "study") or an imported file (kind "import") that does not check.

    ``moved`` is where it lies now; an imported file stays where it is, and counts for nothing.
    """

    kind: str
    key: str
    faults: list[str]
    moved: str | None = None


@dataclass
class Verified:
    """What was checked (steps, records, imports, bytes), what is damaged, and what was moved aside before."""

    store: str
    steps: int = 0
    records: int = 0
    imports: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "whole": not self.damages}


def verify(
    root: Place, move: bool = True, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Check every file of every finished step against its manifest, and every record and import against its own hash.

    With ``move`` what is damaged is renamed to ``<key>.damaged`` (a record to ``<name>.json.damaged``): the next run
    does it again. ``on_progress`` is told steps done, of how many. Raises ``BadInput`` where ``root`` is no store.
    """
    store = open_store(root)
    brought = imported(store)
    imports = len(brought.sources) + len(brought.faults)
    if not imports:  # a store may hold nothing else
        store.check()
    found = Verified(store.address)
    steps = store.steps()
    for number, (kind, key) in enumerate(steps):
        on_progress(number, len(steps))
        try:
            seen = store.examine(kind, key)
        except OSError as error:
            seen = [f"cannot be read ({error.strerror}: {error.filename})"], 0
        if seen is None:
            continue  # removed meanwhile, by `tailkeep retry` or `gc`
        faults, size = seen
        found.steps += 1
        found.bytes += size
        if faults:
            moved = store.move_aside(kind, key) if move else None
            found.damages.append(Damage(kind, key, faults, None if moved is None else str(moved)))
    on_progress(len(steps), len(steps))
    for path in store.files_in("studies", ".json"):
        found.records += 1
        fault = record_fault(path)
        if fault is not None:
            fault = fault.replace(str(path), f"{store.address}/studies/{path.name}")  # not where a copy of it was read
            found.damages.append(Damage(RECORD, path.stem, [fault], store.put_aside(path) if move else None))
    found.imports = imports
    found.damages += [Damage(IMPORT, "", [fault]) for fault in brought.faults]
    found.aside = store.aside()
    return found


def record_fault(path: Path) -> str | None:
    """Return what is wrong with a study's record, None where nothing is."""
    try:
        read_record(path)
        return None
    except BadInput as error:
        return str(error)
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read ({error})"
