"""One model file over labelled test images, as the predictions that an audit compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.image_pixels import Progress
from tailkeep.auditing.images import TestImages
from tailkeep.auditing.onnx_model import LAYOUTS, OnnxModels, onnx_scores
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.torch_model import torch_scores
from tailkeep.errors import BadInput
from tailkeep.files import sha256_file
from tailkeep.models.impostors import refuse_impostors

ONNX = ".onnx"
WEIGHTS = (".safetensors", ".pt", ".pth")
SUM_SLACK = 1e-3
"""By how much a row of probabilities may miss 1: half precision over a thousand classes."""


def predict_file(
    path: str | Path,
    images: TestImages,
    *,
    model_code: str | None = None,
    name: str | None = None,
    layout: str = "auto",
    output: str | None = None,
    batch_size: int = 256,
    threads: int = 1,
    limit_s: float = 300.0,
    memory_gb: float | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Run the model at ``path`` over ``images`` and return its answers, in their order.

    An ``.onnx`` file runs in onnxruntime in a child process, which may take ``limit_s`` seconds for a batch and
    ``memory_gb`` GB (default: most of what is free); its first float output of (N, classes) is taken, or the one named
    by ``output``; an input of (N, H, W, C) needs ``layout="nhwc"``. A ``.safetensors``, ``.pt`` or ``.pth`` file needs
    ``model_code`` ("module:factory" or "path/file.py:factory"), which is run. Scores that are probabilities row by row
    are marked so, else they are logits. ``progress`` is called with (images done, images in all).

    Raises ``BadInput`` that names the file, the cause and the fix; ``MissingExtra`` where onnx or onnxruntime is not
    installed.
    """
    path = Path(path).expanduser()
    name = path.stem if name is None else name
    if batch_size < 1 or threads < 1 or limit_s <= 0:
        raise BadInput(f"batch size {batch_size}, threads {threads} and time limit {limit_s} must be above 0")
    if layout not in LAYOUTS:
        raise BadInput(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    check_file(path, model_code)
    digest = sha256_file(path)
    if path.suffix.lower() == ONNX:
        memory = None if memory_gb is None else int(memory_gb * 2**30)
        with OnnxModels(threads, limit_s, memory) as models:
            scores, recorded, notes = onnx_scores(path, images, models, layout, output, batch_size, progress)
    else:
        assert model_code is not None
        scores, recorded, notes = torch_scores(path, images, model_code, batch_size, threads, progress)
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{path}: {len(bad)} of {len(images)} images have scores that are NaN or infinite, first "
            f"{images.ids[bad[0]]} (row {bad[0]}); does the model expect another normalisation?"
        )
    predicted = scores.argmax(axis=1).astype(np.int64)
    settings = {"path": str(path), "sha256": digest, "threads": threads, "batch_size": batch_size}
    notes = (*notes, *_chance(predicted, images))
    return Predictions(
        name=name,
        labels=images.labels,
        predicted=predicted,
        class_names=images.class_names,
        scores=scores,
        scores_are="probabilities" if are_probabilities(scores) else "logits",
        ids=images.ids,
        source={**settings, **recorded, **_seen(images), "notes": list(notes)},
    )


def check_file(path: Path, model_code: str | None) -> None:
    """Raise ``BadInput`` where ``path`` is no model file of a form that can be run, or its code is not named."""
    if not path.is_file():
        what = "a folder, not a model file" if path.is_dir() else "there is no such file"
        raise BadInput(f"{path}: {what}")
    suffix = path.suffix.lower()
    if suffix in WEIGHTS and model_code is None:
        refuse_impostors(path)
        raise BadInput(
            f"{path}: holds weights alone; name the code that builds the model with --model-code module:factory"
        )
    if suffix not in (ONNX, *WEIGHTS):
        raise BadInput(
            f"{path}: models are run from .onnx, .safetensors, .pt or .pth files; run a model of another framework "
            "yourself and audit its predictions (CSV, Parquet or NPZ)"
        )


def input_size(path: str | Path, layout: str = "auto", limit_s: float = 60.0) -> tuple[int, int] | None:
    """Return the (height, width) that an ONNX file fixes for its images, or None where it leaves them open.

    Raises ``BadInput`` as ``predict_file`` does.
    """
    path = Path(path).expanduser()
    check_file(path, None)
    refuse_impostors(path, "a model")
    with OnnxModels(limit_s=limit_s) as models:
        sizes = models.open(path).sizes
    height, width = sizes[1:3] if layout == "nhwc" else sizes[2:4]
    return None if height is None or width is None else (height, width)


def _seen(images: TestImages) -> dict[str, Any]:
    """Return what to record of the images."""
    return {
        "images": images.source,
        "images_form": images.form,
        "images_sha256": images.sha256,
        "mean": list(images.mean),
        "std": list(images.std),
        "preprocessing": preprocessing(images),
    }


def preprocessing(images: TestImages) -> str:
    """Return in words what a model saw."""
    channels, height, width = images.shape

    def shown(values: tuple[float, ...]) -> str:
        return ", ".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))

    return (
        f"{channels} x {height} x {width} (channels, height, width), float32, (pixel / 255 - mean) / std with mean "
        f"{shown(images.mean)} and std {shown(images.std)}"
    )


def are_probabilities(scores: NDArray[np.floating]) -> bool:
    """Whether every row of (N, classes) lies in 0..1 and sums to 1."""
    if scores.min() < 0 or scores.max() > 1 + SUM_SLACK:
        return False
    return bool((np.abs(scores.sum(axis=1, dtype=np.float64) - 1) <= SUM_SLACK).all())


def _chance(predicted: NDArray[np.int64], images: TestImages) -> tuple[str, ...]:
    """Return a note where the model is right no more often than a guess: the setup is the usual cause."""
    share = float((predicted == images.labels).mean())
    guess = 1 / len(images.class_names)
    if share > guess + 3 * (guess * (1 - guess) / len(images)) ** 0.5:
        return ()
    return (
        f"right on {share:.1%} of the images, no better than a guess: check the order of the class names, mean and "
        "std, and the layout",
    )
