"""Counts the operations on files below a folder, by this process: those of the engine's thread, and all others'.

The operations are Python's, as in ``harness.py``; one that fails (a look for a file that is not there) counts too:
a network file system or an object store is asked all the same. Reads and writes of an open file are not counted.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GROUPS = {
    "stat": ("stat", "lstat"),
    "fsync": ("fsync",),
    "rename": ("rename", "replace", "link"),
    "remove": ("unlink", "rmdir"),
    "mkdir": ("mkdir",),
    "list": ("scandir", "listdir"),
    "touch": ("utime",),
}
NAMES = ("open to read", "open to write", *GROUPS)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """Numbers of operations by name, of the thread that made this and of all others."""

    def __init__(self, root: Path) -> None:
        self.root, self.own = str(root.resolve()), threading.get_ident()
        self._counts = {name: (itertools.count(), itertools.count()) for name in NAMES}  # whose next() is atomic

    def hit(self, name: str, path: Any) -> None:
        """Count an operation, where it is on something below the folder; an open file's number is taken to be."""
        if isinstance(path, int) or os.fspath(path).startswith(self.root):
            next(self._counts[name][threading.get_ident() != self.own])

    def counts(self) -> dict[str, dict[str, int]]:
        """Return {"engine": {name: number}, "workers": {name: number}}; to be called once, at the end."""
        found = {name: [next(count) for count in pair] for name, pair in self._counts.items()}
        return {who: {name: found[name][place] for name in NAMES} for place, who in enumerate(("engine", "workers"))}


@contextmanager
def counted(root: Path) -> Iterator[Operations]:
    """Count while in this context; the calling thread is the engine's."""
    operations = Operations(root)
    os_open, io_open = os.open, io.open
    replaced = {call: getattr(os, call) for calls in GROUPS.values() for call in calls} | {"open": os_open}

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        operations.hit("open to write" if flags & WRITES else "open to read", path)
        return os_open(path, flags, *rest, **named)

    def file_opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if not isinstance(path, int):
            operations.hit("open to write" if set(mode) & set("wxa+") else "open to read", path)
        return io_open(path, mode, *rest, **named)

    for name, calls in GROUPS.items():
        for call in calls:
            setattr(os, call, _counting(operations, name, replaced[call]))
    os.open, io.open, builtins.open = opened, file_opened, file_opened  # type: ignore[assignment]
    try:
        yield operations
    finally:
        for call, real in replaced.items():
            setattr(os, call, real)
        io.open = builtins.open = io_open


def _counting(operations: Operations, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def operation(path: Any = ".", *rest: Any, **named: Any) -> Any:
        operations.hit(name, path)
        return real(path, *rest, **named)

    return operation
