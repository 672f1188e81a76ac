import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tailkeep.data.profiles import (
    Explicit,
    Exponential,
    Linear,
    Natural,
    Profile,
    Step,
    check_counts,
    full_twin,
    largest_possible,
    matched_twin,
)
from tailkeep.errors import BadInput

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())["profiles"]
PLENTY = 10**6


def named(case):
    return f"{case['profile']}-{case['ratio']}-{case['n_max']}x{case['classes']}"


@pytest.mark.parametrize("case", REFERENCE, ids=named)
def test_reference_counts_and_matched_twin(case):
    fields = {"kind": case["profile"], "ratio": case["ratio"], "n_max": case["n_max"]}
    if "minority_fraction" in case:
        fields["minority_fraction"] = case["minority_fraction"]
    profile = TypeAdapter(Profile).validate_python(fields)
    counts = profile.counts([PLENTY] * case["classes"])
    assert list(counts) == case["counts"]
    if "matched_twin" in case:
        assert matched_twin(counts) == (case["matched_twin"],) * case["classes"]


# The check values of the protocol's own table: sums at CIFAR-10, n_max 5000.
@pytest.mark.parametrize(
    ("profile", "total"),
    [
        (Exponential(ratio=10), 20431),
        (Exponential(ratio=20), 17023),
        (Exponential(ratio=50), 13996),
        (Exponential(ratio=100), 12406),
        (Exponential(ratio=200), 11203),
        (Step(ratio=10), 27500),
        (Step(ratio=50), 25500),
        (Step(ratio=100), 25250),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_sums_of_the_protocol(profile, total):
    assert sum(profile.counts([5000] * 10)) == total


def test_twins_of_the_protocol():
    counts = Exponential(ratio=100).counts([5000] * 10)
    assert matched_twin(counts) == (1240,) * 10
    assert sum(matched_twin(counts)) == 12400
    assert full_twin(counts) == (5000,) * 10


def test_n_max_defaults_to_the_poorest_class():
    assert Exponential(ratio=10).counts([90, 40, 70])[0] == 40
    assert Step(ratio=4).counts([90, 40, 70, 50]) == (40, 40, 10, 10)


def test_explicit_counts_stay_as_written():
    profile = Explicit(counts=(50, 5, 20))
    assert profile.counts([60, 60, 60]) == (50, 5, 20)
    assert profile.plain() == {"kind": "explicit", "counts": [50, 5, 20]}
    assert TypeAdapter(Profile).validate_python(profile.plain()) == profile


def test_natural_takes_everything_in_its_own_order():
    assert Natural().counts([7, 90, 31]) == (7, 90, 31)


def test_labels():
    labels = [Exponential(ratio=100).label, Step(ratio=10).label, Linear(ratio=2.5).label, Natural().label]
    assert labels == ["exponential-100", "step-10", "linear-2.5", "natural"]
    assert Step(ratio=10, minority_fraction=0.2).label == "step-10-mu0.2"
    assert Explicit(counts=(9, 5)).label == "explicit-9-5"
    assert Explicit(counts=(9, 8, 7, 6, 5)).label == "explicit-9-to-5-of-5"


@pytest.mark.parametrize(
    ("fields", "ratio", "n_max", "last"),
    [(Exponential, 49, 49, 1), (Exponential, 98, 196, 2), (Linear, 3, 26, None)],
)
def test_binary_fractions_lose_no_image(fields, ratio, n_max, last):
    # 49 * 49 ** -1.0 is 0.9999999999999999, and 26 - (26 - 26 / 3) * 3 / 4 is 12.999999999999998.
    counts = fields(ratio=ratio, n_max=n_max).counts([PLENTY] * (10 if last else 5))
    assert counts[-1] == last if last else counts[3] == 13


def test_the_minority_is_what_the_user_wrote():
    # 0.29 * 100 is 28.999999999999996.
    assert Step(ratio=10, n_max=50, minority_fraction=0.29).counts([50] * 100).count(5) == 29


@pytest.mark.parametrize(
    ("profile", "available", "largest"),
    [
        (Exponential(ratio=10, n_max=6000), [5000] * 10, 5000),
        # The poorest class is not the bound here: a rare rank needs few images.
        (Exponential(ratio=10, n_max=600), [500, 500, 60], 500),
        (Step(ratio=10, n_max=600), [900, 900, 50, 50], 509),
        (Linear(ratio=10, n_max=600), [900, 300, 900], 547),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_15b_more_images_than_there_are_names_the_largest_n_max(profile, available, largest):
    with pytest.raises(BadInput, match=f"largest possible n_max is {largest}$"):
        profile.counts(available)
    fits = profile.model_copy(update={"n_max": largest})
    assert fits.counts(available)[0] == largest
    with pytest.raises(BadInput, match="largest possible n_max"):
        profile.model_copy(update={"n_max": largest + 1}).counts(available)


@pytest.mark.parametrize("kind", [Exponential, Step, Linear])
def test_15b_a_ratio_that_leaves_a_class_empty_names_the_largest_ratio(kind):
    with pytest.raises(BadInput, match=r"rank \d without an image; the largest possible ratio is 40"):
        kind(ratio=41, n_max=40).counts([100] * 6)
    assert min(kind(ratio=40, n_max=40).counts([100] * 6)) == 1


def test_15b_explicit_counts_that_cannot_be_had():
    with pytest.raises(BadInput, match=r"rank 1 asks for 90 images, its class has 80; .*\[50, 80, 3\]"):
        Explicit(counts=(50, 90, 3)).counts([80, 80, 80])
    with pytest.raises(BadInput, match="3 counts for a dataset of 2 classes"):
        Explicit(counts=(50, 90, 3)).counts([80, 80])


def test_a_minority_of_no_class_or_of_all():
    with pytest.raises(BadInput, match="0 classes; it must leave"):
        Step(ratio=10, n_max=50, minority_fraction=0.2).counts([50] * 3)


@pytest.mark.parametrize("profile", [Exponential(ratio=2), Natural(), Explicit(counts=(3, 3))])
def test_data_that_cannot_be_imbalanced(profile):
    with pytest.raises(BadInput, match="at least two classes, the data has 1"):
        profile.counts([50])
    with pytest.raises(BadInput, match="class 1 has no training image"):
        profile.counts([50, 0])


def test_check_counts_names_the_asker():
    check_counts("balanced: full", [5, 5], [5, 6])
    with pytest.raises(BadInput, match="balanced: full: needs 6 images of class 1, which has 5"):
        check_counts("balanced: full", [6, 6], [6, 5])


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "exponential", "ratio": 0.5},
        {"kind": "exponential", "ratio": float("inf")},
        {"kind": "step", "ratio": 10, "minority_fraction": 1.0},
        {"kind": "linear", "ratio": 10, "n_max": 0},
        {"kind": "explicit", "counts": [5]},
        {"kind": "explicit", "counts": [5, 0]},
        {"kind": "natural", "ratio": 2},
    ],
    ids=str,
)
def test_settings_without_a_meaning(fields):
    with pytest.raises(ValidationError):
        TypeAdapter(Profile).validate_python(fields)


@given(
    st.sampled_from([Exponential, Step, Linear]),
    st.floats(1.0, 300.0),
    st.lists(st.integers(1, 5000), min_size=2, max_size=30),
)
def test_largest_possible_is_the_edge(kind, ratio, available):
    profile = kind(ratio=ratio)
    edge = largest_possible(profile, available)

    def fits(n_max):
        return all(w <= h for w, h in zip(profile.shape(n_max, len(available)), available, strict=True))

    assert fits(edge)
    assert edge == max(available) or not fits(edge + 1)


@given(st.sampled_from([Exponential, Step, Linear]), st.floats(1.0, 100.0), st.integers(100, 5000), st.integers(2, 100))
def test_counts_fall_from_n_max_to_n_max_over_ratio(kind, ratio, n_max, classes):
    counts = kind(ratio=ratio, n_max=n_max).counts([5000] * classes)
    assert counts[0] == n_max
    assert list(counts) == sorted(counts, reverse=True)
    assert abs(counts[-1] - n_max / ratio) <= 1
    assert 0 <= sum(counts) - sum(matched_twin(counts)) < classes
