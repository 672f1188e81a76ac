"""How numbers and names are written for people: units, sensible digits, a dash where there is nothing to say."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

NOTHING = "–"
MINUS = "−"
NO_BREAK = "\u00a0"


def known(value: Any) -> bool:
    """Tell whether ``value`` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def number(value: Any, digits: int = 1, *, sign: bool = False) -> str:
    """Write a number with a real minus, or a dash where it is not known; a zero carries no sign."""
    if not known(value):
        return NOTHING
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """Write an interval as ``[0.3, 2.1]``, or nothing at all where a bound is not known."""
    if not (known(low) and known(high)):
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def with_interval(value: Any, low: Any, high: Any, *, digits: int = 1, sign: bool = False) -> str:
    """Write ``+1.2 [0.3, 2.1]``."""
    return f"{number(value, digits, sign=sign)} {interval(low, high, digits)}".strip()


def share(value: Any, digits: int = 1) -> str:
    """Write a share of 0..1 as a percentage."""
    return f"{number(100 * value, digits)} %" if known(value) else NOTHING


def p_value(value: Any) -> str:
    """Write a p value: two figures that matter, never "0.000"."""
    if not known(value):
        return NOTHING
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def size(value: Any) -> str:
    """Write bytes in decimal units."""
    if not known(value):
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value < 999 * scale else f"{value / scale:,.0f} {unit}"
    return f"{value:,.0f} B"


def count(value: Any) -> str:
    """Write a large count with its unit: ``40.8 M``."""
    if not known(value):
        return NOTHING
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value < 999 * scale else f"{value / scale:,.0f} {unit}"
    return f"{value:,.0f}"


def duration(seconds: Any) -> str:
    """Write a time as ``1 h 05 min``, ``3 min 20 s`` or ``4.2 s``."""
    if not known(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def sentence(text: str) -> str:
    """Return a text with a capital in front and a full stop behind."""
    text = text.strip()
    return text and text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def printable(text: Any) -> str:
    """Return a name without what could steer a terminal, turn the reading direction or break XML.

    Control and format characters, lone surrogates and unassigned code points become ``�``.
    """
    return "".join("�" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Cn"} else c for c in str(text))


def printable_lines(text: Any) -> str:
    """Like ``printable``, for a text of several lines: line ends and tabs stay."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in str(text).splitlines())
