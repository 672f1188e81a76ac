"""The store of finished steps: content-addressed, published by rename, believed only where its manifest checks.

``<root>/<kind>/<key>/`` holds step.json, the step's files and manifest.json (the SHA-256 of each file and of itself),
written last. Work happens in ``<key>.partial/<token>``, a folder of its own for each holder of the step's lease; a kill
leaves only that behind. What does not check is moved aside to ``<key>.damaged``: never served, never deleted here.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import (
    fsync_folder,
    is_temporary,
    make_folder,
    read_json,
    readable_json,
    remove_folder,
    safe_join,
    sha256_file,
    write_atomic,
    write_json,
)
from tailkeep.spec import content_key
from tailkeep.study.lease import FileLeases
from tailkeep.study.leases import Leases
from tailkeep.study.plan import VERSIONS
from tailkeep.study.store_items import Item, items_of, remove_item

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
OWNER = ".owner"
"""Lies in a folder of work as long as its holder may publish it; a folder that came back without it may not."""
NOT_STORED = (CHECKPOINT, "checkpoint.reading", "progress.json", OWNER)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Store:
    """A folder of finished steps. Reading checks hashes; nothing that is stored is ever overwritten.

    ``root`` is the folder where work happens; ``address`` is what a user names the store by, and ``open_store`` opens.
    """

    leases: Leases

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = FileLeases(root / "leases")
        self._checked: set[str] = set()

    @property
    def address(self) -> str:
        """What --store names this store by, from any process of this machine."""
        return str(self.root)

    @property
    def room(self) -> str:
        """What errors call the place where there must be room on the disk."""
        return f"--store {self.root}"

    def __str__(self) -> str:
        return self.address

    def check(self) -> None:
        """Raise ``BadInput`` where this is not a store yet."""
        if not self.root.is_dir():
            raise BadInput(f"{self.root}: no such folder; name the folder that --store named when the study ran")
        if not self.has_studies():
            raise BadInput(f"{self.root}: is not a store: it has no folder 'studies'; name the folder of --store")

    def has_studies(self) -> bool:
        """Whether a study has run here."""
        return (self.root / "studies").is_dir()

    def refresh(self, kind: str, key: str) -> None:
        """Have the next question about a step look anew. A folder is always looked at anew."""

    def folder(self, kind: str, key: str) -> Path:
        """Where a step's files lie once it is done."""
        return safe_join(self.root, kind, key)

    def partial(self, kind: str, key: str, token: str = "work") -> Path:
        """Where a step works; made if it is not there, kept for a resume if it is."""
        path = safe_join(self.root, kind, f"{key}.partial", token)
        make_folder(path)
        (path / OWNER).touch()
        return path

    def adopt(self, kind: str, key: str, token: str) -> Path:
        """Make the folder of work of a lease, with the checkpoint that an earlier holder left, and nothing else of it.

        An earlier holder that is not dead but was silent for too long finds its folder gone, and cannot publish.
        """
        above = safe_join(self.root, kind, f"{key}.partial")
        make_folder(above)
        old = [path for path in above.iterdir() if path.name != token]
        mine = self.partial(kind, key, token)
        checkpoints = [path / CHECKPOINT for path in old if path.is_dir()] + [above / CHECKPOINT]
        for path in sorted((path for path in checkpoints if path.is_file()), key=lambda path: path.stat().st_mtime):
            try:
                os.replace(path, mine / CHECKPOINT)  # the newest one stays
            except FileNotFoundError:
                continue
        for path in old:
            if path.is_dir():
                remove_folder(path)
            else:
                path.unlink(missing_ok=True)
        return mine

    def seal(self, work: Path, step: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Write step.json, drop what is not stored, sync the rest; return the SHA-256 and the size of each file.

        Raises ``FileNotFoundError`` where the folder was taken away by another holder of the lease.
        """
        write_json(work / "step.json", step, make_parent=False)
        names = {path.name for path in work.iterdir()}
        if OWNER not in names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(work / OWNER))
        for path in [path for path in work.iterdir() if path.name in NOT_STORED or is_temporary(path)]:
            path.unlink()
        return {path.name: file_facts(path) for path in sorted(work.iterdir()) if path.name != MANIFEST and _sync(path)}

    def publish(self, kind: str, key: str, step: dict[str, Any], token: str = "work") -> bool:
        """Seal the folder of work: write step.json and the manifest, sync all, rename.

        Return False, and drop the work, where another process has published the step. Raises ``FileNotFoundError``
        where the folder was taken away by another holder of the lease.
        """
        final = self.folder(kind, key)
        work = final.with_name(f"{key}.partial") / token
        body = {"key": key, "files": self.seal(work, step)}
        write_json(work / MANIFEST, {**body, "self": content_key(body)}, make_parent=False)
        try:
            published = self._rename(kind, key, work, final)
        finally:
            fsync_folder(final.parent)
        drop_work(work)
        return published

    def _rename(self, kind: str, key: str, work: Path, final: Path) -> bool:
        """Give the work its final name, which only the first can: a folder that holds files is never replaced."""
        for _ in range(3):
            try:
                os.rename(work, final)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                if self.is_whole(kind, key):
                    return False
                self.move_aside(kind, key)  # a broken leftover is no result
        raise BadInput(f"{final}: a damaged step lies here and cannot be moved aside")

    def move_aside(self, kind: str, key: str) -> Path | str | None:
        """Rename a damaged step to ``<key>.damaged``; return where it lies now, None where it is whole or absent."""
        final = self.folder(kind, key)
        self._checked.discard(f"{kind}/{key}")
        number = 1
        aside = final.with_name(f"{key}.damaged")
        while aside.exists():
            number += 1
            aside = final.with_name(f"{key}.damaged{number}")
        try:
            os.rename(final, aside)
        except FileNotFoundError:
            return None
        if not self.faults(aside, key):  # published whole between the look and the rename
            os.rename(aside, final)
            return None
        fsync_folder(final.parent)
        return aside

    def damaged(self) -> list[tuple[str, str]]:
        """Return (kind, key) of the steps that were moved aside and have not been done again."""
        found = {
            (path.parent.name, path.name.partition(".")[0])
            for path in self.root.glob("*/*.damaged*")
            if path.is_dir() and not path.with_name(path.name.partition(".")[0]).exists()
        }
        return sorted(found)

    def broken(self, steps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of some steps that claim to be there and do not check."""
        there = {folder.name: set(os.listdir(folder)) for folder in self.root.glob("*/") if folder.is_dir()}
        nothing: set[str] = set()  # one look a kind: a big plan has many steps that are not there
        named = [(kind, key) for kind, key in steps if key in there.get(kind, nothing)]
        return [(kind, key) for kind, key in named if not self.is_whole(kind, key)]

    def is_whole(self, kind: str, key: str) -> bool:
        """Whether the step is there with a manifest that checks, done or failed. Hashes are checked once a process."""
        name, folder = f"{kind}/{key}", self.folder(kind, key)
        if not (folder / MANIFEST).is_file():
            self._checked.discard(name)
            return False
        if name in self._checked:
            return True
        if self.faults(folder, key):
            return False
        self._checked.add(name)
        return True

    def faults(self, folder: Path, key: str) -> list[str]:
        """Return what is wrong with a stored step, in words; empty where all hashes check.

        Raises ``OSError`` where the disk fails: what cannot be read now is not known to be damaged.
        """
        try:
            text = (folder / MANIFEST).read_bytes()
            manifest = json.loads(text)
            body = {"key": manifest["key"], "files": manifest["files"]}
            whole = text == readable_json(manifest).encode("utf-8")
            if manifest["self"] != content_key(body) or manifest["key"] != key or not whole:
                return ["the manifest does not check"]
            found = []
            for name, facts in manifest["files"].items():
                path = safe_join(folder, name)
                if not path.is_file():
                    found.append(f"{name} is missing")
                elif file_facts(path) != facts:
                    found.append(f"{name} has changed")
            return found
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            return [f"a file is missing ({error})"]
        except (BadInput, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            return [f"the manifest cannot be read ({error})"]

    def status(self, kind: str, key: str) -> str:
        """Return "done", "failed" or "missing"."""
        if not self.is_whole(kind, key):
            return "missing"
        return str(self.step(kind, key)["status"])

    def step(self, kind: str, key: str) -> dict[str, Any]:
        """Read a finished step's step.json."""
        return dict(read_json(self.folder(kind, key) / "step.json"))

    def file(self, kind: str, key: str, name: str) -> Path:
        """Return the path of a finished step's file, after its hashes were checked."""
        if not self.is_whole(kind, key):
            raise BadInput(f"{self.address}: the {kind} step {key[:12]} is not stored whole; run the study again")
        return safe_join(self.folder(kind, key), name)

    def file_address(self, kind: str, key: str, name: str) -> str:
        """Return where a finished step's file lies, for a user to read."""
        return str(self.folder(kind, key) / name)

    def file_hash(self, kind: str, key: str, name: str) -> str:
        """Return the SHA-256 of a finished step's file, from its manifest."""
        manifest = read_json(self.folder(kind, key) / MANIFEST)
        return str(manifest["files"][name]["sha256"])

    def forget(self, kind: str, key: str) -> bool:
        """Remove a failed step so that it can be tried again; return whether it was one."""
        if self.status(kind, key) != "failed":
            return False
        self._checked.discard(f"{kind}/{key}")
        remove_folder(self.folder(kind, key))
        return True

    def steps(self) -> list[tuple[str, str]]:
        """Return (kind, key) of everything that claims to be a finished step."""
        found = []
        for kind in VERSIONS:
            for path in sorted((self.root / kind).iterdir()) if (self.root / kind).is_dir() else []:
                if "." not in path.name:  # .partial, .damaged, and hidden leftovers have one
                    found.append((kind, path.name))
        return found

    def examine(self, kind: str, key: str) -> tuple[list[str], int] | None:
        """Hash every file of a step; return what is wrong with it and its bytes, None where it is no more.

        Raises ``OSError`` where the disk fails.
        """
        folder = self.folder(kind, key)
        faults = self.faults(folder, key)
        size = sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
        return (faults, size) if folder.exists() else None

    def aside(self) -> list[str]:
        """Return the names of all that was moved aside."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob("*/*.damaged*"))

    def study_file(self, name: str) -> Path:
        """Where a study's record lies."""
        return safe_join(self.root, "studies", f"{name}.json")

    def files_in(self, folder: str, suffix: str) -> list[Path]:
        """Return the small files beside the steps: records of studies, imported results. Sorted by name."""
        return sorted((self.root / folder).glob(f"*{suffix}"))

    def put(self, name: str, data: bytes) -> None:
        """Write a small file beside the steps, atomically: ``studies/NAME.json``."""
        write_atomic(safe_join(self.root, name), data)

    def put_aside(self, path: Path) -> str:
        """Give a file of ``files_in`` that does not check another name; return where it lies now."""
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        return str(aside)

    def items(self) -> list[Item]:
        """Return all that a garbage collection may look at."""
        return items_of(self.root)

    def remove(self, item: Item) -> None:
        """Remove one of ``items``."""
        remove_item(item)

    def progress(self, kind: str, key: str) -> dict[str, Any] | None:
        """What a running step last said of itself, if it runs."""
        above = self.root / kind / f"{key}.partial"
        for path in [*above.glob("*/progress.json"), above / "progress.json"]:
            try:
                return dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue
        return None


def drop_work(work: Path) -> None:
    """Remove a folder of work, and the one above it where it is the last."""
    remove_folder(work)
    with suppress(OSError):  # where another's work lies in it too
        work.parent.rmdir()


def file_facts(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file: its SHA-256 and its size in bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _sync(path: Path) -> bool:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return True
