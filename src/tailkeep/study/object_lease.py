"""Leases on an object store: an object that can be created once, rewritten by its holder's heart.

Taking a lease is a conditional create, taking a dead holder's over a replacement of the very version that was judged,
so that of two watchers one wins. A dead holder is told as in ``lease``: on the same machine by its process, elsewhere
by a beat that has not changed for ``PATIENCE`` seconds of the watcher's clock.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from tailkeep.errors import BadInput
from tailkeep.study import lease as clock
from tailkeep.study.lease import HEART, WATCH, Holder, Watch, holder_in, new_holder
from tailkeep.study.limits import StorageFailed
from tailkeep.study.objects import Objects

TRIES = 3
REMEMBERED = 2.0
"""Seconds for which a living holder is not asked after again."""


class ObjectLease:
    """A lease that this process holds. ``version`` is that of the object as this process last wrote it."""

    def __init__(self, leases: ObjectLeases, name: str, holder: Holder, version: str) -> None:
        self.leases, self.name, self.holder, self.version = leases, name, holder, version
        self._beat = 0
        self._shown = time.monotonic()
        self._lock = threading.Lock()

    @property
    def token(self) -> str:
        """The word that tells this lease from every other."""
        return self.holder.token

    def mine(self) -> bool:
        """Whether the lease is still this process's: one that was long silent may have been passed over."""
        found = self.leases.objects.get(path_of(self.name))
        return found is not None and holder_of(*found).token == self.token

    def touch(self) -> None:
        """Show that the holder lives. A store that cannot be reached now may be so at the next beat."""
        with self._lock, suppress(OSError, StorageFailed):
            self._beat += 1
            data = body(self.holder, self._beat)
            version = self.leases.objects.replace(path_of(self.name), data, self.version)
            if version is None:  # passed over, or the answer to an earlier beat was lost
                found = self.leases.objects.get(path_of(self.name))
                if found is None or holder_of(*found).token != self.token:
                    return
                version = found[1]
            self.version, self._shown = version, time.monotonic()

    def release(self) -> None:
        """Give the lease back."""
        HEART.discard(self)
        self.leases.forget(self.name)
        with self._lock, suppress(OSError, StorageFailed):
            recent = time.monotonic() - self._shown < clock.PATIENCE / 2  # nobody can have passed it over
            if not self.leases.objects.delete(path_of(self.name), self.version if recent else self._current()):
                self.leases.objects.delete(path_of(self.name), self._current())

    def _current(self) -> str:
        """The version of the object where it is this lease's, else one that nothing has."""
        found = self.leases.objects.get(path_of(self.name))
        return found[1] if found is not None and holder_of(*found).token == self.token else "none"

    def __enter__(self) -> ObjectLease:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class ObjectLeases:
    """The leases of a store on an object store, in its folder ``leases``."""

    poll = 2.0

    def __init__(self, objects: Objects, watch: Watch = WATCH) -> None:
        self.objects, self.watch = objects, watch
        self._living: dict[str, tuple[Holder, float]] = {}
        self._honest = False

    def take(self, name: str, what: str = "") -> ObjectLease | None:
        """Take a lease, a dead holder's too; None where a living process holds it.

        The first one that a process takes also tries whether the server refuses a second creation. Raises ``BadInput``
        where it does not.
        """
        holder = new_holder(what)
        data = body(holder, 0)
        for _ in range(TRIES):
            version = self.objects.create(path_of(name), data)
            if version is not None:
                self._check_honest(name)
            else:
                found = self.objects.get(path_of(name))
                if found is None:
                    continue  # given back meanwhile
                other = holder_of(*found)
                if other.token == holder.token:
                    version = found[1]  # created by this process: the answer was lost
                elif self._lives(*found):
                    self._living[name] = (other, time.monotonic())
                    return None
                else:
                    version = self.objects.replace(path_of(name), data, found[1])
            if version is not None:
                self.forget(name)
                lease = ObjectLease(self, name, holder, version)
                HEART.add(lease)
                return lease
        return None

    def busy(self, name: str) -> Holder | None:
        """Return the living holder; None where the lease is free. A dead holder's stays until it is taken over."""
        seen = self._living.get(name)
        if seen is not None and time.monotonic() - seen[1] < REMEMBERED:
            return seen[0]
        self.forget(name)
        found = self.objects.get(path_of(name))
        if found is None:
            return None
        holder = holder_of(*found)
        if not self._lives(*found):
            return None
        self._living[name] = (holder, time.monotonic())
        return holder

    def read(self, name: str) -> Holder | None:
        """Return who a lease names, dead or alive; None where there is none."""
        found = self.objects.get(path_of(name))
        return None if found is None else holder_of(*found)

    def names(self) -> list[str]:
        """Return the names of all leases, sorted."""
        names = [name.removeprefix("leases/") for name in self.objects.listed("leases")]
        return sorted(name.removesuffix(".lease") for name in names if name.endswith(".lease"))

    def tidy(self) -> None:
        """Put away what dead processes left: each is taken over first, so that no living one's goes with it."""
        for name in self.names():
            found = self.objects.get(path_of(name))
            if found is not None and not self._lives(*found):
                lease = self.take(name)
                if lease is not None:
                    lease.release()

    def forget(self, name: str) -> None:
        """Ask anew the next time."""
        self._living.pop(name, None)

    def _lives(self, data: bytes, version: str) -> bool:
        return self.watch.alive(holder_of(data, version), lambda: version)

    def _check_honest(self, name: str) -> None:
        """Create the lease a second time, which must be refused: everything rests on that."""
        if self._honest:
            return
        if self.objects.create(path_of(name), b"") is not None:
            self.objects.delete(path_of(name))
            raise BadInput(
                f"--store {self.objects.url}: this server overwrites an object that it was asked to create only where "
                "there is none (If-None-Match); processes could not share it. Use a newer server, or a folder"
            )
        self._honest = True


def path_of(name: str) -> str:
    """Return the object of a lease."""
    return f"leases/{name}.lease"


def body(holder: Holder, beat: int) -> bytes:
    """Return the bytes of a lease."""
    return json.dumps({**asdict(holder), "beat": beat}).encode("utf-8")


def holder_of(data: bytes, version: str) -> Holder:
    """Return who a lease names; one that names nobody is told by its version, and judged by its silence."""
    return holder_in(data) or Holder(f"unreadable {version}")
