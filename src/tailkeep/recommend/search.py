"""The search, on validation images alone: out with what is too large, successive halving, out with what is too slow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tailkeep.analysis.power import POWER
from tailkeep.errors import BadInput, StepFailed
from tailkeep.recommend.batches import BASELINE, Batch, Counts, Runner
from tailkeep.recommend.candidates import Candidate
from tailkeep.recommend.predict_power import Forecast, Forecaster, in_order
from tailkeep.recommend.rungs import FACTOR, SHORT, halve
from tailkeep.recommend.setup import Setup

PRUNED, TOO_LARGE, FAILED, WAITING = "pruned early", "out of budget", "failed", "not reached"


@dataclass
class Found:
    """What the search knows of a candidate. ``share``: how much of its fine-tuning it had."""

    candidate: Candidate
    status: str = WAITING
    detail: str = ""
    share: float = 0.0
    cost: dict[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    forecast: Forecast | None = None


@dataclass
class Searched:
    """The candidates by name, the baseline's cost, and the names in the order of the gate."""

    found: dict[str, Found]
    baseline: dict[str, Any]
    order: list[str]

    def names(self, status: str) -> list[str]:
        """Return the candidates with a status."""
        return [name for name, each in self.found.items() if each.status == status]

    @property
    def given_up(self) -> list[str]:
        """The candidates that the search gave up early, the likeliest first."""
        left = [self.found[name].forecast for name in self.names(PRUNED)]
        return [each.name for each in in_order(one for one in left if one is not None)]


class Search:
    """The search of one setup. ``runner`` does a study's missing steps, ``say`` gets a line at a time."""

    def __init__(self, setup: Setup, forecaster: Forecaster, runner: Runner, say: Callable[[str], None]) -> None:
        self.setup, self.forecaster, self.runner, self.say = setup, forecaster, runner, say
        self.budget = setup.request.budget
        self.found = {each.name: Found(each) for each in setup.candidates}
        self.baseline: dict[str, Any] = {}

    def run(self) -> Searched:
        """Search. Deterministic: what is stored is not done again, and gives the same numbers."""
        if self.budget is not None and not self.budget.timed:
            self._drop_too_large()
        trained = [each.candidate for each in self._left() if each.candidate.trains]
        if len(trained) >= FACTOR:
            self._rung(trained, SHORT)
            scores = {
                each.name: found.forecast.score
                for each in trained
                if (found := self.found[each.name]).status == WAITING and found.forecast is not None
            }
            for name in scores.keys() - halve(scores):
                self.found[name].status = PRUNED
        self._rung([each.candidate for each in self._left()], 1.0)
        self._call_back()
        if self.budget is not None and self.budget.timed:
            self._drop_too_slow()
        left = [each.forecast for each in self._left() if each.forecast is not None]
        if not left and self.budget is not None and all(each.status == TOO_LARGE for each in self.found.values()):
            self._nothing_meets()
        return Searched(self.found, self.baseline, [each.name for each in in_order(left)])

    def _left(self) -> list[Found]:
        return [each for each in self.found.values() if each.status == WAITING]

    def _call_back(self) -> None:
        """Train more of those that were given up to the end, one at a time, the best first.

        Whoever stood better after a quarter than the best stands at the end: a training may collapse late. And up to
        ``FACTOR`` more while the best is not likely to pass, where the held-out split allows a pass at all: a quarter
        of a training ranks those that differ little by luck.
        """
        more = 0 if self.forecaster.hopeless else FACTOR
        while True:
            best = max((_standing(each) for each in self._left()), default=(-math.inf, 0.0))
            waiting = [each for each in self.found.values() if each.status == PRUNED]
            better = [each for each in waiting if _standing(each)[0] > best[0]]
            if not better and (best[1] >= POWER or not more or not waiting):
                return
            back = max(better or waiting, key=lambda each: (_standing(each), each.candidate.name))
            more -= not better
            why = "stood better after a quarter than the best at the end" if better else "is tried too"
            self.say(f"{back.candidate.name} {why}: to the end")
            back.status = WAITING
            self._rung([back.candidate], 1.0)

    def _drop_too_large(self) -> None:
        """Drop what misses a budget of size before anything trains, where untrained weights tell the size."""
        assert self.budget is not None
        sized = [each.candidate for each in self._left() if each.candidate.sized]
        self.say(f"sizing {len(sized)} candidates, untrained")
        batch = Batch(self.setup, sized, 0.0, "validation")
        failed = batch.run(self.runner)
        if BASELINE in failed:
            raise StepFailed("baseline", f"the untrained {self.setup.baseline} failed: {failed[BASELINE]}")
        for each in sized:
            if each.name not in failed:  # a failure may come of the weights: the trained model will tell
                self.found[each.name].cost = batch.cost(each.name)
                self._judge(self.found[each.name], batch.cost(BASELINE))
        self.baseline = batch.cost(BASELINE)
        if not self._left():
            self._nothing_meets()

    def _judge(self, each: Found, baseline: dict[str, Any]) -> None:
        """Mark a candidate whose known cost misses the budget."""
        budget = self.budget
        known = budget is not None and budget.measure in each.cost
        if budget is not None and known and not budget.meets(each.cost, baseline):
            each.status, each.detail = TOO_LARGE, f"{each.cost[budget.measure]:,.6g} {_measure(budget.measure)}"

    def _rung(self, candidates: list[Candidate], share: float) -> None:
        """Train, measure and score some candidates at one length of their fine-tunings."""
        if not candidates:
            return
        length = "to the end" if share == 1 else f"for {share:.0%} of their fine-tuning"
        self.say(f"{len(candidates)} candidates, {length}")
        batch = Batch(self.setup, candidates, share, "validation")
        failed = batch.run(self.runner)
        if BASELINE in failed:
            raise StepFailed("baseline", f"{self.setup.baseline} failed: {failed[BASELINE]}")
        self.baseline = batch.cost(BASELINE)
        for each in candidates:
            found = self.found[each.name]
            if each.name in failed:
                found.status, found.detail = FAILED, failed[each.name]
                continue
            found.share, found.cost, found.counts = share, batch.cost(each.name), batch.counts(each.name)
            counts, size = found.counts, float(found.cost["packed_bytes"])
            found.forecast = self.forecaster.forecast(each.name, size, counts.n, counts.n10, counts.n01)
            self._judge(found, self.baseline)

    def _drop_too_slow(self) -> None:
        """Export the finalists, time them in one interleaved run a model, and drop what is too slow."""
        left = [each.candidate for each in self._left()]
        if not left:
            return
        self.say(f"timing {len(left)} candidates in ONNX Runtime")
        batch = Batch(self.setup, left, 1.0, "validation", export={"latency": True, "batches": [1]})
        batch.run(self.runner)
        times = batch.times()
        for each in left:
            found = self.found[each.name]
            time = times.get((each.model, each.method))
            found.cost["latency_ms"] = time
            if time is None:
                found.status, found.detail = (
                    TOO_LARGE,
                    "its file could not be timed (not exported, or no kernel runs it)",
                )
            else:
                self._judge(found, self.baseline)
        self.baseline["latency_ms"] = times.get((self.setup.baseline, "dense"))

    def _nothing_meets(self) -> None:
        """Refuse a budget that no candidate meets, naming the nearest."""
        assert self.budget is not None
        known = [each for each in self.found.values() if each.cost.get(self.budget.measure) is not None]
        if not known:
            raise BadInput(f"no candidate meets the budget ({self.budget.words}): none could be measured")
        least = min(known, key=lambda each: float(each.cost[self.budget.measure]))  # type: ignore[union-attr]
        value = float(least.cost[self.budget.measure])
        beside = ""
        if self.budget.kind == "smaller":
            beside = f" ({float(self.baseline['packed_bytes']) / value:.2f} times smaller)"
        raise BadInput(
            f"no candidate meets the budget ({self.budget.words}). The nearest is {least.candidate.name!r} with "
            f"{value:,.6g} {_measure(self.budget.measure)}{beside}; ask for less, or give stronger methods"
        )


def _standing(found: Found) -> tuple[float, float]:
    """The score and the predicted power of a candidate, the least there is where it has none."""
    return (-math.inf, 0.0) if found.forecast is None else (found.forecast.score, found.forecast.power)


def _measure(name: str) -> str:
    return {"packed_bytes": "packed bytes", "macs": "multiply-accumulates", "latency_ms": "ms an image"}[name]
