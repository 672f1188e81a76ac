"""The scores of an ONNX file on test images, run in a process of its own, since the file may be hostile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tailkeep.auditing.image_pixels import Progress
from tailkeep.auditing.images import TestImages
from tailkeep.auditing.worker import Worker, WorkerDied, printable
from tailkeep.data.checks import listed
from tailkeep.errors import BadInput, MissingExtra
from tailkeep.files import safe_join, sha256_file
from tailkeep.models.impostors import refuse_impostors

LAYOUTS = ("auto", "nchw", "nhwc")
FLOAT_TENSORS = ("tensor(float)", "tensor(float16)", "tensor(double)")
LARGEST_BATCH = 65536
CHECKED = 8
"""Images that are run twice, and once without the others, before all are run."""
_MEMORY_SHARE, _LEAST_MEMORY = 0.8, 2 << 30


@dataclass(frozen=True)
class Facts:
    """What a file says of itself: sizes are None where it leaves them open; ``outputs`` are (name, type, sizes)."""

    runtime: str
    sizes: tuple[int | None, ...]
    type: str
    outputs: tuple[tuple[str, str, tuple[int | None, ...]], ...]
    files: tuple[str, ...]


class OnnxModels:
    """ONNX files opened and run in a child process, one at a time.

    The child may use ``memory`` bytes (None: most of what is free) and ``limit_s`` seconds for opening a file or for
    one batch. Every method raises ``BadInput`` that says what the file did: it is damaged, the runtime refused it,
    crashed on it, or did not end.
    """

    def __init__(self, threads: int = 1, limit_s: float = 300.0, memory: int | None = None) -> None:
        if memory is None:
            memory = max(int(_MEMORY_SHARE * psutil.virtual_memory().available), _LEAST_MEMORY)
        self.worker = Worker("tailkeep.auditing.onnx_child", memory)
        self.threads, self.limit_s = threads, limit_s
        self.path = Path()

    def __enter__(self) -> OnnxModels:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.worker.close()

    def open(self, path: Path) -> Facts:
        """Open a file, in the place of the last one."""
        self.path = path
        reply, _ = self._ask({"do": "open", "path": str(path), "threads": self.threads}, b"", 0, "loading it")
        try:
            outputs = tuple((str(name), str(kind), _sizes(sizes)) for name, kind, sizes in reply["outputs"])
            files = tuple(str(name) for name in reply["files"])
            return Facts(str(reply["runtime"]), _sizes(reply["input"]), str(reply["type"]), outputs, files)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: the process that opened it gave no sense ({error}); refused") from error

    def run(self, pixels: NDArray[np.uint8], how: dict[str, Any]) -> NDArray[np.float32]:
        """Return the scores (N, classes) of images (N, C, H, W); ``how`` are the fields that the child needs."""
        request = {"do": "run", "shape": list(pixels.shape), **how}
        shape = (len(pixels), int(how["classes"]))
        size = 4 * shape[0] * shape[1]
        payload = np.ascontiguousarray(pixels)
        reply, data = self._ask(request, payload.data, size, f"running {len(pixels)} images")
        if reply.get("shape") != list(shape) or len(data) != size:
            raise BadInput(f"{self.path}: the process that ran it gave no scores; refused")
        return np.frombuffer(data, dtype=np.float32).reshape(shape)

    def _ask(
        self, request: dict[str, Any], payload: bytes | memoryview, reply_limit: int, doing: str
    ) -> tuple[dict[str, Any], bytes]:
        try:
            reply, data = self.worker.ask(request, payload, limit_s=self.limit_s, reply_limit=reply_limit)
        except WorkerDied as error:
            if error.reason == "hang":
                raise BadInput(
                    f"{self.path}: {error} while {doing}; where the model is only slow, raise the time limit or take "
                    "smaller batches"
                ) from error
            raise BadInput(f"{self.path}: the runtime crashed on it while {doing}: {error}") from error
        if "error" in reply:
            text = printable(str(reply.get("text", "")), 1000)
            if reply["error"] == "missing":
                raise MissingExtra(text)
            raise BadInput(text if text.startswith(str(self.path)) else f"{self.path}: {text}")
        return reply, data


def _sizes(values: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(value if type(value) is int else None for value in values)


def onnx_scores(
    path: Path,
    images: TestImages,
    models: OnnxModels,
    layout: str = "auto",
    output: str | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], dict[str, Any], tuple[str, ...]]:
    """Return (scores (N, classes), what to record of the file, notes) of an ONNX file.

    Raises ``BadInput`` as ``OnnxModels`` does, where input or outputs do not fit the images and their classes, and
    where the same images give other scores the second time.
    """
    refuse_impostors(path, "a model")
    facts = models.open(path)
    layout, batch = fit_input(path, facts, images.shape, layout)
    names = fit_outputs(path, facts, len(images.class_names), output)
    how = {
        "mean": images.mean,
        "std": images.std,
        "layout": layout,
        "batch": batch,
        "outputs": names,
        "classes": len(images.class_names),
    }
    notes = _steady(models, images, how)
    rows = []
    for start in range(0, len(images), batch_size):
        rows.append(models.run(images.images[start : start + batch_size], how))
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    folder = path.resolve().parent
    recorded: dict[str, Any] = {
        "form": "onnx",
        "runtime": printable(facts.runtime),
        "layout": layout,
        "input_type": facts.type,
        "external_data": {name: sha256_file(safe_join(folder, name)) for name in facts.files},
    }
    return np.concatenate(rows), recorded, notes


def fit_input(path: Path, facts: Facts, shape: tuple[int, int, int], layout: str) -> tuple[str, int | None]:
    """Return (the layout, the fixed number of images a run or None) of a file for images of ``shape`` (C, H, W).

    NHWC is taken only where ``layout`` says so: a square image of three rows would fit both ways.
    """
    if layout not in LAYOUTS:
        raise BadInput(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    channels, height, width = shape
    ways = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
    chosen = "nhwc" if layout == "nhwc" else "nchw"

    def fits(way: str) -> bool:
        return all(size in (None, want) for size, want in zip(facts.sizes[1:], ways[way], strict=True))

    if not fits(chosen):
        found = _shape(facts.sizes)
        expected = _shape((None, *ways[chosen]))
        other = "nhwc" if chosen == "nchw" else "nchw"
        if fits(other):
            fix = f"it would fit as {other.upper()}: give the layout {other}"
        elif facts.sizes[1 if chosen == "nchw" else 3] in (None, channels):
            fix = "read the images at the size that the model takes (image size)"
        else:
            fix = "the number of channels differs: read grey or colour images as the model takes them (channels)"
        raise BadInput(f"{path}: its input is {found}, and the images are {expected} ({chosen.upper()}); {fix}")
    batch = facts.sizes[0]
    if batch is not None and not 1 <= batch <= LARGEST_BATCH:
        raise BadInput(f"{path}: its input is for {batch} images at a time; expected 1 to {LARGEST_BATCH}")
    return chosen, batch


def fit_outputs(path: Path, facts: Facts, classes: int, output: str | None) -> list[str]:
    """Return the outputs that may be (N, ``classes``), in the file's order; the first that is one will be taken."""
    all_of_them = [f"{printable(name, 60)} {kind} {_shape(sizes)}" for name, kind, sizes in facts.outputs]
    tensors = [(name, sizes) for name, kind, sizes in facts.outputs if kind in FLOAT_TENSORS]
    if output is not None:
        tensors = [(name, sizes) for name, sizes in tensors if name == output]
        if not tensors:
            raise BadInput(f"{path}: no output {output!r} of float numbers; it has {listed(all_of_them)}")
    possible = [name for name, sizes in tensors if not sizes or (len(sizes) == 2 and sizes[1] in (None, classes))]
    if possible:
        return possible
    widths = [sizes[1] for _, sizes in tensors if len(sizes) == 2]
    fix = "export it so that one output is logits (N, classes)"
    if 1 in widths:
        fix = "a single value an image (a sigmoid?) is no score for each class; export two, or audit its predictions"
    elif widths:
        fix = (
            f"it tells {widths[0]} classes apart, and the test images have {classes}: where some classes have no "
            "images, give the names of all in the model's order; else it is a model for other data"
        )
    raise BadInput(f"{path}: no output is (N, {classes}): {listed(all_of_them)}; {fix}")


def _shape(sizes: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _steady(models: OnnxModels, images: TestImages, how: dict[str, Any]) -> tuple[str, ...]:
    """Refuse scores that differ from run to run; note those that depend on the other images of a batch."""
    some = images.images[:CHECKED]
    first, again = models.run(some, how), models.run(some, how)
    if not (np.isfinite(first).all() and np.isfinite(again).all()):
        return ()  # refused, with the image's name, once all have run
    scale = float(np.abs(first).max()) + 1e-6
    if float(np.abs(first - again).max()) > 1e-4 * scale:
        raise BadInput(
            f"{models.path}: the same images give other scores the second time; it was exported in training mode "
            "(dropout?): export it in evaluation mode"
        )
    if how["batch"] is None and len(some) > 1:
        alone = models.run(some[:1], how)
        if not float(np.abs(alone[0] - first[0]).max()) <= 1e-2 * scale:
            return (
                "an image's scores depend on the other images of its batch (dynamic quantization, or batch "
                "normalisation exported in training mode)",
            )
    return ()
