"""Decoded images kept as memory-mapped uint8 arrays, so that a source is decoded once and opened in milliseconds.

An entry is a folder named by a key (what the source was asked for, and the files it read). It is published by a rename,
whole or not at all. Opening trusts a file whose size and time are still those of the manifest; anything else is hashed
in full, and an entry that does not check is decoded again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.data.dataset import Dataset, Split
from tailkeep.files import fsync_folder, read_json, sha256_file, write_json
from tailkeep.spec import canonical_json, content_key

FORMAT = 1
"""Raise where the same files would be decoded to other arrays, or the layout of an entry changes."""

_SPLITS = ("train", "test")
_ARRAYS = ("images", "labels", "ids")
_STALE_SECONDS = 24 * 3600


def cache_root(cache: Path | None) -> Path:
    """Return the cache folder: ``cache``, else the environment's TAILKEEP_CACHE, else ``~/.cache/tailkeep``."""
    if cache is not None:
        return cache
    named = os.environ.get("TAILKEEP_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tailkeep"


def file_facts(root: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Return [name relative to ``root``, size, times] of every file: what an entry's key says about the source."""
    facts: list[list[Any]] = []
    for path in files:
        status = path.stat()
        name = path.relative_to(root).as_posix()
        # The change time too: two sets in the same layout can agree in name, size and (copied) modification time.
        facts.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return facts


def entry_key(spec: dict[str, Any], root: Path, facts: list[list[Any]]) -> str:
    """Return the key of an entry: the source's plain spec, where it lies and the facts of its files."""
    # A file name need not be valid text; the key needs one text for each name, not a readable one.
    named = [[os.fsencode(name).hex(), *rest] for name, *rest in facts]
    return content_key([FORMAT, spec, os.fsencode(root.resolve()).hex(), named])


def cached(cache: Path | None, key: str, decode: Callable[[], Dataset], verify: bool = False) -> Dataset:
    """Return the dataset of ``key``, decoded by ``decode`` where the cache has no entry that checks.

    ``verify`` hashes every file of an entry before it is used. A cache folder that cannot be written is no error: the
    decoded dataset is returned from memory.
    """
    folder = cache_root(cache) / "data" / key
    found = open_entry(folder, key, verify)
    if found is not None:
        return found
    dataset = decode()
    try:
        _publish(folder, key, dataset)
    except OSError:  # read-only or full: slower next time, nothing more
        return dataset
    return open_entry(folder, key, False) or dataset


def open_entry(folder: Path, key: str, verify: bool) -> Dataset | None:
    """Return the dataset stored in ``folder``, images memory-mapped, or None where the entry is absent or broken."""
    try:
        manifest = read_json(folder / "manifest.json")
        body = manifest["body"]
        if manifest["sha256"] != _hash(body) or body["key"] != key or body["format"] != FORMAT:
            return None
        for name, fact in body["files"].items():
            _check_file(folder / name, fact, verify)
        splits = [_open_split(folder, name, body["digests"][name]) for name in _SPLITS]
        return Dataset(body["name"], tuple(body["class_names"]), splits[0], splits[1], tuple(body["notes"]))
    # A broken entry can end in nearly any exception inside numpy; whatever it is, the source is decoded again.
    except Exception:
        return None


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode("ascii")).hexdigest()


def _check_file(path: Path, fact: dict[str, Any], verify: bool) -> None:
    status = path.stat()
    if status.st_size != fact["size"]:
        raise ValueError(f"{path.name}: size differs")
    touched = status.st_mtime_ns != fact["mtime_ns"]
    if (verify or touched) and sha256_file(path) != fact["sha256"]:
        raise ValueError(f"{path.name}: content differs")


def _open_split(folder: Path, name: str, digest: str) -> Split:
    images: NDArray[np.uint8] = np.load(folder / f"{name}-images.npy", mmap_mode="r", allow_pickle=False)
    labels: NDArray[np.int64] = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
    ids: NDArray[np.str_] = np.load(folder / f"{name}-ids.npy", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) == len(labels) == len(ids):
        raise ValueError(f"{name}: not a split")
    return Split(images, labels, ids, digest)


def _publish(folder: Path, key: str, dataset: Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    partial = folder.with_name(f".{key[:16]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        _write_entry(partial, key, dataset)
        try:
            os.rename(partial, folder)
        except OSError:
            # Another process published the same entry first, or a broken one lies there. Ours is known to be whole.
            broken = partial.with_suffix(".old")
            os.rename(folder, broken)
            os.rename(partial, folder)
            shutil.rmtree(broken, ignore_errors=True)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_entry(partial: Path, key: str, dataset: Dataset) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name, split in zip(_SPLITS, (dataset.train, dataset.test), strict=True):
        for part in _ARRAYS:
            path = partial / f"{name}-{part}.npy"
            with open(path, "wb") as file:
                np.save(file, getattr(split, part), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            status = path.stat()
            files[path.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_file(path)}
    body = {
        "format": FORMAT,
        "key": key,
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "notes": list(dataset.notes),
        "digests": {"train": dataset.train.digest, "test": dataset.test.digest},
        "files": files,
    }
    write_json(partial / "manifest.json", {"body": body, "sha256": _hash(body)})


def _sweep(parent: Path) -> None:
    """Remove what killed processes left behind a day ago or earlier."""
    for path in [*parent.glob(".*.partial"), *parent.glob(".*.old")]:
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
