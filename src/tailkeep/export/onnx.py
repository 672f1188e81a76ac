"""A trained model as one ONNX file: weights inside, any number of images a batch, integers where the model has them."""

from __future__ import annotations

import copy
import gzip
import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailkeep.errors import StepFailed
from tailkeep.export import packed
from tailkeep.export.library import need
from tailkeep.files import write_atomic

OPSET = 18
IR_VERSION = 10
"""Old enough for onnxruntime 1.20; the types that later opsets quantize to are needed by packed weights alone."""

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
EXAMPLES = 2
"""Images of the traced batch: 1 would be taken for a constant."""

LARGEST = 2**31 - 1
"""Bytes that a protobuf file can hold."""


def export_onnx(
    model: nn.Module, image_shape: tuple[int, int, int], path: Path, pack_weights: bool = False
) -> dict[str, Any]:
    """Write ``model`` to ``path``: input "images" (N, C, H, W) float32, normalised; output "logits" (N, classes).

    A module with a method ``export_form()`` is replaced, in a copy, by the module which that returns: so quantized
    layers become quantize, dequantize and int8 weights. Batch norms behind a convolution are folded. The file has no
    external data, no paths or source lines of this machine, and equal models give equal bytes under equal versions.
    ``pack_weights`` stores weights of 4 bits or fewer two to a byte, for onnxruntime 1.23 and later; a model that has
    none gives the same file without it.

    Returns {"opset", "ir_version", "classes", "bytes", "gzip_bytes", "sha256", "operators": {name: count},
    "int8_weights", "int4_weights": their numbers}. Raises ``MissingExtra`` where onnx or onnxscript is not installed,
    and ``StepFailed`` with reason ``export``, naming layer or operation where it is known, where the model cannot be
    written.
    """
    onnx = need("onnx")
    need("onnxscript")
    plain = export_form(model)
    example = torch.zeros(EXAMPLES, *image_shape)
    classes = _classes(plain, example)
    with _quiet():
        program = _trace(plain, example)
        proto, opset = _translate(program, OPSET), OPSET
        if pack_weights and packed.packable(proto):
            proto, opset = _translate(program, packed.OPSET), packed.OPSET
    int4 = packed.pack(proto) if opset == packed.OPSET else 0
    _strip(proto.graph)
    proto.ClearField("metadata_props")
    proto.ir_version = IR_VERSION
    if proto.ByteSize() > LARGEST:
        raise StepFailed("export", f"{proto.ByteSize()} bytes do not fit into one ONNX file (2 GB)")
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise StepFailed("export", f"the exporter made an invalid file: {_first_line(error)}") from error
    data: bytes = proto.SerializeToString(deterministic=True)
    write_atomic(path, data)
    sizes = packed_file_bytes(path)
    int8 = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    return {
        "opset": opset,
        "ir_version": IR_VERSION,
        "classes": classes,
        "bytes": sizes["raw"],
        "gzip_bytes": sizes["gzip"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "operators": dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        "int8_weights": sum(_count(tensor.dims) for tensor in int8 if len(tensor.dims) > 1),
        "int4_weights": int4,
    }


def packed_file_bytes(path: Path) -> dict[str, int]:
    """Return the size of a file: {"raw": bytes, "gzip": bytes after gzip at level 9}.

    Another build of zlib may give a few bytes more or less for "gzip".
    """
    data = path.read_bytes()
    return {"raw": len(data), "gzip": len(gzip.compress(data, 9, mtime=0))}


def export_form(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` on the CPU in evaluation mode, every module that has one in its ``export_form()``."""
    model = copy.deepcopy(model).cpu()
    made: dict[int, nn.Module] = {}

    def convert(module: nn.Module) -> nn.Module:
        if id(module) not in made:  # one layer under two names stays one
            form = getattr(module, "export_form", None)
            made[id(module)] = form() if callable(form) else module
            if made[id(module)] is module:
                for name, child in module._modules.items():  # named_children would pass a shared one over
                    if child is not None:
                        setattr(module, name, convert(child))
        return made[id(module)]

    return convert(model).eval().requires_grad_(False)


def _classes(model: nn.Module, example: Tensor) -> int:
    """Run the model once as it is, so that its own errors are told apart from the exporter's."""
    try:
        with torch.no_grad():
            logits = model(example)
    except Exception as error:
        raise StepFailed("export", f"the model does not run on {_shape(example)}: {_first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        got = _shape(logits) if isinstance(logits, Tensor) else type(logits).__name__
        raise StepFailed("export", f"expected logits ({len(example)}, classes), got {got}")
    return int(logits.shape[1])


def _trace(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Record the model's operations for any number of images, noting which layer runs so that an error can name it."""
    inside: list[str] = []
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
            inside.append(name)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            inside.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    dimension = torch.export.Dim(BATCH, min=1, max=1 << 20)
    try:
        return torch.export.export(model, (example,), dynamic_shapes=({0: dimension},), strict=False)
    except Exception as error:
        text = str(error)
        if "onstraints violated" in text or "specialized" in text:
            detail = f"it fixes the number of images to that of the example ({EXAMPLES}): {_first_line(error)}"
        else:
            detail = _first_line(error)
        raise StepFailed("export", f"cannot trace the model{_at(inside[-1:])}: {detail}") from error
    finally:
        for handle in handles:
            handle.remove()


def _translate(program: torch.export.ExportedProgram, opset: int) -> Any:
    """Return the traced operations as an ONNX ModelProto."""
    try:
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
        assert exported is not None
        return exported.model_proto
    except Exception as error:
        operation, layers = _unsupported(error, program)
        what = f"ONNX opset {opset} has no form of {operation}{_at(layers)}" if operation else "the exporter failed"
        raise StepFailed("export", f"{what}: {_first_line(error)}") from error


def _unsupported(error: BaseException, program: torch.export.ExportedProgram) -> tuple[str, list[str]]:
    """Return the operation that an exporter's error speaks of ("aten.fft_fft"), and the layers that use it."""
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(cause))
        if found:
            name = found.group(1)
            nodes = [node for node in program.graph.nodes if str(node.target).startswith(f"{name}.")]
            paths = [list(node.meta.get("nn_module_stack", {}).values()) for node in nodes]
            return name, [str(path[-1][0]) for path in paths if path]
        cause = cause.__cause__
    return "", []


def _at(layers: list[str]) -> str:
    named = [layer for layer in dict.fromkeys(layers) if layer]
    return f" at layer {', '.join(named)}" if named else ""


def _strip(graph: Any) -> None:
    """Remove what names this machine's files and source lines, and shapes that a runtime infers by itself."""
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    graph.ClearField("value_info")
    for entry in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about its own deprecations and about libraries that are not needed to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _count(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= int(size)
    return total


def _shape(tensor: Tensor) -> str:
    return f"a tensor {tuple(tensor.shape)}"


def _first_line(error: BaseException) -> str:
    """Return the first line of an exporter's page-long message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
