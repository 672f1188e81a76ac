"""What a source of images gives: labelled splits of decoded uint8 images with a content hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    ``images`` uint8 of shape (N, channels, height, width), possibly memory-mapped; ``labels`` int64 of shape (N,), an
    index into the class names; ``ids`` str of shape (N,), what a user would call the image (a path, an index);
    ``digest`` the SHA-256 of the pixels, labels and class names, in order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A decoded dataset. ``notes`` are what a reader of a result must know (converted images, files not official)."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    notes: tuple[str, ...] = field(default=())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.train.images.shape
        return int(channels), int(height), int(width)


def split_digest(images: NDArray[np.uint8], labels: NDArray[np.int64], class_names: tuple[str, ...]) -> str:
    """Return the content hash of a split: class names, shape, labels and pixels in order."""
    digest = hashlib.sha256()
    digest.update("\x1f".join(class_names).encode("utf-8"))
    digest.update(repr(tuple(int(n) for n in images.shape)).encode("ascii"))
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for start in range(0, len(images), 4096):
        digest.update(np.ascontiguousarray(images[start : start + 4096]).tobytes())
    return digest.hexdigest()
