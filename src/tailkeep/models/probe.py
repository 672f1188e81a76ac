"""One batch of random images that shows whether a user's model keeps the contract, before any compute is spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.errors import BadInput

BATCH = 8


def probe(model: nn.Module, num_classes: int, image_shape: tuple[int, int, int], trained: bool = True) -> None:
    """Check that ``model`` maps float32 images (N, C, H, W) to logits (N, ``num_classes``) and can be trained.

    In evaluation mode: logits and not probabilities, finite, equal when asked twice and for an image alone, and no
    buffer moves. In training mode: a gradient reaches a parameter. A model that is not to be ``trained`` may give
    probabilities, need not have parameters, and is looked at in evaluation mode alone. The model's tensors, training
    flags and torch's generators are as before afterwards. Raises ``BadInput`` that explains the first fault.
    """
    first = next(model.parameters(), None)
    if first is None and trained:
        raise BadInput("the model has no parameters, so there is nothing to train or compress")
    device = torch.device("cpu") if first is None else first.device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *image_shape, generator=generator).to(device)
    with _unchanged(model, device):
        model.eval()
        before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        with torch.no_grad():
            logits = _forward(model, images, "evaluation")
            _check_logits(logits, num_classes, image_shape)
            if trained:
                _refuse_probabilities(logits)
            _check_repeatable(model, images, logits)
        _check_buffers(model, before)
        if trained:
            _check_training(model, images, num_classes)


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back the model's tensors, training flags and gradients, and torch's generators."""
    flags = [(module, module.training) for module in model.modules()]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
        with torch.no_grad():
            for tensor, saved in tensors:
                tensor.copy_(saved)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _forward(model: nn.Module, images: Tensor, mode: str) -> object:
    try:
        return model(images)
    except Exception as error:
        shape = tuple(images.shape)
        raise BadInput(
            f"the model fails in {mode} mode on images of shape {shape}: {type(error).__name__}: {error}"
        ) from error


def _check_logits(logits: object, num_classes: int, image_shape: tuple[int, int, int]) -> None:
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise BadInput(f"the model returns a {kind}; return the logits alone, one tensor (images, {num_classes})")
    if logits.ndim == 2 and len(logits) == BATCH and logits.shape[1] != num_classes:
        raise BadInput(
            f"the model returns {logits.shape[1]} values an image, and the data has {num_classes} classes; "
            "let the factory take num_classes"
        )
    if tuple(logits.shape) != (BATCH, num_classes):
        expected = (BATCH, num_classes)
        raise BadInput(f"the model returns shape {tuple(logits.shape)} for {BATCH} images; expected {expected}")
    if not logits.is_floating_point():
        raise BadInput(f"the model returns {logits.dtype} (class numbers?); return floating-point logits")
    if not bool(torch.isfinite(logits).all()):
        raise BadInput(f"the model returns values that are not finite on random images {image_shape}")


def _refuse_probabilities(logits: object) -> None:
    assert isinstance(logits, Tensor)
    sums = logits.float().sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise BadInput(
            "the model returns probabilities (no value below 0, each row sums to 1); return logits: drop its softmax"
        )


def _check_repeatable(model: nn.Module, images: Tensor, logits: object) -> None:
    """Refuse dropout that stays on, noise, and statistics taken from the batch."""
    assert isinstance(logits, Tensor)
    scale = float(logits.abs().max()) + 1e-6
    again = _forward(model, images, "evaluation")
    if not isinstance(again, Tensor) or float((again - logits).abs().max()) > 1e-4 * scale:
        raise BadInput(
            "the model's evaluation is not deterministic: the same images give other logits the second time "
            "(F.dropout without training=self.training?)"
        )
    alone = _forward(model, images[:1], "evaluation")
    if not isinstance(alone, Tensor) or float((alone[0] - logits[0]).abs().max()) > 1e-2 * scale:
        raise BadInput(
            "the model's evaluation of an image depends on the other images of the batch "
            "(F.batch_norm with training=True, or track_running_stats=False?)"
        )


def _check_buffers(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise BadInput(
                f"the model changes its buffer {name} in evaluation mode, so test images would leak into it "
                "(a batch normalisation that is kept in training mode?)"
            )


def _check_training(model: nn.Module, images: Tensor, num_classes: int) -> None:
    model.train()
    logits = _forward(model, images, "training")
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (BATCH, num_classes):
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise BadInput(f"in training mode the model returns {kind}; return the logits alone, as in evaluation mode")
    labels = torch.arange(BATCH, device=logits.device) % num_classes
    gradients = False
    if logits.requires_grad:
        torch.autograd.backward(F.cross_entropy(logits.float(), labels))
        gradients = any(parameter.grad is not None for parameter in model.parameters())
    if not gradients:
        raise BadInput("no gradient reaches the model's parameters (detach, no_grad or requires_grad=False?)")
