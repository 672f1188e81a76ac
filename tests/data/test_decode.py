"""Bad inputs 10 and 11: damaged images are named, unusual ones converted as documented and counted."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tailkeep.data import decode
from tailkeep.data.decode import decode_all, decode_image

SIZE = (8, 8)


@pytest.fixture
def save(tmp_path):
    def write(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def planes(image):
    """(channels, height, width) of a Pillow image of 8 bits."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.webp", "x.gif"])
def test_plain_images_keep_their_pixels(save, picture, name):
    grey = picture("L")
    options = {"lossless": True} if name == "x.webp" else {}
    found = decode_image(save(grey if name != "x.webp" else grey.convert("RGB"), name, **options), SIZE, 3)
    assert np.array_equal(found.pixels, planes(grey.convert("RGB")))
    assert (found.problem, found.changes) == ("", ())


def test_channels(save, picture):
    colour = picture()
    path = save(colour)
    assert np.array_equal(decode_image(path, SIZE, 3).pixels, planes(colour))
    assert np.array_equal(decode_image(path, SIZE, 1).pixels, planes(colour.convert("L")))
    assert decode_image(path, SIZE, 1).pixels.dtype == np.uint8


def test_size_is_height_and_width(save, picture):
    image = picture(size=(16, 6))
    found = decode_image(save(image), (4, 8), 3)
    assert found.pixels.shape == (3, 4, 8)
    assert np.array_equal(found.pixels, planes(image.resize((8, 4), Image.Resampling.BILINEAR)))


def test_11_cmyk(save, picture):
    image = picture("CMYK")
    found = decode_image(save(image, "x.tif"), SIZE, 3)
    assert np.array_equal(found.pixels, planes(image.convert("RGB")))
    assert found.changes == (decode.CMYK,)


def test_11_sixteen_bits(save, rng):
    deep = rng.integers(0, 65536, SIZE, dtype=np.uint16)
    found = decode_image(save(Image.fromarray(deep)), SIZE, 3)
    assert np.array_equal(found.pixels, np.repeat((deep >> 8).astype(np.uint8)[None], 3, axis=0))
    assert found.changes == (decode.DEEP,)


def test_11_transparency_is_laid_on_white(save):
    # Red, half red, and a red that is wholly hidden: dropping the alpha channel would bring it up.
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 128], [255, 0, 0, 0]]], dtype=np.uint8)
    found = decode_image(save(Image.fromarray(rgba, "RGBA")), (1, 3), 3)
    assert found.pixels[:, 0].T.tolist() == [[255, 0, 0], [255, 127, 127], [255, 255, 255]]
    assert found.changes == (decode.TRANSPARENT,)


def test_11_a_palette_with_a_transparent_colour(save):
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    found = decode_image(save(image, transparency=1), SIZE, 1)
    assert (found.pixels == 255).all()
    assert found.changes == (decode.TRANSPARENT,)
    found = decode_image(save(image, "y.png"), SIZE, 1)
    assert (found.pixels == 9).all()
    assert found.changes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_11_exif_orientation(save, orientation, name):
    # The corner that is bright when the image is upright is where the EXIF standard says it is stored.
    upright = np.zeros((32, 32), dtype=np.uint8)
    upright[:16, :16], upright[:16, 16:] = 255, 100
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif)
    found = decode_image(path, (32, 32), 1)
    assert np.abs(found.pixels[0].astype(int) - upright).max() <= 8  # JPEG's own loss
    assert found.changes == (() if orientation == 1 else (decode.ROTATED,))


def test_11_the_first_of_several_frames(save, picture):
    frames = [picture("L") for _ in range(3)]
    path = save(frames[0], "x.tif", save_all=True, append_images=frames[1:])
    found = decode_image(path, SIZE, 1)
    assert np.array_equal(found.pixels, planes(frames[0]))
    assert found.changes == (decode.FRAMES,)


def test_11_other_colour_spaces(save, picture):
    image = picture().convert("LAB")
    found = decode_image(save(image, "x.tif"), SIZE, 3)
    assert found.pixels.shape == (3, *SIZE)
    assert found.changes == (decode.COLOUR,)
    found = decode_image(save(Image.new("F", SIZE, 0.5), "y.tif"), SIZE, 3)
    assert found.pixels is None
    assert found.problem == "floating-point pixels have no known range"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif", "x.webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_10_a_truncated_image_comes_back_as_damaged(save, picture, name, share):
    path = save(picture(size=(64, 64)), name)
    assert decode_image(path, SIZE, 3).pixels is not None
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found = decode_image(path, SIZE, 3)
    assert found.pixels is None
    assert found.problem


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty file"), (b"<html>", "not one of JPEG, PNG"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not one of JPEG, PNG")],
)
def test_10_what_is_no_image(tmp_path, content, words):
    (tmp_path / "x.jpg").write_bytes(content)
    assert words in decode_image(tmp_path / "x.jpg", SIZE, 3).problem


def test_10_no_file_at_all(tmp_path):
    found = decode_image(tmp_path / "x.png", SIZE, 3)
    assert found.pixels is None
    assert "No such file" in found.problem


def test_only_the_listed_formats_reach_a_decoder(tmp_path, picture):
    # A name proves nothing: these are real images of formats that a stranger's file may not use.
    for form in ("PPM", "TGA", "ICO", "PCX"):
        buffer = io.BytesIO()
        picture().save(buffer, form)
        (tmp_path / "x.png").write_bytes(buffer.getvalue())
        assert "not one of" in decode_image(tmp_path / "x.png", SIZE, 3).problem


def test_14_an_image_that_unfolds(save, monkeypatch):
    path = save(Image.new("L", (3000, 2000)))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(decode, "PIXEL_LIMIT", 1_000_000)
    assert decode_image(path, SIZE, 3).problem == "3000 x 2000 pixels are too many"
    # Pillow's own warning is an error too.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)
    monkeypatch.setattr(decode, "PIXEL_LIMIT", 1 << 40)
    (found,) = decode_all([path], SIZE, 3)
    assert found.pixels is None
    assert "decompression bomb" in found.problem


def test_decode_all_keeps_the_order(save, picture, monkeypatch):
    monkeypatch.setattr(decode, "_CHUNK", 4)
    images = [picture() for _ in range(10)]
    paths = [save(image, f"{index}.png") for index, image in enumerate(images)]
    paths[6].write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(decode_all(paths, SIZE, 3))
    assert [item.pixels is None for item in found] == [index == 6 for index in range(10)]
    for index in (0, 3, 4, 5, 9):
        assert np.array_equal(found[index].pixels, planes(images[index]))
