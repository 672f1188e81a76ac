"""A user's own images: one folder a class, any size, with or without a test split."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tailkeep.data.cache import cached, entry_key, file_facts
from tailkeep.data.checks import check_classes, check_overlap, listed
from tailkeep.data.cifar import ROOT_VARIABLE
from tailkeep.data.dataset import Dataset, Split, split_digest
from tailkeep.data.decode import decode_all
from tailkeep.data.scan import Found, relative, scan_folder
from tailkeep.data.subset import class_counts, pixel_hashes
from tailkeep.errors import BadInput
from tailkeep.spec import Spec

TOTAL_LIMIT = 32 << 30
"""Bytes that all decoded images may take."""
FEW_TEST_IMAGES = 10
"""A class with fewer is flagged: one image there is ten points of its recall or more."""

Side = Annotated[int, Field(ge=4, le=1024)]


class ImageFolder(Spec):
    """Images in ``train/CLASS/*`` and ``test/CLASS/*``, or in ``CLASS/*``, of which a part becomes the test split.

    ``path`` defaults to the data root; a relative one is taken from it. ``size`` is (height, width) or one number for
    both. Without a test/ folder ``test_fraction`` of every class is taken for it by ``split_seed``. ``allow_bad``
    damaged images may be skipped. A class with fewer than ``min_test`` test images is refused.
    """

    kind: Literal["folder"] = "folder"
    path: str | None = None
    size: Side | tuple[Side, Side] = 32
    channels: Literal[1, 3] = 3
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: int = 0
    allow_bad: Annotated[int, Field(ge=0)] = 0
    min_test: Annotated[int, Field(ge=0)] = 0
    allow_overlap: bool = False

    @property
    def label(self) -> str:
        """The folder's name, or ``folder`` where the data root is meant."""
        return Path(self.path).name or "folder" if self.path else "folder"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def load(self, root: Path | None = None, cache: Path | None = None) -> Dataset:
        """Return the dataset, images (N, channels, height, width) memory-mapped from ``cache`` after the first time.

        ``notes`` say what was converted, skipped, ignored or is too small to judge. Raises ``BadInput`` where the
        folder is missing or has no classes; where a class has no training image or fewer than ``min_test`` test
        images; for a test class that training lacks; for more damaged images than ``allow_bad``; for a link that
        leads outside; and, unless ``allow_overlap`` is set, for a test image with the pixels of a training image.
        """
        folder = self._folder(root)
        found = scan_folder(folder)
        folder = folder.resolve()
        files = [path for split in (found.train, found.test or {}) for paths in split.values() for path in paths]
        settings = {**self.plain(), "path": None, "others": found.others, "unread": found.unread}
        try:
            facts = file_facts(folder, files)
        except OSError as error:
            raise BadInput(
                f"{relative(folder, Path(str(error.filename)))}: cannot be read ({error.strerror})"
            ) from error
        return cached(cache, entry_key(settings, folder, facts), lambda: self._decode(folder, found))

    def _folder(self, root: Path | None) -> Path:
        if root is None and os.environ.get(ROOT_VARIABLE):
            root = Path(os.environ[ROOT_VARIABLE]).expanduser()
        named = None if self.path is None else Path(self.path).expanduser()
        if named is None and root is None:
            raise BadInput(f"kind folder: name the folder of images with path:, --data-root or {ROOT_VARIABLE}")
        folder = root / named if root is not None and named is not None else named or root
        assert folder is not None
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder of images; expected train/CLASS/* or CLASS/* in it")
        return folder

    def _decode(self, folder: Path, found: Found) -> Dataset:
        names = tuple(found.train)
        files, labels, is_test = _listing(found, names)
        pixels, keep, notes = self._pixels(folder, files)
        labels, is_test = labels[keep], is_test[keep]
        ids = np.array([relative(folder, files[row]) for row in keep])
        check_classes(str(folder), "training", labels[~is_test], names)
        if found.test is None:
            is_test = _test_rows(pixels, labels, names, self.test_fraction, self.split_seed)
            notes.append(f"no test/ folder: {int(is_test.sum())} of {len(labels)} images were split off for testing")

        def split(rows: NDArray[np.bool_]) -> Split:
            return Split(pixels[rows], labels[rows], ids[rows], split_digest(pixels[rows], labels[rows], names))

        train, test = split(~is_test), split(is_test)
        notes += self._test_notes(folder, test.labels, names)
        notes += check_overlap(str(folder), (train.images, train.ids), (test.images, test.ids), self.allow_overlap)
        notes += _ignored(found)
        return Dataset(self.label, names, train, test, tuple(notes))

    def _pixels(self, folder: Path, files: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
        """Return the pixels of the readable files, their positions in ``files``, and notes on the others."""
        shape = (self.channels, *self.shape)
        total = len(files) * int(np.prod(shape))
        if total > TOTAL_LIMIT:
            raise BadInput(f"{folder}: {len(files)} images of {shape} take {total >> 30} GB; choose a smaller size")
        pixels = np.empty((len(files), *shape), dtype=np.uint8)
        kept: list[int] = []
        bad: list[str] = []
        changes: Counter[str] = Counter()
        for row, decoded in enumerate(decode_all(files, self.shape, self.channels)):
            if decoded.pixels is None:
                bad.append(f"{relative(folder, files[row])} ({decoded.problem})")
                continue
            pixels[len(kept)] = decoded.pixels
            kept.append(row)
            changes.update(decoded.changes)
        if len(bad) > self.allow_bad:
            raise BadInput(
                f"{folder}: {len(bad)} damaged images, allow_bad is {self.allow_bad}: {listed(bad)}. Repair or remove "
                f"them, or set allow_bad: {len(bad)} to skip them (every report will then say so)"
            )
        notes = [f"skipped {len(bad)} damaged images: {listed(bad)}"] if bad else []
        notes += [f"{count} {change}" for change, count in sorted(changes.items())]
        return pixels[: len(kept)], np.array(kept, dtype=np.int64), notes

    def _test_notes(self, folder: Path, labels: NDArray[np.int64], names: tuple[str, ...]) -> list[str]:
        if len(labels) == 0:
            raise BadInput(f"{folder}: the test split has no image")
        if self.min_test:
            check_classes(str(folder), "test", labels, names, self.min_test)
        counts = zip(names, class_counts(labels, len(names)), strict=True)
        few = [f"{name!r} has {count}" for name, count in counts if count < FEW_TEST_IMAGES]
        return [f"few test images, so little can be said of these classes: {listed(few)}"] if few else []


def _listing(found: Found, names: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64], NDArray[np.bool_]]:
    """Return all files, their labels by the *training* names, and which of them are test images."""
    files: list[Path] = []
    labels: list[int] = []
    test: list[bool] = []
    for is_test, classes in ((False, found.train), (True, found.test or {})):
        for name, paths in classes.items():
            files += paths
            labels += [names.index(name)] * len(paths)
            test += [is_test] * len(paths)
    return files, np.array(labels, dtype=np.int64), np.array(test, dtype=np.bool_)


def _test_rows(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], names: tuple[str, ...], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Return which images become the test split: of every class the nearest number to ``fraction``, at least one.

    Images are ranked by a seeded hash of their pixels, so neither their names nor new neighbours move them, and copies
    of one image (which rank equal) all come to the same side.
    """
    ranks = np.array([hashlib.sha256(b"%d/" % seed + key).digest()[:16] for key in pixel_hashes(pixels)], dtype="V16")
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, name in enumerate(names):
        members = sorted(np.flatnonzero(labels == label), key=lambda row: ranks[row].tobytes())
        # Cuts between two different images; at one of them the class is split.
        cuts = [n for n in range(1, len(members)) if ranks[members[n - 1]] != ranks[members[n]]]
        if not cuts:
            raise BadInput(
                f"class {name!r} has {len(members)} images that differ too little to be split into training and test; "
                "it needs at least two different ones"
            )
        chosen[members[: min(cuts, key=lambda n: abs(n - fraction * len(members)))]] = True
    return chosen


def _ignored(found: Found) -> list[str]:
    notes = []
    if found.others:
        notes.append(f"ignored {len(found.others)} files that are no images in class folders: {listed(found.others)}")
    if found.unread:
        notes.append(f"folders beside train/ and test/ were not read: {listed(found.unread)}")
    return notes
