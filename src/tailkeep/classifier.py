"""Which layer of a model makes its logits: what a normalised head takes the place of, and what a repair adjusts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tailkeep.errors import StepFailed


def find_classifier(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """Return the name of the linear layer whose output the model returns; it may be a quantized one.

    Found by one forward pass of a zero image (1, C, H, W) in evaluation mode, which leaves the model as it was. Raises
    ``StepFailed`` with reason ``classifier`` where the logits come out of something else.
    """
    made: list[tuple[str, Tensor]] = []
    handles = []
    for name, module in model.named_modules():
        if not name or not (isinstance(module, nn.Linear) or hasattr(module, "weight_bits")):
            continue

        def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            made.append((name, output))

        handles.append(module.register_forward_hook(note))
    flags = [(module, module.training) for module in model.modules()]
    tensors = (*model.parameters(), *model.buffers())
    first = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    try:
        model.eval()
        with torch.no_grad():
            logits = model(torch.zeros(1, *image_shape, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    for name, output in reversed(made):
        if output is logits:
            return name
    raise StepFailed(
        "classifier", "the model's logits do not come out of a linear layer, so there is no classifier to work on"
    )
