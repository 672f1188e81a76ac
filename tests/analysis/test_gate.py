from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from tailkeep.analysis import gate as gates
from tailkeep.analysis import statistics, tango, trinomial
from tailkeep.analysis.gate import Check, gate
from tailkeep.errors import BadInput


def drop(n10: int, n01: int, n: int = 500, limit: float = 0.05, name: str = "cat") -> Check:
    return Check("drop", "class", name, n, n10, n01, limit)


def recall(right: int, n: int, limit: float) -> Check:
    return Check("recall", "group", "site=A", n, n - right, right, limit)


def test_a_class_that_lost_too_much_fails_the_gate() -> None:
    result = gate([drop(80, 3), drop(5, 4, name="dog")])
    assert result.decision == "fail"
    assert result.exit_code == 1
    assert [own.decision for own in result.results] == ["broken", "kept"]
    assert result.results[0].check.name == "cat"
    assert result.results[0].images_needed is None


def test_every_class_must_be_shown_to_keep_its_limit() -> None:
    passed = gate([drop(5, 4), drop(0, 0, name="dog")])
    assert (passed.decision, passed.exit_code) == ("pass", 0)
    unsure = gate([drop(5, 4), drop(0, 0, n=30, name="rare")])
    assert (unsure.decision, unsure.exit_code) == ("cannot tell", 5)
    assert unsure.results[1].decision == "cannot tell"
    assert unsure.results[1].images_needed == 59


def test_the_numbers_are_those_of_the_tests() -> None:
    (own,) = gate([drop(14, 3, n=200, limit=0.02)], 0.9).results
    p = trinomial.p_values(14, 3, 200, 0.02)
    low, high = tango.interval(14, 3, 200, 0.9)
    assert (own.p_broken, own.p_kept) == (float(p.broken[0]), float(p.kept[0]))
    assert (own.estimate, own.low, own.high) == (11 / 200, float(low), float(high))
    assert own.exact is True


def test_broken_is_adjusted_over_all_checks_of_both_kinds_and_kept_is_not() -> None:
    alone = gate([drop(25, 5, n=150)])
    assert alone.results[0].decision == "broken"
    checks = [drop(25, 5, n=150), recall(95, 100, 0.8), drop(1, 1), drop(2, 3)]
    among = gate(checks)
    first = among.results[0]
    assert first.p_broken == alone.results[0].p_broken
    assert first.p_broken_adjusted == pytest.approx(4 * first.p_broken)
    assert first.decision == "cannot tell"
    assert [own.p_broken_adjusted for own in among.results] == statistics.holm([own.p_broken for own in among.results])
    assert [own.decision for own in among.results[1:]] == ["kept"] * 3
    assert among.decision == "cannot tell"


def test_a_recall_is_tested_by_the_exact_binomial() -> None:
    below, above = gate([recall(60, 100, 0.8), recall(90, 100, 0.8)]).results
    assert below.p_broken == pytest.approx(stats.binomtest(60, 100, 0.8, alternative="less").pvalue)
    assert above.p_kept == pytest.approx(stats.binomtest(90, 100, 0.8, alternative="greater").pvalue)
    assert (below.decision, above.decision) == ("broken", "kept")
    assert (above.low, above.high) == statistics.wilson(90, 100)
    assert above.estimate == 0.9
    unsure = gate([recall(83, 100, 0.8)]).results[0]
    assert unsure.decision == "cannot tell"
    assert unsure.images_needed is not None
    assert unsure.images_needed > 100


def test_a_recall_decides_as_clopper_and_pearsons_bounds_do() -> None:
    for right in range(0, 41, 2):
        (own,) = gate([recall(right, 40, 0.7)]).results
        bounds = stats.binomtest(right, 40).proportion_ci(0.9, method="exact")
        expected = "broken" if bounds.high < 0.7 else "kept" if bounds.low > 0.7 else "cannot tell"
        assert own.decision == expected


def test_without_images_it_cannot_tell() -> None:
    result = gate([drop(0, 0, n=0), Check("recall", "class", "cat", 0, 0, 0, 0.8), drop(5, 4)])
    for own in result.results[:2]:
        assert own.decision == "cannot tell"
        assert all(math.isnan(value) for value in (own.estimate, own.low, own.high))
        assert (own.p_broken, own.p_kept, own.images_needed) == (1.0, 1.0, None)
    assert result.exit_code == 5


def test_no_number_of_images_shows_that_nothing_at_all_is_lost() -> None:
    (own,) = gate([drop(5, 5, limit=0.0)]).results
    assert own.decision == "cannot tell"
    assert own.images_needed is None
    assert gate([drop(1, 20, limit=0.0)]).decision == "pass"


def test_large_units_say_that_they_took_the_score_test(monkeypatch: pytest.MonkeyPatch) -> None:
    small = trinomial.p_values
    monkeypatch.setattr(gates.trinomial, "p_values", lambda *table: small(*table, exact_to=100))
    exact, score = gate([drop(5, 4, n=100), drop(5, 4, n=101)]).results
    assert exact.exact
    assert not score.exact
    assert score.p_kept == pytest.approx(float(stats.norm.cdf(tango.statistic(5, 4, 101, 0.05))))


def test_a_p_value_of_alpha_decides() -> None:
    """One image that is right has a p value of 0.05 at a recall of 0.05; 1 - 0.95 is not 0.05 in floating point."""
    (own,) = gate([recall(1, 1, 0.05)], 0.95).results
    assert own.p_kept == pytest.approx(0.05, abs=1e-15)
    assert own.decision == "kept"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "loss"}, "kind 'loss'"),
        ({"unit": "image"}, "unit 'image'"),
        ({"n10": -1}, "0 or more"),
        ({"n10": 400, "n01": 200}, "600|discordant"),
        ({"limit": 1.0}, "limit 1.0"),
        ({"limit": -0.01}, "limit -0.01"),
        ({"limit": math.nan}, "limit nan"),
        ({"kind": "recall"}, "add up"),
        ({"kind": "recall", "n10": 100, "n01": 400, "limit": 0.0}, "limit 0.0"),
        ({"kind": "recall", "n10": 100, "n01": 400, "limit": 1.1}, "limit 1.1"),
    ],
)
def test_a_check_that_does_not_fit_is_refused(fields: dict, words: str) -> None:
    good = {"kind": "drop", "unit": "class", "name": "cat", "n": 500, "n10": 5, "n01": 4, "limit": 0.02}
    with pytest.raises(BadInput, match=words) as caught:
        Check(**{**good, **fields})
    assert "'cat'" in str(caught.value)


def test_a_gate_without_checks_or_confidence_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to check"):
        gate([])
    for confidence in (0.5, 1.0, 95, math.nan):
        with pytest.raises(BadInput, match="confidence"):
            gate([drop(1, 1)], confidence)


def test_a_thousand_classes_of_a_thousand_images_are_quick() -> None:
    """A second on a free core; the bound leaves room for a busy machine."""
    rng = np.random.default_rng(3)
    n = rng.multinomial(1_000_000, np.full(1000, 0.001))
    counts = [rng.multinomial(images, [0.045, 0.04, 0.915]) for images in n]
    checks = [drop(int(b), int(c), int(images), 0.02) for (b, c, _), images in zip(counts, n, strict=True)]
    start = time.process_time()
    assert gate(checks).decision == "cannot tell"
    assert time.process_time() - start < 6
