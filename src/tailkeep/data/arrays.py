"""Images that a user has as numpy arrays, in one ``.npz`` file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tailkeep.data.cache import cached, entry_key, file_facts
from tailkeep.data.checks import check_classes, check_overlap
from tailkeep.data.dataset import Dataset, Split, split_digest
from tailkeep.errors import BadInput
from tailkeep.spec import Spec

TOTAL_LIMIT = 16 << 30
"""Bytes that the arrays of one file may unfold to."""
_NEEDED = ("x_train", "y_train", "x_test", "y_test")


class Arrays(Spec):
    """An ``.npz`` with ``x_train, y_train, x_test, y_test`` and, if you like, ``class_names``.

    Images are uint8, (N, H, W), (N, H, W, channels) or (N, channels, H, W) with 1 or 3 channels; labels are integers
    from 0. A relative ``path`` is taken from the data root where there is one.
    """

    kind: Literal["arrays"] = "arrays"
    path: str
    allow_overlap: bool = False

    @property
    def label(self) -> str:
        """The file's name without its ending."""
        return Path(self.path).stem

    def load(self, root: Path | None = None, cache: Path | None = None) -> Dataset:
        """Return the dataset, images (N, C, H, W) memory-mapped from ``cache``.

        Raises ``BadInput`` where the file is missing, is no ``.npz``, holds pickled objects, lacks an array or has
        one of another type, shape or length; where a class has no image in a split; and where a test image has the
        pixels of a training image and ``allow_overlap`` is not set (else ``notes`` says so).
        """
        path = Path(self.path).expanduser()
        path = path if root is None or path.is_absolute() else root / path
        if not path.is_file():
            raise BadInput(f"{path}: no such file; `path:` of kind arrays names an .npz file")
        spec = {**self.plain(), "path": ""}  # where it lies is in the key already
        key = entry_key(spec, path.parent, file_facts(path.parent, [path]))
        return cached(cache, key, lambda: self._decode(path))

    def _decode(self, path: Path) -> Dataset:
        arrays = _read(path)
        shapes = {_images(path, arrays, name).shape[1:] for name in ("x_train", "x_test")}
        if len(shapes) != 1:
            raise BadInput(f"{path}: x_train and x_test have images of different shapes")
        labels = {name: _labels(path, arrays, name) for name in ("train", "test")}
        names = _class_names(path, arrays, labels["train"])
        splits = []
        for name, word in (("train", "training"), ("test", "test")):
            images, classes = _images(path, arrays, f"x_{name}"), labels[name]
            if len(classes) and classes.max() >= len(names):
                row = int(np.argmax(classes >= len(names)))
                raise BadInput(f"{path}: y_{name}[{row}] is {classes[row]}, there are {len(names)} classes")
            check_classes(str(path), word, classes, names)
            ids = np.array([f"{name}/{index}" for index in range(len(classes))])
            splits.append(Split(images, classes, ids, split_digest(images, classes, names)))
        train, test = splits
        notes = check_overlap(str(path), (train.images, train.ids), (test.images, test.ids), self.allow_overlap)
        return Dataset(self.label, names, train, test, notes)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > TOTAL_LIMIT:
            raise BadInput(f"{path}: refused, its arrays unfold to {size >> 20} MB")
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _NEEDED if name not in file.files]
            if missing:
                raise BadInput(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(file.files) or 'nothing'}")
            return {name: file[name] for name in (*_NEEDED, "class_names") if name in file.files}
    except BadInput:
        raise
    # A damaged file can end in nearly any exception inside zipfile and numpy; none of them is our own fault.
    except Exception as error:
        raise BadInput(f"{path}: not readable as an .npz of plain arrays ({error})") from error


def _images(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.uint8]:
    """Return an array of images as (N, C, H, W)."""
    array = arrays[name]
    if array.dtype != np.uint8:
        raise BadInput(f"{path}: {name} is {array.dtype}, images must be uint8 from 0 to 255")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise BadInput(
            f"{path}: {name} has shape {arrays[name].shape}; images are (N, H, W), (N, H, W, channels) or "
            "(N, channels, H, W) with 1 or 3 channels"
        )
    return np.ascontiguousarray(array)


def _labels(path: Path, arrays: dict[str, NDArray[Any]], split: str) -> NDArray[np.int64]:
    labels, images = arrays[f"y_{split}"], arrays[f"x_{split}"]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise BadInput(
            f"{path}: y_{split} is {labels.dtype} of shape {labels.shape}, expected integers of shape ({len(images)},)"
        )
    if len(labels) and labels.min() < 0:
        raise BadInput(f"{path}: y_{split}[{int(np.argmin(labels))}] is {labels.min()}, labels count from 0")
    if len(labels) and labels.max() >= 1 << 31:
        raise BadInput(f"{path}: y_{split}[{int(np.argmax(labels))}] is {labels.max()}, not the number of a class")
    return labels.astype(np.int64)


def _class_names(path: Path, arrays: dict[str, NDArray[Any]], labels: NDArray[np.int64]) -> tuple[str, ...]:
    if "class_names" not in arrays:
        if labels.max() >= len(labels):
            raise BadInput(
                f"{path}: y_train[{int(np.argmax(labels))}] is {labels.max()}, but {len(labels)} training images "
                f"cannot fill {int(labels.max()) + 1} classes; labels count from 0 without gaps"
            )
        return tuple(str(index) for index in range(int(labels.max()) + 1))
    names = tuple(str(name) for name in arrays["class_names"].ravel())
    if len(set(names)) != len(names):
        raise BadInput(f"{path}: class_names holds a name twice")
    return names
