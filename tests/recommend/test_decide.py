"""The fixed sequence: whom it looks at, where it stops, and its three answers."""

from __future__ import annotations

import pytest

from tailkeep.analysis.gate import Check, gate
from tailkeep.recommend.decide import decide

KEPT, LOST, OPEN = (200, 2, 2), (200, 60, 0), (20, 1, 1)


class Split:
    """Held-out counts by candidate, the same for both classes, and a record of who was looked at."""

    def __init__(self, **counts: tuple[int, int, int]) -> None:
        self.counts, self.looked = counts, []

    def __call__(self, name: str) -> list[Check]:
        self.looked.append(name)
        n, n10, n01 = self.counts[name]
        return [Check("drop", "class", "cat", n, n10, n01, 0.05), Check("drop", "class", "dog", 200, 0, 0, 0.05)]


def test_it_stops_at_the_first_that_does_not_pass_and_looks_no_further() -> None:
    split = Split(a=KEPT, b=LOST, c=KEPT)
    found = decide(["a", "b", "c"], ["d"], split, 0.95)
    assert (found.status, found.passed, found.stopped) == ("safe", ("a",), "b")
    assert split.looked == ["a", "b"]


def test_all_that_pass_are_safe() -> None:
    found = decide(["a", "b"], [], Split(a=KEPT, b=KEPT), 0.95)
    assert (found.passed, found.stopped) == (("a", "b"), None)


def test_an_open_first_candidate_ends_it() -> None:
    split = Split(a=OPEN, b=KEPT)
    assert decide(["a", "b"], [], split, 0.95).status == "cannot tell"
    assert split.looked == ["a"]


def test_nothing_is_safe_needs_every_candidate_shown_to_be_broken() -> None:
    split = Split(a=LOST, b=LOST, early=LOST)
    found = decide(["a", "b"], ["early"], split, 0.95)
    assert (found.status, split.looked) == ("nothing is safe", ["a", "b", "early"])
    assert found.broken == {"a": ("cat",), "b": ("cat",), "early": ("cat",)}
    assert decide(["a", "b"], ["early"], Split(a=LOST, b=LOST, early=OPEN), 0.95).status == "cannot tell"


def test_one_that_would_pass_behind_a_failure_is_never_called_safe() -> None:
    found = decide(["a", "b"], ["early"], Split(a=LOST, b=KEPT, early=KEPT), 0.95)
    assert (found.status, found.passed) == ("cannot tell", ())


def test_nothing_is_safe_is_corrected_over_candidates() -> None:
    counts = (200, 18, 0)  # alone shown to lose more than 5 points, among many not
    assert gate(Split(a=counts)("a"), 0.95).decision == "fail"
    names = [f"c{i}" for i in range(40)]
    many = decide(names, [], Split(**dict.fromkeys(names, counts)), 0.95)
    assert many.status == "cannot tell"
    assert decide(["c0"], [], Split(c0=counts), 0.95).status == "nothing is safe"


@pytest.mark.parametrize("others", [[], ["early"]])
def test_without_a_finalist_it_cannot_tell(others: list[str]) -> None:
    split = Split(early=KEPT)
    assert decide([], others, split, 0.95).status == "cannot tell"
    assert not split.looked
