"""What a model costs, counted from its layers: weights, multiply-accumulates and packed bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FLOAT_BITS = 32
WORD = 4
"""Bytes of a scale or a bias."""


@dataclass(frozen=True)
class Cost:
    """Counts of one model on one image.

    ``weights`` and ``macs`` are those of convolutions and linear layers, without biases and batch normalisation;
    ``packed_bytes`` = sum(bits * weights / 8) + 4 for each scale and bias, batch normalisation folded into a bias of
    every output channel; ``parameters`` counts every parameter, and the weights and biases that a quantized layer keeps
    as buffers.
    """

    weights: int
    macs: int
    packed_bytes: int
    parameters: int


def layer_weight(module: nn.Module) -> Tensor | None:
    """Return the weight of a convolution, a linear or a quantized layer (one with ``weight_bits``), else None."""
    if hasattr(module, "weight_bits"):
        for attribute in ("weight", "weight_int"):
            value = getattr(module, attribute, None)
            if isinstance(value, Tensor):
                return value
        return None
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        return module.weight
    return None


def weight_layers(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield (name, module, weight) of every counted layer; what lies inside of a counted layer is not counted again."""
    weight = layer_weight(model)
    if weight is not None:
        yield prefix, model, weight
        return
    for name, child in model.named_children():
        yield from weight_layers(child, f"{prefix}.{name}" if prefix else name)


def cost(model: nn.Module, image_shape: tuple[int, int, int], weight_bits: Mapping[str, int] | None = None) -> Cost:
    """Count a model by one forward pass of a zero image (1, C, H, W) in evaluation mode.

    ``weight_bits`` gives the bits of layers by name where they differ from what the layer itself says (its
    ``weight_bits``, else the size of its floating type). Raises ``ValueError`` where it names no layer of the model.
    """
    layers = list(_distinct(model))
    unknown = set(weight_bits or {}) - {name for name, _, _ in layers}
    if unknown:
        raise ValueError(f"weight_bits names {sorted(unknown)}, which are no layers of the model")
    weights, packed, stored = 0, 0, 0
    for name, module, weight in layers:
        bits = (weight_bits or {}).get(name) or _own_bits(module, weight)
        weights += weight.numel()
        packed += math.ceil(bits * weight.numel() / 8) + WORD * _output_channels(module, weight)
        packed += _scale_bytes(module, weight, bits)
        if not isinstance(weight, nn.Parameter):
            bias = getattr(module, "bias", None)
            stored += weight.numel() + (bias.numel() if isinstance(bias, Tensor) else 0)
    parameters = stored + sum(parameter.numel() for parameter in model.parameters())
    return Cost(weights, count_macs(model, image_shape), packed, parameters)


def _distinct(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield the counted layers, a weight that two layers share once."""
    seen: set[int] = set()
    for name, module, weight in weight_layers(model):
        if id(weight) not in seen:
            seen.add(id(weight))
            yield name, module, weight


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of one image: positions * weights, summed over every call of a counted layer."""
    total = 0
    handles = []
    for _, module, weight in weight_layers(model):

        def count(module: nn.Module, inputs: Any, output: Tensor, weight: Tensor = weight) -> None:
            nonlocal total
            if isinstance(module, TRANSPOSED):
                positions = inputs[0].numel() // weight.shape[0]
            else:
                positions = output.numel() // weight.shape[0]
            total += positions * weight.numel()

        handles.append(module.register_forward_hook(count))
    flags = [(module, module.training) for module in model.modules()]
    tensors = (*model.parameters(), *model.buffers())
    first = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_shape, device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in flags:
            module.training = training
    return total


def _own_bits(module: nn.Module, weight: Tensor) -> int:
    bits = getattr(module, "weight_bits", None)
    return int(bits) if bits is not None else 8 * weight.element_size()


def _output_channels(module: nn.Module, weight: Tensor) -> int:
    return int(weight.shape[1] * module.groups) if isinstance(module, TRANSPOSED) else weight.shape[0]


def _scale_bytes(module: nn.Module, weight: Tensor, bits: int) -> int:
    """Bytes of the scales: one an output channel (or as many as the layer holds) and one for the activations.

    Weights of 32 bits have none; nor have activations of 32 bits, where the layer says so (``activation_bits``).
    """
    scales = 0
    if bits < FLOAT_BITS:
        held = getattr(module, "weight_scale", None)
        scales += held.numel() if isinstance(held, Tensor) else _output_channels(module, weight)
    scales += int(getattr(module, "activation_bits", bits)) < FLOAT_BITS
    return WORD * scales
