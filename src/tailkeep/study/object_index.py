"""Which steps an object store has: by one listing of all, or a look at one, remembered no longer than is safe.

That a step is there is remembered until a question says otherwise; that it is not, for seconds, since another process
may publish it at any time. Whoever is about to do a step, or has seen one done, has it looked up anew by ``refresh``.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tailkeep.files import safe_join, write_atomic
from tailkeep.study.commit import Commit, committed
from tailkeep.study.objects import Entry, Objects
from tailkeep.study.plan import VERSIONS
from tailkeep.study.store import MANIFEST

REMOTE = "remote.json"
"""What the cache knows of a step's manifest: the object's version in the first line, then its bytes."""
LISTED_FOR = 10.0
"""Seconds for which a listing answers that a step is not there."""
ABSENT_FOR = 2.0
"""The same of a look at one step."""


class Index:
    """The manifests below a URL. Steps are named ``<kind>/<key>``; ``root`` is the cache."""

    def __init__(self, objects: Objects, root: Path) -> None:
        self.objects, self.root = objects, root
        self.listed: dict[str, str] = {}
        """Versions of the manifests that the last listing or a look since has shown, whether they check or not."""
        self._commits: dict[str, Commit] = {}
        self._absent: dict[str, float] = {}
        self._listed_at = float("-inf")
        self._doubted: set[str] = set()
        self._lock = threading.RLock()

    def refresh(self, name: str) -> None:
        """Have the next question about a step ask the server."""
        self._doubted.add(name)

    def survey(self) -> dict[str, Entry]:
        """List everything; return the objects of the steps."""
        with self._lock:
            found = {name: at for name, at in self.objects.listed().items() if name.partition("/")[0] in VERSIONS}
            self.listed = {
                name.removesuffix(f"/{MANIFEST}"): at.version
                for name, at in found.items()
                if name.endswith(f"/{MANIFEST}") and name.count("/") == 2
            }
            self._listed_at = time.monotonic()
            self._absent.clear()
            for name in [name for name, own in self._commits.items() if self.listed.get(name) != own.version]:
                del self._commits[name]
        return found

    def commit(self, name: str, sure: bool = False) -> Commit | None:
        """Return a step's manifest; None where there is none that checks. ``sure``: do not say so from memory."""
        with self._lock:
            if name in self._doubted:
                own = self._look(name)
                self._doubted.discard(name)  # only now: it may have failed
                return own
            if name in self._commits:
                return self._commits[name]
            if name in self.listed:
                return self._cached(name) or self._look(name)
            since = max(self._listed_at + LISTED_FOR, self._absent.get(name, float("-inf")) + ABSENT_FOR)
            return None if time.monotonic() < since and not sure else self._look(name)

    def keep(self, name: str, own: Commit, text: bytes) -> None:
        """Remember a manifest that was read or created, here and for the next process."""
        with self._lock:
            self._doubted.discard(name)
            self._commits[name] = own
            self.listed[name] = own.version
        write_atomic(safe_join(self.root, name, REMOTE), own.version.encode("utf-8") + b"\n" + text)

    def _cached(self, name: str) -> Commit | None:
        """The manifest as this machine read it before, where it is that of the listing."""
        try:
            version, _, text = (self.root / name / REMOTE).read_bytes().partition(b"\n")
        except OSError:
            return None
        if version.decode("utf-8", "replace") != self.listed[name]:
            return None
        own = committed(text, name.partition("/")[2], self.listed[name])
        if own is not None:
            self._commits[name] = own
        return own

    def _look(self, name: str) -> Commit | None:
        found = self.objects.get(f"{name}/{MANIFEST}")
        own = None if found is None else committed(found[0], name.partition("/")[2], found[1])
        if found is None or own is None:
            self._commits.pop(name, None)
            self.listed.pop(name, None)
            self._absent[name] = time.monotonic()
            return None
        self.keep(name, own, found[0])
        return own
