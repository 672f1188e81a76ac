"""The scores of a PyTorch model on test images: weights from a file, architecture from the user's own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.image_pixels import Progress
from tailkeep.auditing.images import TestImages
from tailkeep.errors import BadInput, StepFailed

if TYPE_CHECKING:
    from torch import Tensor, nn

_BATCHES = 8
"""Batches between two reports of progress."""


def torch_scores(
    path: Path,
    images: TestImages,
    model_code: str,
    batch_size: int = 256,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], dict[str, Any], tuple[str, ...]]:
    """Return (scores (N, classes), what to record of the model, notes). ``model_code`` is run: it is the user's own.

    Raises ``BadInput`` where the weights are no plain tensors, damaged, not finite or of another model; where the code
    fails; and where the model returns something else than (N, classes), is not deterministic in evaluation mode or
    moves its buffers.
    """
    import torch

    model, code_hash, notes = _build(path, images, model_code)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = []
        step = _BATCHES * batch_size
        for start in range(0, len(images), step):
            rows.append(_some(path, model, images, start, start + step, batch_size))
            if progress is not None:
                progress(min(start + step, len(images)), len(images))
    finally:
        torch.set_num_threads(before)
    recorded = {
        "form": "pytorch",
        "runtime": f"torch {torch.__version__}",
        "model_code": model_code,
        "code_sha256": code_hash,
    }
    return np.concatenate(rows), recorded, tuple(notes)


def _build(path: Path, images: TestImages, model_code: str) -> tuple[nn.Module, str, list[str]]:
    """Return the model with its weights, probed; the hash of its code; what was done to the weights."""
    from tailkeep.models.checkpoint import load_into, load_weights
    from tailkeep.models.probe import probe
    from tailkeep.models.user import build_user, load_factory

    state = load_weights(path)  # first: a file that is none is told before any code runs
    code = load_factory(model_code)
    model = build_user(code, len(images.class_names), images.shape)
    notes = load_into(model, state, str(path))
    try:
        probe(model, len(images.class_names), images.shape, trained=False)
    except BadInput as error:
        raise BadInput(f"{path} with {model_code}: {error}") from error
    return model, code.source_hash, notes


def _some(
    path: Path, model: nn.Module, images: TestImages, start: int, end: int, batch_size: int
) -> NDArray[np.float32]:  # fmt: skip
    """Return the scores of some of the images."""
    import torch

    from tailkeep.evaluation.predict import predict

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None, None]

    scale = column([1 / (255 * value) for value in images.std])
    shift = column([mean / std for mean, std in zip(images.mean, images.std, strict=True)])

    def normalize(batch: Tensor) -> Tensor:
        return batch.to(torch.float32, memory_format=torch.channels_last).mul_(scale).sub_(shift)

    part = images.images[start:end]
    try:
        return predict(model, part, batch_size, torch.device("cpu"), normalize)
    except StepFailed as error:
        raise BadInput(f"{path}: images {start} to {start + len(part) - 1}: {error}") from error
    except Exception as error:  # the user's code may raise anything on images that the probe did not hold
        where = f"images {start} to {start + len(part) - 1}"
        raise BadInput(f"{path}: the model fails on {where}: {type(error).__name__}: {error}") from error
