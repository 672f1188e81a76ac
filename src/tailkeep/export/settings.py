"""What a study asks of the export: which file format, and whether and how it is timed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tailkeep.spec import Spec


class Export(Spec):
    """Write every model of the imbalanced setting to a runtime's file, run it on the evaluated images, and measure it.

    ``pack_weights``: weights of 4 bits or fewer two to a byte, which takes onnxruntime 1.23 to read.
    ``latency``: time the files of one seed against the dense model's, all in one interleaved run, at each of
    ``batches`` images, with ``threads`` threads, over ``rounds`` rounds.
    """

    format: Literal["onnx"] = "onnx"
    pack_weights: bool = False
    latency: bool = True
    batches: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(default=(1, 64), min_length=1)
    threads: int = Field(default=1, ge=1)
    rounds: int = Field(default=30, ge=5)
