"""The small files beside the steps of an object store, as files of the cache: records, imported results, orders."""

from __future__ import annotations

import time
from pathlib import Path

from tailkeep.files import make_folder, safe_join, write_atomic
from tailkeep.study.objects import Objects

LISTED_FOR = 2.0
"""Seconds for which a folder is not listed again."""
CONTENT_NAMED = "imported"
"""The folder whose files are named by their content, which their reader checks: never downloaded twice."""


class SmallFiles:
    """Objects that are downloaded whole, written by one put, and read through their path in the cache."""

    def __init__(self, objects: Objects, root: Path) -> None:
        self.objects, self.root = objects, root
        self._versions: dict[str, str] = {}
        self._listings: dict[str, tuple[float, list[Path]]] = {}

    def files_in(self, folder: str, suffix: str) -> list[Path]:
        """Return the paths of all files of a folder that end so, sorted; what is gone there goes here too."""
        since, paths = self._listings.get(folder, (float("-inf"), []))
        if time.monotonic() - since > LISTED_FOR:
            paths = []
            for name, entry in self.objects.listed(folder).items():
                path = self._path(name)
                here = self._versions.get(name) == entry.version or folder == CONTENT_NAMED
                if (here and path.is_file() and path.stat().st_size == entry.bytes) or self.fetch(name).is_file():
                    paths.append(path)
            for path in (self.root / folder).iterdir() if (self.root / folder).is_dir() else []:
                if path not in paths and not path.name.startswith("."):
                    path.unlink(missing_ok=True)
            self._listings[folder] = time.monotonic(), sorted(paths)
        return [path for path in self._listings[folder][1] if path.name.endswith(suffix)]

    def fetch(self, name: str) -> Path:
        """Download a file; return its path, where nothing is if nothing is there."""
        path = self._path(name)
        found = self.objects.get(name)
        if found is None:
            self._versions.pop(name, None)
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, found[0])
            self._versions[name] = found[1]
        return path

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole, there and in the cache."""
        path = self._path(name)
        self._versions[name] = self.objects.put(name, data)
        write_atomic(path, data)
        self._listings.clear()

    def put_aside(self, path: Path) -> str:
        """Give a file another name; return where it lies now."""
        name = path.relative_to(self.root.resolve()).as_posix()
        found = self.objects.get(name)
        if found is not None:
            self.objects.put(f"{name}.damaged", found[0])
            self.objects.delete(name, found[1])
        path.unlink(missing_ok=True)
        self._listings.clear()
        return f"{self.objects.url}/{name}.damaged"

    def _path(self, name: str) -> Path:
        path = safe_join(self.root, name)
        make_folder(path.parent)
        return path
