import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailkeep.errors import BadInput
from tailkeep.sampling import ClassBalanced, EffectiveNumber, ProgressivelyBalanced, SquareRoot, Uniform


def labels_of(counts):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_uniform_leaves_the_order_to_the_loop():
    assert Uniform().draw(labels_of((5, 3)), 0, 0) is None


def test_realised_draws_per_class_are_equal():
    counts = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    labels = labels_of(counts)
    indices = ClassBalanced().draw(labels, 3, 7)
    drawn = torch.bincount(labels[indices], minlength=10)
    assert len(indices) == sum(counts)
    assert drawn.max() - drawn.min() <= 1
    assert int(drawn.sum()) == sum(counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 2**62), st.integers(0, 300))
def test_every_draw_is_balanced_over_classes_and_images(counts, seed, epoch):
    labels = labels_of(counts)
    if len(labels) == 0:
        with pytest.raises(BadInput, match="empty"):
            ClassBalanced().draw(labels, seed, epoch)
        return
    indices = ClassBalanced().draw(labels, seed, epoch)
    present = [label for label, count in enumerate(counts) if count]
    drawn = torch.bincount(labels[indices], minlength=len(counts))[present]
    assert indices.dtype == torch.int64
    assert drawn.max() - drawn.min() <= 1
    per_image = torch.bincount(indices, minlength=len(labels))
    for label in present:
        own = per_image[labels == label]
        assert own.max() - own.min() <= 1


def test_a_draw_is_a_function_of_seed_and_epoch():
    labels = labels_of((50, 5))
    first = ClassBalanced().draw(labels, 1, 2)
    assert torch.equal(first, ClassBalanced().draw(labels, 1, 2))
    assert not torch.equal(first, ClassBalanced().draw(labels, 1, 3))
    assert not torch.equal(first, ClassBalanced().draw(labels, 2, 2))


def test_the_extra_draws_go_to_no_class_in_particular():
    labels = labels_of((7, 2, 1))
    totals = torch.zeros(3)
    for epoch in range(300):
        totals += torch.bincount(labels[ClassBalanced().draw(labels, 0, epoch)], minlength=3)
    assert (totals / totals.sum() - 1 / 3).abs().max() < 0.01


def test_global_generators_are_left_alone():
    state = torch.get_rng_state()
    ClassBalanced().draw(labels_of((5, 3)), 0, 0)
    assert torch.equal(state, torch.get_rng_state())


PROPORTIONAL = [SquareRoot(), ProgressivelyBalanced(), EffectiveNumber(), EffectiveNumber(beta=0.99)]


@pytest.mark.parametrize(
    ("counts", "digest"), [((50, 5, 0, 7), "ef7a91d9a421ce2d"), ((500, 20, 2), "cf81433130d3fcb4")]
)
def test_the_class_balanced_draws_of_stored_steps_stay_what_they_were(counts, digest):
    drawn = ClassBalanced().draw(labels_of(counts), 3, 7)
    assert hashlib.sha256(drawn.numpy().tobytes()).hexdigest()[:16] == digest


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PROPORTIONAL),
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    st.integers(0, 2**62),
    st.integers(0, 300),
    st.floats(0, 1),
)
def test_a_proportional_draw_is_whole_and_spread_over_a_classs_images(sampler, counts, seed, epoch, share):
    labels = labels_of(counts)
    indices = sampler.draw(labels, seed, epoch, share)
    assert len(indices) == sum(counts)
    assert torch.equal(indices, sampler.draw(labels, seed, epoch, share))
    per_image = torch.bincount(indices, minlength=len(labels))
    for label in labels.unique():
        own = per_image[labels == label]
        assert own.max() - own.min() <= 1


@pytest.mark.parametrize("sampler", PROPORTIONAL, ids=repr)
def test_what_is_no_whole_number_of_draws_is_right_in_the_mean(sampler):
    counts = torch.tensor([17.0, 5.0, 2.0], dtype=torch.float64)
    labels = labels_of((17, 5, 2))
    likely = sampler.likelihood(counts, 0.4)
    promised = 24 * likely / likely.sum()
    totals = torch.zeros(3)
    for epoch in range(400):
        drawn = torch.bincount(labels[sampler.draw(labels, 0, epoch, 0.4)], minlength=3)
        assert ((drawn - promised).abs() < 1).all()
        totals += drawn
    assert (totals / 400 - promised).abs().max() < 0.1


def test_likelihoods_equal_their_formulas():
    counts = np.array([1000.0, 400, 120, 50, 8])
    given = torch.tensor(counts)

    def shares(values):
        return pytest.approx((values / values.sum()).tolist(), rel=1e-12)

    def found(sampler, share=0.0):
        likely = sampler.likelihood(given, share)
        return (likely / likely.sum()).tolist()

    assert found(SquareRoot()) == shares(np.sqrt(counts))
    assert found(EffectiveNumber(beta=0.99)) == shares(counts * (1 - 0.99) / (1 - 0.99**counts))
    assert found(EffectiveNumber(beta=0)) == shares(counts)
    assert found(ProgressivelyBalanced()) == shares(counts)
    assert found(ProgressivelyBalanced(), 1.0) == shares(np.ones(5))
    assert found(ProgressivelyBalanced(), 0.25) == shares(0.75 * counts / 1578 + 0.25 / 5)


@pytest.mark.parametrize("sampler", PROPORTIONAL, ids=repr)
def test_an_empty_training_set_is_refused(sampler):
    with pytest.raises(BadInput, match=f"sampler {sampler.kind}: the training set is empty"):
        sampler.draw(labels_of((0,)), 0, 0)
