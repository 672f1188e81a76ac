from __future__ import annotations

import math

import pytest

from tailkeep.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.2"), (-0.04, "0.0"), (-3.0, "−3.0"), (math.nan, "–"), (None, "–"), (math.inf, "–"), (0, "0.0")],
)
def test_a_number_has_a_sign_only_where_it_differs_from_zero(value, text: str) -> None:
    assert words.number(value, sign=True) == text


def test_an_interval_needs_both_ends() -> None:
    assert words.interval(-1.0, 2.04) == "[−1.0, 2.0]"
    assert words.interval(math.nan, 2.0) == ""
    assert words.with_interval(math.nan, math.nan, math.nan) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999 B"), (1_092_000, "1.09 MB"), (281_000, "281 kB"), (999_600, "1,000 kB"), (math.nan, "–")],
)
def test_bytes_have_units(value, text: str) -> None:
    assert words.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0001, "< 0.001"), (0.012, "0.012"), (0.5, "0.50"), (None, "–")])
def test_a_p_value_is_never_zero(value, text: str) -> None:
    assert words.p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (3905, "1 h 05 min"), (3599.7, "1 h 00 min"), (None, "–")]
)
def test_a_time_is_said_as_people_say_it(value, text: str) -> None:
    assert words.duration(value) == text


def test_a_name_cannot_steer_a_terminal_or_break_xml() -> None:
    assert words.printable("a\x1b[31m\x00\u202e\udcffb\n") == "a�[31m���b�"
    assert words.printable("naïve 猫 é") == "naïve 猫 é"
    assert words.printable_lines("a: 1\r\nb:\t2\x07\n") == "a: 1\nb:    2�"
