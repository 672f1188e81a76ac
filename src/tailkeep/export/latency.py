"""How long exported models take on this machine, all of them in one interleaved run, so that they share its moods."""

from __future__ import annotations

import gc
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.export.runtime import OnnxSession
from tailkeep.randomness import stream_seed

NOISY = 0.1
"""Interquartile range over median from which a timing is called noisy."""

SLACK = 0.5
"""Load that an idle machine may have."""

WARM_UP_RUNS = 3
POLL = 0.2
"""Seconds between two looks at a lock that another process holds."""
MOST_RUNS = 1 << 16
"""In one round, whatever the clock says."""


class Session(Protocol):
    """What is timed."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of one batch (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class Timing:
    """One model at one batch size. Milliseconds are those of one batch, quartiles are over the rounds.

    ``ratio`` is the median over the rounds of this model's time over the dense model's in the same round and batch
    size (below 1: faster), with its quartiles; ``runs`` counts the batches that were timed.
    """

    name: str
    batch: int
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    runs: int

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return (self.high_ms - self.low_ms) / self.median_ms if self.median_ms > 0 else 0.0


@dataclass(frozen=True)
class Latency:
    """The timings of one measurement, and in ``notes`` what speaks against trusting it (empty where nothing does)."""

    timings: tuple[Timing, ...]
    dense: str
    threads: int
    cores: int
    notes: tuple[str, ...]

    def of(self, name: str, batch: int) -> Timing:
        """Return one timing. Raises ``KeyError`` where it was not measured."""
        for timing in self.timings:
            if (timing.name, timing.batch) == (name, batch):
                return timing
        raise KeyError((name, batch))


def measure_latency(
    paths: Mapping[str, Path],
    image_shape: tuple[int, int, int],
    dense: str,
    batches: Sequence[int] = (1, 64),
    threads: int = 1,
    rounds: int = 30,
    min_time: float = 0.02,
    seed: int = 0,
    lock: Path | None = None,
    wait: float = 0.0,
    open_session: Callable[[Path, int], Session] = OnnxSession,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time every model of ``paths`` {name: ONNX file} at every batch size, ``rounds`` times in an order drawn anew.

    In a round each model runs a batch as often as takes about ``min_time`` seconds, and the mean of these runs is the
    round's time. ``dense`` names the model that the ratios refer to. ``lock`` (default: one for this user, in the
    temporary folder) keeps a second measurement away; this one waits ``wait`` seconds for it to be free.
    ``open_session`` and ``clock`` (seconds) are for tests.

    Raises ``BadInput`` where a file cannot be used, ``dense`` is not among them, or another measurement is running.
    """
    if dense not in paths:
        raise BadInput(f"the dense model {dense!r} is not among the models to measure: {', '.join(sorted(paths))}")
    if rounds < 1 or threads < 1 or not batches or min(batches) < 1 or not min_time > 0:
        raise ValueError(f"nothing to measure: batches {batches}, threads {threads}, rounds {rounds}, {min_time} s")
    with exclusive(lock or default_lock(), wait):
        cores, before = available_cores(), load_average()
        sessions = {name: open_session(path, threads) for name, path in paths.items()}
        generator = np.random.default_rng(stream_seed(seed, "latency", "images"))
        images = {n: generator.standard_normal((n, *image_shape), dtype=np.float32) for n in dict.fromkeys(batches)}
        arms = [(name, batch) for name in sessions for batch in images]
        with _no_garbage_collection():
            repeats = {}
            for arm in arms:
                try:
                    repeats[arm] = _warm_up(sessions[arm[0]], images[arm[1]], min_time, clock)
                except Exception as error:  # onnxruntime has a dozen unrelated error classes
                    raise BadInput(f"{arm[0]}: cannot run on {images[arm[1]].shape} images: {error}") from error
            seconds: dict[tuple[str, int], list[float]] = {arm: [] for arm in arms}
            for number in range(rounds):
                for arm in _order(arms, seed, number):
                    seconds[arm].append(_time(sessions[arm[0]], images[arm[1]], repeats[arm], clock))
        timings = tuple(_timing(arm, seconds[arm], seconds[dense, arm[1]], repeats[arm]) for arm in arms)
        notes = (*_load_notes(before, load_average(), cores, threads), *_spread_notes(timings))
    return Latency(timings, dense, threads, cores, notes)


def _order(arms: list[tuple[str, int]], seed: int, number: int) -> list[tuple[str, int]]:
    order = list(arms)
    random.Random(stream_seed(seed, "latency", "order", number)).shuffle(order)
    return order


def _warm_up(session: Session, images: NDArray[np.float32], min_time: float, clock: Callable[[], float]) -> int:
    """Run until memory is allocated and caches are warm; return how many runs take about ``min_time`` seconds."""
    for _ in range(WARM_UP_RUNS):
        session.run(images)
    runs = 1
    while (taken := _time(session, images, runs, clock) * runs) < min_time / 2 and runs < MOST_RUNS:
        runs *= 2
    return min(MOST_RUNS, max(1, math.ceil(runs * min_time / max(taken, 1e-9))))


def _time(session: Session, images: NDArray[np.float32], runs: int, clock: Callable[[], float]) -> float:
    """Return the mean seconds of one run, after one that brings this model's data back into the caches."""
    session.run(images)
    start = clock()
    for _ in range(runs):
        session.run(images)
    return max(clock() - start, 1e-9) / runs  # a coarse clock may stand still


def _timing(arm: tuple[str, int], seconds: list[float], dense: list[float], repeats: int) -> Timing:
    low, median, high = (1000 * value for value in _quartiles(seconds))
    ratios = [own / reference for own, reference in zip(seconds, dense, strict=True)]
    ratio_low, ratio, ratio_high = _quartiles(ratios)
    return Timing(*arm, median, low, high, ratio, ratio_low, ratio_high, len(seconds), repeats * len(seconds))


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _spread_notes(timings: tuple[Timing, ...]) -> list[str]:
    return [
        f"{timing.name} at batch {timing.batch} is noisy: half of its rounds span {timing.spread:.0%} of the median"
        for timing in timings
        if timing.spread > NOISY
    ]


def _load_notes(before: float | None, after: float | None, cores: int, threads: int) -> list[str]:
    """Say where other programs wanted the cores: the load at the start is theirs alone, that at the end is shared."""
    notes = []
    if before is not None and before + threads > cores + SLACK:
        notes.append(f"the machine was busy before the start: load {before:.1f} and {threads} threads on {cores} cores")
    if after is not None and after > cores:
        notes.append(f"the machine was busy at the end: load {after:.1f} on {cores} cores")
    return notes


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return how many threads ran or waited for a core over the last minute; None where the platform does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def default_lock() -> Path:
    """Return the file by which the measurements of one user keep out of each other's way."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"tailkeep-latency-{user}.lock"


@contextmanager
def exclusive(lock: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock on a file, which the system gives back when the process ends, however it ends.

    Raises ``BadInput`` where another process still holds it after ``wait`` seconds or the file cannot be opened. Does
    nothing where the platform has no such locks (Windows).
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BadInput(f"{lock}: cannot be opened as a lock ({error.strerror})") from error
    try:
        deadline = time.monotonic() + wait
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(POLL)
        except OSError as error:
            owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            raise BadInput(f"another measurement is running (process {owner}); start this one after it") from error
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
