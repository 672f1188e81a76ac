"""Long names in figures: broken into lines, and given the room that they need."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

SLIM, BROAD = frozenset("fijlrtI.,:;|!'()[]/- "), frozenset("mwMW@%—")


def wide_of(text: str, font: float) -> float:
    """Return about how many pixels wide a text is in Helvetica or Arial."""
    return sum(map(_em, text)) * font + 1


def _em(c: str) -> float:
    if ord(c) > 0x2E7F:  # Chinese, Japanese, Korean
        return 1.0
    return 0.29 if c in SLIM else 0.84 if c in BROAD else 0.68 if c.isupper() else 0.54


def wrapped(text: str, room: float, font: float, most: int = 2) -> list[str]:
    """Break a text into at most ``most`` lines of ``room`` pixels, at spaces where there are any.

    What does not fit ends in "…".
    """
    lines: list[str] = []
    for word in text.split(" "):
        if lines and wide_of(f"{lines[-1]} {word}", font) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    pieces = [piece for line in lines for piece in _cut(line, room, font)] or [""]
    if len(pieces) > most:
        pieces = [*pieces[: most - 1], _short(" ".join(pieces[most - 1 :]), room, font)]
    return pieces


def _cut(line: str, room: float, font: float) -> list[str]:
    """Cut a word that is longer than a line."""
    found = [""]
    for c in line:
        if found[-1] and wide_of(found[-1] + c, font) > room:
            found.append("")
        found[-1] += c
    return found


def _short(text: str, room: float, font: float) -> str:
    while len(text) > 1 and wide_of(f"{text}…", font) > room:
        text = text[:-1].rstrip()
    return f"{text}…"


def room_for(names: Iterable[str], font: float, least: int, most: int) -> int:
    """Return the room that the longest name needs, within bounds."""
    longest = max((wide_of(name, font) for name in names), default=0.0)
    return min(most, max(least, math.ceil(longest) + 12))


def lines_expr(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return the expression that labels an axis' value, one of ``names``, with its lines."""
    return f"{json.dumps([list(each) for each in lines])}[indexof({json.dumps(list(names))}, datum.value)]"


def centred(names: Sequence[Any], lines: Sequence[Sequence[str]], height: float) -> dict[str, Any] | float:
    """Return the offset that puts labels of several lines beside the middle of their row."""
    return by_lines(names, lines, 0.0, -height / 2)


def by_lines(names: Sequence[Any], lines: Sequence[Sequence[str]], first: float, more: float) -> dict[str, Any] | float:
    """Return an axis' value by label: ``first`` for one line, and ``more`` for each further line."""
    tests = []
    for many in sorted({len(each) for each in lines} - {1}):
        mine = [name for name, each in zip(names, lines, strict=True) if len(each) == many]
        tests.append({"test": f"indexof({json.dumps(mine)}, datum.value) >= 0", "value": first + (many - 1) * more})
    return {"condition": tests, "value": first} if tests else first


def padded(labels: Sequence[Sequence[str]]) -> list[list[str]]:
    """Give every label as many lines as the longest has, so that what comes after stands on one height."""
    most = max((len(each) for each in labels), default=0)
    return [[*each, *[""] * (most - len(each))] for each in labels]
