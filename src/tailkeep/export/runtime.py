"""An exported file in onnxruntime on the CPU: its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput, StepFailed
from tailkeep.export.external import take_in, tensors_outside
from tailkeep.export.library import need

FLOAT = "tensor(float)"
FLOATS: dict[str, type[np.floating[Any]]] = {
    FLOAT: np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
"""onnxruntime's names of the types that images and logits can have."""
ONLY_ERRORS = 3
"""onnxruntime's log level: it warns of things that concern its developers."""


class OnnxSession:
    """One model in onnxruntime's CPU provider: ``threads`` threads within an operation, one operation at a time.

    The file is read whole and may not point to data in other files, unless ``external`` allows files of its own folder
    (``files`` lists them). ``outputs`` are (name, type, shape) of every output. Raises ``BadInput`` where the file is
    missing, damaged, or has another input than one tensor (N, C, H, W) of one of ``types``, and ``MissingExtra`` where
    onnxruntime is not installed.
    """

    def __init__(
        self, path: Path, threads: int = 1, *, types: tuple[str, ...] = (FLOAT,), external: bool = False
    ) -> None:
        runtime = need("onnxruntime")
        self.path = path
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ONLY_ERRORS
        # Else the threads of one session would go on spinning while another one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # The bytes were checked as ONNX; onnxruntime must not take them for another format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        data, self.files = read_files(path, external)
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen unrelated error classes
            raise BadInput(f"{path}: onnxruntime cannot load it: {_short(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in types or len(inputs[0].shape) != 4:
            found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            wanted = " or ".join(FLOATS[kind].__name__ for kind in types)
            raise BadInput(f"{path}: expected one input (N, C, H, W) of {wanted}, found {found or 'none'}")
        self.input_name = str(inputs[0].name)
        self.input_shape = tuple(inputs[0].shape)
        self.input_type = FLOATS[inputs[0].type]
        self.outputs = tuple(
            (str(out.name), str(out.type), tuple(out.shape or ())) for out in self._session.get_outputs()
        )

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first output for one batch as it is, unchecked: what a latency measurement times."""
        result: NDArray[np.float32] = self._session.run(None, {self.input_name: images})[0]
        return result

    def run_outputs(self, images: NDArray[np.floating[Any]], names: list[str]) -> list[NDArray[Any]]:
        """Return the outputs of these ``names`` for one batch of the input's type, as they are."""
        result: list[NDArray[Any]] = self._session.run(names, {self.input_name: images})
        return result

    def predict(self, images: NDArray[np.float32], batch_size: int = 256) -> NDArray[np.float32]:
        """Return the logits (N, classes) of normalised float32 ``images`` (N, C, H, W), in their order.

        Raises ``BadInput`` where the images do not fit the file's input, ``StepFailed`` with reason ``nan`` (a logit is
        not finite), ``output`` (not one row of logits an image) or ``runtime`` (onnxruntime failed), and ``ValueError``
        where there are no images or the batch size is not positive.
        """
        if len(images) == 0 or batch_size < 1:
            raise ValueError(f"nothing to predict: {len(images)} images in batches of {batch_size}")
        wanted = [size if isinstance(size, int) else None for size in self.input_shape[1:]]
        fits = [want in (None, got) for want, got in zip(wanted, images.shape[1:], strict=False)]
        if images.dtype != np.float32 or images.ndim != 4 or not all(fits):
            found = f"the images are {images.shape} of {images.dtype}"
            raise BadInput(f"{self.path}: its input is {self.input_shape} of float32; {found}")
        rows = []
        for start in range(0, len(images), batch_size):
            batch = np.ascontiguousarray(images[start : start + batch_size])
            try:
                logits = self.run(batch)
            except Exception as error:
                raise StepFailed("runtime", f"{self.path}: onnxruntime failed: {_short(error)}") from error
            if logits.ndim != 2 or len(logits) != len(batch):
                raise StepFailed("output", f"expected logits ({len(batch)}, classes), got {logits.shape}")
            rows.append(logits)
        result = np.concatenate(rows).astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
        if len(bad):
            some = f"{len(bad)} of {len(result)} images"
            raise StepFailed("nan", f"{some} have logits that are not finite, first {bad[0]}")
        return result


def read_single_file(path: Path) -> bytes:
    """Return the bytes of an ONNX file. Raises ``BadInput`` where it is missing, damaged or keeps data elsewhere."""
    return read_files(path, external=False)[0]


def read_files(path: Path, external: bool) -> tuple[bytes, tuple[Path, ...]]:
    """Return the bytes of an ONNX file with all its data inside, and the other files that they came from.

    Raises ``BadInput`` where it is missing or damaged, and where it keeps data in other files: any, or with
    ``external`` those outside its own folder.
    """
    onnx = need("onnx")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own error class moves between its versions
        raise BadInput(f"{path}: not an ONNX file, or damaged ({_short(error)}); export it again") from error
    if not model.graph.node:
        raise BadInput(f"{path}: not an ONNX file, or damaged (it has no operations); export it again")
    outside = tensors_outside(model)
    if not outside:
        return data, ()
    if not external:
        raise BadInput(
            f"{path}: the data of {outside[0].name} lies in another file; only files that are whole are read"
        )
    files = take_in(model, path)
    whole: bytes = model.SerializeToString()
    return whole, files


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
