import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailkeep.errors import BadInput
from tailkeep.sampling import ClassBalanced, Uniform


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
