"""Every hash of a store, checked again: what a disk, a copy or a hand has changed since it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.study.plan import VERSIONS
from tailkeep.study.record import read_record
from tailkeep.study.store import Store

RECORD = "study"


@dataclass(frozen=True)
class Damage:
    """A stored step, or a study's record (kind "study"), that does not check; ``moved`` is where it lies now."""

    kind: str
    key: str
    faults: list[str]
    moved: str | None = None


@dataclass
class Verified:
    """What was checked (steps, records, bytes), what is damaged, and what was moved aside before."""

    store: str
    steps: int = 0
    records: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "whole": not self.damages}


def stored_steps(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, key) of every folder that claims to be a finished step."""
    for kind in VERSIONS:
        for path in sorted((root / kind).iterdir()) if (root / kind).is_dir() else []:
            if "." not in path.name:  # .partial, .damaged, and hidden leftovers have one
                yield kind, path.name


def check_store(root: Path) -> None:
    """Raise ``BadInput`` where a folder is not a store."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; name the folder that --store named when the study ran")
    if not (root / "studies").is_dir():
        raise BadInput(f"{root}: is not a store: it has no folder 'studies'; name the folder of --store")


def verify(
    root: Path, move: bool = True, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Check every file of every finished step against its manifest, and every record against its own hash.

    With ``move`` what is damaged is renamed to ``<key>.damaged`` (a record to ``<name>.json.damaged``): the next run
    does it again. ``on_progress`` is told steps done, of how many. Raises ``BadInput`` where ``root`` is no store.
    """
    check_store(root)
    store, found = Store(root), Verified(str(root))
    steps = list(stored_steps(root))
    for number, (kind, key) in enumerate(steps):
        on_progress(number, len(steps))
        folder = root / kind / key
        try:
            faults = store.faults(folder, key)
            found.bytes += sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
            if not folder.exists():
                continue  # removed meanwhile, by `tailkeep retry` or `gc`
        except OSError as error:
            faults = [f"cannot be read ({error.strerror}: {error.filename})"]
        found.steps += 1
        if faults:
            moved = store.move_aside(kind, key) if move else None
            found.damages.append(Damage(kind, key, faults, None if moved is None else str(moved)))
    on_progress(len(steps), len(steps))
    for path in sorted((root / "studies").glob("*.json")):
        found.records += 1
        fault = record_fault(path)
        if fault is not None:
            aside = path.with_name(f"{path.name}.damaged")
            if move:
                path.replace(aside)
            found.damages.append(Damage(RECORD, path.stem, [fault], str(aside) if move else None))
    found.aside = sorted(str(path.relative_to(root)) for path in root.glob("*/*.damaged*"))
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
