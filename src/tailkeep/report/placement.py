"""Where the name of each dot of a chart stands: beside it, clear of other names and dots, and inside the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Segment = tuple[Point, Point]

DIRECTIONS = tuple((math.cos(a * math.pi / 8), math.sin(a * math.pi / 8)) for a in (0, 8, *range(1, 8), *range(9, 16)))
"""Right and left first: a reader looks there for a name."""
DISTANCES = (9.0, 15.0, 23.0, 33.0, 45.0, 60.0, 78.0, 100.0, 126.0)
CLEAR = 8.0
"""Pixels that a name keeps from the middle of a dot."""
LEADER = 14.0
"""Pixels from which a thin line joins a name to its dot."""
CROSSED = 34.0
"""What a line through a name costs, in pixels of distance."""
PASSES = 4
"""How often every name looks for its place anew, given those of the others."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box, room: float = 2.0) -> bool:
        """Whether two boxes are nearer than ``room``."""
        apart = self.left - room >= other.right or other.left - room >= self.right
        return not (apart or self.top - room >= other.bottom or other.top - room >= self.bottom)

    def nearest(self, point: Point) -> Point:
        """Return the point of the box that is nearest to another point."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)

    def distance(self, point: Point) -> float:
        """Return how far a point is from the box, 0 within it."""
        return math.dist(point, self.nearest(point))

    def crossed(self, segment: Segment) -> bool:
        """Whether a straight line runs through the box (Liang and Barsky's clipping)."""
        (x, y), (x1, y1) = segment
        start, end = 0.0, 1.0
        sides = ((x - x1, x - self.left), (x1 - x, self.right - x), (y - y1, y - self.top), (y1 - y, self.bottom - y))
        for step, room in sides:
            if step == 0:
                if room < 0:
                    return False
            elif step < 0:
                start = max(start, room / step)
            else:
                end = min(end, room / step)
        return start < end


def place(
    dots: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    frame: tuple[float, float],
    lines: Sequence[Segment] = (),
) -> list[Box | None]:
    """Return a box of each size (width, height) beside its dot, within a frame of (width, height) from (0, 0).

    No box lies on another one or on a dot; ``lines`` are kept clear where that is possible. None where there is no
    room. The same input gives the same boxes.
    """
    found: list[Box | None] = [None] * len(dots)
    # Where dots crowd, room is scarcest.
    crowd = [sum(math.dist(dot, other) < 70 for other in dots) for dot in dots]
    order = sorted(range(len(dots)), key=lambda i: (-crowd[i], i))
    for _ in range(PASSES):
        before = list(found)
        for i in order:
            others = [(dots[j], box) for j, box in enumerate(found) if box is not None and j != i]
            found[i] = _best(dots, i, sizes[i], frame, lines, others)
        if found == before:
            break
    return found


def _best(
    dots: Sequence[Point],
    index: int,
    size: tuple[float, float],
    frame: tuple[float, float],
    lines: Sequence[Segment],
    others: Sequence[tuple[Point, Box]],
) -> Box | None:
    """Return the cheapest place for one name, given those of the others."""
    dot = dots[index]
    best, least = None, math.inf
    for far in DISTANCES:
        if far >= least:
            break
        for turn, direction in enumerate(DIRECTIONS):
            box = _beside(dot, size, direction, far)
            if not (box.left >= 0 and box.top >= 0 and box.right <= frame[0] and box.bottom <= frame[1]):
                continue
            if any(box.distance(other) < CLEAR - 0.5 for other in dots) or any(box.meets(b) for _, b in others):
                continue
            price = far + 0.3 * turn + CROSSED * sum(box.crossed(line) for line in lines)
            price += _tangle(dots, dot, box, others)
            if price < least:
                best, least = box, price
    return best


def _beside(dot: Point, size: tuple[float, float], direction: Point, far: float) -> Box:
    """Return the box whose edge is ``far`` from a dot in a direction."""
    width, height = size
    x, y = dot[0] + far * direction[0], dot[1] + far * direction[1]
    left = x - width * (1 - direction[0]) / 2
    top = y - height * (1 - direction[1]) / 2
    return Box(left, top, left + width, top + height)


def _tangle(dots: Sequence[Point], dot: Point, box: Box, others: Sequence[tuple[Point, Box]]) -> float:
    """Price the lines that join names and dots: none may run through another name, over another dot or line."""
    own = leader(dot, box)
    price = 0.0
    for point, other in others:
        line = leader(point, other)
        if line is not None and box.crossed(line):
            price += 40
        if own is not None and other.crossed(own):
            price += 40
        if own is not None and line is not None and _cross(own, line):
            price += 25
    if own is not None:
        price += 10 + 25 * sum(_from_line(own, point) < 6 for point in dots if point != dot)
    # A name that stands as near to another dot would be read as that one's.
    return price + 12 * sum(box.distance(point) < box.distance(dot) for point in dots if point != dot)


def leader(dot: Point, box: Box) -> Segment | None:
    """Return the thin line between a dot and its name; None where the name stands close enough without one."""
    end = box.nearest(dot)
    far = math.dist(dot, end)
    if far < LEADER:
        return None
    # It starts at the dot's edge.
    share = 6 / far
    return (dot[0] + share * (end[0] - dot[0]), dot[1] + share * (end[1] - dot[1])), end


def _cross(a: Segment, b: Segment) -> bool:
    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    apart = side(*a, b[0]) * side(*a, b[1]) >= 0
    return not apart and side(*b, a[0]) * side(*b, a[1]) < 0


def _from_line(segment: Segment, point: Point) -> float:
    """Return how far a point is from a straight line between two points."""
    (x, y), (x1, y1) = segment
    length = (x1 - x) ** 2 + (y1 - y) ** 2
    share = 0.0 if length == 0 else ((point[0] - x) * (x1 - x) + (point[1] - y) * (y1 - y)) / length
    share = min(1.0, max(0.0, share))
    return math.dist(point, (x + share * (x1 - x), y + share * (y1 - y)))
