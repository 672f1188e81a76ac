"""The side of ``worker.py`` that runs ONNX files: one after another, in a process that may die of them."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.worker import printable, read_message, write_message
from tailkeep.errors import BadInput, MissingExtra
from tailkeep.export.library import need
from tailkeep.export.runtime import FLOATS, OnnxSession

PAYLOAD_LIMIT = 8 << 30


def serve(memory: int) -> None:
    """Answer requests from standard input until it ends, in at most ``memory`` bytes of address space (0: no bound)."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and ends this process
    _bound(memory)
    for name in ("onnx", "onnxruntime"):
        with suppress(MissingExtra):  # said when a model is opened
            need(name)
    models = Models()
    write_message(replies, {"ready": True})
    while True:
        try:
            request, payload = read_message(sys.stdin.buffer, PAYLOAD_LIMIT)
        except EOFError:
            return
        try:
            reply, data = models.answer(request, payload)
        except Exception as error:
            # Whatever a stranger's file raises in here is the file's fault; the parent says so.
            kind = "missing" if isinstance(error, MissingExtra) else "bad"
            text = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            reply, data = {"error": kind, "text": printable(text, 1000)}, b""
        write_message(replies, reply, data)


def _bound(memory: int) -> None:
    """Limit the address space, and leave no core file; does nothing where the platform cannot."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = [(resource.RLIMIT_CORE, 0)] + ([(resource.RLIMIT_AS, memory)] if memory else [])
    for kind, value in limits:
        try:
            _, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
        except (ValueError, OSError):
            continue


class Models:
    """The one open model, and what is asked of it."""

    def __init__(self) -> None:
        self.session: OnnxSession | None = None

    def answer(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Open a file, or run one batch of the open one."""
        if request["do"] == "open":
            self.session = None
            self.session = OnnxSession(
                Path(request["path"]), int(request["threads"]), types=tuple(FLOATS), external=True
            )
            return self._facts(self.session), b""
        if self.session is None:
            raise BadInput("no model is open")
        scores = self._run(self.session, request, payload)
        return {"shape": list(scores.shape)}, scores.tobytes()

    @staticmethod
    def _facts(session: OnnxSession) -> dict[str, Any]:
        folder = session.path.resolve().parent
        return {
            "runtime": f"onnxruntime {need('onnxruntime').__version__}",
            "input": _sizes(session.input_shape),
            "type": session.input_type.__name__,
            "outputs": [[name, kind, _sizes(shape)] for name, kind, shape in session.outputs],
            "files": [path.relative_to(folder).as_posix() for path in session.files],
        }

    @staticmethod
    def _run(session: OnnxSession, request: dict[str, Any], payload: bytes) -> NDArray[np.float32]:
        pixels = np.frombuffer(payload, dtype=np.uint8).reshape(request["shape"])
        inputs = normalized(pixels, request["mean"], request["std"])
        if request["layout"] == "nhwc":
            inputs = inputs.transpose(0, 2, 3, 1)
        fixed = request["batch"]
        step = fixed or len(inputs)
        rows = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            padding = np.repeat(part[-1:], step - len(part), axis=0)  # a file for a fixed number of images
            whole = np.ascontiguousarray(np.concatenate([part, padding]), dtype=session.input_type)
            found = session.run_outputs(whole, request["outputs"])
            rows.append(_scores(found, request["outputs"], len(whole), request["classes"])[: len(part)])
        return np.ascontiguousarray(np.concatenate(rows), dtype=np.float32)


def normalized(pixels: NDArray[np.uint8], mean: list[float], std: list[float]) -> NDArray[np.float32]:
    """Return ``(pixels / 255 - mean) / std`` of images (N, C, H, W), as one multiplication and one subtraction."""
    scale = np.array([1 / (255 * value) for value in std], dtype=np.float32)[:, None, None]
    shift = np.array([m / s for m, s in zip(mean, std, strict=True)], dtype=np.float32)[:, None, None]
    result: NDArray[np.float32] = pixels.astype(np.float32) * scale - shift
    return result


def _scores(found: list[NDArray[Any]], names: list[str], rows: int, classes: int) -> NDArray[Any]:
    """Return the first output with one row an image and one number a class."""
    for values in found:
        if values.shape == (rows, classes) and np.issubdtype(values.dtype, np.floating):
            return values
    shapes = [f"{name} {values.shape}" for name, values in zip(names, found, strict=True)]
    raise BadInput(f"no output is ({rows}, {classes}), one row an image and one number a class: {', '.join(shapes)}")


def _sizes(shape: tuple[Any, ...]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]
