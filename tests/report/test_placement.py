from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tailkeep.report.placement import CLEAR, Box, leader, place

FRAME = (300.0, 280.0)


def test_a_name_stands_to_the_right_where_there_is_room() -> None:
    box = place([(100.0, 100.0)], [(60.0, 14.0)], FRAME)[0]
    assert box is not None
    assert 100 < box.left < 112
    assert box.top + box.bottom == pytest.approx(200)
    assert leader((100.0, 100.0), box) is None


def test_at_the_right_edge_it_stands_to_the_left() -> None:
    box = place([(290.0, 100.0)], [(60.0, 14.0)], FRAME)[0]
    assert box is not None
    assert box.right < 290


@pytest.mark.parametrize("seed", range(6))
def test_names_meet_neither_each_other_nor_a_dot_nor_the_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dots = [(float(x), float(y)) for x, y in zip(rng.uniform(10, 290, 11), rng.uniform(10, 270, 11), strict=True)]
    dots += [dots[0], (dots[0][0] + 3, dots[0][1])]  # a crowd
    sizes = [(float(wide), 14.0) for wide in rng.integers(30, 110, len(dots))]
    boxes = [box for box in place(dots, sizes, FRAME) if box is not None]
    assert len(boxes) >= len(dots) - 1
    assert not [pair for pair in combinations(boxes, 2) if pair[0].meets(pair[1], 1.0)]
    for box in boxes:
        assert (box.left >= 0, box.top >= 0, box.right <= FRAME[0], box.bottom <= FRAME[1]) == (True,) * 4
        assert min(box.distance(dot) for dot in dots) >= CLEAR - 1


def test_a_line_is_kept_clear() -> None:
    line = ((0.0, 100.0), (300.0, 100.0))
    box = place([(100.0, 100.0)], [(60.0, 14.0)], FRAME, [line])[0]
    assert box is not None
    assert not box.crossed(line)


def test_no_room_no_name() -> None:
    assert place([(10.0, 10.0)], [(400.0, 14.0)], FRAME) == [None]
    assert place([], [], FRAME) == []


@pytest.mark.parametrize(
    ("line", "crossed"),
    [
        (((0, 5), (20, 5)), True),
        (((5, 0), (5, 20)), True),
        (((0, 0), (20, 20)), True),
        (((0, 12), (20, 12)), False),
        (((0, 9), (5, 20)), False),
        (((20, 5), (30, 5)), False),
        (((10, 0), (10, 20)), True),  # along its side
    ],
)
def test_a_line_runs_through_a_box_or_not(line, crossed: bool) -> None:
    assert Box(2, 2, 10, 10).crossed(line) is crossed


def test_a_name_that_moved_away_is_joined_to_its_dot() -> None:
    line = leader((0.0, 0.0), Box(30, -5, 60, 5))
    assert line == ((6.0, 0.0), (30.0, 0.0))
