"""Test images that a user has as numpy arrays, in one ``.npz`` file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.labelled import Labelled, in_order
from tailkeep.data.arrays import TOTAL_LIMIT
from tailkeep.errors import BadInput

IMAGES = ("x_{split}", "{split}_images", "images", "x")
LABELS = ("y_{split}", "{split}_labels", "labels", "y")
"""Names that the arrays may have; the first that the file holds is read."""


def read_arrays(path: Path, split: str, class_names: Sequence[str] | None) -> Labelled:
    """Return the images (N, H, W), (N, H, W, channels) or (N, channels, H, W) of uint8 with their labels (N,).

    Raises ``BadInput`` where the file is no ``.npz`` of plain arrays, lacks images or labels, or has them of another
    type, shape or length.
    """
    arrays, x, y = _read(path, split)
    images = _images(path, x, arrays[x])
    labels = arrays[y][:, 0] if arrays[y].ndim == 2 and arrays[y].shape[1] == 1 else arrays[y]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise BadInput(
            f"{path}: {y} is {labels.dtype} of shape {labels.shape}; labels are {len(images)} whole numbers from 0"
        )
    own = [str(name) for name in arrays["class_names"].ravel()] if "class_names" in arrays else None
    indices, names = in_order(str(path), labels.astype(np.int64), own, class_names)
    ids = np.array([f"{split}/{row}" for row in range(len(labels))])
    return Labelled("arrays", images, indices, names, ids)


def _read(path: Path, split: str) -> tuple[dict[str, NDArray[Any]], str, str]:
    """Return the arrays that are read, and the names of the images and of the labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > TOTAL_LIMIT:
            raise BadInput(f"{path}: refused, its arrays unfold to {size >> 20} MB")
        with np.load(path, allow_pickle=False) as file:
            chosen = []
            for what, names in (("images", IMAGES), ("labels", LABELS)):
                possible = [name.format(split=split) for name in names]
                present = [name for name in possible if name in file.files]
                if not present:
                    held = ", ".join(file.files) or "nothing"
                    raise BadInput(f"{path}: has no {what} ({', '.join(possible)}); it holds {held}")
                chosen.append(present[0])
            wanted = [*chosen, *(name for name in ("class_names",) if name in file.files)]
            return {name: file[name] for name in wanted}, chosen[0], chosen[1]
    except BadInput:
        raise
    # A damaged file can end in nearly any exception inside zipfile and numpy; none of them is our own fault.
    except Exception as error:
        raise BadInput(f"{path}: not readable as an .npz of plain arrays ({error})") from error


def _images(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array of images as (N, C, H, W)."""
    shape = array.shape
    if array.dtype != np.uint8:
        raise BadInput(f"{path}: {name} is {array.dtype}, images must be uint8 from 0 to 255")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise BadInput(
            f"{path}: {name} has shape {shape}; images are (N, H, W), (N, H, W, channels) or (N, channels, H, W) "
            "with 1 or 3 channels"
        )
    return np.ascontiguousarray(array)
