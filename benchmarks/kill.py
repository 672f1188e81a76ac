"""Kills and faults: whatever happens to a run, the next one ends with the result of an undisturbed one.

    python benchmarks/kill.py [--kills 20] [--faults 40] [--worker-kills 0] [--ray-kills 0] [--naive-kills 20]
                              [--seed 0] [--verbose]

1. SIGKILLs at random moments of a small study on digits, over and over, each followed by a run that goes on.
2. A fault at every operation on a file of one cell (a training and its prediction): the process is killed there, or
   gets ENOSPC or EIO, or a short write; then the run is repeated without. ``--faults N`` takes N of them, spread
   evenly; 0 takes every one.
3. ``--worker-kills``: SIGKILLs of worker processes under a pool of two. ``--ray-kills``: the same under Ray, on a
   cluster of this machine with two CPUs; a step's tries must not pass three a run.
4. The same kills over a planted naive store, where a step that exists is done: it must be found out.

Counted: another result hash, finished steps that were done again, damaged steps that were accepted, runs that ended
in an unexpected error. All must be 0, except for the naive store. Exit code 1 where that is not so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from harness import (
    NaiveStore,
    chooser,
    complaints,
    finished,
    fork,
    fresh,
    lines,
    note,
    placed,
    run,
    study_of,
    wait,
    warm,
)

from tailkeep.study.limits import RETRIES
from tailkeep.study.results import result_hash
from tailkeep.study.runner import Study
from tailkeep.study.store import Store

AT_WORK = re.compile(r"spawn_main|ray::attempt")
KINDS = ("kill", "ENOSPC", "EIO", "short")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faults", type=int, default=40, help="0: every operation, with every kind of fault")
    parser.add_argument("--worker-kills", type=int, default=0)
    parser.add_argument("--ray-kills", type=int, default=0, help="needs tailkeep[ray]")
    parser.add_argument("--naive-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show what the faults lead to")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tailkeep-kill-"))
    try:
        wrong = Counter[str]()
        study = study_of(folder)
        warm(study, folder / "warm")
        expected, seconds = undisturbed(study, folder / "whole")
        print(f"undisturbed: {len(study.plan.steps)} steps, {seconds:.1f} s, result hash {expected[:16]}", flush=True)
        wrong += show("SIGKILLs", kills(study, folder / "kills", options.kills, seconds, expected, options.seed))
        wrong += faults(study_of(folder / "cell", methods=0, epochs=1), folder, options.faults)
        if options.worker_kills:
            wrong += show(
                "SIGKILLs of workers", worker_kills(study, folder, options.worker_kills, expected, options.seed)
            )
        if options.ray_kills:
            ray = worker_kills(study, folder, options.ray_kills, expected, options.seed, "ray")
            wrong += show("SIGKILLs of workers under Ray", ray)
        if options.naive_kills:
            peace, _ = undisturbed(study, folder / "naive-whole", NaiveStore)
            assert peace == expected, "the naive store must be right as long as nobody disturbs it"
            naive = kills(study, folder / "naive", options.naive_kills, seconds, expected, options.seed, NaiveStore)
            show("SIGKILLs, naive store", naive)
            if not +naive["wrong"]:
                wrong["the naive store was not found out"] += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("as it must be" if not wrong else f"WRONG: {dict(wrong)}")
    sys.exit(1 if wrong else 0)


def undisturbed(study: Study, root: Path, kind: type[Store] = Store) -> tuple[str, float]:
    """Run a study in peace; return its result hash and seconds."""
    here = placed(study, fresh(root), kind)
    started = time.monotonic()
    code = wait(fork(run(here)))
    assert code == 0, f"the undisturbed run ended with {code}"
    return result_hash(here.plan, kind(root)), time.monotonic() - started


def kills(
    study: Study, root: Path, count: int, seconds: float, expected: str, seed: int, kind: type[Store] = Store
) -> dict[str, Counter[str]]:
    """Kill ``count`` runs at random moments; each store is run to its end and checked, then a new one is begun."""
    rng, wrong, seen = chooser(seed), Counter[str](), Counter[str]()
    while seen["killed"] < count:
        here = placed(study, fresh(root), kind)
        journal = root.parent / f"{root.name}.journal"
        journal.unlink(missing_ok=True)
        seen["stores"] += 1
        while True:
            before = finished(root)
            at = len(lines(journal))
            last = seen["killed"] >= count
            code = wait(fork(run(here, journal)), 1e9 if last else rng.uniform(0.02, seconds / 2))
            again = [line[1] for line in lines(journal)[at:] if line[0] == "begin" and line[1] in before]
            wrong["finished steps done again"] += len(again)
            seen["killed"] += code is None
            if code == 0:
                break
            if code is not None:
                wrong[f"a run ended with exit code {code}"] += 1
                break
        for complaint in complaints(here, expected, kind):
            wrong["accepted though damaged" if "accepted" in complaint else "another result hash"] += 1
    return {"seen": seen, "wrong": +wrong}


def faults(study: Study, folder: Path, count: int) -> Counter[str]:
    """A fault at the operations of one cell, of every kind; return what went wrong."""
    expected, _ = undisturbed(study, folder / "cell-whole")
    wrong = Counter[str]()
    for kind in KINDS:
        operations = operations_of(study, folder, kind)
        places = list(range(operations))
        if count and count < operations:
            places = [round(i * (operations - 1) / max(1, count - 1)) for i in range(count)]
        seen, bad = Counter[str](), Counter[str]()
        for at in places:
            here = placed(study, fresh(folder / "fault"))
            code = wait(fork(run(here, None, (at, kind))))
            word = {0: "went on", 3: "stopped with words", -signal.SIGKILL: "killed"}.get(
                code or 0, f"exit code {code}"
            )
            seen[word] += 1
            if word.startswith("exit code") or (kind == "short" and code != 0):
                bad[f"operation {at}: {word}"] += 1
            before, journal = finished(here.store.root), folder / "fault.journal"
            journal.unlink(missing_ok=True)
            after = wait(fork(run(here, journal)))
            if after != 0:
                bad[f"operation {at}: the run after it ended with {after}"] += 1
            again = [line for line in lines(journal) if line[0] == "begin" and line[1] in before]
            bad["finished steps done again"] += len(again)
            for complaint in complaints(here, expected):
                bad[f"operation {at}: {complaint}"] += 1
        show(f"{kind} at {len(places)} of {operations} operations", {"seen": seen, "wrong": +bad})
        wrong += bad
    return +wrong


def operations_of(study: Study, folder: Path, kind: str) -> int:
    """How many operations a cell takes."""
    journal = folder / "operations"
    journal.unlink(missing_ok=True)
    code = wait(fork(run(placed(study, fresh(folder / "fault")), journal, (-1, kind))))
    assert code == 0
    return int(next(line[1] for line in lines(journal) if line[0] == "operations"))


def worker_kills(
    study: Study, folder: Path, count: int, expected: str, seed: int, engine: str = "processes"
) -> dict[str, Counter[str]]:
    """Kill random workers of a pool of two, or of a Ray cluster of two CPUs."""
    rng, wrong, seen = chooser(seed), Counter[str](), Counter[str]()
    while seen["killed"] < count:
        here = placed(study, fresh(folder / "pool"), workers=2, retry_failed=True, engine=engine)
        seen["stores"] += 1
        code = 1
        for _ in range(20):  # a step that lost three workers in turn is stored as failed; the next run tries it again
            journal = folder / "pool.journal"
            journal.unlink(missing_ok=True)
            pid = fork(told(here, journal))
            parent = psutil.Process(pid)
            while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
                time.sleep(rng.uniform(0.1, 1.0))
                workers = workers_of(parent)
                if workers and seen["killed"] < count and rng.random() < 0.3:
                    with suppress(psutil.NoSuchProcess):
                        rng.choice(workers).kill()
                        seen["killed"] += 1
            code = os.waitstatus_to_exitcode(found[1])
            seen[f"exit code {code}"] += 1
            tries = Counter(key for what, key in lines(journal) if what == "start")
            seen["tries after the first"] += sum(tries.values()) - len(tries)
            wrong["steps tried more than three times in a run"] += sum(n > 1 + RETRIES for n in tries.values())
            if code == 0:
                break
        if code != 0:
            wrong[f"the last run ended with {code}"] += 1
        for complaint in complaints(here, expected):
            wrong[complaint] += 1
    return {"seen": seen, "wrong": +wrong}


def told(study: Study, journal: Path) -> Callable[[], int]:
    """Return what a child does: the study, with what its engine says in a journal."""

    def action() -> int:
        outcome = study.run(lambda event: note(journal, f"{event.what} {event.step.key}"))
        return 3 if outcome.failed else 0

    return action


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """The processes of a pool, and those that are at a step under Ray; a run has others too."""
    try:
        children = parent.children(recursive=True)
        return [child for child in children if AT_WORK.search(" ".join(child.cmdline()))]
    except psutil.Error:  # one ended meanwhile
        return []


def show(what: str, found: dict[str, Counter[str]]) -> Counter[str]:
    """Print a line; return what went wrong."""
    seen = ", ".join(f"{count} {word}" for word, count in found["seen"].items())
    wrong = "; ".join(f"{count}x {word}" for word, count in found["wrong"].items())
    print(f"{what}: {seen}. Wrong: {wrong or 'nothing'}", flush=True)
    return found["wrong"]


if __name__ == "__main__":
    main()
