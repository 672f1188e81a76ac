"""P values beside the level that they are compared with."""

from __future__ import annotations

import math

from tailkeep.report import words

MOST_DIGITS = 12


def p_value(value: float, alpha: float) -> str:
    """Write a p value with as many digits as tell on which side of ``alpha`` it lies."""
    if not words.known(value):
        return words.NOTHING
    alpha = round(alpha, MOST_DIGITS)
    least = max(3, 1 - math.floor(math.log10(alpha) + 1e-9))  # digits: a tenth of alpha can be told
    if value < 10.0**-least:
        return f"< {10.0**-least:.{least}f}"
    digits = 2 if value >= 0.1 else least
    while (float(text := f"{value:.{digits}f}") <= alpha) != (value <= alpha) and digits < MOST_DIGITS:
        digits += 1
    return text
