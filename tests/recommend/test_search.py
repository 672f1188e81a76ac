"""Who goes on: the best quarter, and whoever that quarter turned out to be worse than."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from tailkeep.recommend.predict_power import Forecast
from tailkeep.recommend.rungs import FACTOR
from tailkeep.recommend.search import FAILED, PRUNED, WAITING, Search


class Told(Search):
    """A search whose scores are given: {name: (after a quarter, at the end)}; None fails."""

    def __init__(self, scores: dict[str, tuple[float, float | None]], hopeless: tuple[int, ...] = ()) -> None:
        candidates = [SimpleNamespace(name=name, trains=True, sized=False) for name in scores]
        request = SimpleNamespace(budget=None)
        self.said: list[str] = []
        self.trained: list[tuple[float, list[str]]] = []
        self.scores = scores
        setup: Any = SimpleNamespace(request=request, candidates=candidates)
        super().__init__(setup, SimpleNamespace(hopeless=hopeless), lambda study: {}, self.said.append)  # type: ignore[arg-type]

    def _rung(self, candidates: list[Any], share: float) -> None:
        self.trained.append((share, [each.name for each in candidates]))
        for each in candidates:
            value, found = self.scores[each.name][share == 1], self.found[each.name]
            if value is None:
                found.status = FAILED
                continue
            found.share = share
            found.forecast = forecast(each.name, value)


def forecast(name: str, score: float) -> Forecast:
    return Forecast(name, 1.0, math.exp(score), score, (math.exp(score),))


def test_who_keeps_its_promise_is_not_asked_twice() -> None:
    search = Told({"a": (-1, -0.1), "b": (-2, 0), "c": (-3, 0), "d": (-4, 0)})
    assert search.run().order == ["a"]
    assert search.trained == [(0.25, ["a", "b", "c", "d"]), (1.0, ["a"])]
    assert [search.found[name].status for name in "abcd"] == [WAITING, PRUNED, PRUNED, PRUNED]
    assert not [line for line in search.said if "stood better" in line]


def test_a_late_collapse_calls_back_one_at_a_time_until_one_holds() -> None:
    search = Told({"trap": (-0.1, -50), "b": (-3, -60), "c": (-2, -2.5), "d": (-4, 0), "e": (-2.4, -0.2)})
    found = search.run()
    assert [names for share, names in search.trained if share == 1] == [["trap"], ["c"], ["e"]]
    assert found.order == ["e", "c", "trap"], "the likeliest first, the collapsed one last"
    assert [found.found[name].status for name in ("b", "d")] == [PRUNED, PRUNED]
    assert "c stood better after a quarter than the best at the end: to the end" in search.said


def test_while_the_best_is_unlikely_to_pass_some_more_are_tried() -> None:
    scores = {"a": (-1, -1.7), **{f"b{i}": (-4.0 - i, -3.0) for i in range(6)}}
    search = Told({**scores, "b1": (-5.0, -0.1)})
    assert search.run().order[:2] == ["b1", "a"]
    assert [names for share, names in search.trained if share == 1] == [["a"], ["b0"], ["b1"]]
    assert "b0 is tried too: to the end" in search.said
    never = Told(scores)
    never.run()
    assert len([names for share, names in never.trained if share == 1]) == 1 + FACTOR, "and then it is enough"


def test_no_more_are_tried_where_no_model_could_pass() -> None:
    search = Told({"a": (-1, -9), "b": (-20, -1), "c": (-30, -1), "d": (-40, -1)}, hopeless=(0,))
    search.run()
    assert [names for share, names in search.trained if share == 1] == [["a"]]


@pytest.mark.parametrize("last", [None, -9.0])
def test_where_the_best_fails_the_next_is_tried(last: float | None) -> None:
    search = Told({"a": (0, None), "b": (-1, last), "c": (-2, None), "d": (-3, -3)})
    found = search.run()
    assert found.order == (["d"] if last is None else ["d", "b"])
    assert found.names(PRUNED) == []
