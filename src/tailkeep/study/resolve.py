"""From a study file to plain JSON: counts by class, data hashes, precision, model and method settings written out.

After this nothing needs torch until a step runs: the plan is made of canonical JSON and keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailkeep.data.batches import Augment
from tailkeep.data.dataset import Dataset
from tailkeep.data.profiles import full_twin, matched_twin
from tailkeep.data.subset import class_counts, class_order, counts_by_class, hold_out, overlap
from tailkeep.errors import BadInput, StepFailed
from tailkeep.export.cost import cost
from tailkeep.export.library import need
from tailkeep.files import sha256_file
from tailkeep.losses.base import Loss
from tailkeep.losses.cross_entropy import CrossEntropy
from tailkeep.models.checkpoint import load_into, load_weights
from tailkeep.models.probe import probe
from tailkeep.models.user import ModelCode, UserModel, load_factory
from tailkeep.sampling import Uniform
from tailkeep.spec import Spec
from tailkeep.study.machine import cpu_flags
from tailkeep.study.rebuild import build_model, check_head, with_head
from tailkeep.study.spec import DataEntry, MethodEntry, ModelEntry, StudySpec
from tailkeep.study.twice import twice
from tailkeep.training.recipe import Recipe

HELD_OUT_SEED = 0  # validation images are the same ones for every cell of every study


@dataclass(frozen=True)
class Where:
    """What changes no result: where data lies and is cached, the device, the user's own model code."""

    data_root: Path | None = None
    cache: Path | None = None
    device: str = "cpu"
    model_code: str | None = None


@dataclass
class Resolved:
    """A study as plain values. ``sources`` is how a worker finds the data again; it is in no key."""

    name: str
    settings: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    methods: list[dict[str, Any]] = field(default_factory=list)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # those of the notes that a run should not bury under its results


def fast_precision(device: str) -> str:
    """Return "bf16" where the device multiplies bf16 in hardware, else "float32"."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    flags = cpu_flags() or ""
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def default_augment(image_shape: tuple[int, int, int], kind: str) -> Augment:
    """CIFAR: pad 4, crop, flip. Others: crop from an eighth of padding, no flip, since a flip can change a class."""
    if kind.startswith("cifar"):
        return Augment()
    return Augment(crop_padding=image_shape[1] // 8, flip=False)


def resolve(study: StudySpec, where: Where) -> Resolved:
    """Load the data and write every setting out. Raises ``BadInput`` before any compute."""
    result = Resolved(study.name)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", where.device):
        raise BadInput(f"--device {where.device}: choose cpu, cuda or cuda:N")
    if where.device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"--device {where.device}: no CUDA device is available here; use --device cpu")
    code = load_factory(where.model_code) if where.model_code else None
    if code is None and any(isinstance(m, UserModel) for e in study.models for m in (e.model,)):
        raise BadInput("a model of kind 'user' needs --model-code module:factory, which names its Python code")
    for entry in study.data:
        dataset = entry.source.load(where.data_root, where.cache)
        _one_dataset(study, entry, dataset, where, result)
    _check_heads(study)
    shapes = [(*facts["image_shape"], len(facts["class_names"])) for facts in result.datasets.values()]
    for model in study.models:
        _check_model(model, code, shapes)
        result.models.append(_model(model, study, where, code, shapes))
    for method in study.methods:
        result.methods.append(_method(method, where, code, shapes))
        result.warnings += _warnings(method, {entry.name: entry for entry in study.methods})
    result.warnings += twice(study)
    result.notes += result.warnings
    controls = study.controls
    chosen = controls.continued if isinstance(controls.continued, tuple) else None
    result.options = {
        "continued": [m.name for m in study.methods] if controls.continued is True else list(chosen or ()),
        "student_alone": controls.student_alone,
        "churn_floor": controls.churn_floor,
        "seeds": list(study.seeds),
        "training_seed": study.training_seed,
        "evaluate": study.evaluate,
        "split": study.split,
        "export": None if study.export is None else study.export.plain(),
    }
    if study.export is not None:
        need("onnx")
        need("onnxruntime")
    return result


def _one_dataset(study: StudySpec, entry: DataEntry, dataset: Dataset, where: Where, result: Resolved) -> None:
    label, names = entry.source.label, dataset.class_names
    labels = dataset.train.labels
    if study.validation_per_class:
        rest, _ = hold_out(labels, study.validation_per_class, HELD_OUT_SEED)
        labels = labels[rest]
    available = list(class_counts(labels, len(names)))
    order = _named_order(entry.class_order, names)
    augment = entry.augment or default_augment(dataset.image_shape, entry.source.kind)
    result.notes += [f"{label}: {note}" for note in dataset.notes]
    shared = {test for _, test in overlap(dataset.train.images, dataset.test.images)}
    if shared and not any("training" in note and "test" in note for note in dataset.notes):
        result.notes.append(f"{label}: {len(shared)} test images stand in the training set too, pixel for pixel")
    result.sources[dataset.train.digest] = {"source": entry.source.plain(), "name": label}
    result.datasets[label] = {
        "train": dataset.train.digest,
        "test": dataset.test.digest,
        "class_names": list(names),
        "available": available,
        "image_shape": list(dataset.image_shape),
    }
    held = {"per_class": study.validation_per_class, "seed": HELD_OUT_SEED} if study.validation_per_class else None
    common = {"train": dataset.train.digest, "validation": held, "augment": augment.plain()}
    for profile in entry.imbalance or study.imbalance:
        ranked = profile.counts([available[c] for c in order])
        for twin in _twins(study, ranked, available, names, label, result):
            by_seed: dict[str, Any] = {}
            for seed in study.seeds:
                counts = _by_class(twin, ranked, order, seed in study.rotate_class_order, profile.kind)
                _check_available(counts, available, names, profile.label, twin)
                subset = seed if study.subset_seed is None else study.subset_seed
                whole = counts == available
                by_seed[str(seed)] = {**common, "counts": counts, "subset_seed": None if whole else subset}
            setting = {"dataset": label, "setting": profile.label, "kind": profile.kind, "twin": twin}
            result.settings.append({**setting, "data": by_seed})


def _named_order(order: tuple[str, ...] | None, names: tuple[str, ...]) -> list[int]:
    """Class indices, most frequent first."""
    if order is None:
        return list(class_order(len(names), None))
    if sorted(order) != sorted(names):
        raise BadInput(f"class_order names {', '.join(order)}; the classes are {', '.join(names)}, each once")
    return [names.index(name) for name in order]


def _twins(
    study: StudySpec,
    ranked: tuple[int, ...],
    available: list[int],
    names: tuple[str, ...],
    label: str,
    result: Resolved,
) -> list[str]:
    """The cell itself and the balanced twins that are planned; one that the images do not suffice for is refused."""
    wanted = {"full": ["full"], "matched": ["matched"], "both": ["full", "matched"], "none": []}[study.balanced]
    for twin in wanted:
        need = (full_twin(ranked) if twin == "full" else matched_twin(ranked))[0]
        poorest = int(np.argmin(available))
        if need > available[poorest]:
            raise BadInput(
                f"balanced: {twin} needs {need} images of every class, but class {names[poorest]!r} of {label} has "
                f"{available[poorest]}; set a lower n_max, or 'balanced: none' to do without excess gaps"
            )
    if not wanted:
        poorest = int(np.argmin(available))
        result.notes.append(
            f"{label}: the study says 'balanced: none', so the excess gap E is not available "
            f"(its smallest class, {names[poorest]!r}, has {available[poorest]} images)"
        )
    return ["imbalanced", *wanted]


def _by_class(twin: str, ranked: tuple[int, ...], order: list[int], rotated: bool, kind: str) -> list[int]:
    """Counts in class order from counts in frequency-rank order."""
    if twin != "imbalanced":
        ranked = full_twin(ranked) if twin == "full" else matched_twin(ranked)
    if rotated and kind not in ("natural", "explicit"):
        order = [order[i] for i in class_order(len(order), len(order) // 2)]
    return list(counts_by_class(ranked, order))


def _check_available(counts: list[int], available: list[int], names: tuple[str, ...], label: str, twin: str) -> None:
    for index, (want, have) in enumerate(zip(counts, available, strict=True)):
        if want > have:
            raise BadInput(
                f"imbalance {label} ({twin}) asks for {want} images of class {names[index]!r}; there are {have}. "
                f"The largest possible n_max for every class is {min(available)}"
            )


def _recipe(recipe: Recipe, where: Where) -> dict[str, Any]:
    plain = recipe.plain()
    if plain["precision"] == "auto":
        plain["precision"] = fast_precision(where.device)
    return plain


def _model_plain(model: Spec, code: ModelCode | None) -> dict[str, Any]:
    plain = model.plain()
    if isinstance(model, UserModel) and code is not None:
        plain["source_hash"] = code.source_hash
    return plain


def _macs(model: Any, loss: Loss, code: ModelCode | None, shapes: list[tuple[int, ...]]) -> int:
    channels, height, width, classes = shapes[0]
    built = build_model(with_head(_model_plain(model, code), loss), code, classes, (channels, height, width), 0)
    return int(cost(built, (channels, height, width)).macs)


def _model(
    entry: ModelEntry, study: StudySpec, where: Where, code: ModelCode | None, shapes: list[tuple[int, ...]]
) -> dict[str, Any]:
    return {
        "label": entry.label,
        "model": _model_plain(entry.model, code),
        "weights": sha256_file(Path(entry.weights)) if entry.weights else None,
        "weights_path": entry.weights,
        "recipe": _recipe(entry.recipe or study.recipe, where),
        "loss": (entry.loss or study.loss).plain(),
        "sampler": (entry.sampler or study.sampler).plain(),
        "macs": _macs(entry.model, entry.loss or study.loss, code, shapes),
        "twins": entry.twins,
    }


def _check_model(entry: ModelEntry, code: ModelCode | None, shapes: list[tuple[int, ...]]) -> None:
    """Find out before any compute whether a model of the user's keeps the contract, and whether its weights fit it."""
    if entry.weights is None and not isinstance(entry.model, UserModel):
        return
    state = None if entry.weights is None else load_weights(entry.weights)
    for channels, height, width, classes in shapes:
        shape = (channels, height, width)
        model = build_model(_model_plain(entry.model, code), code, classes, shape, 0)
        if state is not None:
            load_into(model, state, str(entry.weights))
        try:
            probe(model, classes, shape)
        except BadInput as error:
            raise BadInput(f"model {entry.label!r}: {error}") from error


def _check_heads(study: StudySpec) -> None:
    """Refuse a loss with a head of its own on a model that was not trained by it: no image would have been of use."""
    methods = {entry.name: entry for entry in study.methods}
    for entry in study.methods:
        root = entry
        while root.student is None and root.parent in methods:
            root = methods[root.parent]
        if with_head({}, entry.loss) == {} or (root is entry and entry.student is not None):
            continue
        dense = [m for m in study.models if entry.models is None or m.label in entry.models]
        losses = {m.label: CrossEntropy() if m.weights else m.loss or study.loss for m in dense}
        for name, loss in {root.name: root.loss}.items() if root.student is not None else losses.items():
            try:
                check_head(with_head({}, loss), entry.loss)
            except StepFailed as error:
                raise BadInput(
                    f"method {entry.name!r} on {name!r}: {error.detail}; or name the fitting 'models'"
                ) from error


def _leaves_zeros(entry: MethodEntry) -> bool:
    """Whether a method, or the one within it, prunes single weights."""
    within = getattr(entry.method, "pruning", None)
    return "weight_pruning" in (entry.method.kind, getattr(within, "kind", None))


def _warnings(entry: MethodEntry, methods: dict[str, MethodEntry]) -> list[str]:
    """What is known to go wrong with a method, or between it and its parent."""
    found = [f"{entry.name}: {entry.method.warning}"] if entry.method.warning else []
    parent = methods.get(entry.parent)
    if parent is not None and _leaves_zeros(parent) and entry.method.trains and entry.student is None:
        found.append(
            f"{entry.name}: training on from {parent.name!r} fills its zeros again; let weight pruning come later"
        )
    alone = entry.method.kind in ("classifier_retraining", "weight_scaling")
    if alone and isinstance(entry.sampler, Uniform) and isinstance(entry.loss, CrossEntropy):
        found.append(
            f"{entry.name}: trains the classifier on the imbalanced draws; the published way is "
            "sampler: {kind: class_balanced}"
        )
    return found


def _method(entry: MethodEntry, where: Where, code: ModelCode | None, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    student = entry.student
    return {
        "name": entry.name,
        "method": entry.method.plain(),
        "method_version": entry.method.version,
        "parent": entry.parent,
        "teacher": entry.teacher,
        "teacher_seeds": list(seeds) if isinstance(seeds := entry.teacher_seeds, tuple) else seeds,
        "student": None if student is None else _model_plain(student, code),
        "student_label": None if student is None else student.label,
        "student_macs": None if student is None else _macs(student, entry.loss, code, shapes),
        "recipe": _recipe(entry.recipe or Recipe(epochs=0), where),
        "loss": entry.loss.plain(),
        "sampler": entry.sampler.plain(),
        "models": None if entry.models is None else list(entry.models),
        "twins": entry.twins,
        "compresses": entry.method.compresses or student is not None,
        "answers_imbalance": entry.method.answers_imbalance,
    }
