from itertools import pairwise

import numpy as np
import pytest

from tailkeep.data.profiles import Exponential, full_twin, matched_twin
from tailkeep.data.subset import (
    choose_subset,
    class_counts,
    class_order,
    counts_by_class,
    hold_out,
    overlap,
    pixel_hashes,
)
from tailkeep.errors import BadInput


@pytest.fixture
def labels(rng):
    """200 images of each of ten classes, in no order."""
    return rng.permutation(np.repeat(np.arange(10), 200)).astype(np.int64)


def counts(ratio, n_max=200):
    return Exponential(ratio=ratio, n_max=n_max).counts([200] * 10)


def test_a_subset_has_the_counts_asked_for(labels):
    rows = choose_subset(labels, counts(10), 0)
    assert class_counts(labels[rows], 10) == counts(10)
    assert rows.tolist() == sorted(set(rows.tolist()))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_subsets_nest(labels, seed):
    by_ratio = [set(choose_subset(labels, counts(ratio), seed).tolist()) for ratio in (100, 50, 20, 10, 2)]
    for smaller, larger in pairwise(by_ratio):
        assert smaller < larger
    full = set(choose_subset(labels, full_twin(counts(10, 150)), seed).tolist())
    assert set(choose_subset(labels, matched_twin(counts(10, 150)), seed).tolist()) < full
    assert set(choose_subset(labels, counts(10, 150), seed).tolist()) < full


def test_a_subset_is_a_prefix_of_one_permutation_of_each_class(labels):
    # Growing one class by one image adds that image and moves no other, in no class.
    wanted = [50] * 10
    before = set(choose_subset(labels, wanted, 3).tolist())
    for label in range(10):
        grown = set(choose_subset(labels, [*wanted[:label], 51, *wanted[label + 1 :]], 3).tolist())
        (added,) = grown - before
        assert before < grown
        assert labels[added] == label


def test_a_class_does_not_depend_on_the_others(labels):
    alone = choose_subset(labels, [0, 0, 0, 40, 0, 0, 0, 0, 0, 0], 3)
    together = choose_subset(labels, [40] * 10, 3)
    assert alone.tolist() == [row for row in together.tolist() if labels[row] == 3]


def test_a_subset_depends_on_its_seed_alone(labels):
    first = choose_subset(labels, counts(10), 0)
    np.random.seed(99)  # nothing global has a say
    assert np.array_equal(first, choose_subset(labels, counts(10), 0))
    other = choose_subset(labels, counts(10), 1)
    assert class_counts(labels[other], 10) == counts(10)
    # Two independent draws share few of the rare images: 20 of 200 in the last class.
    rare = [set(rows[labels[rows] == 9].tolist()) for rows in (first, other)]
    assert len(rare[0] & rare[1]) < 10


def test_the_choice_is_pinned():
    # Stored studies rest on this choice: another one would be other data under the same seed.
    rows = choose_subset(np.arange(40, dtype=np.int64) % 4, [5, 4, 3, 2], 0)
    assert rows.tolist() == [
        1,
        4,
        5,
        12,
        16,
        18,
        24,
        26,
        27,
        33,
        35,
        36,
        37,
        38,
    ]


def test_all_images_of_a_class_may_be_wanted_but_not_more(labels):
    assert choose_subset(labels, [200] * 10, 7).tolist() == list(range(2000))
    with pytest.raises(BadInput, match="class 4 has 200 training images, 201 are asked for"):
        choose_subset(labels, [200] * 4 + [201] + [200] * 5, 7)


def test_class_order():
    assert class_order(4) == (0, 1, 2, 3)
    assert class_order(4, 3) == (3, 0, 1, 2)
    assert class_order(4, 6) == (2, 3, 0, 1)
    assert counts_by_class([100, 50, 10], (2, 0, 1)) == (50, 10, 100)
    with pytest.raises(BadInput, match="not an order of 3 classes"):
        counts_by_class([100, 50, 10], (2, 0, 0))


def test_hold_out_is_disjoint_whole_and_stratified(labels):
    train, validation = hold_out(labels, 30, 0)
    assert not set(train.tolist()) & set(validation.tolist())
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(2000))
    assert class_counts(labels[validation], 10) == (30,) * 10
    assert np.array_equal(validation, hold_out(labels, 30, 0)[1])
    assert not np.array_equal(validation, hold_out(labels, 30, 1)[1])


def test_hold_out_is_nested(labels):
    assert set(hold_out(labels, 10, 0)[1].tolist()) < set(hold_out(labels, 30, 0)[1].tolist())


def test_hold_out_leaves_a_training_image_in_every_class():
    labels = np.array([0, 0, 0, 1, 1], dtype=np.int64)
    assert len(hold_out(labels, 1, 0)[0]) == 3
    with pytest.raises(BadInput, match="class 1 has 2 training images: holding out 2 for validation leaves none"):
        hold_out(labels, 2, 0)
    with pytest.raises(BadInput, match="no training image"):
        hold_out(labels[:0], 1, 0)


def test_overlap_is_told_by_pixels(rng):
    a = rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    b = rng.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    assert overlap(a, b) == []
    b[2], b[7], a[11] = a[5], a[11], a[5]
    assert overlap(a, b) == [(5, 2), (11, 2)]
    b[2, 0, 0, 0] ^= 1  # one bit of one pixel
    assert overlap(a, b) == []


def test_the_shape_belongs_to_the_pixels():
    flat = np.zeros((1, 1, 4, 16), dtype=np.uint8)
    assert pixel_hashes(flat) != pixel_hashes(flat.reshape(1, 1, 8, 8))
    assert overlap(flat, flat.reshape(1, 1, 8, 8)) == []
    # A view in another memory order has the same pixels.
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    assert pixel_hashes(image) == pixel_hashes(np.asfortranarray(image))
