"""The store of finished steps: content-addressed, published by rename, believed only where its manifest checks.

``<root>/<kind>/<key>/`` holds step.json, the step's files and manifest.json (the SHA-256 of each file and of itself),
written last. Work happens in ``<key>.partial/<token>``, a folder of its own for each holder of the step's lease; a kill
leaves only that behind. What does not check is moved aside to ``<key>.damaged``: never served, never deleted here.
"""

from __future__ import annotations

import errno
import json
import os
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
    write_json,
)
from tailkeep.spec import content_key

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
OWNER = ".owner"
"""Lies in a folder of work as long as its holder may publish it; a folder that came back without it may not."""
NOT_STORED = (CHECKPOINT, "checkpoint.reading", "progress.json", OWNER)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class Store:
    """A folder of finished steps. Reading checks hashes; nothing that is stored is ever overwritten."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: set[str] = set()

    def folder(self, kind: str, key: str) -> Path:
        """Where a step's files lie once it is done."""
        return safe_join(self.root, kind, key)

    def lease(self, kind: str, key: str) -> Path:
        """The file that says who is at work on a step."""
        return safe_join(self.root, "leases", f"{kind}.{key}.lease")

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

    def publish(self, kind: str, key: str, step: dict[str, Any], token: str = "work") -> bool:
        """Seal the folder of work: write step.json and the manifest, sync all, rename.

        Return False, and drop the work, where another process has published the step. Raises ``FileNotFoundError``
        where the folder was taken away by another holder of the lease.
        """
        final = self.folder(kind, key)
        work = final.with_name(f"{key}.partial") / token
        write_json(work / "step.json", step, make_parent=False)
        names = {path.name for path in work.iterdir()}
        if OWNER not in names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(work / OWNER))
        for path in [path for path in work.iterdir() if path.name in NOT_STORED or is_temporary(path)]:
            path.unlink()
        files = {path.name: _facts(path) for path in sorted(work.iterdir()) if path.name != MANIFEST and _sync(path)}
        body = {"key": key, "files": files}
        write_json(work / MANIFEST, {**body, "self": content_key(body)}, make_parent=False)
        try:
            published = self._rename(kind, key, work, final)
        finally:
            fsync_folder(final.parent)
        remove_folder(work)
        with suppress(OSError):  # where another's work lies in it too
            work.parent.rmdir()
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

    def move_aside(self, kind: str, key: str) -> Path | None:
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
                elif _facts(path) != facts:
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
            raise BadInput(f"{self.root}: the {kind} step {key[:12]} is not stored whole; run the study again")
        return safe_join(self.folder(kind, key), name)

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

    def study_file(self, name: str) -> Path:
        """Where a study's record lies."""
        return safe_join(self.root, "studies", f"{name}.json")

    def progress(self, kind: str, key: str) -> dict[str, Any] | None:
        """What a running step last said of itself, if it runs."""
        above = self.root / kind / f"{key}.partial"
        for path in [*above.glob("*/progress.json"), above / "progress.json"]:
            try:
                return dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue
        return None


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _sync(path: Path) -> bool:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return True
