"""A trained model as one ExecuTorch file for XNNPACK, the CPU kernels of phones and small boards; and its logits."""

from __future__ import annotations

import hashlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailkeep.errors import BadInput, MissingExtra, StepFailed
from tailkeep.export.onnx import export_form, packed_file_bytes
from tailkeep.export.xnnpack import OTHERWISE, check_quantization, integer_form, outside_kernels
from tailkeep.files import write_atomic

METHOD = "forward"
LOUD = ("torchao", "torch.utils._pytree", "torch.export", "executorch")
"""Loggers that speak of what concerns their developers."""


def export_executorch(
    model: nn.Module, image_shape: tuple[int, int, int], path: Path, batch: int = 1
) -> dict[str, Any]:
    """Write ``model`` to ``path``: input (batch, C, H, W) float32, normalised; output logits (batch, classes).

    The number of images is fixed. Batch norms behind a convolution are folded. A quantized layer runs in integers
    (int8, weights by channel) where its output is quantized too; elsewhere in float, with float32 weights in the file.

    Returns {"batch", "classes", "bytes", "gzip_bytes", "sha256", "parts": how many XNNPACK runs as a whole,
    "operators": {name: count} of what it leaves to ExecuTorch's own kernels, "int8_weights": their number}. Raises
    ``MissingExtra`` where executorch is not installed, ``ValueError`` where ``batch`` is not positive, and
    ``StepFailed`` with reason ``export`` where the model cannot be written: activations of fewer than 8 bits,
    asymmetric weights, an operation that ExecuTorch lacks, control flow that depends on values.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch} images")
    check_quantization(model)
    with _quiet():
        load = need("executorch.runtime").Runtime.get().load_program
        lower = need("executorch.exir").to_edge_transform_and_lower
        partitioner = need("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
        plain = export_form(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        example = torch.zeros(batch, *image_shape)
        try:
            graph = torch.export.export(plain, (example,), strict=False).module()
            assert isinstance(graph, torch.fx.GraphModule)
            int8_weights = integer_form(graph)
            with torch.no_grad():
                logits = graph(example)
        except Exception as error:
            raise StepFailed("export", f"cannot trace the model: {_short(error)}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise StepFailed("export", f"expected logits ({batch}, classes), got {got}")
        try:
            edge = lower(torch.export.export(graph, (example,), strict=False), partitioner=[partitioner])
            parts, operators = outside_kernels(edge.exported_program().graph)
            data = bytes(edge.to_executorch().buffer)
            program = load(data)
            program.load_method(METHOD)  # XNNPACK sees only now what it cannot run
        except Exception as error:  # its errors have no class of their own
            raise StepFailed("export", f"ExecuTorch cannot write it ({_short(error)}); {OTHERWISE}") from error
    write_atomic(path, data)
    sizes = packed_file_bytes(path)
    return {
        "batch": batch,
        "classes": int(logits.shape[1]),
        "bytes": sizes["raw"],
        "gzip_bytes": sizes["gzip"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "parts": parts,
        "operators": operators,
        "int8_weights": int8_weights,
    }


class ExecutorchProgram:
    """One file in ExecuTorch's runtime: ``input_shape`` (batch, C, H, W) is what it takes, no fewer and no more.

    Raises ``BadInput`` where the file is missing, damaged, or has another input than one tensor of four dimensions, and
    ``MissingExtra`` where executorch is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _quiet():
            runtime = need("executorch.runtime").Runtime.get()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            self._program = runtime.load_program(data)  # a method does not keep its program alive
            self._method = self._program.load_method(METHOD)
            facts = self._method.metadata
            shapes = [tuple(facts.input_tensor_meta(n).sizes()) for n in range(facts.num_inputs())]
        except Exception as error:  # RuntimeError with a number, or KeyError
            raise BadInput(f"{path}: ExecuTorch cannot load it ({_short(error)}); export it again") from error
        if len(shapes) != 1 or len(shapes[0]) != 4:
            raise BadInput(f"{path}: expected one input (N, C, H, W), found {shapes}")
        self.input_shape: tuple[int, ...] = shapes[0]

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits (N, classes) of normalised float32 ``images`` (N, C, H, W), in their order.

        The last batch is filled up with zeros, whose logits are dropped. Raises ``BadInput`` where the images do not
        fit the file's input, ``StepFailed`` with reason ``nan`` (a logit is not finite), ``output`` (not one row of
        logits an image) or ``runtime`` (ExecuTorch failed), and ``ValueError`` where there are no images.
        """
        if len(images) == 0:
            raise ValueError("nothing to predict: no images")
        if images.dtype != np.float32 or images.shape[1:] != self.input_shape[1:]:
            raise BadInput(f"{self.path}: its input is {self.input_shape} of float32; the images are {images.shape}")
        size, rows = self.input_shape[0], []
        for start in range(0, len(images), size):
            batch = np.zeros(self.input_shape, np.float32)
            part = images[start : start + size]
            batch[: len(part)] = part
            try:
                logits = self._method.execute((torch.from_numpy(batch),))[0]
            except Exception as error:
                raise StepFailed("runtime", f"{self.path}: ExecuTorch failed: {_short(error)}") from error
            if logits.ndim != 2 or len(logits) != size:
                raise StepFailed("output", f"expected logits ({size}, classes), got {tuple(logits.shape)}")
            rows.append(logits.numpy()[: len(part)].copy())
        result: NDArray[np.float32] = np.concatenate(rows).astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
        if len(bad):
            some = f"{len(bad)} of {len(result)} images"
            raise StepFailed("nan", f"{some} have logits that are not finite, first {bad[0]}")
        return result


def need(name: str) -> Any:
    """Import a module of executorch. Raises ``MissingExtra`` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"executorch is needed for .pte files and cannot be imported ({_short(error)}); "
            "pip install 'tailkeep[executorch]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings about other libraries' deprecations, and about kernels that are not needed, from the user."""
    loggers = [logging.getLogger(name) for name in LOUD]
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


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
