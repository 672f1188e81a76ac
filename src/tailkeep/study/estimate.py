"""How long a plan will take and how much it will store: from multiply-accumulates, corrected by what was measured."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from tailkeep.study.plan import Plan, Step
from tailkeep.study.store import Store

MACS_PER_SECOND = 8e10  # one core with bf16, small convolutions
SECONDS_PER_STEP = 0.004
SECONDS_PER_UNIT = 0.3
SECONDS_PER_EXPORT = 5.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of compute on one worker, bytes to be stored, and whether stored timings corrected it."""

    seconds: float
    bytes: float
    measured: bool


QUANTIZED = ("qat", "qat_distillation", "tail_aware_bits")
"""Methods whose steps round weights and activations: 1.2 dense steps where it is fast, more on small networks."""


def step_seconds(step: Step, plan: Plan) -> float:
    """A rough guess of a step's seconds before anything was measured."""
    spec = step.spec
    if step.kind == "export":
        return SECONDS_PER_EXPORT
    if step.kind == "measure":  # rounds of about 20 ms a file and batch size, each after a run that warms the caches
        return float(len(spec["parents"]) * len(spec["batches"]) * spec["rounds"]) * 0.05
    if step.kind not in ("train", "transform"):
        return 2 * SECONDS_PER_UNIT
    images = sum(spec["data"]["counts"])
    recipe = spec["recipe"]
    per_epoch = max(1, images // int(recipe["batch_size"]))
    steps = float(recipe["epochs"] * per_epoch if recipe["steps"] is None else recipe["steps"])
    macs = float(step.extra.get("macs", 0)) * 3
    method = spec.get("method", {"kind": "train"})["kind"]
    slower = 1.5 if method in QUANTIZED else 1.0
    if method.endswith("distillation") or method in ("dkd", "performance_weighted"):
        macs += max((float(plan.steps[p].extra.get("macs", 0)) for p in step.parents), default=0.0)
    if recipe["precision"] != "bf16":
        slower *= 2
    compute: float = steps * min(recipe["batch_size"], images) * macs * slower / MACS_PER_SECOND
    return SECONDS_PER_UNIT + steps * SECONDS_PER_STEP + compute


def estimate(plan: Plan, store: Store, todo: dict[str, Step]) -> Estimate:
    """Return what the steps in ``todo`` will take; steps that are stored correct the guess by their median ratio."""
    ratios = []
    for step in plan.steps.values():
        if step.kind in ("train", "transform") and step.key not in todo and store.is_whole(step.kind, step.key):
            seconds = float(store.step(step.kind, step.key).get("seconds", 0))
            if seconds > 0:
                ratios.append(seconds / step_seconds(step, plan))
    factor = statistics.median(ratios) if ratios else 1.0
    seconds = sum(step_seconds(step, plan) for step in todo.values()) * factor
    return Estimate(seconds, float(sum(_bytes(step) for step in todo.values())), bool(ratios))


def _bytes(step: Step) -> float:
    return 1.2e6 if step.kind in ("train", "transform", "import") else 0.6e6


def duration(seconds: float) -> str:
    """Return seconds as words: "about 3 minutes"."""
    if seconds <= 1:
        return "about 1 second"
    if seconds < 90:
        return f"about {math.ceil(seconds)} seconds"
    if seconds < 90 * 60:
        return f"about {math.ceil(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def summary(plan: Plan, store: Store, todo: dict[str, Step], workers: int) -> dict[str, Any]:
    """Return the figures of ``tailkeep plan`` as plain values."""
    trainings, controls = plan.trainings(), plan.trainings("control")
    left = [key for key in trainings if key in todo]
    guess = estimate(plan, store, todo)
    distinct = len(trainings) - len(controls)
    return {
        "study": plan.name,
        "cells": len(plan.cells),
        "trainings": len(trainings),
        "trainings_without_controls": distinct,
        "trainings_of_controls": len(controls),
        "trainings_saved_by_sharing": plan.unshared - distinct,
        "trainings_stored": len(trainings) - len(left),
        "trainings_to_do": len(left),
        "steps_to_do": len(todo),
        "estimate_seconds": round(guess.seconds / max(1, workers)),
        "estimate_from_measurements": guess.measured,
        "estimate_bytes": round(guess.bytes),
    }
