"""How a study scales: the real planner, engine and store over many workers, with steps that only sleep.

    python benchmarks/scaling.py [--cells 10000] [--workers 1 4 16 64 256] [--seconds 60] [--store DIR] [--json]
    python benchmarks/scaling.py --plan 100000        # time and memory of a big plan alone
    python benchmarks/scaling.py --record STORE       # take the times of steps anew from any store

A study of 10,000 cells is resolved and planned as any other one; a step's work is a sleep of its recorded time, scaled
so that a point ideally takes ``--seconds``. Leases, folders of work, syncs, hashes and the publishing rename are the
real ones, and are not scaled: the efficiency *as run* is a lower bound. What it would be at the recorded times is
computed beside it, from the overheads measured at that point and the engine's own order of steps; and, with
``--latency``, what it would be where each operation on the store's files took so many milliseconds more.

Few workers run a stated part of the cells, so that a sleep stays longer than ``--nap``. Workers are threads of this
process that sleep; ``--processes`` takes the engine's pool of worker processes, for counts that this machine holds.

Exit code 1 where a step was done twice or is missing, a lease was lost, the engine took 5 ms a step or more of CPU
time, or a plan of ``--plan`` steps took 10 s of CPU time or 1 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import scaling_times
from scaling_files import NAMES
from scaling_run import Point, run_point, tasks_of
from scaling_schedule import bound, efficiency, makespan
from scaling_study import STEPS_A_CELL, study_of

from tailkeep.errors import TailkeepError
from tailkeep.study.engine import needed
from tailkeep.study.estimate import estimate, summary
from tailkeep.study.plan import Plan, build_plan
from tailkeep.study.resolve import Where, resolve
from tailkeep.study.store import Store

ENGINE_LIMIT = 0.005
PLAN_SECONDS, PLAN_BYTES = 10.0, 1e9
BAR = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="of the study")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="a point each")
    parser.add_argument("--seconds", type=float, default=60.0, help="what a point takes if nothing but work takes time")
    parser.add_argument("--nap", type=float, default=0.1, help="least mean sleep in seconds; sets the part that runs")
    parser.add_argument("--store", type=Path, help="folder for the stores (default: a temporary one); /dev/shm: memory")
    parser.add_argument("--processes", action="store_true", help="the engine's own worker processes, not threads")
    parser.add_argument("--times", type=Path, default=scaling_times.FILE, help="seconds of a step by kind, recorded")
    parser.add_argument(
        "--latency", type=float, nargs="*", default=[1.0, 10.0], metavar="MS", help="computed too: so much an operation"
    )
    parser.add_argument("--plan", type=int, metavar="STEPS", help="only plan: time and memory")
    parser.add_argument("--record", type=Path, metavar="STORE", help="only write --times from a store's steps")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    options = parser.parse_args()
    try:
        if options.record:
            found = scaling_times.record(options.record, options.times)
            print(json.dumps(found, indent=1))
            sys.exit(0)
        sys.exit(plan_alone(options.plan, options.json) if options.plan else curve(options))
    except TailkeepError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


# --- the curve -------------------------------------------------------------------------------------------------------


def curve(options: argparse.Namespace) -> int:
    """Run the points and print them; return the exit code."""
    times = scaling_times.load(options.times)
    plan = build_plan(resolve(study_of(options.cells), Where()))
    plan.cells = plan.cells[: options.cells]
    seconds = {key: scaling_times.seconds_of(step, times["seconds"]) for key, step in plan.steps.items()}
    facts = setting(options, plan, times, seconds)
    if not options.json:
        print(words(facts), flush=True)
        print(HEAD, flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tailkeep-scaling-", dir=options.store) as folder:
        for workers in options.workers:
            cells, scale = part(plan, seconds, workers, options)
            point = run_point(plan, seconds, workers, scale, cells, Path(folder) / "store", options.processes)
            rows.append(Row(point, at_recorded_times(plan, seconds, point, options.latency)))
            if not options.json:
                print(rows[-1].measured(), flush=True)
    wrong = [complaint for row in rows for complaint in complaints(row.point)]
    if options.json:
        points = [{**row.point.plain(), "computed": row.computed} for row in rows]
        print(json.dumps({**facts, "points": points, "wrong": wrong}, indent=1))
    else:
        print(tail(rows, facts))
        print("as it must be" if not wrong else f"WRONG: {'; '.join(wrong)}")
    return 1 if wrong else 0


def part(plan: Plan, seconds: dict[str, float], workers: int, options: argparse.Namespace) -> tuple[int, float]:
    """Return how many cells a point runs, and its scale: sleeps of at least ``--nap`` on the mean."""
    most = options.seconds * workers / options.nap / STEPS_A_CELL
    cells = len(plan.cells) if most >= len(plan.cells) else max(1, int(most))
    own = needed(Plan(plan.name, plan.steps, plan.cells[:cells]), Store(Path("no such store")))
    return cells, options.seconds / bound(tasks_of(own, plan, seconds), workers)


def setting(
    options: argparse.Namespace, plan: Plan, times: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return what the figures rest on."""
    where = options.store or Path(tempfile.gettempdir())
    return {
        "cells": len(plan.cells),
        "steps": len(plan.steps),
        "recorded": {name: times[name] for name in ("study", "machine", "cores", "steps", "seconds")},
        "hours_of_work": sum(seconds.values()) / 3600,
        "store": str(where),
        "file_system": file_system(where),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "workers_are": "processes" if options.processes else "threads of this process",
        "python": sys.version.split()[0],
    }


def file_system(folder: Path) -> str:
    """Return the kind of file system that a folder lies on; "unknown" where the system does not say."""
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    inside = [line for line in lines if folder.resolve().is_relative_to(line[1])]
    return max(inside, key=lambda line: len(line[1]))[2] if inside else "unknown"


def at_recorded_times(
    plan: Plan, seconds: dict[str, float], point: Point, latencies: Sequence[float] = ()
) -> dict[str, Any]:
    """Compute the whole study at the recorded times, with the overheads that a point measured.

    Of worker processes nothing is known but how long they ran: all that was no work counts as overhead. ``latencies``
    are milliseconds that each operation on a file may take beside that, on a store that is far away.
    """
    tasks = tasks_of(plan.steps, plan, seconds)
    work = sum(task.seconds for task in tasks)
    engine = point.engine_busy / point.steps
    idle = max(0.0, point.workers * point.wall - point.work)  # of worker processes, whose start is in it
    step = (idle if point.step_beside is None else point.step_beside) / point.steps
    counts = point.operations or {}
    asked = {who: sum(found.values()) / point.steps / 1000 for who, found in counts.items()}
    whole = makespan(tasks, point.workers, engine, step)
    far = {
        f"{ms:g}": makespan(tasks, point.workers, engine + ms * asked["engine"], step + ms * asked["workers"])
        for ms in (latencies if asked else ())
    }
    return {
        "bound_hours": bound(tasks, point.workers) / 3600,
        "hours": whole / 3600,
        "efficiency_of_the_order": efficiency(work, point.workers, makespan(tasks, point.workers)),
        "efficiency": efficiency(work, point.workers, whole),
        "efficiency_at_latency_ms": {ms: efficiency(work, point.workers, took) for ms, took in far.items()},
    }


def complaints(point: Point) -> list[str]:
    """What must not be."""
    found = {
        "steps done twice": point.steps_twice,
        "steps that are not stored": point.left,
        "leases lost": point.leases_lost,
        "ms of the engine's CPU time a step": 1000 * point.engine_cpu / point.steps
        if point.engine_cpu / point.steps >= ENGINE_LIMIT
        else 0,
    }
    return [f"{point.workers} workers: {number:g} {name}" for name, number in found.items() if number]


# --- words -----------------------------------------------------------------------------------------------------------

HEAD = (
    "MEASURED, as run: sleeps are scaled, overhead is not\n"
    "                              sleep s  wall s   ideal wall s   efficiency   engine, ms     worker, ms    file ops"
    "  leases\n"
    "workers    cells    steps      (mean)          bound  in order  as run      a step  busy   a step  beside   a step"
    "    lost"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A point and what was computed from it."""

    point: Point
    computed: dict[str, Any]

    def measured(self) -> str:
        """The line of what was measured."""
        p = self.point
        engine = [p.per_step(value) for value in (p.engine_cpu, p.engine_busy)]
        worker = ["–" if value is None else f"{p.per_step(value):.2f}" for value in (p.step_cpu, p.step_beside)]
        files = "–" if p.operations_a_step is None else f"{p.operations_a_step:.1f}"
        return (
            f"{p.workers:7d} {p.cells:8,d} {p.steps:8,d} {p.work / p.steps:11.3f} {p.wall:7.1f} {p.bound:6.1f} "
            f"{p.order:9.1f} {p.efficiency:7.1%} {engine[0]:11.2f} {engine[1]:5.2f} {worker[0]:>8} {worker[1]:>7} "
            f"{files:>8} {p.leases_lost:7d}"
        )


def words(facts: dict[str, Any]) -> str:
    """What was run on what, in words."""
    recorded = facts["recorded"]
    machines = "; ".join(", ".join(f"{k} {v}" for k, v in one.items()) for one in recorded["machine"])
    times = ", ".join(f"{name} {value:g}" for name, value in recorded["seconds"].items())
    return (
        f"{facts['cells']:,} cells, {facts['steps']:,} steps, {facts['hours_of_work']:,.0f} hours of work at the "
        f"recorded times\nrecorded: study {recorded['study']} on {recorded['cores']} cores ({machines}); seconds: "
        f"{times}\nstore on {facts['file_system']}; {facts['cores']} cores, load before the start "
        f"{facts['load_before']}; Python {facts['python']}; workers are {facts['workers_are']}\n"
    )


def tail(rows: list[Row], facts: dict[str, Any]) -> str:
    """The computed half, the operations, and where the limit lies."""
    lines = [
        f"\nCOMPUTED (all {facts['cells']:,} cells at the recorded times, with each point's engine busy time and worker"
        " time beside the work)",
        "workers  bound h  with overhead h   efficiency: by the order alone  with overhead"
        + "".join(f"{f'{float(ms):g} ms a file op.':>20}" for ms in rows[-1].computed["efficiency_at_latency_ms"]),
    ]
    for row in rows:
        c = row.computed
        bar = "#" * round(BAR * c["efficiency"])
        lines.append(
            f"{row.point.workers:7d} {c['bound_hours']:8.2f} {c['hours']:16.2f} {c['efficiency_of_the_order']:32.2%} "
            f"{c['efficiency']:14.2%}"
            + "".join(f"{far:20.2%}" for far in c["efficiency_at_latency_ms"].values())
            + f"  {bar}"
        )
    point = rows[-1].point
    if point.operations is not None:
        lines.append(f"\nOPERATIONS on the store's files, a step ({point.workers} workers)")
        lines.append("".join(f"{name:>15}" for name in ("", *NAMES)))
        for who, counts in point.operations.items():
            lines.append(f"{who:>15}" + "".join(f"{counts[name] / point.steps:15.2f}" for name in NAMES))
    busy = point.engine_busy / point.steps
    lines.append(
        f"\nOne engine starts at most {1 / busy:,.0f} steps a second here, so {point.workers} workers need steps of "
        f"{point.workers * busy:.2f} s or more on the mean to be kept at work. A second look over the finished "
        f"store of {point.steps:,} steps took {point.look_again:.1f} s of CPU time."
    )
    return "\n".join(lines)


# --- a plan alone ----------------------------------------------------------------------------------------------------


def plan_alone(steps: int, as_json: bool) -> int:
    """Plan at least so many steps; print CPU and wall-clock seconds and peak memory of each stage."""
    stages: dict[str, dict[str, float]] = {}

    def stage(name: str, action: Callable[[], Any]) -> Any:
        wall, cpu, before = time.perf_counter(), time.process_time(), peak()
        result = action()
        stages[name] = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "peak_bytes_more": peak() - before,
        }
        return result

    store = Store(Path(tempfile.gettempdir()) / "tailkeep-no-such-store")
    spec = stage("check the spec", lambda: study_of(-(-steps // STEPS_A_CELL)))
    resolved = stage("resolve", lambda: resolve(spec, Where()))
    plan = stage("build_plan", lambda: build_plan(resolved))
    todo = stage("what is missing", lambda: needed(plan, store))
    stage("estimate", lambda: estimate(plan, store, todo))
    stage("summary", lambda: summary(plan, store, todo, 256))
    facts = {
        "steps": len(plan.steps),
        "cells": len(plan.cells),
        "stages": stages,
        "peak_bytes": peak(),
        "load_before": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }
    good = stages["build_plan"]["cpu_s"] < PLAN_SECONDS and peak() < PLAN_BYTES
    if as_json:
        print(json.dumps({**facts, "as_it_must_be": good}, indent=1))
        return 0 if good else 1
    print(
        f"{facts['steps']:,} steps, {facts['cells']:,} cells; {facts['cores']} cores, load {facts['load_before']}; "
        f"peak memory of the process {peak() / 1e6:,.0f} MB (torch's own included)"
    )
    for name, one in stages.items():
        print(
            f"{name:>16}: {one['cpu_s']:6.2f} s of CPU, {one['wall_s']:6.2f} s of wall clock, "
            f"{one['peak_bytes_more'] / 1e6:+7.0f} MB"
        )
    print("as it must be" if good else f"WRONG: over {PLAN_SECONDS:g} s of CPU time or {PLAN_BYTES / 1e9:g} GB")
    return 0 if good else 1


def peak() -> float:
    """Return this process's peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
