"""A traced model in the form that XNNPACK has integer kernels for; which quantized models have none."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import torch
from torch import fx, nn

from tailkeep.errors import StepFailed

OTHERWISE = "write it as ONNX (--format onnx)"
MIDDLE = 128
"""uint8 minus this is int8, XNNPACK's one type for activations."""

RECTIFIERS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default, torch.ops.aten.hardtanh.default)
"""What an integer kernel does along the way: they only clamp its result."""

MOVES = (torch.ops.aten.max_pool2d.default, torch.ops.aten.permute.default, torch.ops.aten.transpose.int)
"""What hands integers on as they are; XNNPACK refuses a file in which their grid changes on the way."""


def check_quantization(model: nn.Module) -> None:
    """Raise ``StepFailed`` with reason ``export`` where a layer is quantized to what XNNPACK has no kernel for."""
    narrow: dict[str, int] = {}
    shifted = []
    for name, module in model.named_modules():
        bits = getattr(module, "activation_bits", None)
        if isinstance(bits, int) and bits < 8:
            narrow[name] = bits
        zero_point = getattr(module, "weight_zero_point", None)
        if isinstance(zero_point, torch.Tensor) and bool(zero_point.any()):
            shifted.append(name)
    if narrow:
        first, bits = next(iter(narrow.items()))
        raise StepFailed(
            "export",
            f"{_layers(narrow)} activations of {bits} bits ({first}). XNNPACK's integer kernels clip at the ends of "
            f"int8 and nowhere else; {OTHERWISE}, or quantize with activation_bits: 8",
        )
    if shifted:
        raise StepFailed(
            "export",
            f"{_layers(shifted)} asymmetric weights ({shifted[0]}). XNNPACK's integer kernels have no zero points of "
            f"weights; {OTHERWISE}, or quantize with weights: symmetric",
        )


def _layers(names: Any) -> str:
    return "1 layer has" if len(names) == 1 else f"{len(names)} layers have"


def integer_form(graph: fx.GraphModule) -> int:
    """Rewrite a traced model in place; return the number of its weights that stay int8.

    ``graph`` is the module of a ``torch.export`` program whose quantized layers are in the exchange form (quantize,
    dequantize, float operation, int8 weights that are dequantized by channel). Then

    - activations are int8 in place of uint8: the same grid, its zero point less 128;
    - a value that is quantized twice to one grid is quantized once;
    - of a layer whose output is not quantized, which XNNPACK runs in float, the weights are float32 in the file;
    - where values are only moved between two grids, they are moved on the first and then quantized to the second;
    - each user of an integer value has a dequantize of its own: an integer kernel takes its in, and XNNPACK refuses a
      file in which a float one shares it.
    """
    _signed(graph.graph)
    _once(graph.graph)
    kept = _float_weights(graph)
    _move_on_one_grid(graph.graph)
    _own_dequantize(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return kept


def _ops() -> tuple[Any, Any, Any]:
    """Quantize and dequantize a tensor, dequantize by channel; registered where a quantized layer was made."""
    if not hasattr(torch.ops.quantized_decomposed, "quantize_per_tensor"):
        return None, None, None
    ops = torch.ops.quantized_decomposed
    return ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default, ops.dequantize_per_channel.default


def _signed(graph: fx.Graph) -> None:
    quantize, dequantize, _ = _ops()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in (quantize, dequantize) and node.args[5] == torch.uint8:
            x, scale, zero_point, low, high, _ = node.args
            node.args = (x, scale, zero_point - MIDDLE, low - MIDDLE, high - MIDDLE, torch.int8)


def _once(graph: fx.Graph) -> None:
    quantize, dequantize, _ = _ops()
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target == quantize and node.args[0].target == dequantize:
            back = node.args[0]
            if node.args[1:] == back.args[1:]:
                node.replace_all_uses_with(back.args[0])
    graph.eliminate_dead_code()


def _float_weights(graph: fx.GraphModule) -> int:
    kept = 0
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.op != "call_function" or node.target != _ops()[2]:
            continue
        tensors: list[Any] = [reduce(getattr, str(place.target).split("."), graph) for place in node.args[:3]]
        if all(_in_integers(user) for user in node.users):
            kept += tensors[0].numel()
            continue
        name = f"float_weight_{number}"
        graph.register_buffer(name, _ops()[2](*tensors, *node.args[3:]))
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))
    graph.graph.eliminate_dead_code()
    return kept


def _in_integers(layer: fx.Node) -> bool:
    """Whether XNNPACK runs a layer in integers: dequantize before it, quantize alone behind it or its rectifier."""
    quantize, dequantize, _ = _ops()
    source, users = layer.args[0], list(layer.users)
    if len(users) == 1 and users[0].target in RECTIFIERS:
        users = list(users[0].users)
    before = isinstance(source, fx.Node) and source.target == dequantize
    return before and len(users) == 1 and users[0].target == quantize


def _move_on_one_grid(graph: fx.Graph) -> None:
    quantize, dequantize, _ = _ops()
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in MOVES or node.args[0].target != dequantize:
            continue
        grid = node.args[0].args[1:]
        users = list(node.users)
        if len(users) == 1 and users[0].target == quantize and users[0].args[1:] != grid:
            with graph.inserting_before(users[0]):
                again = graph.call_function(quantize, (node, *grid))
                users[0].replace_input_with(node, graph.call_function(dequantize, (again, *grid)))


def _own_dequantize(graph: fx.Graph) -> None:
    dequantize = _ops()[1]
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target == dequantize:
            for user in list(node.users)[1:]:
                with graph.inserting_before(user):
                    user.replace_input_with(node, graph.node_copy(node))


def outside_kernels(graph: fx.Graph) -> tuple[int, dict[str, int]]:
    """Return how many parts XNNPACK runs, and the operations {name: count} left to ExecuTorch's own kernels."""
    names = [str(getattr(node.target, "__name__", node.target)) for node in graph.nodes if node.op == "call_function"]
    parts = names.count("executorch_call_delegate")
    passed = ("executorch_call_delegate", operator.getitem.__name__)
    left = sorted(name for name in names if name not in passed)
    return parts, {name: left.count(name) for name in dict.fromkeys(left)}
