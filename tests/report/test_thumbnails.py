from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tailkeep.report.thumbnails import pixels, png


def read(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_a_small_image_keeps_its_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    found = png(image)
    assert np.array_equal(np.asarray(read(found)), image.transpose(1, 2, 0))
    assert pixels(found) == (7, 5)


def test_one_channel_is_grey() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    picture = read(png(image))
    assert picture.mode == "L"
    assert np.array_equal(np.asarray(picture), image[0])


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 300, 600), (64, 32)), ((1, 1000, 2), (1, 64)), ((3, 65, 65), (64, 64))]
)
def test_a_large_image_shrinks_in_its_shape(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert read(png(np.zeros(shape, dtype=np.uint8))).size == size


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 8, 8), dtype=np.uint8),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((3, 0, 8), dtype=np.uint8),
        np.zeros((3, 8, 8), dtype=np.float32),
    ],
)
def test_what_is_no_image_is_refused(image) -> None:
    with pytest.raises(ValueError, match="expected a uint8 image"):
        png(image)


@pytest.mark.parametrize("data", [b"", b"<svg>", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_what_is_no_png_has_no_size(data: bytes) -> None:
    assert pixels(data) is None
