"""Several processes, one store and study: is each step published once, and none done twice while its holder lives?

    python benchmarks/share.py [--processes 4] [--seeds 4] [--kill-every 5] [--seconds 0] [--seed 0]

All run the same study. Every ``--kill-every`` seconds a random one is killed and another is started in its place. The
children note each beginning and each publication in one journal. With ``--seconds`` stores are filled one after the
other until the time is up; without, one is. Exit code 1 where a step was published twice, or not, or begun by one
process while another one that lived was at it, or where the result hash is another than that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import chooser, complaints, fork, fresh, lines, note, placed, run, study_of, wait, warm

from tailkeep.study.results import result_hash
from tailkeep.study.runner import Study
from tailkeep.study.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=4, help="of the study: 8 steps each")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds; 0 kills none")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tailkeep-share-"))
    seen, rng = Counter[str](), chooser(options.seed)
    try:
        study = study_of(folder, seeds=options.seeds)
        warm(study, folder / "whole")
        expected = result_hash(study.plan, Store(folder / "whole"))
        started = killed_at = time.monotonic()
        while not seen["stores"] or time.monotonic() - started < options.seconds:
            here = placed(study, fresh(folder / "store"))
            journal = folder / "journal"
            journal.unlink(missing_ok=True)
            killed_at = together(here, journal, options.processes, options.kill_every, rng, seen, killed_at)
            judge(journal, set(here.plan.steps), seen)
            seen["complaints"] += len(complaints(here, expected))
            seen["stores"] += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(", ".join(f"{count} {what}" for what, count in seen.items()))
    names = ("published twice", "never published", "begun while another was at it", "complaints", "unclean ends")
    wrong = {name: seen[name] for name in names if seen[name]}
    print("as it must be" if not wrong else f"WRONG: {wrong}")
    sys.exit(1 if wrong else 0)


def together(
    study: Study, journal: Path, count: int, every: float, rng: random.Random, seen: Counter[str], killed_at: float
) -> float:
    """Run a study by several processes, one killed every so often, until it is done; return when the last kill was."""
    alive = {fork(run(study, journal)) for _ in range(count)}
    while alive:
        for pid in list(alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                alive.discard(pid)
                seen["unclean ends"] += os.waitstatus_to_exitcode(status) != 0
        if every and alive and time.monotonic() > killed_at + every:
            killed_at = time.monotonic()
            victim = rng.choice(sorted(alive))
            note(journal, f"killed - {victim} {time.time()}")
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            alive.discard(victim)
            alive.add(fork(run(study, journal)))
            seen["killed"] += 1
        time.sleep(0.05)
    last = wait(fork(run(study, journal)))  # which has nothing left to do
    seen["unclean ends"] += last != 0
    return killed_at


def judge(journal: Path, keys: set[str], seen: Counter[str]) -> None:
    """Count what the journal says."""
    published, at_it, dead = Counter[str](), dict[str, str](), set[str]()
    for what, key, pid, *_ in lines(journal):
        if what == "killed":
            dead.add(pid)
        elif what == "begin":
            seen["begun"] += 1
            other = at_it.get(key)
            seen["begun while another was at it"] += other is not None and other not in dead
            at_it[key] = pid
        else:
            published[key] += what == "published"
            seen["gave way"] += what == "gave-way"
            at_it.pop(key, None)
    seen["steps"] += len(keys)
    seen["published once"] += sum(published[key] == 1 for key in keys)
    seen["published twice"] += sum(published[key] > 1 for key in keys)
    # a process that is killed between the rename and its note has published without a word
    seen["never published"] += sum(published[key] == 0 and at_it.get(key) not in dead for key in keys)


if __name__ == "__main__":
    main()
