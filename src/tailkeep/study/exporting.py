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
from tailkeep.study.plan import Cell, Plan, build_plan
from tailkeep.study.record import at_work
from tailkeep.study.results import cell_sizes, model_kind, predictions
from tailkeep.study.runner import Study

SUFFIXES = {"onnx": ".onnx", "executorch": ".pte"}


@dataclass(frozen=True)
class Choice:
    """Which cell of a study: its method, and what else tells cells apart (None: the study's first)."""

    method: str
    model: str | None = None
    setting: str | None = None
    dataset: str | None = None
    seed: int | None = None


def destination(out: Path | None, method: str, given: str | None) -> tuple[Path, str]:
    """Return the file to write and its format: ``given``, else what the file's suffix says, else ONNX.

    Raises ``BadInput`` where the suffix is that of the other format.
    """
    suffix = "" if out is None else out.suffix.lower()
    of_suffix = next((name for name, own in SUFFIXES.items() if own == suffix), None)
    name = given or of_suffix or "onnx"
    if of_suffix not in (None, name):
        raise BadInput(f"--out {out}: {suffix} is not what --format {name} writes; call it {SUFFIXES[name]}")
    return out or Path(method.replace(" ", "-") + SUFFIXES[name]), name


def export_cell(
    study: Study,
    choice: Choice,
    out: Path,
    file_format: str = "onnx",
    batch: int | None = None,
    pack_weights: bool = False,
) -> dict[str, Any]:
    """Write the chosen model to ``out``; return its facts: sizes, and agreement with the simulated model.

    An ONNX file and its prediction are steps of the store like any other; an ExecuTorch file ("executorch"), of
    ``batch`` images a call, is made anew each time. ``pack_weights`` is that of ``export_onnx``. Raises ``BadInput``
    where the study has no such cell or its model is not stored yet, and ``StepFailed`` where the model cannot be
    exported.
    """
    if file_format == "onnx" and batch is not None:
        raise BadInput("--batch is for --format executorch; an ONNX file takes any number of images a call")
    if file_format != "onnx" and pack_weights:
        raise BadInput("--pack-weights is for ONNX files; ExecuTorch's have a byte a weight")
    settings = {"format": "onnx", "latency": False, "pack_weights": pack_weights}
    resolved = replace(study.resolved, options={**study.resolved.options, "export": settings})
    plan = build_plan(resolved)
    cell = find_cell(plan.cells, choice)
    if study.store.status(model_kind(plan, cell.model_key), cell.model_key) != "done":
        raise BadInput(
            f"{cell.labels['method']} (seed {cell.labels['seed']}) is not in the store {study.store.address} yet; "
            "`tailkeep run` with the same study file and --store makes it"
        )
    _check_writable(out, SUFFIXES[file_format])
    facts = _onnx(study, plan, cell, out) if file_format == "onnx" else _executorch(study, plan, cell, out, batch or 1)
    return {**cell.labels, "path": str(out), "format": file_format, **facts}


def _onnx(study: Study, plan: Plan, cell: Cell, out: Path) -> dict[str, Any]:
    from tailkeep.study.deploy import FILE

    _do(study, plan, cell)
    assert cell.export_key is not None
    shutil.copyfile(study.store.file("export", cell.export_key, FILE), out)
    file = study.store.step("export", cell.export_key)["file"]
    counts = {"int8_weights": file["int8_weights"], "int4_weights": file.get("int4_weights", 0)}
    return {**_sizes(study, plan, cell), **counts, "sha256": file["sha256"]}


def _executorch(study: Study, plan: Plan, cell: Cell, out: Path, batch: int) -> dict[str, Any]:
    from tailkeep.study import deploy

    store, runtime, dataset = study.store, study.runtime(), study.resolved.datasets[cell.labels["dataset"]]
    kind = model_kind(plan, cell.model_key)
    architecture = store.step(kind, cell.model_key)["architecture"]
    weights = store.file(kind, cell.model_key, "model.safetensors")
    cell = replace(cell, export_key=None, export_predict_key=None)
    with tempfile.TemporaryDirectory(prefix="tailkeep-") as folder:
        path = Path(folder) / "model.pte"
        file = deploy.write_portable(architecture, weights, runtime.model_code, path, batch)
        if store.status("predict", cell.predict_key) != "done":
            _do(study, plan, cell)
        root, cache = (None if place is None else Path(place) for place in (runtime.data_root, runtime.cache))
        source = study.resolved.sources[dataset["train"]]["source"]
        images = deploy.evaluated_images(plan.steps[cell.predict_key].spec, source, root, cache)
        simulated, ran = predictions(store, cell.predict_key), deploy.run_portable(path, images)
        shutil.copyfile(path, out)
    found = deploy.agreement_by_class(simulated["logits"], ran, simulated["labels"], dataset["class_names"])
    named = {"file_bytes": file.pop("bytes"), **file}
    return {**_sizes(study, plan, cell), **named, **found}


def _do(study: Study, plan: Plan, cell: Cell) -> None:
    """Do what a cell's goals still need."""
    from tailkeep.study.steps import run_step

    plan.cells, plan.measures = [cell], []
    with at_work(study.store):
        outcome = Engine(plan, study.store, run_step, study.runtime(), retry_failed=True).run()
    if outcome.failed:
        reason, _, detail = next(iter(outcome.failed.values())).removeprefix("parent failed: ").partition(": ")
        raise StepFailed(reason, detail)


def _sizes(study: Study, plan: Plan, cell: Cell) -> dict[str, Any]:
    """The row of a cell in the table of sizes, as plain values."""
    plan.cells = [cell]
    names = {name: facts["class_names"] for name, facts in study.resolved.datasets.items()}
    row = cell_sizes(plan, study.store, names).iloc[0]
    facts = {str(name): value for name, value in row.items() if name not in cell.labels}
    return {name: value.item() if hasattr(value, "item") else value for name, value in facts.items()}


def _check_writable(out: Path, suffix: str) -> None:
    """Make the file's folder, so that a place that cannot be written is known before the work."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from error
    if out.is_dir():
        raise BadInput(f"--out {out}: is a folder; name a file in it, such as {out / f'model{suffix}'}")


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
