"""CIFAR-10 and CIFAR-100 from their official Python archives, or from folders in the same layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tailkeep.data.archive import MEMBER_LIMIT, read_archive
from tailkeep.data.cache import cache_root, cached, entry_key, file_facts
from tailkeep.data.checks import check_classes
from tailkeep.data.dataset import Dataset, Split, split_digest
from tailkeep.data.download import download
from tailkeep.data.unpickle import restricted_loads
from tailkeep.errors import BadInput
from tailkeep.spec import Spec

ROOT_VARIABLE = "TAILKEEP_DATA_ROOT"
_SITE = "https://www.cs.toronto.edu/~kriz/"
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """What one of the two archives looks like."""

    folder: str
    archive: str
    archive_md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    names_key: str
    labels_key: str
    classes: int
    md5: dict[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.meta, *self.train, self.test)


_CIFAR10 = _Layout(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    train=tuple(f"data_batch_{n}" for n in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    names_key="label_names",
    labels_key="labels",
    classes=10,
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
_CIFAR100 = _Layout(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    train=("train",),
    test="test",
    meta="meta",
    names_key="fine_label_names",
    labels_key="fine_labels",
    classes=100,
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


class Cifar10(Spec):
    """CIFAR-10: 50,000 training and 10,000 test images of 3x32x32 pixels in ten classes."""

    kind: Literal["cifar10"] = "cifar10"

    @property
    def label(self) -> str:
        """Short name for tables."""
        return "cifar10"

    def load(self, root: Path | None = None, cache: Path | None = None) -> Dataset:
        """Return the dataset, images (N, 3, 32, 32), memory-mapped from ``cache`` after the first time.

        ``root`` (else the environment's TAILKEEP_DATA_ROOT) is the folder ``cifar-10-batches-py``, a folder that holds
        it, or one that holds ``cifar-10-python.tar.gz``. With neither, the official archive is downloaded into the
        cache. Files with other checksums are loaded, and ``notes`` says "not official". Raises ``BadInput`` where
        nothing is found or fetched, and where a file is damaged or holds more than plain values.
        """
        return _load(self, _CIFAR10, self.label, root, cache)


class Cifar100(Spec):
    """CIFAR-100 with its 100 fine labels: 500 training and 100 test images of 3x32x32 pixels a class."""

    kind: Literal["cifar100"] = "cifar100"

    @property
    def label(self) -> str:
        """Short name for tables."""
        return "cifar100"

    def load(self, root: Path | None = None, cache: Path | None = None) -> Dataset:
        """Return the dataset as ``Cifar10.load`` does, from ``cifar-100-python`` or its ``.tar.gz``."""
        return _load(self, _CIFAR100, self.label, root, cache)


def _load(spec: Spec, layout: _Layout, label: str, root: Path | None, cache: Path | None) -> Dataset:
    if root is None and os.environ.get(ROOT_VARIABLE):
        root = Path(os.environ[ROOT_VARIABLE]).expanduser()
    if root is None:
        source = download(
            _SITE + layout.archive,
            cache_root(cache) / "downloads" / layout.archive,
            layout.archive_md5,
            _advice(layout),
        )
    else:
        source = _find(layout, root)
    files = [source] if source.is_file() else [source / name for name in layout.files]
    key = entry_key(spec.plain(), source.parent, file_facts(source.parent, files))
    return cached(cache, key, lambda: _decode(layout, label, source))


def _advice(layout: _Layout) -> str:
    return (
        f"Where there is no network, fetch {_SITE}{layout.archive} elsewhere and put it, or the folder {layout.folder} "
        f"inside it, into a folder of your choice; then name that folder with --data-root or {ROOT_VARIABLE}."
    )


def _find(layout: _Layout, root: Path) -> Path:
    """Return the folder of batch files or the archive that ``root`` means; raises ``BadInput`` where it is neither."""
    if root.is_file() and root.name == layout.archive:
        return root
    for folder in (root, root / layout.folder):
        present = [name for name in layout.files if (folder / name).is_file()]
        if layout.train[0] in present or layout.meta in present:
            missing = [name for name in layout.files if name not in present]
            if missing:
                raise BadInput(f"{folder}: not complete, these files are missing: {', '.join(missing)}")
            return folder
    if (root / layout.archive).is_file():
        return root / layout.archive
    if not root.exists():
        raise BadInput(f"{root}: no such folder. {_advice(layout)}")
    raise BadInput(f"{root}: holds neither {layout.folder} nor {layout.archive}. {_advice(layout)}")


def _contents(layout: _Layout, source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, bytes) of the expected files."""
    if source.is_file():
        expected = {f"{layout.folder}/{name}": name for name in layout.files}
        for member, data in read_archive(source, expected):
            yield expected[member], data
        return
    for name in layout.files:
        if (source / name).stat().st_size > MEMBER_LIMIT:
            raise BadInput(f"{source / name}: larger than {MEMBER_LIMIT >> 20} MB, not a CIFAR file")
        yield name, (source / name).read_bytes()


def _decode(layout: _Layout, label: str, source: Path) -> Dataset:
    names: tuple[str, ...] = ()
    batches: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    strange = []
    for name, data in _contents(layout, source):
        where = str(source / name)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != layout.md5[name]:
            strange.append(name)
        content = restricted_loads(data, where)
        if name == layout.meta:
            names = _class_names(layout, content, where)
        else:
            batches[name] = _batch(layout, content, where)
    missing = [name for name in layout.files if name not in batches and name != layout.meta]
    if missing or not names:
        raise BadInput(f"{source}: not complete, these files are missing: {', '.join(missing) or layout.meta}")
    train = _split(batches, layout.train, names)
    test = _split(batches, (layout.test,), names)
    check_classes(str(source), "training", train.labels, names)
    check_classes(str(source), "test", test.labels, names)
    # Told by the files themselves, not by an archive around them: it is the files that were read.
    notes = (f"not official: checksums differ for {', '.join(sorted(strange))}",) if strange else ()
    return Dataset(label, names, train, test, notes)


def _split(
    batches: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]], files: tuple[str, ...], names: tuple[str, ...]
) -> Split:
    images = np.concatenate([batches[name][0] for name in files])
    labels = np.concatenate([batches[name][1] for name in files])
    ids = np.array([f"{name}/{index}" for name in files for index in range(len(batches[name][1]))])
    return Split(images, labels, ids, split_digest(images, labels, names))


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _entry(content: dict[Any, Any], key: str) -> Any:
    """Return a value by its key: bytes as Python 2 wrote it, or text."""
    return content.get(key.encode("ascii"), content.get(key))


def _class_names(layout: _Layout, content: dict[Any, Any], where: str) -> tuple[str, ...]:
    found = _entry(content, layout.names_key)
    names = [_text(name) for name in found] if isinstance(found, list) and len(found) == layout.classes else []
    if not names or None in names or len(set(names)) != layout.classes:
        raise BadInput(f"{where}: {layout.names_key} is not a list of {layout.classes} different names")
    return tuple(str(name) for name in names)


def _batch(layout: _Layout, content: dict[Any, Any], where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (images (N, 3, 32, 32), labels (N,)) of one file's content."""
    data, labels = _entry(content, "data"), _entry(content, layout.labels_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise BadInput(f"{where}: data is not a uint8 array of rows of {_PIXELS} values")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise BadInput(f"{where}: {layout.labels_key} is not a list of {len(data)} labels, one an image")
    for row, value in enumerate(labels):
        if type(value) is not int or not 0 <= value < layout.classes:
            # Only a small number is shown: lists within lists, or a number of a million digits, cannot be.
            shown = value if type(value) is int and value.bit_length() < 64 else f"of type {type(value).__name__}"
            raise BadInput(f"{where}: label {row} is {shown}, not a number from 0 to {layout.classes - 1}")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
