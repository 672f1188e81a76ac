"""Weights of 4 bits or fewer, two to a byte in the file: INT4 constants that a runtime unpacks once, when it loads.

A ``Cast`` to int8 stands between such a constant and the layer. onnxruntime folds it away on loading, before it looks
for integer kernels: the same kernels run on the same numbers, and only the file is smaller. Its CPU provider knows the
cast since 1.23.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tailkeep.export.library import need

OPSET = 21
"""The first that has INT4."""


def packable(proto: Any) -> list[Any]:
    """Return the int8 constants of two dimensions or more whose values all fit into 4 bits."""
    onnx = need("onnx")
    found = []
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor)
            if values.size and values.min() >= -8 and values.max() <= 7:
                found.append(tensor)
    return found


def pack(proto: Any) -> int:
    """Store what is ``packable`` in half its bytes, in place; return how many weights that are."""
    onnx = need("onnx")
    chosen, casts = packable(proto), []
    for tensor in chosen:
        values = onnx.numpy_helper.to_array(tensor)
        name, half = tensor.name, f"{tensor.name}.int4"
        tensor.CopyFrom(onnx.helper.make_tensor(half, onnx.TensorProto.INT4, values.shape, _halves(values), raw=True))
        casts.append(onnx.helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=onnx.TensorProto.INT8))
    nodes = [*casts, *proto.graph.node]  # the order of use
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return sum(int(np.prod(tensor.dims)) for tensor in chosen)


def _halves(values: Any) -> bytes:
    """Two's complement, the first of each two in the low half of its byte; a last one alone has a zero above it."""
    flat = np.append(values.ravel(), np.zeros(values.size % 2, dtype=np.int8)).view(np.uint8) & 0x0F
    return bytes(flat[0::2] | (flat[1::2] << 4))
