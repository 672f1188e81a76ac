"""Every loss against its published formula, in float64."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailkeep.errors import BadInput
from tailkeep.losses import BalancedSoftmax, ClassBalancedCrossEntropy, CrossEntropy, Focal, Ldam, LogitAdjustment
from tailkeep.losses.ldam import margins
from tailkeep.losses.reweighting import class_balanced_weights

CPU = torch.device("cpu")
LOGITS = torch.tensor(
    [
        [2.0, -1.0, 0.5, 0.3, -0.7],
        [0.1, 1.5, -0.4, 0.9, 0.2],
        [-1.2, 0.4, 0.8, 2.2, -0.3],
        [0.6, 0.5, 0.4, 0.3, 0.2],
        [1.1, -2.0, 0.0, 0.7, 1.3],
        [-0.5, 0.25, 1.75, -1.0, 0.1],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([0, 1, 3, 4, 4, 2])
COUNTS = (1000, 400, 120, 50, 8)
COSINES = LOGITS / 4
WEIGHTS = {
    0.9999: [0.03344807101112419, 0.08117711317805569, 0.26684450918454317, 0.6381922991914089, 3.980338007434869],
    0.99: [0.26426234046422126, 0.26908108630435307, 0.37716747954615254, 0.668999976820787, 3.4204891168644864],
}
MARGINS = [0.14953487812212207, 0.1880301546543197, 0.25406637407730737, 0.31622776601683794, 0.5]
VALUES = [
    (CrossEntropy(), LOGITS, 0.8174744739909917),
    (BalancedSoftmax(), LOGITS, 2.204122925182453),
    (ClassBalancedCrossEntropy(), LOGITS, 1.2953954379365815),
    (Focal(gamma=1), LOGITS, 0.5064927035271573),
    (Focal(gamma=2), LOGITS, 0.3444146929998002),
    (Ldam(), 30 * COSINES, 5.6533767126395915),
    (Ldam(drw=0), 30 * COSINES, 14.280936264912922),
    (LogitAdjustment(), LOGITS, 2.2041229251824532),
    (LogitAdjustment(tau=1.5), LOGITS, 3.239436051829053),
]
"""Computed apart from tailkeep, in float64."""
DEFERRED = [ClassBalancedCrossEntropy(drw=0.8), Focal(drw=0.8), Ldam(drw=0.8), LogitAdjustment(drw=0.8)]


def name(value):
    return value.kind if hasattr(value, "kind") else None


@pytest.mark.parametrize(("spec", "logits", "value"), VALUES, ids=name)
def test_values(spec, logits, value):
    loss = spec.build(COUNTS, CPU)
    assert loss(logits, LABELS, 0.0).item() == pytest.approx(value, rel=1e-13)
    single = loss(logits.float(), LABELS, 0.5)
    assert single.dtype == torch.float32
    assert single.shape == ()
    assert single.item() == pytest.approx(value, rel=1e-6)
    assert spec.head == ("normalized" if spec.kind == "ldam" else "linear")


@pytest.mark.parametrize(("spec", "logits", "value"), VALUES, ids=name)
def test_gradients(spec, logits, value):
    loss = spec.build(COUNTS, CPU)
    for progress in (0.0, 1.0):
        given = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, progress=progress: loss(z, LABELS, progress), (given,))


@pytest.mark.parametrize("beta", WEIGHTS)
def test_class_balanced_weights(beta):
    assert class_balanced_weights(COUNTS, beta) == pytest.approx(WEIGHTS[beta], rel=1e-12)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20), st.floats(0, 0.999999))
def test_class_balanced_weights_rise_as_classes_get_rarer_and_sum_to_their_number(counts, beta):
    weights = class_balanced_weights(tuple(counts), beta)
    assert sum(weights) == pytest.approx(len(counts))
    by_count = [weight for _, weight in sorted(zip(counts, weights, strict=True))]
    assert all(rare >= frequent * (1 - 1e-12) for rare, frequent in pairwise(by_count))


def test_weights_are_equal_at_beta_0_and_inverse_to_the_counts_near_1():
    assert class_balanced_weights(COUNTS, 0.0) == pytest.approx([1.0] * 5)
    inverse = torch.tensor([1 / count for count in COUNTS])
    assert class_balanced_weights(COUNTS, 1 - 1e-10) == pytest.approx((5 * inverse / inverse.sum()).tolist(), rel=1e-5)


@pytest.mark.parametrize("spec", DEFERRED, ids=name)
def test_deferred_weights_begin_with_their_share_of_the_training(spec):
    """Under 0.8 the loss of the same spec without weights, from there on the one that has them from the start."""
    deferred = spec.build(COUNTS, CPU)
    plain = type(spec)(**{**spec.plain(), "drw": 1.0}).build(COUNTS, CPU)
    weighted = type(spec)(**{**spec.plain(), "drw": 0.0}).build(COUNTS, CPU)
    assert plain(LOGITS, LABELS, 0.5) != weighted(LOGITS, LABELS, 0.5)
    for progress in (0.0, 0.5, 0.7999):
        assert deferred(LOGITS, LABELS, progress) == plain(LOGITS, LABELS, progress)
    for progress in (0.8, 0.9, 1.0):
        assert deferred(LOGITS, LABELS, progress) == weighted(LOGITS, LABELS, progress)


def test_the_weighted_loss_is_torchs():
    weights = torch.tensor(WEIGHTS[0.9999], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, weight=weights)
    assert ClassBalancedCrossEntropy().build(COUNTS, CPU)(LOGITS, LABELS, 0).item() == pytest.approx(expected.item())
    late = ClassBalancedCrossEntropy(drw=0.8).build(COUNTS, CPU)
    assert late(LOGITS, LABELS, 0.79).item() == pytest.approx(0.8174744739909917, abs=1e-13)


@pytest.mark.parametrize("spec", [LogitAdjustment(drw=0.5, beta=0.99), Focal(gamma=1, drw=0, beta=0.99)], ids=name)
def test_beta_reaches_the_weights(spec):
    other = type(spec)(**{**spec.plain(), "beta": 0.9999})
    assert spec.build(COUNTS, CPU)(LOGITS, LABELS, 0.5) != other.build(COUNTS, CPU)(LOGITS, LABELS, 0.5)


def test_label_smoothing():
    log_probabilities = LOGITS.log_softmax(1)
    target = torch.full_like(LOGITS, 0.1 / 5)
    target[torch.arange(6), LABELS] += 0.9
    expected = -(target * log_probabilities).sum(1).mean().item()
    value = CrossEntropy(label_smoothing=0.1).build(COUNTS, CPU)(LOGITS, LABELS, 0.0).item()
    assert value == pytest.approx(expected, abs=1e-13)


def test_label_smoothing_has_bounds():
    with pytest.raises(ValueError, match="less than 1"):
        CrossEntropy(label_smoothing=1.0)


@given(st.integers(1, 10_000), st.integers(2, 12))
def test_of_equal_counts_the_repaired_losses_are_cross_entropy(count, classes):
    logits = torch.randn(7, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes))
    labels = torch.arange(7) % classes
    plain = CrossEntropy().build((count,) * classes, CPU)(logits, labels, 0.0).item()
    for spec in (BalancedSoftmax(), ClassBalancedCrossEntropy(), Focal(gamma=0), LogitAdjustment(tau=2, drw=0)):
        value = spec.build((count,) * classes, CPU)(logits, labels, 1.0).item()
        assert value == pytest.approx(plain, abs=1e-9)


@given(st.lists(st.integers(1, 100_000), min_size=2, max_size=12), st.integers(0, 100))
def test_balanced_softmax_is_logit_adjustment_at_tau_1(counts, seed):
    logits = 5 * torch.randn(9, len(counts), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(9) % len(counts)
    balanced = BalancedSoftmax().build(tuple(counts), CPU)(logits, labels, 0.0)
    adjusted = LogitAdjustment().build(tuple(counts), CPU)(logits, labels, 0.0)
    assert adjusted.item() == pytest.approx(balanced.item(), abs=1e-9)
    single = LogitAdjustment().build(tuple(counts), CPU)(logits.float(), labels, 0.0)
    assert single.item() == pytest.approx(balanced.item(), abs=1e-5)


def test_balanced_softmax_raises_the_loss_of_rare_classes():
    loss, plain = BalancedSoftmax().build(COUNTS, CPU), CrossEntropy().build(COUNTS, CPU)
    zeros = torch.zeros(1, 5)
    rare, frequent = torch.tensor([4]), torch.tensor([0])
    assert loss(zeros, rare, 0.0) > plain(zeros, rare, 0.0) > loss(zeros, frequent, 0.0)


def test_ldam_is_cross_entropy_with_a_margin_off_the_labels_cosine():
    assert margins(COUNTS, 0.5) == pytest.approx(MARGINS, rel=1e-12)
    moved = COSINES.clone()
    for row, label in enumerate(LABELS.tolist()):
        moved[row, label] -= MARGINS[label]
    expected = torch.nn.functional.cross_entropy(20 * moved, LABELS).item()
    assert Ldam(scale=20).build(COUNTS, CPU)(20 * COSINES, LABELS, 0.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_has_a_gradient_where_the_model_is_sure(gamma):
    """(1 - p)^gamma has no slope at p = 1 for a gamma below 1; the loss must still be trainable there."""
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    Focal(gamma=gamma).build((3, 2, 1), CPU)(logits, torch.tensor([0, 1]), 0.0).backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert logits.grad[1].abs().sum() > 0


NEED_EVERY_CLASS = [BalancedSoftmax(), ClassBalancedCrossEntropy(), Focal(drw=0.8), Ldam(), LogitAdjustment()]


@pytest.mark.parametrize("spec", NEED_EVERY_CLASS, ids=name)
def test_an_empty_class_is_refused(spec):
    with pytest.raises(BadInput, match=f"loss {spec.kind} needs a training image of every class; none of class 2"):
        spec.build((5, 4, 0), CPU)


@pytest.mark.parametrize(("spec", "logits", "value"), VALUES[1:], ids=name)
def test_bfloat16_logits_are_computed_in_float32(spec, logits, value):
    found = spec.build(COUNTS, CPU)(logits.bfloat16(), LABELS, 0.0)
    assert found.dtype == torch.float32
    assert math.isclose(found.item(), value, rel_tol=0.02)
