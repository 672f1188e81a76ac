"""The order: exact powers at the held-out sizes, the likeliest first."""

from __future__ import annotations

import numpy as np
import pytest

from tailkeep.analysis import power
from tailkeep.recommend.predict_power import ClassPower, Forecaster, fewest_images, in_order, smoothed


def test_the_power_is_that_of_the_gate() -> None:
    sizes, p10, p01 = [100, 400, 100], [0.01, 0.03, 0.0], [0.02, 0.03, 0.0]
    found = ClassPower(sizes, 0.05, 0.05).of(p10, p01)
    assert found == pytest.approx(power.power(sizes, 0.05, p10, p01), abs=1e-9)


def test_half_an_image_is_added_to_each_outcome() -> None:
    p10, p01 = smoothed(20, 0, 3)
    assert float(p10) == pytest.approx(0.5 / 21.5)
    assert float(p01) == pytest.approx(3.5 / 21.5)


def test_the_likeliest_comes_first_and_of_equals_the_smaller() -> None:
    forecaster = Forecaster([300] * 3, 0.05, 0.05)
    n = np.full(3, 100)
    rows = {"risky, tiny": (1, [9, 0, 0]), "large": (9, [0, 0, 0]), "small": (5, [0, 0, 0])}
    found = [forecaster.forecast(name, size, n, lost, [0, 0, 0]) for name, (size, lost) in rows.items()]
    assert [each.name for each in in_order(found)] == ["small", "large", "risky, tiny"]
    assert found[1].power == pytest.approx(np.prod(found[1].class_power))


def test_a_split_too_small_for_any_pass_is_known_and_still_ranks() -> None:
    forecaster = Forecaster([50, 400], 0.02, 0.05)
    assert forecaster.hopeless == [0]
    assert fewest_images(0.02, 0.05) == pytest.approx(150, abs=10)
    good, bad = (forecaster.forecast(name, 1, [100, 100], [lost, 0], [0, 0]) for name, lost in (("a", 0), ("b", 20)))
    assert max(good.power, bad.power) < 0.02, "only by images that it wins"
    assert good.score > bad.score
