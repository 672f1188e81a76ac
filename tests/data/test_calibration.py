"""Calibration images: every draw is seeded, from the training images given, and realises the shares that it names."""

import numpy as np
import pytest
import torch

from tailkeep.data.batches import normalize
from tailkeep.data.calibration import calibration_batches, calibration_indices

COUNTS = (160, 60, 30, 10, 4)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS))


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (50, 3, 10, 8), dtype=np.uint8)


def test_random_begins_with_one_image_of_every_class():
    labels = np.array([0] * 30 + [1] * 18 + [2, 3], dtype=np.int64)  # 2 and 3 have one image each
    for seed in range(5):
        rows = calibration_indices(labels, 20, seed)
        assert sorted(labels[rows[:4]].tolist()) == [0, 1, 2, 3]
        assert len(set(rows.tolist())) == 20
    first, again, other = (calibration_indices(labels, 20, seed).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert calibration_indices(labels, 30, 0).tolist()[:20] == first
    assert sorted(calibration_indices(labels, 999, 0).tolist()) == list(range(50))


def test_random_is_otherwise_uniform():
    labels = np.array([0] * 40 + [1] * 10, dtype=np.int64)
    share = np.mean([np.mean(labels[calibration_indices(labels, 27, seed)[2:]] == 1) for seed in range(60)])
    # 9 of the 48 images that are left after the first of each class; the standard error is about 0.007.
    assert abs(share - 9 / 48) < 0.03


@pytest.mark.parametrize(("draw", "shares"), [("balanced", [1, 1, 1, 1, 1]), ("tail", [1 / n for n in COUNTS])])
def test_a_draw_realises_its_shares(draw, shares):
    rows = calibration_indices(LABELS, 203, 3, draw)
    assert len(rows) == 203
    expected = np.array(shares) / np.sum(shares) * 203
    assert (np.abs(np.bincount(LABELS[rows], minlength=5) - expected) < 1).all()
    assert rows.tolist() == calibration_indices(LABELS, 203, 3, draw).tolist()
    assert rows.tolist() != calibration_indices(LABELS, 203, 4, draw).tolist()
    for label, size in enumerate(COUNTS):  # no image a second time before every image of its class was there once
        times = np.bincount(rows[LABELS[rows] == label], minlength=len(LABELS))[label == LABELS]
        assert len(times) == size
        assert times.max() - times.min() <= 1
    assert not (np.diff(LABELS[rows]) >= 0).all(), "the classes come mixed"


@pytest.mark.parametrize("draw", ["random", "balanced", "tail"])
def test_batches_are_the_images_of_those_rows_with_their_labels(images, draw):
    labels = np.arange(50) % 7
    rows = calibration_indices(labels, 20, 5, draw)
    batches = list(calibration_batches(images, labels, 20, 8, 5, "cpu", draw))
    assert [len(batch) for batch, _ in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), normalize(torch.from_numpy(images[rows])))
    assert torch.cat([targets for _, targets in batches]).tolist() == labels[rows].tolist()
