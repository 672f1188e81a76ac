"""What lies in a store's folder beside the finished steps that are needed: what a garbage collection may remove."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tailkeep.files import is_temporary, remove_folder
from tailkeep.study.plan import VERSIONS

OLD = 3600.0
"""Seconds after which a temporary file is no living process's."""


@dataclass(frozen=True)
class Item:
    """Something that can go: a finished step, the unfinished work of one, a damaged one, or a process's leftover.

    ``what`` is "step", "unfinished", "damaged", "upload" (files of a step that are not published) or "leftover".
    """

    what: str
    kind: str
    key: str
    path: Path | str
    bytes: int


def items_of(root: Path) -> list[Item]:
    """Return everything in the folders of steps, and what killed processes left in the other two."""
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


def remove_item(item: Item) -> None:
    """Remove something that lies in a folder."""
    path = Path(item.path)
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
