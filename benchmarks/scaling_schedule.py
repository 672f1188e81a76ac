"""What a schedule can reach, by arithmetic alone: the critical path, and the makespan of the engine's own order.

Nothing is measured here. ``makespan`` starts steps as the engine does: in the plan's order, as soon as a worker is free
and their parents are done, one after another, since one thread starts them all.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A step to a scheduler: its key, those that must be done first, and its seconds."""

    key: str
    parents: tuple[str, ...]
    seconds: float


def critical_path(tasks: Iterable[Task]) -> float:
    """Return the seconds of the longest chain; parents come before children."""
    ends: dict[str, float] = {}
    for task in tasks:
        ends[task.key] = task.seconds + max((ends[parent] for parent in task.parents), default=0.0)
    return max(ends.values(), default=0.0)


def bound(tasks: Sequence[Task], workers: int) -> float:
    """Return the seconds below which no schedule ends: the work over the workers, or the longest chain."""
    return max(sum(task.seconds for task in tasks) / workers, critical_path(tasks))


def efficiency(work: float, workers: int, wall: float) -> float:
    """Return the share of the workers' time that was work; ``work`` and ``wall`` in seconds."""
    return work / (workers * wall) if wall else 1.0


def makespan(tasks: Sequence[Task], workers: int, engine: float = 0.0, step: float = 0.0) -> float:
    """Return the seconds from the start to the last step's end.

    ``engine`` is what the one engine thread needs for each step, ``step`` what a worker needs beside the step's own
    seconds (lease, sync, publish); both in seconds.
    """
    order = {task.key: place for place, task in enumerate(tasks)}
    children: Mapping[str, list[int]] = {task.key: [] for task in tasks}
    missing = [len(task.parents) for task in tasks]
    for place, task in enumerate(tasks):
        for parent in task.parents:
            children[parent].append(place)
    ready = [order[task.key] for task in tasks if not task.parents]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = last = 0.0
    while ready or running:
        while ready and len(running) < workers:
            place = heapq.heappop(ready)
            now += engine
            last = max(last, end := now + step + tasks[place].seconds)
            heapq.heappush(running, (end, place))
        now = max(now, running[0][0])
        while running and running[0][0] <= now:
            for child in children[tasks[heapq.heappop(running)[1]].key]:
                missing[child] -= 1
                if not missing[child]:
                    heapq.heappush(ready, child)
    return last
