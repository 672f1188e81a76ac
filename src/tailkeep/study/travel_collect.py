"""From a plan and its store to the content of a results file: labels, specs, hashes, counts; no weights, no logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep import __version__
from tailkeep.errors import BadInput
from tailkeep.frame import COLUMNS, KEY
from tailkeep.study.imported import Imported, imported
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.result_hash import arrays_hash, logits_hash
from tailkeep.study.results import SIZES, cell_frame, cell_sizes, model_kind, predictions, result_hash
from tailkeep.study.store import Store
from tailkeep.study.travel_check import group_name
from tailkeep.study.travel_format import (
    CellFacts,
    Content,
    Cost,
    DataFacts,
    FileFacts,
    Group,
    Labels,
    PredictionFacts,
    StepFacts,
    StudyFacts,
    narrow,
)


@dataclass
class _Found:
    """What was collected so far. The arrays of a group are rows yet."""

    plan: Plan
    store: Store
    brought: Imported
    datasets: dict[str, dict[str, Any]]
    steps: dict[str, StepFacts] = field(default_factory=dict)
    predictions: dict[str, PredictionFacts] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)


def collect(plan: Plan, store: Store, datasets: dict[str, dict[str, Any]], spec_text: str, split: str) -> Content:
    """Return what is known of a study's cells: by this store, and by what was imported into it.

    Raises ``BadInput`` where no cell is finished yet.
    """
    found = _Found(plan, store, imported(store), datasets)
    for cell in plan.cells:
        for key in cell.predict_keys:
            if key not in found.predictions:
                _prediction(found, cell, key)
    if not any(cell.predict_key in found.predictions for cell in plan.cells):
        raise BadInput(f"{store.address}: no cell of study {plan.name!r} is finished; `tailkeep run` makes them")
    used = {key for cell in plan.cells for own in cell.predict_keys for key in plan.ancestry(own)}
    for key, step in plan.steps.items():
        if key in used:
            found.steps[key] = _step(found, step)
    names = {name: facts["class_names"] for name, facts in datasets.items()}
    study = StudyFacts(
        name=plan.name,
        spec=spec_text,
        split=split,  # type: ignore[arg-type]
        data=_data(found),
        code_version=__version__,
        result_hash=result_hash(plan, store),
        environments=found.environments,
    )
    return Content(
        study=study,
        steps=found.steps,
        cells=_cells(found, names),
        predictions=found.predictions,
        groups=found.groups,
        frame=_columns(cell_frame(plan, store, names)),
        labels=found.labels,
        guesses={name: np.stack(rows) for name, rows in found.rows.items()},
        ids=found.ids,
    )


def _data(found: _Found) -> dict[str, DataFacts]:
    used = {cell.labels["dataset"] for cell in found.plan.cells}
    return {
        name: DataFacts(train=facts["train"], test=facts["test"], class_names=facts["class_names"])
        for name, facts in found.datasets.items()
        if name in used
    }


def _prediction(found: _Found, cell: Cell, key: str) -> None:
    """Take in one prediction, if it is there."""
    spec, dataset = found.plan.steps[key].spec, str(cell.labels["dataset"])
    group = Group(dataset=dataset, split=spec["split"], data=spec["data"])
    brought = found.brought.prediction(key)
    if found.store.status("predict", key) == "done":
        arrays = predictions(found.store, key)
        labels, logits = arrays["labels"], arrays["logits"]
        guesses, ids = logits.argmax(axis=1), [str(name) for name in arrays["ids"]]
        hashes = {"arrays_sha256": arrays_hash(labels, logits), "logits_sha256": logits_hash(logits)}
        model = _model_hash(found, cell.model_key) if key == cell.predict_key else None
    elif brought is not None:
        labels, guesses, ids = brought.labels, brought.guesses, brought.ids
        hashes = {name: getattr(brought.facts, name) for name in ("arrays_sha256", "logits_sha256")}
        model = brought.facts.model_sha256
    else:
        return
    name, classes = group_name(group), len(found.datasets[dataset]["class_names"])
    if name not in found.groups:
        found.groups[name], found.labels[name], found.ids[name] = group, narrow(labels, classes), ids
        found.rows[name] = []
    if not np.array_equal(found.labels[name], labels) or found.ids[name] != ids:
        raise BadInput(f"{found.store.address}: predictions of one split have other labels or images ({key[:12]})")
    row = len(found.rows[name])
    found.rows[name].append(narrow(guesses, classes))
    found.predictions[key] = PredictionFacts(group=name, row=row, model_sha256=model, **hashes)


def _model_hash(found: _Found, key: str) -> str | None:
    kind = model_kind(found.plan, key)
    return found.store.file_hash(kind, key, "model.safetensors") if found.store.is_whole(kind, key) else None


def _step(found: _Found, step: Step) -> StepFacts:
    """What is known of a step; a prediction's facts come from where the prediction comes from."""
    status, known = found.store.status(step.kind, step.key), found.brought.step(step.key)
    if status == "done" or (status == "failed" and (known is None or known.status != "done")):
        record = found.store.step(step.kind, step.key)
        cost = record.get("cost")
        return StepFacts(
            spec=step.spec,
            status="done" if status == "done" else "failed",
            environment=_environment(found, record.get("environment")),
            cost=None if cost is None else Cost(**{name: cost[name] for name in SIZES}),
            reason=record["reason"] if status == "failed" else None,
            detail=record.get("detail") if status == "failed" else None,
        )
    if known is None:
        return StepFacts(spec=step.spec, status="missing")
    index = _environment(found, found.brought.environment(step.key))
    return known.model_copy(update={"environment": index})


def _environment(found: _Found, facts: dict[str, Any] | None) -> int | None:
    """The index of an environment in the file's list."""
    if not facts:
        return None
    if facts not in found.environments:
        found.environments.append(facts)
    return found.environments.index(facts)


def _cells(found: _Found, names: dict[str, list[str]]) -> list[CellFacts]:
    files = _files(found, names)
    cells = []
    for cell in found.plan.cells:
        done = cell.predict_key in found.predictions
        references = {n: key for n, key in cell.references.items() if done and key in found.predictions}
        cells.append(
            CellFacts(
                labels=Labels(**cell.labels),
                model_key=cell.model_key,
                predict_key=cell.predict_key,
                counts=list(cell.counts),
                references=references,
                validation_key=cell.validation_key,
                export_key=cell.export_key,
                export_predict_key=cell.export_predict_key,
                file=files.get(cell.export_key or ""),
            )
        )
    return cells


def _files(found: _Found, names: dict[str, list[str]]) -> dict[str, FileFacts]:
    """Sizes and agreement of the exported files, by the keys of their steps."""
    files: dict[str, FileFacts] = {}
    for cell in found.plan.cells:
        if cell.export_key is not None and cell.export_key not in files:
            alone = Plan(found.plan.name, found.plan.steps, [cell])
            for row in cell_sizes(alone, found.store, names).to_dict("records"):
                facts: dict[str, Any] = {
                    name: row[name] for name in FileFacts.model_fields if row.get(name, np.nan) == row.get(name)
                }
                if "file_bytes" in facts:
                    facts |= {name: int(facts[name]) for name in ("file_bytes", "gzip_bytes")}
                    files[cell.export_key] = FileFacts(**facts)
    return files


def _columns(frame: Any) -> dict[str, list[Any]]:
    """The frame's columns as plain values, its rows in the order of its key."""
    ordered = frame.sort_values(list(KEY), kind="stable")
    return {name: ordered[name].tolist() for name in COLUMNS}
