"""Recorded times: how long the steps of a finished or running study took, by what they do; read from its store.

``recorded_times.json`` lies beside this file; ``scaling.py --record STORE`` makes it anew from any store.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import read_json, write_json
from tailkeep.study.plan import Step

FILE = Path(__file__).parent / "recorded_times.json"


def what(kind: str, spec: dict[str, Any]) -> str:
    """Return what a step does, as far as its time depends on it: ``transform/qat``, ``predict/test``, ``train``."""
    if kind == "transform":
        return f"transform/{spec['method']['kind']}"
    return f"predict/{spec['split']}" if kind == "predict" else kind


def seconds_of(step: Step, times: dict[str, float]) -> float:
    """Return a step's recorded seconds; raises ``BadInput`` where nothing of its kind was recorded."""
    name = what(step.kind, step.spec)
    if name not in times:
        raise BadInput(f"no recorded time for {name!r}; record a store that has such steps: scaling.py --record STORE")
    return times[name]


def load(path: Path = FILE) -> dict[str, Any]:
    """Return what was recorded: ``seconds`` by what a step does, with the study and the machine they come from."""
    return dict(read_json(path))


def record(store: Path, path: Path = FILE) -> dict[str, Any]:
    """Write the median seconds of a store's steps, by what they do; return what was written.

    Reads step.json files alone, so a study may be running there. Raises ``BadInput`` where no step is finished.
    """
    found: dict[str, list[float]] = {}
    environments: dict[str, dict[str, Any]] = {}
    for file in sorted(store.glob("*/*/step.json")):
        step = json.loads(file.read_text(encoding="utf-8"))
        if step.get("status") == "done" and ".partial" not in file.parent.name:
            found.setdefault(what(file.parents[1].name, step["spec"]), []).append(float(step["seconds"]))
            environments[json.dumps(step["environment"], sort_keys=True)] = step["environment"]
    if not found:
        raise BadInput(f"{store}: no finished step to take times from")
    studies = sorted(file.stem for file in (store / "studies").glob("*.json"))
    names = ("cpu", "device", "machine", "threads", "torch", "gpu")
    facts = {
        "study": ", ".join(studies),
        "machine": [{n: one[n] for n in names if n in one} for one in environments.values()],
        "cores": os.cpu_count(),
        "steps": {name: len(times) for name, times in sorted(found.items())},
        "seconds": {name: round(statistics.median(times), 3) for name, times in sorted(found.items())},
    }
    write_json(path, facts)
    return facts
