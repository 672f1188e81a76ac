"""Where values between layers are quantized so that a runtime can keep additions, and what enters them, in integers.

A runtime runs a convolution in integers only where its output is quantized as well. What leads into another quantized
layer is (by that layer's own input); what leads into a residual addition is not, unless a point is put there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tailkeep.compression.quantization.activations import Point
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.reference import QuantDequant
from tailkeep.errors import StepFailed

ADDITIONS = (operator.add, operator.iadd, torch.add)
RECTIFIERS = (F.relu, torch.relu, torch.relu_)
THROUGH = (operator.getitem, F.pad, torch.flatten, F.dropout)
"""What hands values on as they are (padding adds zeros, which every grid has)."""
THROUGH_MODULES = (nn.Identity, nn.Dropout, nn.Flatten)
THROUGH_METHODS = ("flatten", "view", "reshape", "contiguous")
NAME = "quantized_points"


class FinishedPoint(nn.Module):
    """A point of the finished model: clamp(round(x / scale), -zero, levels - zero) * scale."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to the nearest values of the grid."""
        low, high = -self.zero_point, 2**self.bits - 1 - self.zero_point
        return torch.minimum(torch.maximum(torch.round(x * self.scale.reciprocal()), low), high) * self.scale

    def export_form(self) -> nn.Module:
        """Return the point as quantize and dequantize."""
        return QuantDequant(float(self.scale), int(self.zero_point), self.bits)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (QuantizedLayer, IntegerLayer, Point, FinishedPoint))
        return ours or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the model as a graph over its own modules; raises ``StepFailed`` where torch.fx cannot follow it."""
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:
        raise StepFailed(
            "untraceable", f"placement 'runtime' needs a model that torch.fx can trace: {type(error).__name__}: {error}"
        ) from error


def find_points(graph: fx.GraphModule) -> list[str]:
    """Return the nodes whose values need a point, in graph order: what enters and leaves each addition.

    Of an addition whose only user is a ReLU, the ReLU's output is the one that counts. The logits get none: on a grid
    the first two of an image would often tie, and the class that wins would be the runtime's choice.
    """
    chosen: set[fx.Node] = set()
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if _is_addition(node):
            users = list(node.users)
            chosen.add(users[0] if len(users) == 1 and _is_rectifier(users[0], modules) else node)
            chosen |= {origin(argument, modules) for argument in node.args[:2] if isinstance(argument, fx.Node)}
    return [node.name for node in graph.graph.nodes if node in chosen]


def origin(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """Return the node that made the values which ``node`` hands on."""
    while (
        (node.op == "call_function" and node.target in THROUGH)
        or (node.op == "call_method" and node.target in THROUGH_METHODS)
        or (node.op == "call_module" and isinstance(modules[str(node.target)], THROUGH_MODULES))
    ) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _is_addition(node: fx.Node) -> bool:
    named = (node.op == "call_function" and node.target in ADDITIONS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    return named and sum(isinstance(argument, fx.Node) for argument in node.args[:2]) == 2


def _is_rectifier(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return (
        (node.op == "call_function" and node.target in RECTIFIERS)
        or (node.op == "call_method" and node.target in ("relu", "relu_"))
        or (node.op == "call_module" and isinstance(modules[str(node.target)], (nn.ReLU, nn.ReLU6)))
    )


def insert_points(graph: fx.GraphModule, names: list[str], make: Callable[[], nn.Module]) -> None:
    """Put ``make()`` behind each named node, in place; all its users then read the point.

    Raises ``StepFailed`` where a name is no node of the graph: the model's code has changed since.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    missing = [name for name in names if name not in nodes]
    if missing:
        raise StepFailed("quantized_points", f"the model has no place {missing[0]}; its code has changed")
    graph.add_module(NAME, nn.ModuleList(make() for _ in names))
    for number, name in enumerate(names):
        node = nodes[name]
        with graph.graph.inserting_after(node):
            point = graph.graph.call_module(f"{NAME}.{number}", (node,))
        node.replace_all_uses_with(point, delete_user_cb=lambda user, point=point: user is not point)
    graph.recompile()


def layers_on_points(graph: fx.GraphModule) -> dict[str, str]:
    """Return {layer: point} of the quantized layers, called once each, whose input a point has quantized already."""
    modules = dict(graph.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], QuantizedLayer):
            calls.setdefault(str(node.target), []).append(node)
    found: dict[str, str] = {}
    for name, nodes in calls.items():
        source: Any = nodes[0].args[0]
        made = origin(source, modules) if isinstance(source, fx.Node) else None
        if len(nodes) == 1 and made is not None and str(made.target).startswith(f"{NAME}."):
            found[name] = str(made.target)
    return found
