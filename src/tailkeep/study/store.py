"""The store of finished steps: content-addressed, published by rename, believed only where its manifest checks.

``<root>/<kind>/<key>/`` holds step.json, the step's files and manifest.json (the SHA-256 of each file and of itself),
written last. Work happens in ``<key>.partial``; a kill leaves only that behind.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import fsync_folder, read_json, readable_json, safe_join, sha256_file, write_json
from tailkeep.spec import content_key

MANIFEST = "manifest.json"


class Store:
    """A folder of finished steps. Reading checks hashes; nothing that is stored is ever overwritten."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: set[str] = set()

    def folder(self, kind: str, key: str) -> Path:
        """Where a step's files lie once it is done."""
        return safe_join(self.root, kind, key)

    def partial(self, kind: str, key: str) -> Path:
        """Where a step works; made if it is not there, kept for a resume if it is."""
        path = safe_join(self.root, kind, f"{key}.partial")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, kind: str, key: str, step: dict[str, Any]) -> None:
        """Seal the partial folder: write step.json and the manifest, sync all, rename. A second publisher gives way."""
        work, final = self.partial(kind, key), self.folder(kind, key)
        for name in ("checkpoint.safetensors", "checkpoint.reading", "progress.json"):
            (work / name).unlink(missing_ok=True)
        write_json(work / "step.json", step)
        files = {path.name: _facts(path) for path in sorted(work.iterdir()) if path.name != MANIFEST and _sync(path)}
        body = {"key": key, "files": files}
        write_json(work / MANIFEST, {**body, "self": content_key(body)})
        try:
            os.rename(work, final)
        except OSError:
            if not self.is_whole(kind, key):
                shutil.rmtree(final, ignore_errors=True)  # a broken leftover is no result
                os.rename(work, final)
            else:
                shutil.rmtree(work, ignore_errors=True)
        fsync_folder(final.parent)

    def is_whole(self, kind: str, key: str) -> bool:
        """Whether the step is there with a manifest that checks, done or failed. Checked once a process."""
        name = f"{kind}/{key}"
        if name in self._checked:
            return True
        folder = self.folder(kind, key)
        if not (folder / MANIFEST).is_file() or self.faults(folder, key):
            return False
        self._checked.add(name)
        return True

    def faults(self, folder: Path, key: str) -> list[str]:
        """Return what is wrong with a stored step, in words; empty where all hashes check."""
        try:
            manifest = read_json(folder / MANIFEST)
            body = {"key": manifest["key"], "files": manifest["files"]}
            text = (folder / MANIFEST).read_text(encoding="utf-8")
            if manifest["self"] != content_key(body) or manifest["key"] != key or text != readable_json(manifest):
                return ["the manifest does not check"]
            found = []
            for name, facts in manifest["files"].items():
                path = safe_join(folder, name)
                if not path.is_file():
                    found.append(f"{name} is missing")
                elif _facts(path) != facts:
                    found.append(f"{name} has changed")
            return found
        except (BadInput, KeyError, TypeError, AttributeError, OSError) as error:
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

    def forget(self, kind: str, key: str) -> None:
        """Remove a failed step so that it can be tried again."""
        if self.status(kind, key) == "failed":
            self._checked.discard(f"{kind}/{key}")
            shutil.rmtree(self.folder(kind, key))

    def discard_partial(self, kind: str, key: str) -> None:
        """Remove what a step left half done."""
        shutil.rmtree(safe_join(self.root, kind, f"{key}.partial"), ignore_errors=True)

    def study_file(self, name: str) -> Path:
        """Where a study's record lies."""
        return safe_join(self.root, "studies", f"{name}.json")

    def progress(self, kind: str, key: str) -> dict[str, Any] | None:
        """What a running step last said of itself, if it runs."""
        try:
            text = (self.root / kind / f"{key}.partial" / "progress.json").read_text(encoding="utf-8")
            return dict(json.loads(text))
        except (OSError, json.JSONDecodeError):
            return None


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _sync(path: Path) -> bool:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return True
