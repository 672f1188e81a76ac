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

from tailkeep.data.batches import evaluation_batches
from tailkeep.errors import StepFailed
from tailkeep.export.latency import measure_latency
from tailkeep.export.onnx import export_onnx
from tailkeep.export.runtime import OnnxSession
from tailkeep.study.machine import cpu_flags

if TYPE_CHECKING:
    from torch import nn

    from tailkeep.study.store import Store

FILE = "model.onnx"
PATIENCE = 3600.0
"""Seconds that a measurement waits for another one to end."""


def write_file(model: nn.Module, image_shape: tuple[int, int, int], path: Path) -> dict[str, Any]:
    """Export a model; return the record of the step: sizes of the file and what is in it."""
    return {"file": export_onnx(model.cpu(), image_shape, path)}


def run_file(path: Path, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the runtime's logits (N, C) for uint8 images (N, C, H, W), normalised as every model sees them."""
    session = OnnxSession(path, threads=1)
    batches = evaluation_batches(images, batch_size, "cpu")
    return np.concatenate([session.predict(batch.contiguous().numpy(), batch_size) for batch in batches])


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
