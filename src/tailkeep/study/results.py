"""From stored predictions to the frame, and from the frame to the analysis. Nothing here trains or needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep import __version__
from tailkeep.analysis.deployment import FILE_COLUMNS, LEAST_AGREEMENT, TIMES, agreement_facts
from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.study import analyse
from tailkeep.frame import build, class_rows, label_rows
from tailkeep.study.engine import reason_of
from tailkeep.study.imported import Imported, brought_notes, imported
from tailkeep.study.plan import Cell, Measure, Plan, Step
from tailkeep.study.result_hash import CellHashes, arrays_hash, hash_of, logits_hash
from tailkeep.study.stages import Stages
from tailkeep.study.store import Store

SIZES = ("weights", "macs", "packed_bytes")
SATURATION = (
    "this CPU has no VNNI, so its int8 kernels add pairs of products in 16 bits, which saturate for 8-bit weights; "
    "set weight_bits: 7, or measure on the device that it is for"
)
NO_KERNEL = "no kernel for activations below 8 bits: the file is measured, its speed is not"
WHO = ("dataset", "setting", "twin", "model", "method", "role", "seed")


def predictions(store: Store, key: str) -> dict[str, NDArray[Any]]:
    """Return ``labels`` int64 (N,), ``logits`` float32 (N, C) and ``ids`` str (N,) of a stored prediction."""
    with np.load(store.file("predict", key, "predictions.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("labels", "logits", "ids")}


def model_kind(plan: Plan, key: str) -> str:
    """Return the kind of the step that made a model."""
    return plan.steps[key].kind


def cell_frame(plan: Plan, store: Store, class_names: dict[str, list[str]]) -> pd.DataFrame:
    """Return the frame of all the cells whose predictions are stored, or else imported (labels, without logits)."""
    rows: list[dict[str, Any]] = []
    brought = imported(store)
    done = {key for key in plan.goals if store.status("predict", key) == "done"}
    loaded: dict[str, dict[str, NDArray[Any]]] = {}

    def load(key: str) -> dict[str, NDArray[Any]]:
        if key not in loaded:
            loaded[key] = predictions(store, key)
        return loaded[key]

    def stored(key: str) -> NDArray[Any] | None:
        return load(key)["logits"].argmax(axis=1) if key in done else None

    for cell in plan.cells:
        names = class_names[cell.labels["dataset"]]
        if cell.predict_key in done:
            own = load(cell.predict_key)
            common = (cell.labels, own["labels"], own["logits"], names, cell.counts)
            self_rows = class_rows(*common)
            rows += self_rows
            for name, key in cell.references.items():
                other = brought.prediction(key)
                if key in done:
                    rows += class_rows(*common, reference=name, reference_logits=load(key)["logits"])
                elif other is not None:
                    guesses = other.guesses_for(own["labels"])
                    mine, losses = own["logits"].argmax(axis=1), [row["loss_sum"] for row in self_rows]
                    rows += label_rows(cell.labels, own["labels"], mine, names, cell.counts, losses, name, guesses)
        elif cell.predict_key in brought:
            rows += brought.rows(cell, names, stored)
        else:
            continue
        if cell.validation_key in done:
            held_out = load(str(cell.validation_key))
            labels = {**cell.labels, "split": "validation"}
            rows += class_rows(labels, held_out["labels"], held_out["logits"], names, cell.counts)
        else:
            rows += brought.validation_rows(cell, names)
    return build(rows)


def cell_stages(plan: Plan) -> pd.DataFrame:
    """Return where each cell's model answers imbalance, the same for all seeds; controls are left out."""
    names = ("dataset", "setting", "twin", "model", "method")
    rows = [
        {**{name: cell.labels[name] for name in names}, **asdict(cell.stages)}
        for cell in plan.cells
        if cell.labels["role"] != "control"
    ]
    columns = [*names, *(field.name for field in fields(Stages))]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(ignore_index=True)


def _untwinned(plan: Plan) -> set[tuple[str, str, str]]:
    """The (dataset, model, method) of which the study says ``twins: false``: cells without any balanced one."""
    found: dict[bool, set[tuple[str, str, str]]] = {False: set(), True: set()}
    for cell in plan.cells:
        dataset, model, method = (str(cell.labels[name]) for name in ("dataset", "model", "method"))
        found[cell.labels["twin"] != "imbalanced"].add((dataset, model, method))
    return found[False] - found[True]


def cell_sizes(plan: Plan, store: Store, class_names: dict[str, list[str]]) -> pd.DataFrame:
    """Return weights, MACs and packed bytes of each finished cell's model; of an exported one also its file's facts."""
    rows = []
    brought = imported(store)
    for cell in plan.cells:
        kind, known = model_kind(plan, cell.model_key), brought.step(cell.model_key)
        if store.status(kind, cell.model_key) == "done":
            cost = store.step(kind, cell.model_key)["cost"]
        elif known is not None and known.cost is not None:
            cost = known.cost.plain()
        else:
            continue
        rows.append(
            {**_who(cell), **{name: cost[name] for name in SIZES}, **_file_facts(cell, store, brought, class_names)}
        )
    exported = any(cell.export_key is not None for cell in plan.cells)
    return pd.DataFrame(rows, columns=[*WHO, *SIZES, *(FILE_COLUMNS if exported else ())])


def _file_facts(cell: Cell, store: Store, brought: Imported, class_names: dict[str, list[str]]) -> dict[str, Any]:
    """Sizes of a cell's exported file, and how far its predictions are those of the simulated model."""
    if cell.export_key is None or store.status("export", cell.export_key) != "done":
        return brought.file_facts(cell.export_key)
    file = store.step("export", cell.export_key)["file"]
    facts: dict[str, Any] = {"file_bytes": file["bytes"], "gzip_bytes": file["gzip_bytes"]}
    keys = (cell.predict_key, cell.export_predict_key or "")
    if any(store.status("predict", key) != "done" for key in keys):
        return facts
    simulated, ran = (predictions(store, key) for key in keys)
    names = class_names[cell.labels["dataset"]]
    return facts | agreement_facts(simulated["logits"], ran["logits"], simulated["labels"], names)


def latencies(plan: Plan, store: Store) -> pd.DataFrame | None:
    """Return a row a (setting, model, method, batch size) of what was timed, or None where nothing was to be.

    A method whose file no kernel runs in its bits has one row a batch size, without times and with the reason.
    """
    if not plan.measures:
        return None
    rows = []
    roles = {cell.labels["method"]: cell.labels["role"] for cell in plan.cells}
    for measure in plan.measures:
        spec = plan.steps[measure.key].spec
        done = store.status("measure", measure.key) == "done"
        timings = store.step("measure", measure.key)["timings"] if done else []
        for timing in timings:
            method = measure.methods[timing["name"]]
            figures = {name: timing[name] for name in TIMES}
            who = {**measure.labels, "method": method, "role": roles[method], "batch": timing["batch"]}
            rows.append({**who, **figures, "threads": spec["threads"], "bits_note": ""})
        for method in _without_kernel(plan, measure):
            for batch in spec["batches"]:
                who = {**measure.labels, "method": method, "role": roles[method], "batch": batch}
                rows.append({**who, "threads": spec["threads"], "bits_note": NO_KERNEL})
    names = ["dataset", "setting", "twin", "model", "method", "role", "batch", *TIMES, "threads", "bits_note"]
    return pd.DataFrame(rows, columns=names)


def _without_kernel(plan: Plan, measure: Measure) -> list[str]:
    """Methods that were exported beside a measurement's, but are not in it."""
    exported = dict.fromkeys(
        str(cell.labels["method"])
        for cell in plan.cells
        if cell.export_key is not None and all(cell.labels[name] == value for name, value in measure.labels.items())
    )
    return [method for method in exported if method not in measure.methods.values()]


def _on_the_way(plan: Plan, store: Store, sizes: pd.DataFrame) -> list[str]:
    """What went wrong, or was noisy, on the way to the runtime; of files that disagree, the usual cause."""
    notes = []
    rows = sizes[sizes["agreement"] < LEAST_AGREEMENT] if "agreement" in sizes.columns else sizes.head(0)
    disagree = set(rows[list(WHO)].itertuples(index=False, name=None))
    for cell in plan.cells:
        for kind, key in (("export", cell.export_key), ("predict", cell.export_predict_key)):
            if key is not None and store.status(kind, key) == "failed":
                reason = reason_of(store.step(kind, key))
                notes.append(f"Not exported: {cell.labels['method']} (seed {cell.labels['seed']}): {reason}")
        if tuple(_who(cell).values()) in disagree and _saturates(plan, cell, store):
            notes.append(f"{cell.labels['method']}: {SATURATION}")
    for measure in plan.measures:
        if store.status("measure", measure.key) == "done":
            notes += _latency_notes(measure, store.step("measure", measure.key))
        elif store.status("measure", measure.key) == "failed":
            notes.append(f"Latency was not measured: {reason_of(store.step('measure', measure.key))}")
    return list(dict.fromkeys(notes))


def cell_failures(plan: Plan, store: Store) -> pd.DataFrame:
    """Return the cells that have no prediction since a step of theirs failed, here or elsewhere, with its reason."""
    rows = []
    brought = imported(store)
    for cell in plan.cells:
        if store.status("predict", cell.predict_key) == "done" or cell.predict_key in brought:
            continue
        for key in [k for k in plan.steps if k in plan.ancestry(cell.predict_key)]:
            step = plan.steps[key]
            record = _failure(step, store, brought)
            if record is not None:
                who = {k: v for k, v in _who(cell).items() if k != "role"}
                rows.append({**who, "reason": record["reason"], "detail": reason_of(record)})
                break
    return pd.DataFrame(rows, columns=[*(w for w in WHO if w != "role"), "reason", "detail"])


def _failure(step: Step, store: Store, brought: Imported) -> dict[str, Any] | None:
    """The reason and detail of a failed step; one that failed elsewhere counts where it was not done here."""
    status, known = store.status(step.kind, step.key), brought.step(step.key)
    if status == "failed":
        return store.step(step.kind, step.key)
    if status == "missing" and known is not None and known.status == "failed":
        return {"reason": known.reason, "detail": known.detail}
    return None


def _who(cell: Cell) -> dict[str, Any]:
    return {name: cell.labels[name] for name in WHO}


def result_hash(plan: Plan, store: Store) -> str:
    """SHA-256 over the sorted (key, model hash, prediction-array hash) of the study, without any timing.

    Imported predictions count with the hashes that they came with, so that pieces add up to the whole.
    """
    brought = imported(store)
    return hash_of(_hashes(plan, cell, store, brought) for cell in plan.cells)


def _hashes(plan: Plan, cell: Cell, store: Store, brought: Imported) -> CellHashes:
    known = brought.prediction(cell.predict_key)
    if store.status("predict", cell.predict_key) == "done":
        own, kind = predictions(store, cell.predict_key), model_kind(plan, cell.model_key)
        whole = store.is_whole(kind, cell.model_key)
        model = store.file_hash(kind, cell.model_key, "model.safetensors") if whole else None
        arrays = arrays_hash(own["labels"], own["logits"])
    elif known is not None:
        model, arrays = known.facts.model_sha256, known.facts.arrays_sha256
    else:
        return CellHashes(cell.predict_key)
    beside = {key: _logits_hash(key, store, brought) for key in cell.predict_keys[1:]}
    return CellHashes(cell.predict_key, model, arrays, beside)


def _logits_hash(key: str, store: Store, brought: Imported) -> str | None:
    if store.status("predict", key) == "done":
        return logits_hash(predictions(store, key)["logits"])
    known = brought.prediction(key)
    return None if known is None else known.facts.logits_sha256


def compute_seconds(plan: Plan, store: Store) -> float:
    """Return the seconds that the stored steps of the plan took, in all."""
    steps = (s for s in plan.steps.values() if store.is_whole(s.kind, s.key))
    return float(sum(store.step(s.kind, s.key).get("seconds", 0.0) for s in steps))


def environments(plan: Plan, store: Store) -> dict[str, str]:
    """Return what the steps ran on, imported ones too; a fact that differs between steps shows all its values."""
    facts: dict[str, set[str]] = {}
    brought = imported(store)
    for step in plan.steps.values():
        ran = brought.environment(step.key) or {}
        if store.is_whole(step.kind, step.key):
            ran = store.step(step.kind, step.key).get("environment", {})
        for name, value in ran.items():
            facts.setdefault(name, set()).add(str(value))
    return {name: ", ".join(sorted(values)) for name, values in sorted(facts.items())}


def _latency_notes(measure: Measure, record: dict[str, Any]) -> list[str]:
    """The notes of a measurement, with the methods' names; many noisy timings are one note."""
    found: list[str] = []
    noisy: list[str] = []
    for note in record["notes"]:
        role = note.partition(" ")[0]
        named = measure.methods.get(role, role) + note[len(role) :]
        (noisy if " is noisy" in note else found).append(named)
    if len(noisy) > 2:
        count = f"{len(noisy)} of {len(record['timings'])}"
        noisy = [
            f"{count} timings are noisy: half of their rounds span more than 10 % of the median (see the quartiles)"
        ]
    return [f"Latency: {note}" for note in found + noisy]


def _whole_bytes(plan: Plan, cell: Cell, store: Store) -> bool:
    """Whether a layer of the model has 8 bits on both sides: the products that saturate."""
    changes = store.step(model_kind(plan, cell.model_key), cell.model_key)["architecture"]["changes"]
    layers = [layer for change in changes for layer in change["values"].get("layers", {}).values()]
    return any(layer["weight_bits"] == layer["activation_bits"] == 8 for layer in layers)


def _saturates(plan: Plan, cell: Cell, store: Store) -> bool:
    """Whether the CPU that ran a cell's file may have saturated its integer sums."""
    kind = model_kind(plan, cell.model_key)
    if store.status("predict", str(cell.export_predict_key)) != "done" or store.status(kind, cell.model_key) != "done":
        return False  # it ran elsewhere
    facts = store.step("predict", str(cell.export_predict_key))["facts"]
    return bool(facts.get("integer_sums_saturate")) and _whole_bytes(plan, cell, store)


def _unfinished(plan: Plan, store: Store, failed: int) -> list[str]:
    """A note where cells have neither run nor failed, so that a technique which is not there yet is not overlooked."""
    brought = imported(store)
    missing = [cell for cell in plan.cells if store.status("predict", cell.predict_key) != "done"]
    missing = [cell for cell in missing if cell.predict_key not in brought]
    count = len(missing) - failed
    if count <= 0:
        return []
    methods = ", ".join(dict.fromkeys(str(cell.labels["method"]) for cell in missing))
    return [f"Not finished: {count} of {len(plan.cells)} cells have not run yet ({methods}). Run the study to go on."]


def _without_models(plan: Plan, store: Store) -> list[str]:
    """A note where a prediction stands without a whole model: its sizes are not known, and the result hash differs."""
    lost = [
        str(cell.labels["method"])
        for cell in plan.cells
        if store.status("predict", cell.predict_key) == "done"
        and not store.is_whole(model_kind(plan, cell.model_key), cell.model_key)
    ]
    if not lost:
        return []
    return [
        f"{len(lost)} stored models are missing or damaged ({', '.join(dict.fromkeys(lost))}): sizes not available."
    ]


def analyse_plan(
    plan: Plan,
    store: Store,
    datasets: dict[str, dict[str, Any]],
    *,
    spec_text: str,
    margin: float,
    cuts: tuple[int, int],
    twins: tuple[str, ...],
    notes: Iterable[str],
    split: str,
) -> tuple[pd.DataFrame, StudyAnalysis]:
    """Return the frame and the analysis of what is stored of a plan."""
    names = {name: facts["class_names"] for name, facts in datasets.items()}
    frame = cell_frame(plan, store, names)
    sizes = cell_sizes(plan, store, names)
    failures = cell_failures(plan, store)
    precisions = sorted({str(s.spec["recipe"]["precision"]) for s in plan.steps.values() if "recipe" in s.spec})
    provenance = {
        "spec": spec_text,
        "environment": {**environments(plan, store), "training precision": ", ".join(precisions)},
        "data": {name: {split: facts[split] for split in ("train", "test")} for name, facts in datasets.items()},
        "result_hash": result_hash(plan, store),
        "code_version": __version__,
        "steps": len(plan.steps),
        "compute_seconds": compute_seconds(plan, store),
    }
    found = analyse(
        frame,
        sizes,
        failures,
        latency=latencies(plan, store),
        name=plan.name,
        margin=margin,
        cuts=cuts,
        planned_twins=twins,
        provenance=provenance,
        notes=[
            *notes,
            *brought_notes(plan, store),
            *_unfinished(plan, store, len(failures)),
            *_without_models(plan, store),
            *_on_the_way(plan, store, sizes),
        ],
        split=split,
        stages=cell_stages(plan),
        untwinned=_untwinned(plan),
    )
    return frame, found
