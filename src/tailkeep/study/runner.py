"""A study from its file to its analysis, in one call; what the command line and the Python API both stand on."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailkeep.errors import BadInput
from tailkeep.study.engine import Engine, Event, Outcome, needed
from tailkeep.study.estimate import duration, estimate, step_seconds, summary
from tailkeep.study.imported import remaining
from tailkeep.study.limits import check_room
from tailkeep.study.plan import Plan, Step, build_plan
from tailkeep.study.ray_cluster import check_engine
from tailkeep.study.record import at_work, check_record, write_record
from tailkeep.study.store import Store
from tailkeep.study.stores import open_store

if TYPE_CHECKING:
    import pandas as pd

    from tailkeep.analysis.result import StudyAnalysis
    from tailkeep.study.ray_cluster import Workers
    from tailkeep.study.resolve import Resolved
    from tailkeep.study.spec import StudySpec

MANY_CELLS = 10_000
TWINS = {"full": ("full",), "matched": ("matched",), "both": ("full", "matched"), "none": ()}


@dataclass(frozen=True)
class Options:
    """Settings that change no result. ``workers`` 0 takes one process a core (one on a GPU), each of ``threads``.

    ``store`` is a folder, or the URL of an object store as text. ``step_limit`` is in minutes of wall-clock time, after
    which a step counts as hung; None for none. ``own`` also does what results from elsewhere were imported
    for. ``engine`` "ray" runs the steps on the Ray cluster at ``address``, or on one that is started here; ``workers``
    0 is then as many as it takes, a step on ``gpus_per_step`` (1) of a GPU.
    """

    store: Path | str | Store = Path("tailkeep-store")
    data_root: Path | None = None
    cache: Path | None = None
    device: str = "cpu"
    workers: int = 0
    threads: int = 1
    model_code: str | None = None
    overrides: list[str] = field(default_factory=list)
    new_data: bool = False
    new_env: bool = False
    yes: bool = False
    retry_failed: bool = False
    checkpoint_every: float = 30.0
    step_limit: float | None = None
    own: bool = False
    engine: str = "processes"
    address: str | None = None
    gpus_per_step: float | None = None

    @property
    def cores(self) -> int:
        """The cores of this machine that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def worker_count(self) -> int:
        """Worker processes; a guess for a cluster, which says only at the run how many it takes."""
        if self.workers:
            return self.workers
        return 1 if self.device != "cpu" else max(1, self.cores // self.threads)

    @property
    def at_a_time(self) -> str:
        """How many steps run at a time, in words."""
        known = self.workers or self.engine != "ray" or (self.address is None and self.device == "cpu")
        count = f"{self.worker_count} at a time" if known else "as many at a time as the cluster takes"
        return f"{count}, by Ray" if self.engine == "ray" else count


@dataclass
class Study:
    """A study that was read and planned. Nothing has run yet; ``run`` does what is missing."""

    spec: StudySpec
    text: str
    resolved: Resolved
    plan: Plan
    store: Store
    options: Options

    @property
    def open_plan(self) -> Plan:
        """The plan without the cells that were imported whole."""
        return self.plan if self.options.own else remaining(self.plan, self.store)

    @property
    def todo(self) -> dict[str, Step]:
        """The steps that are not stored."""
        return needed(self.open_plan, self.store, self.options.retry_failed)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the plan as plain values."""
        facts = summary(self.plan, self.store, self.todo, self.options.worker_count)
        return {**facts, "notes": list(self.resolved.notes)}

    def run(
        self, on_event: Callable[[Event], None] = lambda event: None, on_wait: Callable[[], None] = lambda: None
    ) -> Outcome:
        """Do what is missing, and record the study. Other processes may be at the same store and study."""
        from tailkeep.study.steps import environment, run_step

        runtime = self.runtime()
        here = environment(runtime)
        data = self.resolved.datasets
        check_room(self.store.root, estimate(self.plan, self.store, self.todo).bytes, self.store.room)
        with self._workers(runtime, here) as workers, at_work(self.store, self.plan.name, self.plan.goals):
            check_record(self.store, self.plan.name, data, here, self.options.new_data, self.options.new_env)
            steps = [[step.kind, key] for key, step in self.plan.steps.items()]
            record = {"name": self.plan.name, "spec": self.text, "goals": self.plan.goals, "environment": here}
            write_record(self.store, self.plan.name, {**record, "data": data, "steps": steps})
            limit = self.options.step_limit
            return Engine(
                self.open_plan,
                self.store,
                run_step,
                runtime if workers is None else workers.runtime,
                self.options.worker_count if workers is None else workers.count,
                on_event,
                on_wait,
                self.options.retry_failed,
                None if limit is None else 60 * limit,
                None if workers is None else workers.executor,
            ).run()

    def _workers(self, runtime: Any, here: dict[str, Any]) -> AbstractContextManager[Workers | None]:
        """The cluster that runs the steps; None for this machine's processes, or where there is nothing to run."""
        if self.options.engine != "ray" or not self.todo:
            return nullcontext()
        from tailkeep.study.ray_cluster import connected

        return connected(self.options, runtime, here)

    def runtime(self) -> Any:
        """What the workers need beside the steps."""
        from tailkeep.study.steps import Runtime

        options = self.options
        root = os.environ.get("TAILKEEP_DATA_ROOT") if options.data_root is None else str(options.data_root)
        return Runtime(
            store=self.store.address,
            sources=self.resolved.sources,
            data_root=root,
            cache=None if options.cache is None else str(options.cache),
            model_code=options.model_code,
            device=options.device,
            threads=options.threads,
            checkpoint_every=options.checkpoint_every,
        )

    def analyse(self) -> tuple[pd.DataFrame, StudyAnalysis]:
        """Return the frame and the analysis of what is stored."""
        from tailkeep.study.results import analyse_plan

        return analyse_plan(
            self.plan,
            self.store,
            self.resolved.datasets,
            spec_text=self.text,
            margin=self.spec.margin,
            cuts=self.spec.group_cuts,
            twins=TWINS[self.spec.balanced],
            notes=self.resolved.notes,
            split=self.spec.split,
        )

    def seconds(self, step: Step) -> float:
        """A rough guess of a step's seconds, for a progress bar."""
        return step_seconds(step, self.plan)


def open_study(path: Path, options: Options) -> Study:
    """Read, check, resolve and plan a study file. Raises ``BadInput`` before any compute."""
    from tailkeep.study.spec import load_study

    check_engine(options)
    store = open_store(options.store)  # first of all: it may not be there
    spec, text = load_study(path, options.overrides)
    _not_too_many(spec, options)
    study = plan_study(spec, text, options, store)
    _seeds_differ(study.plan)
    return study


def plan_study(spec: StudySpec, text: str, options: Options, store: Store | None = None) -> Study:
    """Resolve and plan a checked spec; ``text`` is what it was read from, or says the same.

    ``store`` is what ``options.store`` names, where that is open already.
    """
    from tailkeep.study.resolve import Where, resolve

    resolved = resolve(spec, Where(options.data_root, options.cache, options.device, options.model_code))
    return Study(spec, text, resolved, build_plan(resolved), store or open_store(options.store), options)


def _seeds_differ(plan: Plan) -> None:
    """Refuse seeds that are one and the same work: counted twice they would be evidence of nothing."""
    seen: dict[tuple[object, ...], int] = {}
    for cell in plan.cells:
        if cell.labels["role"] == "technique":
            names = tuple(cell.labels[n] for n in ("dataset", "setting", "twin", "model", "method"))
            other = seen.setdefault((*names, cell.predict_key), cell.labels["seed"])
            if other != cell.labels["seed"]:
                raise BadInput(
                    f"seeds {other} and {cell.labels['seed']} are the same model ({cell.labels['method']}, "
                    f"{cell.labels['setting']}): training_seed is fixed, and the setting takes every image there is"
                )


def _not_too_many(spec: StudySpec, options: Options) -> None:
    """A grid that was crossed too far is shown before it is expanded."""
    settings = sum(len(entry.imbalance or spec.imbalance) for entry in spec.data) * (1 + len(TWINS[spec.balanced]))
    cells = settings * len(spec.models) * len(spec.seeds) * (1 + len(spec.methods))
    if cells > MANY_CELLS and not options.yes:
        sizes = {"settings": settings, "models": len(spec.models), "seeds": len(spec.seeds)}
        grid = " x ".join(f"{n} {what}" for what, n in {**sizes, "methods": 1 + len(spec.methods)}.items())
        raise BadInput(
            f"this study has {cells:,} cells ({grid}): at a minute a cell {duration(cells * 60)} on one worker, "
            f"and {cells * 1.8e6 / 1e9:,.0f} GB of disk. Pass --yes if you mean it"
        )
