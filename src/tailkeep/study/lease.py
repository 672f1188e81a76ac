"""Leases: which living process is at work on what, told by small files, so that several processes share one store.

A lease is a file that can be created once. It names its holder: the machine (host, boot and process namespace), the
process and when that started. On the same machine a holder that is no more is seen at once; on another one it is
dead when its heartbeat, the file's time, has not moved for ``PATIENCE`` seconds of the *watcher's* clock, so that
clocks need not agree. The lease of a dead holder is renamed away and made anew. ``flock`` only narrows a race here:
where it does nothing (network file systems), a lease may in the end have two holders for a moment, and the store
still publishes each step once.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from tailkeep.files import create_whole, make_folder, safe_join, temporary_name

if TYPE_CHECKING:
    from tailkeep.study.leases import Held

HEARTBEAT = 10.0
"""Seconds between the touches of a lease."""
PATIENCE = 60.0
"""Seconds without a touch after which a holder on another machine is taken for dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, and what for; ``started`` tells a process from the next one of its number."""

    token: str
    machine: str = ""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    what: str = ""

    @property
    def here(self) -> bool:
        """Whether the holder runs where this process can see it."""
        return self.machine == machine()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'an unknown machine'}"


@cache
def machine() -> str:
    """Return what tells apart places whose processes cannot see each other: host, boot, process namespace."""
    facts = [platform.node()]
    try:
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        facts.append(str(int(psutil.boot_time())))
    return " ".join(facts)


def process_started(pid: int) -> float | None:
    """Return when a process started, in a unit that no change of the clock moves; None where it is no more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name, in brackets, may hold anything
        return None if fields[0] in "ZX" else float(fields[19])  # a zombie works no more
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(float(process.create_time()))
    except psutil.Error:
        return None


def read_holder(path: Path) -> Holder | None:
    """Return who a lease names, dead or alive; None where there is none.

    A file that names nobody (its maker was killed, on a file system without hard links) is told by its inode, and so
    is reclaimed by its heartbeat like one from another machine.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        number = path.stat().st_ino
    except FileNotFoundError:
        return None
    return holder_in(text) or Holder(f"unreadable {number}")


def holder_in(text: str | bytes) -> Holder | None:
    """Return who the text of a lease names; None where it names nobody."""
    try:
        facts = json.loads(text)
        return Holder(**{name: facts[name] for name in asdict(Holder(""))})
    except (ValueError, KeyError, TypeError):
        return None


def new_holder(what: str) -> Holder:
    """Return this process as the holder of one lease that it is about to take."""
    pid = os.getpid()
    return Holder(secrets.token_hex(8), machine(), platform.node(), pid, process_started(pid) or 0.0, what)


def lease_name(kind: str, key: str) -> str:
    """Return the name of the lease of a step."""
    return f"{kind}.{key}"


class Watch:
    """Tells living holders from dead ones. Remembers when the heartbeat of each distant one was last seen to move."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def alive(self, holder: Holder, beat_of: Callable[[], object]) -> bool:
        """Whether a holder lives. One on another machine does until ``PATIENCE`` has been spent on watching it.

        ``beat_of`` returns what each heartbeat changes, None where the lease is gone; asked of distant holders alone.
        """
        if holder.here:
            return process_started(holder.pid) == holder.started
        beat = beat_of()
        if beat is None:
            return False
        now = time.monotonic()
        last, since = self._seen.setdefault(holder.token, (beat, now))
        if beat != last:
            self._seen[holder.token] = (beat, now)
            return True
        return now - since < PATIENCE


WATCH = Watch()


def busy(path: Path, watch: Watch = WATCH) -> Holder | None:
    """Return the living holder of a lease; None where it is free, after a dead one's was put away."""
    holder = read_holder(path)
    if holder is None:
        return None
    if watch.alive(holder, lambda: _beat_of(path)):
        return holder
    _reclaim(path, holder)
    return None


def _beat_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _reclaim(path: Path, dead: Holder) -> None:
    """Put a dead holder's lease away, and no other's that took its place meanwhile."""
    with _one_at_a_time(path.parent):
        again = read_holder(path)
        if again is None or again.token != dead.token:
            return
        grave = temporary_name(path)
        try:
            os.rename(path, grave)
        except FileNotFoundError:
            return
        taken = read_holder(grave)
        if taken is not None and taken.token != dead.token:  # made between the look and the rename: give it back
            with suppress(OSError):
                os.link(grave, path)
        grave.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder's flock while reclaiming, where that works; go on without it where it does not."""
    try:
        import fcntl

        file = open(folder / ".reclaim", "ab")  # noqa: SIM115 (closed below)
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Lease:
    """A lease that this process holds: a context that is left by giving it back."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder

    @property
    def token(self) -> str:
        """The word that tells this lease from every other."""
        return self.holder.token

    @classmethod
    def take(cls, path: Path, what: str = "") -> Lease | None:
        """Take a lease; None where a living process holds it."""
        make_folder(path.parent)
        holder = new_holder(what)
        for _ in range(3):
            if create_whole(path, json.dumps(asdict(holder)).encode("utf-8")):
                lease = cls(path, holder)
                HEART.add(lease)
                return lease
            if busy(path) is not None:
                return None
        return None

    def mine(self) -> bool:
        """Whether the lease is still this process's: one that was long silent may have been passed over."""
        found = read_holder(self.path)
        return found is not None and found.token == self.token

    def touch(self) -> None:
        """Show that the holder lives."""
        with suppress(OSError):
            if self.mine():
                os.utime(self.path)

    def release(self) -> None:
        """Give the lease back."""
        HEART.discard(self)
        with suppress(OSError):
            if self.mine():
                self.path.unlink()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class FileLeases:
    """The leases of a store that is a folder: files in a folder of theirs."""

    poll = 0.2

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where a lease lies."""
        return safe_join(self.folder, f"{name}.lease")

    def take(self, name: str, what: str = "") -> Lease | None:
        """Take a lease, a dead holder's too; None where a living process holds it."""
        return Lease.take(self.path(name), what)

    def busy(self, name: str) -> Holder | None:
        """Return the living holder; None where the lease is free, after a dead one's was put away."""
        return busy(self.path(name))

    def read(self, name: str) -> Holder | None:
        """Return who a lease names, dead or alive; None where there is none."""
        return read_holder(self.path(name))

    def names(self) -> list[str]:
        """Return the names of all leases, sorted."""
        return sorted(path.name.removesuffix(".lease") for path in self.folder.glob("*.lease"))

    def tidy(self) -> None:
        """Put away what dead processes of this machine left."""
        for name in self.names():
            self.busy(name)


class _Heart:
    """One thread a process that touches the leases it holds."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):  # a forked child has no threads, and holds nothing
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._leases: set[Held] = set()
        self._beating = False
        self._lock = threading.Lock()

    def add(self, lease: Held) -> None:
        with self._lock:
            self._leases.add(lease)
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, daemon=True).start()

    def discard(self, lease: Held) -> None:
        with self._lock:
            self._leases.discard(lease)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                lease.touch()


HEART = _Heart()
