"""A small PNG of an image, for a page that shows which images changed their answer."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Pixels of the longer side at most."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(image: NDArray[np.uint8], size: int = SIZE) -> bytes:
    """Return an image uint8 (C, H, W) of one or three channels as a PNG of at most ``size`` pixels a side.

    A larger image is shrunk, its shape kept; a smaller one stays as it is, for a page to enlarge. The same image gives
    the same bytes with the same Pillow. Raises ValueError where the array is no such image.
    """
    from PIL import Image

    array = np.asarray(image)
    if array.ndim != 3 or array.shape[0] not in (1, 3) or not array.size or array.dtype != np.uint8:
        raise ValueError(f"expected a uint8 image (1 or 3, H, W), got {array.dtype} {array.shape}")
    if size < 1:
        raise ValueError(f"expected a size of 1 or more, got {size}")
    plain = np.ascontiguousarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))
    picture = Image.fromarray(plain)
    wide, high = picture.size
    if max(wide, high) > size:
        scale = size / max(wide, high)
        picture = picture.resize(
            (max(1, round(wide * scale)), max(1, round(high * scale))), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def pixels(image: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a PNG from its head; None where it is none."""
    if not image.startswith(SIGNATURE) or image[12:16] != b"IHDR" or len(image) < 33:
        return None
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
