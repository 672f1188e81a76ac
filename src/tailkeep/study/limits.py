"""What a machine runs out of: memory, time, disk. Each is told apart, since each has another remedy.

``TryAgain`` is a step's bad luck, worth another try; ``StorageFailed`` ends the run, since no step could be stored.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailkeep.errors import CELLS_FAILED, BadInput, StepFailed, TailkeepError

RETRIES = 2
"""Tries after the first one, where a worker was killed, hung, or ran out of memory."""

DISK = {
    errno.ENOSPC: ("disk_full", "no space is left; free some"),
    errno.EDQUOT: ("disk_full", "the quota is used up; free some space"),
    errno.EFBIG: ("disk_full", "the file system takes no file of this size"),
    errno.EROFS: ("read_only", "the file system is read-only; mount it for writing"),
    errno.EIO: ("disk_error", "the disk reports an error; `tailkeep verify` tells what of the store is damaged"),
}
"""Errors of a disk: a stable word for scripts, and what to do."""


class TryAgain(StepFailed):
    """A step did not end for a reason that may be gone the next time; raised to the engine, which counts the tries.

    ``reason`` is ``out_of_memory``, ``worker_killed`` or ``hang``.
    """

    def __reduce__(self) -> tuple[type[StepFailed], tuple[str, str]]:
        """Cross a process boundary as what it is."""
        return TryAgain, (self.reason, self.detail)


class StorageFailed(TailkeepError):
    """The store cannot be written or read. Nothing is lost or half published; the same command goes on later.

    ``reason`` is ``disk_full``, ``read_only`` or ``disk_error``; of an object store also ``unreachable``, ``no_access``
    or ``damaged``.
    """

    exit_code = CELLS_FAILED

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type[StorageFailed], tuple[str, str]]:
        """Cross a process boundary whole."""
        return StorageFailed, (self.reason, str(self))


@contextmanager
def storage_errors(store: Path) -> Iterator[None]:
    """Turn what a disk reports into ``StorageFailed``; all other errors pass."""
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number not in DISK or isinstance(error, TailkeepError):
            raise
        reason, remedy = DISK[number]
        where = getattr(error, "filename", None) or store
        raise StorageFailed(
            reason,
            f"{reason}: {where}: {os.strerror(number)} ({remedy}). The run stopped; what was finished is stored, "
            "nothing is half stored, and the same command goes on where it stopped",
        ) from error


def _errno(error: BaseException) -> int:
    """Return the system's number of an error; libraries that are not Python's own say it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    return next((number for number in DISK if f"os error {number})" in text), 0)


def check_room(store: Path, needed: float, named: str = "") -> None:
    """Raise ``BadInput`` where a store cannot be written, or has less than ``needed`` bytes of room.

    ``named`` is what the errors call it, where that is not ``--store`` and the folder.
    """
    named = named or f"--store {store}"
    there = store
    while not there.exists():
        there = there.absolute().parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise BadInput(
            f"{named}: cannot be written ({os.strerror(error.errno or 0)}); give another folder, or a mount "
            "that can be written"
        ) from error
    if free < needed:
        raise BadInput(
            f"{named}: this study needs about {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; free "
            "some, or give another --store"
        )


def own_failure(error: Exception, code: Callable[[], Any]) -> StepFailed | None:
    """Return what an error says of its step alone: memory that ran out, the user's model code; None for all others.

    ``code`` returns the user's ``ModelCode`` or None; asked only where the error may be its.
    """
    if isinstance(error, StepFailed):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return TryAgain("out_of_memory", text)
    found = None if isinstance(error, TailkeepError) else code()
    if found is not None and found.raised(error):
        return StepFailed("model_code", f"{found.name}: {text}")
    return None


def memory_kills() -> int:
    """Return how many processes this machine's kernel has killed for want of memory since it started; 0 if unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError, StopIteration):
        return 0
