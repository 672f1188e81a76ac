"""A store on an object store. The truth lies there; work and reading happen in a folder of this machine, the cache.

``<prefix>/<kind>/<key>/<token>/<file>`` are the files of one try, ``<prefix>/<kind>/<key>/manifest.json`` names the
try that counts. There is no rename there: files go first, and the manifest, created only where there is none, is the
commit. Files without a manifest are invisible. A file is hashed before it is served, and a step of which one does not
check is moved aside: its manifest becomes ``manifest.damaged.json``, so that the step is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import make_folder, remove_folder, safe_join, temporary_name
from tailkeep.study.commit import Commit, committed, manifest_text
from tailkeep.study.limits import StorageFailed
from tailkeep.study.object_files import SmallFiles
from tailkeep.study.object_index import Index
from tailkeep.study.object_items import ASIDE, items_there, remove_there
from tailkeep.study.object_lease import ObjectLeases
from tailkeep.study.objects import Objects, open_objects
from tailkeep.study.plan import VERSIONS
from tailkeep.study.store import MANIFEST, Store, drop_work, file_facts
from tailkeep.study.store_items import Item, items_of, remove_item


class ObjectStore(Store):
    """A store below a URL. ``root`` is the cache: files that were read or made here, and work under way."""

    def __init__(self, url: str, objects: Objects | None = None, cache: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self.objects = open_objects(self.url) if objects is None else objects
        name = hashlib.sha256(self.objects.identity.encode("utf-8")).hexdigest()[:16]
        super().__init__(make_folder((cache or stores_cache()).absolute() / name).resolve())
        self.leases = ObjectLeases(self.objects)
        self.index = Index(self.objects, self.root)
        self._small = SmallFiles(self.objects, self.root)

    @property
    def address(self) -> str:
        """The URL."""
        return self.url

    @property
    def room(self) -> str:
        """What errors call the place where there must be room on the disk."""
        return f"the cache of --store {self.url}, {self.root} (TAILKEEP_CACHE names another place)"

    def check(self) -> None:
        """Raise ``BadInput`` where this is not a store yet."""
        if not self.has_studies():
            raise BadInput(f"{self.url}: no study has run in this store; name the URL that --store named")

    def has_studies(self) -> bool:
        """Whether a study has run here."""
        return bool(self.files_in("studies", ".json"))

    # --- what is there ------------------------------------------------------------------------------------------------

    def refresh(self, kind: str, key: str) -> None:
        """Have the next question about a step ask the server."""
        self.index.refresh(f"{kind}/{key}")

    def damaged(self) -> list[tuple[str, str]]:
        """Return (kind, key) of the steps that were moved aside and have not been done again. Lists everything."""
        found = {name.rpartition("/")[0] for name in self.index.survey() if f"/{ASIDE}" in name}
        return sorted(_split(name) for name in found if name not in self.index.listed)

    def broken(self, steps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of some steps whose manifest was listed and does not check. Their files are not read."""
        listed = [(kind, key) for kind, key in steps if f"{kind}/{key}" in self.index.listed]
        return [(kind, key) for kind, key in listed if not self.is_whole(kind, key)]

    def steps(self) -> list[tuple[str, str]]:
        """Return (kind, key) of everything that claims to be a finished step. Lists everything."""
        self.index.survey()
        return sorted(
            (_split(name) for name in self.index.listed), key=lambda step: (list(VERSIONS).index(step[0]), step)
        )

    def is_whole(self, kind: str, key: str) -> bool:
        """Whether the step's manifest is there and checks. A file's hash is checked when it is asked for."""
        return self._commit(kind, key) is not None

    def status(self, kind: str, key: str) -> str:
        """Return "done", "failed" or "missing"."""
        own = self._commit(kind, key)
        return "missing" if own is None else own.status

    def _commit(self, kind: str, key: str) -> Commit | None:
        return self.index.commit(f"{kind}/{key}")

    # --- reading ------------------------------------------------------------------------------------------------------

    def step(self, kind: str, key: str) -> dict[str, Any]:
        """Read a finished step's step.json."""
        return dict(json.loads(self.file(kind, key, "step.json").read_bytes()))

    def file_hash(self, kind: str, key: str, name: str) -> str:
        """Return the SHA-256 of a finished step's file, from its manifest."""
        return str(self._known(kind, key).files[name]["sha256"])

    def file_address(self, kind: str, key: str, name: str) -> str:
        """Return where a finished step's file lies, for a user to read."""
        return f"{self.url}/{kind}/{key}/{self._known(kind, key).token}/{name}"

    def file(self, kind: str, key: str, name: str) -> Path:
        """Return the path of a finished step's file in the cache, downloaded if need be, after its hash was checked.

        Raises ``BadInput`` where the step is not there, and ``StorageFailed`` ("damaged") where its file is missing or
        was changed; the step is then moved aside.
        """
        path = safe_join(self.folder(kind, key), name)
        own = self._known(kind, key)
        for _ in range(2):
            facts = own.files.get(name)
            if facts is None or self._is_here(path, facts) or self._fetch(f"{kind}/{key}", own, name, path):
                return path
            self.refresh(kind, key)  # another process may have removed it, or done it again
            own = self._known(kind, key)
        aside = self._set_aside(f"{kind}/{key}", own.version)
        raise StorageFailed(
            "damaged",
            f"damaged: {self.url}/{kind}/{key}: {name} is missing or has changed since it was written; "
            f"the step was moved aside ({aside}). `tailkeep run` does it again",
        )

    def _known(self, kind: str, key: str) -> Commit:
        own = self.index.commit(f"{kind}/{key}", sure=True)
        if own is None:
            raise BadInput(f"{self.url}: the {kind} step {key[:12]} is not stored whole; run the study again")
        return own

    def _is_here(self, path: Path, facts: dict[str, Any]) -> bool:
        """Whether the cache has a file, hashed once a process."""
        known = f"{path} {facts['sha256']}"
        if not path.is_file():
            self._checked.discard(known)
            return False
        if known not in self._checked and file_facts(path) != facts:
            return False
        self._checked.add(known)
        return True

    def _fetch(self, name: str, own: Commit, file: str, path: Path) -> bool:
        """Download a file into the cache; False, and nothing in the cache, where it is not what was published."""
        make_folder(path.parent)
        temporary = temporary_name(path)
        try:
            there = self.objects.download(f"{name}/{own.token}/{file}", temporary)
            if not there or file_facts(temporary) != own.files[file]:
                return False
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._checked.add(f"{path} {own.files[file]['sha256']}")
        return True

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, kind: str, key: str, step: dict[str, Any], token: str = "work") -> bool:
        """Upload the files of the folder of work, then create the manifest, which is the commit.

        Return False, and drop the work and what was uploaded of it, where another process has published the step.
        Raises ``FileNotFoundError`` where the folder was taken away by another holder of the lease.
        """
        name, final = f"{kind}/{key}", self.folder(kind, key)
        work = final.with_name(f"{key}.partial") / token
        files = self.seal(work, step)
        trial = f"{token}-{secrets.token_hex(4)}"
        for file in files:
            self.objects.upload(f"{name}/{trial}/{file}", work / file)
        self._check_arrived(name, trial, files)
        body = {"key": key, "token": trial, "status": str(step["status"]), "files": files}
        text = manifest_text(body)
        own = self._create(name, text, trial)
        if own is None:
            for file in files:
                self.objects.delete(f"{name}/{trial}/{file}")
            drop_work(work)
            return False
        with suppress(OSError):  # it is only a cache: what is not there will be downloaded
            remove_folder(final)
            os.rename(work, final)
            self._checked.update(f"{final / file} {facts['sha256']}" for file, facts in files.items())
        drop_work(work)
        self.index.keep(name, own, text)
        return True

    def _check_arrived(self, name: str, trial: str, files: dict[str, dict[str, Any]]) -> None:
        """Look that all is there before it counts: whoever slept for long may find its uploads collected."""
        there = self.objects.listed(f"{name}/{trial}")
        sizes = {path.rpartition("/")[2]: entry.bytes for path, entry in there.items()}
        if sizes != {file: facts["bytes"] for file, facts in files.items()}:
            raise StorageFailed(
                "unreachable",
                f"unreachable: {self.url}/{name}: not all that was uploaded has arrived. Nothing was published, and "
                "the same command does the step again",
            )

    def _create(self, name: str, text: bytes, trial: str) -> Commit | None:
        """Commit; None where another process was first."""
        key = name.partition("/")[2]
        for _ in range(3):
            version = self.objects.create(f"{name}/{MANIFEST}", text)
            if version is not None:
                return committed(text, key, version)
            found = self.objects.get(f"{name}/{MANIFEST}")
            other = None if found is None else committed(found[0], key, found[1])
            if other is not None and found is not None:
                if other.token == trial:  # created by this very call: the answer was lost
                    return other
                self.index.keep(name, other, found[0])
                return None
            if found is not None:
                self._set_aside(name)  # a broken leftover is no result
        raise BadInput(f"{self.url}/{name}: a damaged manifest lies here and cannot be moved aside")

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def examine(self, kind: str, key: str) -> tuple[list[str], int] | None:
        """Download and hash every file of a step; return what is wrong and its bytes, None where it is no more."""
        name = f"{kind}/{key}"
        found = self.objects.get(f"{name}/{MANIFEST}")
        if found is None:
            return None
        own = committed(found[0], key, found[1])
        if own is None:
            return ["the manifest does not check"], len(found[0])
        faults, size = [], len(found[0])
        temporary = temporary_name(make_folder(self.folder(kind, key)) / "examined")
        try:
            for file, facts in own.files.items():
                if not self.objects.download(f"{name}/{own.token}/{file}", temporary):
                    faults.append(f"{file} is missing")
                    continue
                size += temporary.stat().st_size
                if file_facts(temporary) != facts:
                    faults.append(f"{file} has changed")
        finally:
            temporary.unlink(missing_ok=True)
        return faults, size

    def move_aside(self, kind: str, key: str) -> str | None:
        """Give a damaged step's manifest another name; return where it lies, None where the step is whole or absent."""
        seen = self.examine(kind, key)
        return self._set_aside(f"{kind}/{key}") if seen is not None and seen[0] else None

    def _set_aside(self, name: str, version: str | None = None) -> str | None:
        """Copy the manifest to another name, then remove that very version of it; None where it is another by now."""
        found = self.objects.get(f"{name}/{MANIFEST}")
        if found is None or version not in (None, found[1]):
            return None
        number, aside = 1, f"{name}/{ASIDE}.json"
        while self.objects.create(aside, found[0]) is None:
            number += 1
            aside = f"{name}/{ASIDE}{number}.json"
        gone = self.objects.delete(f"{name}/{MANIFEST}", found[1])
        if not gone:  # done again between the look and the removal
            self.objects.delete(aside)
        self.index.refresh(name)
        return f"{self.url}/{aside}" if gone else None

    def aside(self) -> list[str]:
        """Return the names of all that was moved aside."""
        return sorted(
            name
            for name in self.objects.listed()
            if f"/{ASIDE}" in name or (name.startswith("studies/") and ".damaged" in name)
        )

    def forget(self, kind: str, key: str) -> bool:
        """Remove a failed step so that it can be tried again; return whether it was one."""
        self.refresh(kind, key)
        own = self._commit(kind, key)
        if own is None or own.status != "failed":
            return False
        name = f"{kind}/{key}"
        gone = self.objects.delete(f"{name}/{MANIFEST}", own.version)
        if gone:
            for file in own.files:
                self.objects.delete(f"{name}/{own.token}/{file}")
            remove_folder(self.folder(kind, key))
        self.refresh(kind, key)
        return gone

    def items(self) -> list[Item]:
        """Return all that a garbage collection may look at: there, and what killed processes left in the cache."""
        found = {**self.index.survey(), **self.objects.listed("studies")}
        commits = {name: self.index.commit(name) for name in list(self.index.listed)}
        tokens = {name: own.token for name, own in commits.items() if own is not None}

        def read(name: str) -> bytes | None:
            answer = self.objects.get(name)
            return None if answer is None else answer[0]

        here = [item for item in items_of(self.root) if item.what in ("unfinished", "leftover")]
        return items_there(self.url, found, tokens, read) + here

    def remove(self, item: Item) -> None:
        """Remove one of ``items``. Files of a step that was published meanwhile stay."""
        if isinstance(item.path, Path):
            remove_item(item)
            return
        self.refresh(item.kind, item.key)
        own = self._commit(item.kind, item.key) if item.kind in VERSIONS else None
        remove_there(self.objects, item, None if own is None else own.token)
        self.refresh(item.kind, item.key)
        if item.what == "step":
            remove_folder(self.folder(item.kind, item.key))

    # --- files beside the steps ---------------------------------------------------------------------------------------

    def study_file(self, name: str) -> Path:
        """Return a study's record as it is now, as a file of the cache; there is none where there is no record."""
        return self._small.fetch(self._name_of(super().study_file(name)))

    def files_in(self, folder: str, suffix: str) -> list[Path]:
        """Return the small files beside the steps, as files of the cache, sorted by name."""
        return self._small.files_in(folder, suffix)

    def put(self, name: str, data: bytes) -> None:
        """Write a small file beside the steps: ``studies/NAME.json``."""
        self._small.put(self._name_of(safe_join(self.root, name)), data)

    def put_aside(self, path: Path) -> str:
        """Give a file of ``files_in`` that does not check another name; return where it lies now."""
        return self._small.put_aside(path)

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.root.resolve()).as_posix()


def stores_cache() -> Path:
    """Return the folder of the caches: in TAILKEEP_CACHE, else ``~/.cache/tailkeep``."""
    named = os.environ.get("TAILKEEP_CACHE")
    return (Path(named).expanduser() if named else Path.home() / ".cache" / "tailkeep") / "stores"


def _split(name: str) -> tuple[str, str]:
    kind, _, key = name.partition("/")
    return kind, key
