"""Which images: seeded subsets that nest, a stratified validation split, and a check that two sets share no image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.randomness import stream_seed


def class_order(num_classes: int, rotate: int | None = None) -> tuple[int, ...]:
    """Return the classes by frequency rank: the first is the most frequent one.

    ``rotate`` starts the order at that class (modulo the number of classes), so that "rare" is not always the last one.
    """
    offset = 0 if rotate is None else rotate
    return tuple((offset + rank) % num_classes for rank in range(num_classes))


def counts_by_class(counts_by_rank: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Return counts by class index from counts by frequency rank; ``order[r]`` is the class of rank ``r``."""
    if sorted(order) != list(range(len(counts_by_rank))):
        raise BadInput(f"class order {tuple(order)} is not an order of {len(counts_by_rank)} classes")
    counts = [0] * len(order)
    for rank, label in enumerate(order):
        counts[label] = int(counts_by_rank[rank])
    return tuple(counts)


def class_counts(labels: NDArray[np.int64], num_classes: int) -> tuple[int, ...]:
    """Return the number of images of every class."""
    return tuple(int(n) for n in np.bincount(labels, minlength=num_classes))


def choose_subset(labels: NDArray[np.int64], counts: Sequence[int], subset_seed: int) -> NDArray[np.int64]:
    """Return the sorted indices of a subset with ``counts[c]`` images of class ``c``.

    Of every class it is a prefix of one permutation that depends on ``subset_seed`` and the class alone, so a smaller
    set lies inside a larger one: ratio 100 in ratio 10, the matched twin in the full one. Raises ``BadInput`` where a
    class has too few images.
    """
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        if count > len(members):
            raise BadInput(f"class {label} has {len(members)} training images, {count} are asked for")
        chosen.append(members[_permutation(len(members), stream_seed(subset_seed, "subset", label))[:count]])
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.zeros(0, np.int64)


def hold_out(labels: NDArray[np.int64], per_class: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices into (training, validation), both sorted, with ``per_class`` validation images of every class.

    Raises ``BadInput`` where a class would be left without a training image.
    """
    train, validation = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if per_class >= len(members):
            raise BadInput(
                f"class {label} has {len(members)} training images: holding out {per_class} for validation leaves none"
            )
        members = members[_permutation(len(members), stream_seed(seed, "validation", int(label)))]
        validation.append(members[:per_class])
        train.append(members[per_class:])
    if not train:
        raise BadInput("there is no training image to hold out")
    return np.sort(np.concatenate(train)).astype(np.int64), np.sort(np.concatenate(validation)).astype(np.int64)


def pixel_hashes(images: NDArray[np.uint8]) -> list[bytes]:
    """Return a 16-byte hash of every image's shape and pixels."""
    shape = repr(images.shape[1:]).encode("ascii")
    return [
        hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16, key=shape[:64]).digest()
        for image in images
    ]


def overlap(images_a: NDArray[np.uint8], images_b: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return the pairs (index in a, index in b) of images with equal pixels, in the order of b."""
    first: dict[bytes, list[int]] = {}
    for index, key in enumerate(pixel_hashes(images_a)):
        first.setdefault(key, []).append(index)
    return [(a, b) for b, key in enumerate(pixel_hashes(images_b)) for a in first.get(key, ())]


def _permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Return a permutation of 0..n-1. numpy promises the stream of RandomState for ever, of Generator not."""
    state = np.random.RandomState(np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32))
    return state.permutation(n).astype(np.int64)
