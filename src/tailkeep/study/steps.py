"""The work of a step: the one file, beside the catalog's, where all the rooms meet.

A step gets its canonical JSON and its parents from the store, and leaves its files in its partial folder. Training and
compression get the training split alone; only ``predict`` ever sees a test image.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

import tailkeep
from tailkeep.compression.base import Change, Context, Method
from tailkeep.compression.distillation.ensemble import Ensemble
from tailkeep.data.batches import Augment, TrainingBatches, normalize
from tailkeep.data.calibration import Draw, calibration_batches
from tailkeep.data.dataset import Dataset, Split
from tailkeep.data.subset import choose_subset, hold_out
from tailkeep.errors import BadInput, StepFailed
from tailkeep.evaluation.predict import predict
from tailkeep.export.cost import cost
from tailkeep.files import sha256_file, write_json
from tailkeep.models.checkpoint import load_into, load_weights
from tailkeep.models.heads import fold_heads
from tailkeep.models.probe import probe
from tailkeep.models.user import ModelCode, load_factory
from tailkeep.randomness import stream_seed
from tailkeep.spec import content_key
from tailkeep.study import deploy
from tailkeep.study.carry import carry_out
from tailkeep.study.catalog import AnyMethod, AnySampler, AnySource
from tailkeep.study.limits import own_failure
from tailkeep.study.machine import keep_freed_memory
from tailkeep.study.plan import Step
from tailkeep.study.rebuild import build_model, check_head, loss_of, rebuild, with_head
from tailkeep.study.store import Store
from tailkeep.study.stores import worker_store
from tailkeep.training.checkpoint import Checkpoint
from tailkeep.training.loop import Progress, Training, fit
from tailkeep.training.mixing import MixedBatches
from tailkeep.training.recipe import Recipe

CALIBRATION_BATCH = 128
PREDICT_BATCH = 500


@dataclass(frozen=True)
class Runtime:
    """What a worker needs beside the step, none of it in a key. ``sources``: training digest -> source and name."""

    store: str
    sources: dict[str, dict[str, Any]]
    data_root: str | None = None
    cache: str | None = None
    model_code: str | None = None
    device: str = "cpu"
    threads: int = 1
    checkpoint_every: float = 30.0


@dataclass
class Work:
    """One step under way: where it writes, and what it found out."""

    step: Step
    runtime: Runtime
    store: Store
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.runtime.device)


def run_step(step: Step, runtime: Runtime) -> str:
    """Do a step and publish it; return "done", "failed" or "held" (by another process, which is at it).

    A failure of the step itself is stored with its reason.
    """
    torch.set_num_threads(runtime.threads)
    keep_freed_memory()
    torch.backends.cudnn.benchmark = False
    store, facts = worker_store(runtime.store), dict[str, Any]()
    record = {"spec": step.spec, "label": step.label, "environment": environment(runtime), "facts": facts}
    return carry_out(
        step, store, record,
        lambda folder: WORK[step.kind](Work(step, runtime, store, folder, facts)),
        lambda error: own_failure(error, lambda: _code(runtime.model_code)),
    )  # fmt: skip


@cache
def source_hash() -> str:
    """Return the SHA-256 of tailkeep's own sources: the code version of a result, finer than a release's number."""
    root = Path(tailkeep.__file__).parent
    files = {path.relative_to(root).as_posix(): sha256_file(path) for path in root.rglob("*.py")}
    return content_key(files)


def environment(runtime: Runtime) -> dict[str, Any]:
    """What can change the bits of a result and is not in a key."""
    facts = {
        "tailkeep": tailkeep.__version__,
        "source": source_hash()[:16],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": runtime.device,
        "threads": runtime.threads,
    }
    if runtime.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(torch.device(runtime.device))
    return facts


@cache
def _dataset(source: str, data_root: str | None, cache_folder: str | None) -> Dataset:
    """Load a source once a process; ``source`` is its JSON text."""
    spec = TypeAdapter(AnySource).validate_json(source)
    root, folder = (None if text is None else Path(text) for text in (data_root, cache_folder))
    dataset: Dataset = spec.load(root, folder)
    return dataset


def _load_data(work: Work, train: str, test: str | None = None) -> Dataset:
    """Load the dataset of a training digest; where ``test`` is given, the test split must have that digest too."""
    runtime = work.runtime
    source = json.dumps(runtime.sources[train]["source"])
    for _ in range(2):
        dataset = _dataset(source, runtime.data_root, runtime.cache)
        if dataset.train.digest == train and test in (None, dataset.test.digest):
            return dataset
        _dataset.cache_clear()  # what this process read before may be what has changed since
    raise BadInput(f"the data of {dataset.name} changed while the study ran (its content hash differs)")


def _training_split(work: Work) -> tuple[Split, NDArray[np.int64]]:
    """The training split and the indices of this step's subset; the test split does not leave this function."""
    data = work.step.spec["data"]
    dataset = _load_data(work, data["train"])
    split = dataset.train
    pool = np.arange(len(split))
    if data["validation"]:
        pool, _ = hold_out(split.labels, data["validation"]["per_class"], data["validation"]["seed"])
    seed = data["subset_seed"]
    chosen = pool if seed is None else pool[choose_subset(split.labels[pool], data["counts"], seed)]
    got = np.bincount(split.labels[chosen], minlength=len(data["counts"])).tolist()
    if got != list(data["counts"]):
        raise StepFailed("data", f"the subset has {got} images by class, planned were {data['counts']}")
    return split, chosen


@cache
def _code(text: str | None) -> ModelCode | None:
    return None if text is None else load_factory(text)


def _image_shape(split: Split) -> tuple[int, int, int]:
    _, channels, height, width = split.images.shape
    return int(channels), int(height), int(width)


def _train(work: Work) -> dict[str, Any]:
    """A dense model from scratch."""
    spec = work.step.spec
    split, chosen = _training_split(work)
    shape = _image_shape(split)
    seed = stream_seed(spec["seed"], "train", 0)
    classes = len(spec["data"]["counts"])
    plain = with_head(spec["model"], loss_of(spec))
    model = build_model(plain, _code(work.runtime.model_code), classes, shape, stream_seed(seed, "init"))
    model.to(work.device)
    _fit(work, model, split, chosen, seed, None, None)
    model = fold_heads(model)
    architecture = {"model": plain, "num_classes": classes, "image_shape": list(shape), "changes": []}
    return _save(work, model, architecture)


def _transform(work: Work) -> dict[str, Any]:
    """A compression or repair of the parent, or a student of it."""
    spec = work.step.spec
    code = _code(work.runtime.model_code)
    method: Method = TypeAdapter(AnyMethod).validate_python(spec["method"])
    split, chosen = _training_split(work)
    shape = _image_shape(split)
    classes = len(spec["data"]["counts"])
    parent, description = _parent(work, "parent")
    fresh = spec["student"] is not None
    student = with_head(spec["student"], loss_of(spec)) if fresh else None
    if not fresh:
        check_head(description["model"], loss_of(spec))
    # A fresh student is paired with the same student trained alone: it uses the streams of a training at depth 0.
    seed = stream_seed(spec["seed"], "train", 0) if fresh else stream_seed(spec["seed"], "transform", spec["depth"])
    labels, images = split.labels[chosen], split.images

    def labelled(count: int, draw: Draw = "random") -> Any:
        wanted = count * CALIBRATION_BATCH
        return calibration_batches(images[chosen], labels, wanted, CALIBRATION_BATCH, seed, work.device, draw)

    context = Context(tuple(spec["data"]["counts"]), shape, seed, work.device, labelled, facts=work.facts)
    if student is not None:

        def build_student() -> nn.Module:
            model = build_model(student, code, classes, shape, stream_seed(seed, "init"))
            return fold_heads(model) if method.final else model  # integer layers take the place of ordinary ones

        context.build_student = build_student
    context.build_fresh = lambda: _fresh(work, description)
    roles = [role for role in spec["parents"] if role.startswith("teacher")]
    if roles:
        teachers = [_parent(work, role)[0] for role in roles]
        context.teacher = teachers[0] if len(teachers) == 1 else Ensemble(teachers)
    model = method.prepare(parent, context).to(work.device)
    _fit(work, model, split, chosen, seed, method, context)
    model, change = method.finish(model.eval(), context)
    model = fold_heads(model)
    changes: list[Change] = [] if fresh else list(description["changes"])
    architecture = {**description, "changes": changes + ([change] if change else [])}
    if fresh:
        architecture["model"] = student
    return _save(work, model, architecture)


def _fresh(work: Work, description: dict[str, Any]) -> nn.Module:
    """A parent's architecture with the initial weights of a training at depth 0."""
    if description["changes"]:
        kinds = ", ".join(change["kind"] for change in description["changes"])
        raise StepFailed("fresh_model", f"the parent's shape was changed ({kinds}); name a 'student' or a plain parent")
    seed = stream_seed(stream_seed(work.step.spec["seed"], "train", 0), "init")
    shape, classes = tuple(description["image_shape"]), int(description["num_classes"])
    return build_model(description["model"], _code(work.runtime.model_code), classes, shape, seed)


def _parent(work: Work, role: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a parent's model and its description."""
    key = work.step.spec["parents"][role]
    kind = next(kind for kind in ("train", "transform", "import") if work.store.is_whole(kind, key))
    description = work.store.step(kind, key)["architecture"]
    weights = work.store.file(kind, key, "model.safetensors")
    model = rebuild(description, weights, _code(work.runtime.model_code)).to(work.device)
    return model, dict(description)


def _fit(
    work: Work, model: nn.Module, split: Split, chosen: NDArray[np.int64], seed: int, method: Method | None,
    context: Context | None,
) -> None:  # fmt: skip
    """Train by the step's recipe, loss and sampler, and the method's hooks where there is a method."""
    spec = work.step.spec
    recipe = Recipe.model_validate(spec["recipe"])
    labels = split.labels[chosen]
    counts = tuple(spec["data"]["counts"])
    sampler = TypeAdapter(AnySampler).validate_python(spec["sampler"])
    on_device = torch.from_numpy(labels)
    augment = Augment.model_validate(spec["data"]["augment"])
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    batches = TrainingBatches(
        split.images[chosen], labels, recipe.batch_size, augment, seed, work.device, dtype,
        lambda epoch: sampler.draw(on_device, seed, epoch, epoch * batches.steps_per_epoch / total),
    )  # fmt: skip
    total = recipe.total_steps(batches.steps_per_epoch)
    mixed = None if recipe.mix is None else MixedBatches(batches, recipe.mix, seed, counts)
    base = loss_of(spec).build(counts, work.device)
    base = base if mixed is None else mixed.blend(base)
    hooks = method or Method()
    context = context or Context(counts, _image_shape(split), seed, work.device)
    training = Training(
        batches=mixed or batches, loss=hooks.loss(base, context), recipe=recipe, seed=seed, precision=recipe.precision,
        on_step=lambda m, progress: hooks.on_step(m, progress, context), param_groups=hooks.param_groups(model),
        checkpoint=Checkpoint(work.folder / "checkpoint.safetensors", work.step.key, work.runtime.checkpoint_every),
        report=_reporter(work),
    )  # fmt: skip
    log = fit(model, training)
    if total:
        work.facts["draws_per_class"] = batches.drawn(total, len(counts))
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in log)
    (work.folder / "log.jsonl").write_text(text, encoding="utf-8")


def _reporter(work: Work) -> Any:
    """Tell the display at most once a second, through a small file that any process can read."""
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1.0:
            last = now
            facts = {"step": progress.step, "steps": progress.steps, "loss": round(progress.loss, 4)}
            write_json(work.folder / "progress.json", {**facts, "images_per_second": round(progress.images_per_second)})

    return report


def _save(work: Work, model: nn.Module, architecture: dict[str, Any]) -> dict[str, Any]:
    """Write the tensors and measure what the artefact costs."""
    model.eval()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, work.folder / "model.safetensors")
    found = cost(model, tuple(architecture["image_shape"]))
    sizes = {name: int(getattr(found, name)) for name in ("weights", "macs", "packed_bytes", "parameters")}
    return {"architecture": architecture, "cost": sizes}


def _import(work: Work) -> dict[str, Any]:
    """A model that came from outside, checked before anything rests on it."""
    spec = work.step.spec
    shape = tuple(spec["data"]["image_shape"])
    classes = int(spec["data"]["counts"])
    model = build_model(spec["model"], _code(work.runtime.model_code), classes, shape, 0)
    path = Path(work.step.extra["path"])
    for note in load_into(model, load_weights(path), str(path)):
        work.facts.setdefault("notes", []).append(note)
    probe(model, classes, shape)
    architecture = {"model": spec["model"], "num_classes": classes, "image_shape": list(shape), "changes": []}
    return _save(work, model, architecture)


def _predict(work: Work) -> dict[str, Any]:
    """Labels, float32 logits and ids of a split; float32 whatever the training ran in."""
    spec = work.step.spec
    test = spec["data"]["digest"] if spec["split"] == "test" else None
    dataset = _load_data(work, work.step.extra["train"], test)
    split, chosen = dataset.test, np.arange(len(dataset.test))
    if spec["split"] == "validation":
        held = spec["data"]["validation"]
        split = dataset.train
        _, chosen = hold_out(split.labels, held["per_class"], held["seed"])
    if "export" in spec["parents"]:
        file = work.store.file("export", spec["parents"]["export"], deploy.FILE)
        logits = deploy.run_file(file, split.images[chosen], PREDICT_BATCH)
        work.facts["integer_sums_saturate"] = deploy.integer_sums_saturate()
    else:
        model, _ = _parent(work, "model")
        logits = predict(model, split.images[chosen], PREDICT_BATCH, work.device, normalize)
    labels, ids = split.labels[chosen], split.ids[chosen]
    np.savez(work.folder / "predictions.npz", labels=labels, logits=logits, ids=ids)
    return {}


def _export(work: Work) -> dict[str, Any]:
    """A model as a runtime's file."""
    model, description = _parent(work, "model")
    shape = tuple(int(size) for size in description["image_shape"])
    pack = bool(work.step.spec.get("pack_weights", False))
    return deploy.write_file(model, shape, work.folder / deploy.FILE, pack)  # type: ignore[arg-type]


def _measure(work: Work) -> dict[str, Any]:
    """The files of a setting, timed beside each other."""
    return deploy.measure(work.step.spec, work.store)


WORK = {
    "train": _train,
    "transform": _transform,
    "import": _import,
    "predict": _predict,
    "export": _export,
    "measure": _measure,
}
