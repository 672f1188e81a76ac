"""The steps that carry a model to a runtime: write the file, run it on the evaluated images, time it beside the others.

The catalog's kinds are trained in ``steps``; here nothing is trained, and nothing but ``predict`` sees an image.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tailkeep.data.batches import evaluation_batches
from tailkeep.data.subset import hold_out
from tailkeep.errors import BadInput, StepFailed
from tailkeep.evaluation.metrics import agreement
from tailkeep.export.executorch import ExecutorchProgram, export_executorch
from tailkeep.export.latency import measure_latency
from tailkeep.export.onnx import export_onnx
from tailkeep.export.runtime import OnnxSession
from tailkeep.models.user import load_factory
from tailkeep.study.catalog import AnySource
from tailkeep.study.machine import cpu_flags
from tailkeep.study.rebuild import rebuild

if TYPE_CHECKING:
    from torch import nn

    from tailkeep.study.store import Store

FILE = "model.onnx"
PORTION = 500
"""Images that are normalised at a time."""
PATIENCE = 3600.0
"""Seconds that a measurement waits for another one to end."""


def write_file(
    model: nn.Module, image_shape: tuple[int, int, int], path: Path, pack_weights: bool = False
) -> dict[str, Any]:
    """Export a model; return the record of the step: sizes of the file and what is in it."""
    return {"file": export_onnx(model.cpu(), image_shape, path, pack_weights)}


def run_file(path: Path, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the runtime's logits (N, C) for uint8 images (N, C, H, W), normalised as every model sees them."""
    session = OnnxSession(path, threads=1)
    batches = evaluation_batches(images, batch_size, "cpu")
    return np.concatenate([session.predict(batch.contiguous().numpy(), batch_size) for batch in batches])


def write_portable(
    architecture: dict[str, Any], weights: Path, model_code: str | None, path: Path, batch: int
) -> dict[str, Any]:
    """Write a stored model as an ExecuTorch file for ``batch`` images a call; return what is in it."""
    model = rebuild(architecture, weights, None if model_code is None else load_factory(model_code))
    channels, height, width = (int(size) for size in architecture["image_shape"])
    return export_executorch(model, (channels, height, width), path, batch)


def run_portable(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return ExecuTorch's logits (N, C) for uint8 images (N, C, H, W), normalised as every model sees them."""
    program = ExecutorchProgram(path)
    size = program.input_shape[0] * max(1, PORTION // program.input_shape[0])
    batches = evaluation_batches(images, size, "cpu")
    return np.concatenate([program.predict(batch.contiguous().numpy()) for batch in batches])


def evaluated_images(
    spec: dict[str, Any], source: dict[str, Any], data_root: Path | None, cache: Path | None
) -> NDArray[np.uint8]:
    """Return the images of a predicting step in its order. Raises ``BadInput`` where the data changed since."""
    dataset = TypeAdapter(AnySource).validate_python(source).load(data_root, cache)
    held = spec["data"].get("validation")
    split = dataset.test if held is None else dataset.train
    if split.digest != spec["data"]["digest"]:
        raise BadInput(f"the data of {dataset.name} changed since the study ran (its content hash differs)")
    if held is None:
        return split.images
    return split.images[hold_out(split.labels, held["per_class"], held["seed"])[1]]


def agreement_by_class(
    simulated: NDArray[np.float32], ran: NDArray[np.float32], labels: NDArray[np.int64], names: list[str]
) -> dict[str, Any]:
    """Return how far two predictions (N, C) of the same images agree: in all, in the worst class, in every class."""
    found = agreement(simulated, ran, labels, len(names))
    shares = {name: share for name, share in zip(names, found.share_by_class, strict=True) if share is not None}
    worst = min(shares, key=lambda name: shares[name])
    return {
        "agreement": found.share,
        "worst_agreement": shares[worst],
        "worst_agreement_class": worst,
        "largest_difference": found.largest_difference,
        "agreement_by_class": shares,
    }


def measure(spec: dict[str, Any], store: Store) -> dict[str, Any]:
    """Time the files of a measuring step; return its record. A file that could not be made is left out.

    Raises ``StepFailed`` with reason ``measure`` where the dense model has none.
    """
    paths = {
        role: store.file("export", key, FILE)
        for role, key in spec["parents"].items()
        if store.status("export", key) == "done"
    }
    if "dense" not in paths:
        raise StepFailed("measure", "the dense model has no exported file to compare with")
    channels, height, width = (int(size) for size in spec["image_shape"])
    settings = {name: spec[name] for name in ("batches", "threads", "rounds")}
    # Two studies at once take turns: a run must not end on its last step because another one is measuring.
    found = measure_latency(paths, (channels, height, width), "dense", **settings, wait=PATIENCE)
    timings = [dataclasses.asdict(timing) for timing in found.timings]
    for timing in timings:
        for name, value in timing.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise StepFailed("measure", f"{timing['name']}: {name} is {value}")
    return {"timings": timings, "cores": found.cores, "notes": list(found.notes)}


def integer_sums_saturate() -> bool:
    """Whether this CPU's int8 kernels may add pairs of products in 16 bits: an x86 without VNNI.

    False where it is not known.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    flags = cpu_flags()
    return flags is not None and "avx512_vnni" not in flags and "avx_vnni" not in flags
