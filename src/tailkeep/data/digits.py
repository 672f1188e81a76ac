"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tailkeep.data.dataset import Dataset, Split, split_digest
from tailkeep.data.subset import class_counts, hold_out
from tailkeep.errors import BadInput
from tailkeep.spec import Spec

_SPLIT_SEED = 0
"""Fixed: the test set of the digits is the same in every study."""


class Digits(Spec):
    """The digits 0 to 9: ``test_per_class`` images of each are the test split, the rest (about 130) train."""

    kind: Literal["digits"] = "digits"
    test_per_class: Annotated[int, Field(ge=1)] = 50

    @property
    def label(self) -> str:
        """Short name for tables."""
        return "digits"

    def load(self, root: Path | None = None, cache: Path | None = None) -> Dataset:
        """Return the digits, images (N, 1, 8, 8) with 0..16 scaled to 0..255. ``root`` and ``cache`` are not used.

        Raises ``BadInput`` where ``test_per_class`` leaves a class without a training image.
        """
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.clip(np.rint(bunch.images * (255 / 16)), 0, 255).astype(np.uint8)[:, None]
        labels = bunch.target.astype(np.int64)
        names = tuple(str(digit) for digit in range(10))
        fewest = min(class_counts(labels, len(names)))
        if self.test_per_class >= fewest:
            raise BadInput(f"digits: test_per_class {self.test_per_class} must be below {fewest}, the smallest class")
        train, test = hold_out(labels, self.test_per_class, _SPLIT_SEED)
        ids = np.array([f"digits/{index}" for index in range(len(labels))])

        def split(rows: NDArray[np.int64]) -> Split:
            return Split(images[rows], labels[rows], ids[rows], split_digest(images[rows], labels[rows], names))

        return Dataset("digits", names, split(train), split(test))
