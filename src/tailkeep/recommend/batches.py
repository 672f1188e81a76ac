"""A batch of candidates as a study in memory: only their chains, on one seed, with fine-tunings of one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.evaluation import metrics
from tailkeep.recommend.candidates import Candidate
from tailkeep.recommend.rungs import shortened
from tailkeep.recommend.setup import Setup, without
from tailkeep.study.plan import Cell
from tailkeep.study.results import model_kind, predictions
from tailkeep.study.runner import Study, plan_study
from tailkeep.study.spec import MethodEntry, StudySpec, study_text
from tailkeep.study.store import Store

Ints = NDArray[np.int64]
Runner = Callable[[Study], dict[str, str]]
"""Does what is missing of a study and returns the reasons of failed steps by key."""

BASELINE = ""
"""The name of the baseline among the cells of a batch."""


@dataclass(frozen=True)
class Counts:
    """A candidate beside the baseline on the same images, by class (C,): images, lost, won."""

    n: tuple[int, ...]
    n10: tuple[int, ...]
    n01: tuple[int, ...]


class Batch:
    """Candidates at one length of fine-tuning. Nothing is loaded until it is opened, nothing runs until ``run``."""

    def __init__(self, setup: Setup, candidates: Sequence[Candidate], share: float, split: str, **changes: Any) -> None:
        spec = _narrowed(setup, candidates, share).model_copy(update={"evaluate": split})
        if changes:
            spec = StudySpec.model_validate({**spec.plain(), **changes})
        self.study = open_spec(spec, setup)
        found = {(cell.labels["model"], cell.labels["method"]): cell for cell in self.study.plan.cells}
        kept = {name: found[model, method] for name, model, method in _wanted(setup, candidates)}
        self.cells: dict[str, Cell] = kept
        self.study.plan.cells = list(kept.values())

    def run(self, runner: Runner, names: Sequence[str] | None = None) -> dict[str, str]:
        """Do what is missing, or of ``names`` (and the baseline) alone; return reasons of failure by candidate."""
        wanted = [*self.cells] if names is None else [BASELINE, *names]
        self.study.plan.cells = [self.cells[name] for name in wanted]
        failed = runner(self.study)
        keys = {name: self.cells[name].predict_key for name in wanted}
        return {name: failed[key].removeprefix("parent failed: ") for name, key in keys.items() if key in failed}

    def cost(self, name: str) -> dict[str, Any]:
        """Return ``packed_bytes``, ``macs`` and ``weights`` of a stored model, as measured."""
        store, kind, key = self.place(name)
        return dict(store.step(kind, key)["cost"])

    def times(self) -> dict[tuple[str, str], float]:
        """Return the median milliseconds an image of what was timed, by (model, method)."""
        found: dict[tuple[str, str], float] = {}
        for measure in self.study.plan.measures:
            if self.study.store.status("measure", measure.key) == "done":
                for timing in self.study.store.step("measure", measure.key)["timings"]:
                    found[measure.labels["model"], measure.methods[timing["name"]]] = float(timing["median_ms"])
        return found

    def place(self, name: str) -> tuple[Store, str, str]:
        """Return where a model lies: store, kind and key."""
        key = self.cells[name].model_key
        return self.study.store, model_kind(self.study.plan, key), key

    def counts(self, name: str) -> Counts:
        """Return the joint counts of a candidate and the baseline on the batch's split."""
        before, after = (predictions(self.study.store, self.cells[each].predict_key) for each in (BASELINE, name))
        if not (np.array_equal(before["ids"], after["ids"]) and np.array_equal(before["labels"], after["labels"])):
            raise RuntimeError(f"{name!r} and the baseline were not predicted on the same images")
        return joint_counts(before["labels"], before["logits"], after["logits"])


def joint_counts(labels: Ints, baseline: NDArray[np.float32], candidate: NDArray[np.float32]) -> Counts:
    """Return the counts by class of two models' logits (N, C) on the same images with ``labels`` (N,)."""
    before, after = metrics.predicted(baseline), metrics.predicted(candidate)
    joint = metrics.paired_counts(labels, after, before, baseline.shape[1])
    n = joint.n11 + joint.n10 + joint.n01 + joint.n00
    return Counts(*(tuple(counts.tolist()) for counts in (n, joint.n10, joint.n01)))


def open_spec(spec: StudySpec, setup: Setup) -> Study:
    """Resolve and plan a study that is in memory, and keep the cells of the chosen seed alone."""
    spec = spec.model_copy(update={"name": f"{spec.name[:50]} (recommend)"})
    study = plan_study(spec, study_text(spec), setup.options)
    study.plan.cells = [cell for cell in study.plan.cells if cell.labels["seed"] == setup.seed]
    return study


def smaller_dense(setup: Setup) -> Setup:
    """Return the setup without the dense models that take as many multiply-accumulates as the baseline, or more."""
    dense = [each for each in setup.candidates if each.method == "dense"]
    if not dense:
        return setup
    models = Batch(setup, dense, 0.0, "validation").study.resolved.models
    macs = {model["label"]: model["macs"] for model in models}
    larger = {each.name for each in dense if macs[each.model] >= macs[setup.baseline]}
    return without(setup, larger)


def _wanted(setup: Setup, candidates: Sequence[Candidate]) -> list[tuple[str, str, str]]:
    return [(BASELINE, setup.baseline, "dense"), *((each.name, each.model, each.method) for each in candidates)]


def _narrowed(setup: Setup, candidates: Sequence[Candidate], share: float) -> StudySpec:
    """The study with the models and methods that some candidates take, its fine-tunings shortened."""
    models: dict[str, set[str]] = {}
    for each in candidates:
        for method in each.chain:
            models.setdefault(method, set()).add(each.model)
    labels = {setup.baseline, *(each.model for each in candidates)}
    kept = [entry for entry in setup.study.models if entry.label in labels]
    if share == 0:
        kept = [entry if entry.weights else _untrained(entry, setup) for entry in kept]
    methods = tuple(
        _short(entry, share).model_copy(
            update={"models": tuple(m.label for m in kept if m.label in models[entry.name])}
        )
        for entry in setup.study.methods
        if entry.name in models
    )
    # The chosen seed comes first: it is the one whose files are timed.
    seeds = (setup.seed, *(seed for seed in setup.study.seeds if seed != setup.seed))
    return setup.study.model_copy(update={"models": tuple(kept), "methods": methods, "seeds": seeds})


def _untrained(entry: Any, setup: Setup) -> Any:
    recipe = entry.recipe or setup.study.recipe
    return entry.model_copy(update={"recipe": shortened(recipe, 0)})


def _short(entry: MethodEntry, share: float) -> MethodEntry:
    return entry if entry.recipe is None else entry.model_copy(update={"recipe": shortened(entry.recipe, share)})
