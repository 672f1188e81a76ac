"""One image file to uint8 pixels of a wanted size: what is converted, and what is refused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
"""The only decoders that a stranger's file may reach."""
PIXEL_LIMIT = 89_478_485
"""Pillow's own default; above it a small file may unfold to gigabytes."""
_EXIF_ORIENTATION = 0x0112
_CHUNK = 1024

TRANSPARENT = "transparent images laid on white"
DEEP = "images of 16 bits cut to 8"
CMYK = "CMYK images converted to RGB"
ROTATED = "images turned upright by their EXIF tag"
FRAMES = "images of several frames, of which the first was taken"
COLOUR = "images of another colour space converted to RGB"


@dataclass(frozen=True)
class Decoded:
    """``pixels`` uint8 (channels, height, width), or None with ``problem`` saying why; ``changes``: what was done."""

    pixels: NDArray[np.uint8] | None
    problem: str = ""
    changes: tuple[str, ...] = ()


def decode_image(path: Path, size: tuple[int, int], channels: int) -> Decoded:
    """Read one file as ``size`` (height, width) with 1 or 3 channels. Never raises: a bad file comes back as such."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                return Decoded(None, f"{image.width} x {image.height} pixels are too many")
            return _convert(image, size, channels)
    except UnidentifiedImageError:
        return Decoded(None, "empty file" if path.stat().st_size == 0 else f"not one of {', '.join(FORMATS)}")
    # A damaged file can raise nearly anything inside a decoder; it is the file's fault, and the caller counts it.
    except Exception as error:
        return Decoded(None, str(error) or type(error).__name__)


def decode_all(paths: Sequence[Path], size: tuple[int, int], channels: int) -> Iterator[Decoded]:
    """Yield every file decoded, in order, by a pool of threads (decoders release Python's lock)."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Other warnings are about tags that are not read.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        for start in range(0, len(paths), _CHUNK):
            yield from pool.map(lambda path: decode_image(path, size, channels), paths[start : start + _CHUNK])


def _convert(image: Image.Image, size: tuple[int, int], channels: int) -> Decoded:
    changes = []
    height, width = size
    if getattr(image, "is_animated", False):
        changes.append(FRAMES)
    # A JPEG decodes at a fraction of its size many times faster; four times the wanted size leaves the resize its work.
    longest = 4 * max(width, height)
    image.draft(None, (longest, longest))
    turned = _orientation(image) not in (None, 1)
    image.load()
    upright = ImageOps.exif_transpose(image) if turned else image
    if turned:
        changes.append(ROTATED)
    plain, done = _eight_bit(upright)
    changes += done
    target = "L" if channels == 1 else "RGB"
    plain = plain.convert(target)
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(plain, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(pixels), changes=tuple(changes))


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation 1..8, or None where there is none or the tag is damaged (the pixels are not)."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _eight_bit(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the image as L or RGB with what was changed; raises ``ValueError`` for pixels without a known range."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("integer pixels beyond 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)), [DEEP]
    if mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Dropping the alpha channel would bring up whatever colours lie hidden beneath it.
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB"), [TRANSPARENT]
    if mode == "CMYK":
        return image.convert("RGB"), [CMYK]
    if mode in ("1", "L"):
        return image.convert("L"), []
    return image.convert("RGB"), [] if mode in ("RGB", "P", "RGBX") else [COLOUR]
