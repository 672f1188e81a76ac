"""Which kernels a runtime really chooses for an exported model: integer or float."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tailkeep.errors import BadInput
from tailkeep.export.library import need
from tailkeep.export.runtime import ONLY_ERRORS, read_single_file

INTEGER = frozenset(["QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"])
FLOAT = frozenset(["Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"])


@dataclass(frozen=True)
class Placement:
    """Operators of a file after onnxruntime's optimisation: ``operators`` {name: count}, on this machine and version.

    ``integer`` and ``floating`` count convolutions and matrix products by the kernel that they get.
    """

    operators: dict[str, int]

    @property
    def integer(self) -> int:
        """Convolutions and matrix products that run in integers."""
        return sum(count for name, count in self.operators.items() if name in INTEGER)

    @property
    def floating(self) -> int:
        """Convolutions and matrix products that run in float."""
        return sum(count for name, count in self.operators.items() if name in FLOAT)


def fused_layers(path: Path) -> Placement:
    """Let onnxruntime optimise a file for the CPU as it does before running it, and count the operators that remain.

    Raises ``BadInput`` where it is missing or damaged, and ``MissingExtra`` where the libraries are not installed.
    """
    onnx, runtime = need("onnx"), need("onnxruntime")
    data = read_single_file(path)
    with tempfile.TemporaryDirectory(prefix="tailkeep-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = ONLY_ERRORS
        options.optimized_model_filepath = str(optimised)
        try:
            runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BadInput(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())[:300]}") from error
        nodes = onnx.load(str(optimised)).graph.node
    return Placement(dict(sorted(Counter(node.op_type for node in nodes).items())))
