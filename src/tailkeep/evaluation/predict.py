"""Logits of a model on images, always in float32, so that a verdict never rests on rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailkeep.errors import StepFailed


@contextmanager
def _evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast, no TF32; the training flags come back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        for module, training in flags:
            module.training = training


def _check_float32(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise StepFailed("precision", f"parameter {name} is {parameter.dtype}; predictions are made in float32")


def predict(
    model: nn.Module,
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device,
    normalize: Callable[[Tensor], Tensor],
) -> NDArray[np.float32]:
    """Return the logits (N, C) of uint8 ``images`` (N, channels, H, W), in their order.

    ``normalize`` maps a uint8 batch on ``device`` to the float input of the model. The model is moved to ``device``.
    Raises ``StepFailed`` with reason ``nan`` (a logit is not finite), ``buffers`` (a buffer, such as the statistics of
    a batch normalisation, moved), ``precision`` (parameters are not float32) or ``output`` (not one row of logits an
    image), and ``ValueError`` where there are no images or the batch size is not positive.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"nothing to predict: {len(images)} images in batches of {batch_size}")
    model.to(device)
    _check_float32(model)
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    rows: list[NDArray[np.float32]] = []
    with _evaluation(model, device):
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            logits = model(normalize(batch).float())
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch):
                raise StepFailed("output", f"expected logits ({len(batch)}, classes), got {_describe(logits)}")
            rows.append(logits.float().cpu().numpy())
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise StepFailed("buffers", f"buffer {name} changed in evaluation mode")
    result = np.concatenate(rows)
    bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if len(bad):
        raise StepFailed("nan", f"{len(bad)} of {len(result)} images have logits that are not finite, first {bad[0]}")
    return result


def _describe(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
