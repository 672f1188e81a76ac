"""How often `tailkeep recommend` is wrong, and how often it finds what is there: candidates of known true loss.

    python benchmarks/recommend.py [--runs 2000] [--seed 0] [--scenario NAME ...]

Every run draws the validation and held-out counts of a set of candidates from their true shares and puts them through
the order and the decision that the command uses; the order "the smallest that looks safe" goes through the same
decision beside it. Unsafe: a true loss of any class at the limit or above. Two rates a scenario:

wrong: runs in which any unsafe candidate is called safe; the claim is 5 %, and it fails where the 99 % lower bound of
the rate lies above. found: of the runs in which a safe candidate at least 4 times smaller has an exact power of 90 %
or more at its true shares and stands first in the order, those that return a safe one at least 4 times smaller; the
claim is 80 %. Exits with 1 where a claim fails.

The gate is judged by critical values, worked out once, in place of a p value each; `--check` compares the two.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tailkeep.analysis import tango
from tailkeep.analysis.gate import Check, Gate, gate
from tailkeep.recommend.decide import decide
from tailkeep.recommend.predict_power import ClassPower, Forecaster, in_order

Floats = NDArray[np.float64]
LIMIT, CONFIDENCE, CLASSES = 0.03, 0.95, 10
WRONG, FOUND, SMALL, SURE = 0.05, 0.80, 4.0, 0.90


@dataclass(frozen=True)
class Truth:
    """K candidates: shares (K, C) that the baseline, or the candidate, alone has right; how many times smaller (K,)."""

    p10: Floats
    p01: Floats
    times: Floats

    @property
    def unsafe(self) -> NDArray[np.bool_]:
        return np.asarray(((self.p10 - self.p01) >= LIMIT - 1e-12).any(axis=1))


@dataclass(frozen=True)
class Scenario:
    make: Callable[[np.random.Generator], Truth]
    validation: int = 200
    held_out: int = 1000


def flips(rng: np.random.Generator, candidates: int, low: float, high: float) -> tuple[Floats, Floats]:
    """Candidates that lose nothing, and flip a share of the images either way."""
    p = rng.uniform(low, high, (candidates, CLASSES)) / 2
    return p, p.copy()


def sizes(rng: np.random.Generator, candidates: int) -> Floats:
    return np.exp(rng.uniform(np.log(2), np.log(16), candidates))


def all_at_limit(rng: np.random.Generator) -> Truth:
    """Twelve candidates, each with one class exactly at the limit and no other flip, so that nothing else stops it."""
    p10, p01 = flips(rng, 12, 0, 0)
    at = rng.integers(0, CLASSES, 12)
    p10[np.arange(12), at] += LIMIT
    return Truth(p10, p01, sizes(rng, 12))


def noisy_at_limit(rng: np.random.Generator) -> Truth:
    """The same with wins among the losses, which make a table of the same loss less telling."""
    p10, p01 = flips(rng, 12, 0.002, 0.01)
    at, won = rng.integers(0, CLASSES, 12), rng.choice([0.002, 0.01, 0.03], 12)
    p10[np.arange(12), at], p01[np.arange(12), at] = LIMIT + won, won
    return Truth(p10, p01, sizes(rng, 12))


def mixed(rng: np.random.Generator) -> Truth:
    """Four safe ones, five at the limit in a class, four far beyond; sizes by chance."""
    p10, p01 = flips(rng, 13, 0.004, 0.012)
    p10[np.arange(4, 9), rng.integers(0, CLASSES, 5)] += LIMIT
    p10[np.arange(9, 13), rng.integers(0, CLASSES, 4)] += rng.uniform(0.05, 0.2, 4)
    return Truth(p10, p01, sizes(rng, 13))


def unsafe_smallest(rng: np.random.Generator) -> Truth:
    """Three safe ones 4 to 6 times smaller; eight at the limit or just over it, 8 to 16 times smaller."""
    p10, p01 = flips(rng, 11, 0.004, 0.012)
    p10[np.arange(3, 11), rng.integers(0, CLASSES, 8)] += LIMIT + rng.choice([0.0, 0.005, 0.01], 8)
    return Truth(p10, p01, np.concatenate([rng.uniform(4, 6, 3), rng.uniform(8, 16, 8)]))


def barely_safe_smallest(rng: np.random.Generator) -> Truth:
    """Three safe ones of few flips, 4 to 6 times smaller; eight smaller ones that lose a class nearly the limit."""
    p10, p01 = flips(rng, 11, 0.004, 0.012)
    p10[np.arange(3, 11), rng.integers(0, CLASSES, 8)] += LIMIT - rng.uniform(0.001, 0.015, 8)
    return Truth(p10, p01, np.concatenate([rng.uniform(4, 6, 3), rng.uniform(8, 16, 8)]))


def anything(rng: np.random.Generator) -> Truth:
    """Twenty candidates; the smaller, the more flips, and the rarer the class, the more it loses, by chance."""
    times = sizes(rng, 20)
    strength = np.log(times / 2)[:, None] * np.linspace(0.3, 1.7, CLASSES)[None]
    p01 = rng.uniform(0.001, 0.004, (20, CLASSES)) * (1 + strength)
    p10 = p01 + np.maximum(rng.normal(0.003, 0.008, (20, CLASSES)), 0) * strength
    return Truth(p10, p01, times)


SCENARIOS = {
    "all at the limit": Scenario(all_at_limit),
    "all at the limit, 20 validation images": Scenario(all_at_limit, validation=20),
    "all at the limit, with wins": Scenario(noisy_at_limit),
    "mixed": Scenario(mixed),
    "mixed, 50 validation images": Scenario(mixed, validation=50),
    "the smallest are unsafe": Scenario(unsafe_smallest),
    "the smallest are barely safe": Scenario(barely_safe_smallest),
    "anything": Scenario(anything),
}


def draw(rng: np.random.Generator, n: int, p10: Floats, p01: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    b = rng.binomial(n, p10)
    return b, rng.binomial(n - b, np.clip(p01 / (1 - p10), 0, 1))


class Judge:
    """The gate's "pass" by the critical values of its classes."""

    def __init__(self, power: ClassPower) -> None:
        self.critical = power.critical[power.back]

    def __call__(self, checks: Sequence[Check], confidence: float) -> Gate:
        b, c, n = np.array([(each.n10, each.n01, each.n) for each in checks]).T
        kept = bool((tango.statistic(b, c, n, LIMIT) <= self.critical + 1e-9).all())
        return Gate((), confidence, "pass" if kept else "cannot tell")


@dataclass
class Rates:
    """Runs; those with a wrong answer; those in which there was something to find, and those that found it."""

    runs: int = 0
    wrong: int = 0
    possible: int = 0
    found: int = 0
    any_small: int = 0

    @property
    def wrong_low(self) -> float:
        """The 99 % lower bound of the rate of wrong answers (Clopper and Pearson 1934)."""
        return 0.0 if not self.wrong else float(stats.beta.ppf(0.01, self.wrong, self.runs - self.wrong + 1))

    @property
    def found_high(self) -> float:
        """The 99 % upper bound of the rate of findings."""
        if self.found == self.possible:
            return 1.0
        return float(stats.beta.ppf(0.99, self.found + 1, self.possible - self.found))

    @property
    def keeps(self) -> bool:
        return self.wrong_low <= WRONG and (not self.possible or self.found >= FOUND * self.possible)


def simulate(scenario: Scenario, runs: int, seed: int, check: int = 0) -> dict[str, Rates]:
    """Return the rates of both orders over ``runs``; the first ``check`` looks are put to the real gate as well."""
    rng = np.random.default_rng(seed)
    forecaster = Forecaster([scenario.held_out] * CLASSES, LIMIT, round(1 - CONFIDENCE, 12))
    judge = Judge(forecaster.held_out)
    rates = {"predicted power": Rates(), "smallest that looks safe": Rates()}
    for _ in range(runs):
        truth = scenario.make(rng)
        n = np.full(CLASSES, scenario.validation)
        b, c = draw(rng, scenario.validation, truth.p10, truth.p01)
        names = [str(k) for k in range(len(truth.times))]
        forecasts = forecaster.forecasts(names, (1e6 / truth.times).tolist(), n, b, c)
        looks_unsafe = ((b - c) / n >= LIMIT).any(axis=1)
        smallest = sorted(range(len(names)), key=lambda k: (bool(looks_unsafe[k]), -truth.times[k]))
        tests = draw(rng, scenario.held_out, truth.p10, truth.p01)
        true_power = forecaster.held_out.of(truth.p10, truth.p01).prod(axis=1)

        def checks(name: str, tests: tuple[NDArray[np.int64], NDArray[np.int64]] = tests) -> list[Check]:
            lost, won = (counts[int(name)].tolist() for counts in tests)
            rows = enumerate(zip(lost, won, strict=True))
            return [Check("drop", "class", str(i), scenario.held_out, x, y, LIMIT) for i, (x, y) in rows]

        orders = ([each.name for each in in_order(forecasts)], [names[k] for k in smallest])
        for rate, order in zip(rates.values(), orders, strict=True):
            decision = decide(order, (), checks, CONFIDENCE, judge)
            for looked in decision.looked[:check]:
                real = gate(checks(looked.name), CONFIDENCE)
                assert (real.decision == "pass") == (looked.gate.decision == "pass"), (
                    "critical values and p values part"
                )
                check -= 1
            _count(rate, truth, order, decision.passed, true_power)
    return rates


def _count(rate: Rates, truth: Truth, order: list[str], passed: tuple[str, ...], true_power: Floats) -> None:
    rate.runs += 1
    called = [int(name) for name in passed]
    rate.wrong += any(truth.unsafe[k] for k in called)
    answer = max(called, key=lambda k: truth.times[k], default=None)
    small = answer is not None and not truth.unsafe[answer] and truth.times[answer] >= SMALL
    first = int(order[0])
    possible = not truth.unsafe[first] and truth.times[first] >= SMALL and true_power[first] >= SURE
    rate.any_small += small
    rate.possible += possible
    rate.found += possible and small


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", nargs="*", choices=[*SCENARIOS])
    parser.add_argument("--check", type=int, default=30, help="looks of each scenario that the real gate judges too")
    options = parser.parse_args()
    started, kept = time.time(), True
    print(f"limit {100 * LIMIT:g} points, {CLASSES} classes, {options.runs} runs a scenario, %")
    print(f"{'scenario':40s} {'order':25s} wrong (99 % low)   found of possible (99 % high)   safe and 4x smaller")
    for name in options.scenario or SCENARIOS:
        scenario = SCENARIOS[name]
        for order, rate in simulate(scenario, options.runs, options.seed, options.check).items():
            share = f"{100 * rate.found / rate.possible:5.1f}" if rate.possible else "    -"
            print(
                f"{name:40s} {order:25s} {100 * rate.wrong / rate.runs:5.2f} ({100 * rate.wrong_low:4.2f})"
                f"       {share} of {rate.possible:5d} ({100 * rate.found_high:5.1f})"
                f"          {100 * rate.any_small / rate.runs:5.1f}",
                flush=True,
            )
            kept &= rate.keeps or order != "predicted power"
    said = "both claims hold" if kept else "A CLAIM FAILS"
    print(f"{said} for the order by predicted power; {time.time() - started:.0f} s")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
