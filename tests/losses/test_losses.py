import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailkeep.errors import BadInput
from tailkeep.losses.balanced_softmax import BalancedSoftmax
from tailkeep.losses.cross_entropy import CrossEntropy

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


@pytest.mark.parametrize(
    ("spec", "value"), [(CrossEntropy(), 0.8174744739909917), (BalancedSoftmax(), 2.204122925182453)]
)
def test_values(spec, value):
    loss = spec.build(COUNTS, CPU)
    assert loss(LOGITS, LABELS, 0.0).item() == pytest.approx(value, abs=1e-13)
    single = loss(LOGITS.float(), LABELS, 0.5)
    assert single.dtype == torch.float32
    assert single.shape == ()
    assert single.item() == pytest.approx(value, rel=1e-6)
    assert spec.head == "linear"


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
def test_balanced_softmax_of_equal_counts_is_cross_entropy(count, classes):
    logits = torch.randn(7, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes))
    labels = torch.arange(7) % classes
    balanced = BalancedSoftmax().build((count,) * classes, CPU)(logits, labels, 0.0)
    plain = CrossEntropy().build((count,) * classes, CPU)(logits, labels, 0.0)
    assert balanced.item() == pytest.approx(plain.item(), abs=1e-9)


def test_balanced_softmax_raises_the_loss_of_rare_classes():
    loss, plain = BalancedSoftmax().build(COUNTS, CPU), CrossEntropy().build(COUNTS, CPU)
    zeros = torch.zeros(1, 5)
    rare, frequent = torch.tensor([4]), torch.tensor([0])
    assert loss(zeros, rare, 0.0) > plain(zeros, rare, 0.0) > loss(zeros, frequent, 0.0)


def test_balanced_softmax_refuses_an_empty_class():
    with pytest.raises(BadInput, match="none of class 2"):
        BalancedSoftmax().build((5, 4, 0), CPU)


def test_bfloat16_logits_are_computed_in_float32():
    assert BalancedSoftmax().build(COUNTS, CPU)(LOGITS.bfloat16(), LABELS, 0.0).dtype == torch.float32
