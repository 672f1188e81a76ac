"""Thirds of the classes, priors and class-balanced weights, against values computed elsewhere."""

import json
import math
from pathlib import Path

import pytest

from tailkeep.compression.groups import class_balanced_weights, frequency_thirds, log_prior
from tailkeep.errors import StepFailed

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
COUNTS = REFERENCE["class_counts"]


@pytest.mark.parametrize("beta", ["0.9999", "0.99"])
def test_class_balanced_weights_are_the_reference(beta):
    weights = class_balanced_weights(COUNTS, float(beta))
    assert weights == pytest.approx(REFERENCE["class_balanced_weights"][beta], rel=1e-11)
    assert sum(weights) == pytest.approx(len(COUNTS), rel=1e-14)


def test_class_balanced_weights_from_nothing_to_inverse_frequency():
    assert class_balanced_weights(COUNTS, 0) == (1,) * 5
    inverse = [1 / count for count in COUNTS]
    wanted = [5 * value / sum(inverse) for value in inverse]
    assert class_balanced_weights(COUNTS, 1 - 1e-12) == pytest.approx(wanted, rel=1e-4)


def test_log_prior_is_of_the_shares():
    assert sum(math.exp(value) for value in log_prior(COUNTS)) == pytest.approx(1, rel=1e-14)
    assert log_prior((30, 10)) == pytest.approx((math.log(0.75), math.log(0.25)))


@pytest.mark.parametrize("what", [log_prior, lambda counts: class_balanced_weights(counts, 0.9)])
def test_an_empty_class_is_a_failure_in_words(what):
    with pytest.raises(StepFailed, match="class 1 has none"):
        what((5, 0, 3))


def test_thirds_by_frequency():
    assert frequency_thirds((5, 50, 7, 30, 40, 20, 10, 6, 60, 8)) == ((1, 4, 8), (3, 5, 6, 9), (0, 2, 7))
    hundred = frequency_thirds(range(100))
    assert [len(part) for part in hundred] == [33, 34, 33]
    assert hundred[2] == tuple(range(33)), "the rarest"


def test_thirds_of_a_few_classes_and_of_equal_ones():
    assert frequency_thirds((4,)) == ((0,),)
    assert frequency_thirds((4, 9)) == ((1,), (0,))
    assert frequency_thirds((4, 9, 5)) == ((1,), (2,), (0,))
    assert frequency_thirds((7,) * 6) == ((0, 1), (2, 3), (4, 5))
