from __future__ import annotations

import faulthandler
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def time_limit() -> Iterator[None]:
    """End the tests, with a traceback, where a file unfolds for ever: nothing gentler stops a loop in C."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def picture(rng: np.random.Generator) -> Callable[..., Image.Image]:
    """Make an image of random pixels; no two are equal."""

    def make(mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
        channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
        return Image.fromarray(rng.integers(0, 256, (*size[::-1], *channels), dtype=np.uint8), mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[[Mapping[str, int]], Path]:
    """Write PNG files, ``{"train/cat": 3}`` of them in each folder, below tmp_path/images; return that."""

    def write(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "images"
        for name, count in counts.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                picture().save(root / name / f"{index:03d}.png")
        return root

    return write


@pytest.fixture
def cifar_files(rng: np.random.Generator) -> dict[str, Any]:
    """What the seven files of CIFAR-10 hold, as Python 2 wrote it (bytes), with 20 images in each batch."""
    files: dict[str, Any] = {"batches.meta": {b"label_names": [name.encode() for name in CIFAR_CLASSES]}}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        files[name] = {b"data": pixels, b"labels": [int(n) for n in rng.permutation(20) % 10], b"batch_label": b"x"}
    return files


@pytest.fixture
def cifar_folder(tmp_path: Path, cifar_files: dict[str, Any]) -> Path:
    """The files of ``cifar_files`` in the official layout; the folder that holds cifar-10-batches-py."""
    root = tmp_path / "official"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in cifar_files.items():
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content, protocol=2))
    return root
