"""One stored model of a study as a file for a runtime, with what the runtime makes of the evaluated images."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput, StepFailed
from tailkeep.study.engine import Engine
from tailkeep.study.plan import Cell, build_plan
from tailkeep.study.record import lock
from tailkeep.study.results import cell_sizes, model_kind
from tailkeep.study.runner import Study


@dataclass(frozen=True)
class Choice:
    """Which cell of a study: its method, and what else tells cells apart (None: the study's first)."""

    method: str
    model: str | None = None
    setting: str | None = None
    dataset: str | None = None
    seed: int | None = None


def export_cell(study: Study, choice: Choice, out: Path) -> dict[str, Any]:
    """Write the chosen model to ``out``; return its facts: sizes, and agreement with the simulated model.

    The file and its prediction are steps of the store like any other. Raises ``BadInput`` where the study has no such
    cell or its model is not stored yet, and ``StepFailed`` where the model cannot be exported.
    """
    from tailkeep.study.deploy import FILE
    from tailkeep.study.steps import run_step

    settings = {"format": "onnx", "latency": False}
    resolved = replace(study.resolved, options={**study.resolved.options, "export": settings})
    plan = build_plan(resolved)
    cell = find_cell(plan.cells, choice)
    if study.store.status(model_kind(plan, cell.model_key), cell.model_key) != "done":
        raise BadInput(
            f"{cell.labels['method']} (seed {cell.labels['seed']}) is not in the store {study.store.root} yet; "
            "`tailkeep run` with the same study file and --store makes it"
        )
    plan.cells, plan.measures = [cell], []
    _check_writable(out)
    with lock(study.store):
        outcome = Engine(plan, study.store, run_step, study.runtime(), retry_failed=True).run()
    if outcome.failed:
        reason, _, detail = next(iter(outcome.failed.values())).removeprefix("parent failed: ").partition(": ")
        raise StepFailed(reason, detail)
    assert cell.export_key is not None
    shutil.copyfile(study.store.file("export", cell.export_key, FILE), out)
    names = {name: facts["class_names"] for name, facts in resolved.datasets.items()}
    sizes = cell_sizes(plan, study.store, names).iloc[0]
    facts = {str(name): value for name, value in sizes.items() if name not in cell.labels}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}
    file = study.store.step("export", cell.export_key)["file"]
    return {**cell.labels, "path": str(out), **plain, "int8_weights": file["int8_weights"], "sha256": file["sha256"]}


def _check_writable(out: Path) -> None:
    """Make the file's folder, so that a place that cannot be written is known before the work."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from error
    if out.is_dir():
        raise BadInput(f"--out {out}: is a folder; name a file in it, such as {out / 'model.onnx'}")


def find_cell(cells: list[Cell], choice: Choice) -> Cell:
    """Return the first exported cell that fits; raises ``BadInput`` with the choices where none does."""
    left = [cell for cell in cells if cell.export_key is not None]
    for name in ("method", "model", "setting", "dataset", "seed"):
        wanted = getattr(choice, name)
        there = list(dict.fromkeys(cell.labels[name] for cell in left))
        if wanted is not None and wanted not in there:
            close = difflib.get_close_matches(str(wanted), [str(value) for value in there], 1)
            mean = f"; did you mean {close[0]!r}?" if close else ""
            raise BadInput(f"--{name} {wanted}: the study has {', '.join(map(str, there))}{mean}")
        left = [cell for cell in left if wanted is None or cell.labels[name] == wanted]
    return left[0]
