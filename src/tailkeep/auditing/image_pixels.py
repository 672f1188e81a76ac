"""Image files to one array of pixels: of one size, the damaged ones counted, the converted ones too."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from tailkeep.data.checks import listed
from tailkeep.data.decode import FORMATS, Decoded, decode_all
from tailkeep.errors import BadInput

Size = tuple[int, int]
Progress = Callable[[int, int], None]

CHUNK = 1024
"""Files that are decoded at a time."""
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"))
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Pixels:
    """``images`` uint8 (N, C, H, W), ``kept`` their positions among all files int64 (N,), and what was done."""

    images: NDArray[np.uint8]
    kept: NDArray[np.int64]
    notes: tuple[str, ...]


@dataclass
class _State:
    """What is known after some of the files."""

    images: NDArray[np.uint8] | None = None
    size: Size | None = None
    first: str = ""
    grey: bool = True
    done: int = 0
    kept: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


def read_pixels(
    chunks: Iterable[Sequence[tuple[str, Path]]],
    count: int,
    size: Size | None,
    channels: int | None,
    allow_bad: int,
    place: str,
    progress: Progress | None = None,
) -> Pixels:
    """Decode ``count`` files that come in ``chunks`` of (name in texts, path).

    ``size`` (height, width) in pixels; None: that of the files, which must then all have the same one. ``channels`` 1
    or 3; None: 1 where every file is grey. Raises ``BadInput`` that names ``place`` for more damaged files than
    ``allow_bad``, for files of different sizes, and where the pixels do not fit into the memory.
    """
    state = _State(size=size)
    for chunk in chunks:
        _look_over(state, chunk, size is None, place)
        decoded = decode_all([path for _, path in chunk], state.size or (1, 1), channels or 3)
        for (name, _), one in zip(chunk, decoded, strict=True):
            _add(state, one, name, count, place)
        if progress is not None:
            progress(state.done, count)
    if len(state.bad) > allow_bad:
        raise BadInput(
            f"{place}: {len(state.bad)} damaged images, and {allow_bad} are allowed: {listed(state.bad)}. Repair or "
            f"remove them, or allow {len(state.bad)} bad images to skip them (the report will then say so)"
        )
    if state.images is None:
        raise BadInput(f"{place}: there is no image that can be read")
    notes = [f"skipped {len(state.bad)} damaged images: {listed(state.bad)}"] if state.bad else []
    notes += [f"{times} {change}" for change, times in sorted(state.changes.items())]
    images = state.images[: len(state.kept)]
    if channels is None and state.grey:
        images = np.ascontiguousarray(images[:, :1])  # a grey file has three equal channels
    return Pixels(images, np.array(state.kept, dtype=np.int64), tuple(notes))


def _look_over(state: _State, chunk: Sequence[tuple[str, Path]], same: bool, place: str) -> None:
    """Read the headers of a chunk: whether all are grey and, with ``same``, whether all have one size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file comes out when it is decoded
        for name, path in chunk:
            look = _look(path)
            if look is None:
                continue
            found, grey = look
            state.grey &= grey
            if state.size is None:
                state.size, state.first = found, name
            if same and found != state.size:
                first, other = (f"{height} x {width}" for height, width in (state.size, found))
                raise BadInput(
                    f"{place}: the images have different sizes (height x width): {state.first} is {first}, {name} is "
                    f"{other}; give the size that the models take as image size, and all are resized to it"
                )


def _look(path: Path) -> tuple[Size, bool] | None:
    """Return a file's ((height, width) when upright, whether it is grey) from its header, or None for no image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width != height and image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
                width, height = height, width
            return (height, width), image.mode in _GREY
    except Exception:  # the decoder, which comes next, says what is wrong
        return None


def _add(state: _State, one: Decoded, name: str, count: int, place: str) -> None:
    row, state.done = state.done, state.done + 1
    if one.pixels is None:
        state.bad.append(f"{name} ({one.problem})")
        return
    if state.images is None:
        state.images = allocate((count, *one.pixels.shape), place)
    state.images[len(state.kept)] = one.pixels
    state.kept.append(row)
    state.changes.update(one.changes)


def allocate(shape: tuple[int, ...], place: str) -> NDArray[np.uint8]:
    """Return an empty array for images. Raises ``BadInput`` where the machine has not the memory for it."""
    needed, free = int(np.prod(shape, dtype=np.float64)), psutil.virtual_memory().available
    if needed > _MEMORY_SHARE * free:
        raise BadInput(
            f"{place}: {shape[0]} images of {shape[1:]} take {needed / 2**30:.1f} GB, and {free / 2**30:.1f} GB are "
            "free; choose a smaller image size or a part of the images"
        )
    return np.empty(shape, dtype=np.uint8)
