"""Bad inputs 8 to 15a as an audit meets them: the labelled test images, in every form that they come in."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tailkeep.auditing import image_pixels, images
from tailkeep.auditing.images import read_images
from tailkeep.errors import BadInput

RNG = np.random.default_rng(0)
DIGITS = load_digits()


@pytest.fixture
def folder(tmp_path):
    """Write colour PNG files, ``{"test/cat": 3}`` of them in each folder; return the folder above."""

    def write(counts, size=(8, 8)):
        root = tmp_path / "images"
        for name, count in counts.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
        return root

    return write


@pytest.fixture
def digits(tmp_path):
    """Real images: ten of scikit-learn's digits a class, as grey PNG files."""
    for digit in range(10):
        (tmp_path / "digits" / str(digit)).mkdir(parents=True)
        for row in np.flatnonzero(DIGITS.target == digit)[:10]:
            pixels = (DIGITS.images[row] * 15.9375).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "digits" / str(digit) / f"{row:04d}.png")
    return tmp_path / "digits"


def test_a_folder_of_classes_is_the_test_set(digits):
    found = read_images(digits)
    assert (found.form, found.images.shape, found.shape) == ("folder", (100, 1, 8, 8), (1, 8, 8))
    assert found.class_names == tuple("0123456789")
    assert (found.mean, found.std, found.notes) == ((0.5,), (0.5,), ())
    for row in (0, 37, 99):
        label, name = found.ids[row].split("/")
        assert label == found.class_names[found.labels[row]]
        pixels = (DIGITS.images[int(name.removesuffix(".png"))] * 15.9375).astype(np.uint8)
        np.testing.assert_array_equal(found.images[row, 0], pixels)
    assert read_images(digits).sha256 == found.sha256
    assert read_images(digits, class_names=[*"0123456789", "other"]).sha256 != found.sha256


def test_a_test_folder_and_the_names_that_train_gives(folder):
    root = folder({"train/ant": 1, "train/bee": 1, "train/cow": 1, "test/ant": 3, "test/cow": 2})
    found = read_images(root)
    assert found.class_names == ("ant", "bee", "cow")
    assert found.labels.tolist() == [0, 0, 0, 2, 2]  # cow is 2, not the second folder's 1
    assert found.ids[3] == "test/cow/000.png"
    assert found.notes == ("no test image is of 'bee': nothing can be said of them",)
    assert read_images(root, split="train").labels.tolist() == [0, 1, 2]


def test_a_test_folder_without_a_training_folder(folder):
    root = folder({"test/ant": 2, "test/cow": 2})
    assert read_images(root).class_names == ("ant", "cow")
    assert read_images(root, class_names=["cow", "bee", "ant"]).labels.tolist() == [2, 2, 0, 0]
    assert read_images(root / "test").ids[0] == "ant/000.png"


def test_a_class_that_is_called_test(folder):
    assert read_images(folder({"test": 2, "cat": 2})).class_names == ("cat", "test")


def test_another_split_is_never_taken_for_the_test_set(folder):
    root = folder({"train/ant": 1, "train/bee": 1, "val/ant": 1, "val/bee": 1})
    with pytest.raises(BadInput, match="there is no split 'test' with class folders; it has train, val: choose one"):
        read_images(root)
    assert len(read_images(root, split="val")) == 2


def test_08_an_unknown_class(folder):
    root = folder({"train/ant": 1, "train/bee": 1, "test/ant": 1, "test/beee": 1})
    with pytest.raises(BadInput, match="there is no class 'beee'; did you mean 'bee'"):
        read_images(root)
    with pytest.raises(BadInput, match="there is no class 'ant'"):
        read_images(root, split="train", class_names=["bee", "cow"])


def test_09_clutter_is_passed_over(folder):
    root = folder({"test/ant": 2, "test/bee": 2, ".ipynb_checkpoints/x": 1, "test/.hidden": 1})
    (root / "test" / "ant" / "notes.txt").write_text("x")
    assert len(read_images(root)) == 4


def test_10_damaged_images_are_named_counted_and_skipped_when_allowed(folder):
    root = folder({"ant": 3, "bee": 3})
    whole = read_images(root)
    for name in ("ant/001.png", "bee/002.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    with pytest.raises(BadInput, match=r"2 damaged images, and 1 are allowed: ant/001.png \(.*allow 2 bad images"):
        read_images(root, allow_bad=1)
    found = read_images(root, allow_bad=2)
    np.testing.assert_array_equal(found.images, whole.images[[0, 2, 3, 4]])
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.ids.tolist() == ["ant/000.png", "ant/002.png", "bee/000.png", "bee/001.png"]
    assert found.notes[0].startswith("skipped 2 damaged images: ant/001.png (")


def test_10_no_image_can_be_read(folder):
    root = folder({"ant": 1, "bee": 1})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match="there is no image that can be read"):
        read_images(root, allow_bad=2)


def test_11_conversions_are_counted(folder):
    root = folder({"ant": 3, "bee": 3})
    Image.fromarray(RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA").save(root / "ant" / "a.png")
    Image.fromarray(RNG.integers(0, 65536, (8, 8), dtype=np.uint16)).save(root / "ant" / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / "bee" / "c.jpg", exif=exif)
    found = read_images(root)
    assert found.shape == (3, 8, 8)
    assert found.notes == (
        "1 images of 16 bits cut to 8",
        "1 images turned upright by their EXIF tag",
        "1 transparent images laid on white",
    )


def test_12_an_empty_class_folder(folder):
    root = folder({"test/ant": 1, "test/bee": 1})
    (root / "test" / "cow").mkdir()
    with pytest.raises(BadInput, match=r"class folders without an image: 'cow'. Add images; or remove the folders"):
        read_images(root)


def test_sizes(folder):
    root = folder({"ant": 2, "bee": 2}, size=(6, 10))
    assert read_images(root).shape == (3, 6, 10)
    assert read_images(root, image_size=(4, 12), channels=1).shape == (1, 4, 12)
    assert read_images(root, image_size=8).shape == (3, 8, 8)
    folder({"bee": 1}, size=(6, 11))
    with pytest.raises(
        BadInput, match=r"different sizes .*ant/000.png is 6 x 10, bee/000.png is 6 x 11; give the size"
    ):
        read_images(root)
    assert read_images(root, image_size=8).shape == (3, 8, 8)
    with pytest.raises(BadInput, match="each side is 1 to 4096"):
        read_images(root, image_size=0)
    with pytest.raises(BadInput, match="channels 2 must be 1 or 3"):
        read_images(root, channels=2)


def test_a_photograph_that_lies_on_its_side_has_the_size_of_the_upright_one(folder):
    root = folder({"ant": 1, "bee": 1}, size=(6, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RNG.integers(0, 256, (10, 6, 3), dtype=np.uint8)).save(root / "bee" / "c.jpg", exif=exif)
    assert read_images(root).shape == (3, 6, 10)


def test_one_colour_file_makes_all_colour(digits):
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(digits / "9" / "colour.png")
    grey = read_images(digits, channels=1)
    found = read_images(digits)
    assert (found.shape, grey.shape) == ((3, 8, 8), (1, 8, 8))
    np.testing.assert_array_equal(found.images[0, 2], grey.images[0, 0])


def test_more_than_one_chunk_of_files(digits, monkeypatch):
    whole = read_images(digits)
    monkeypatch.setattr("tailkeep.auditing.image_folder.CHUNK", 7)
    seen = []
    found = read_images(digits, progress=lambda done, count: seen.append((done, count)))
    assert found.sha256 == whole.sha256
    assert seen[0] == (7, 100)
    assert seen[-1] == (100, 100)


def test_images_that_do_not_fit_into_memory(digits, monkeypatch):
    free = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(image_pixels.psutil, "virtual_memory", lambda: free)
    with pytest.raises(BadInput, match=r"100 images of .* take .* GB are free; choose a smaller image size"):
        read_images(digits)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mean": (0.5, 0.5)}, "mean has 2 values, and the images have 1 channels"),
        ({"std": 0.0}, "expected finite numbers, above 0"),
        ({"mean": float("nan")}, "expected finite numbers"),
        ({"mean": 127.5}, "looks like one of pixels from 0 to 255"),
        ({"form": "video"}, "is not one of auto, folder, arrays, huggingface, cifar10, cifar100"),
        ({"class_names": ["a", "a"]}, "expected two or more, all different"),
    ],
)
def test_settings_that_cannot_be(digits, settings, text):
    with pytest.raises(BadInput, match=text):
        read_images(digits, **settings)


def test_a_mean_for_every_channel(folder):
    found = read_images(folder({"ant": 1, "bee": 1}), mean=[0.485, 0.456, 0.406], std=0.25)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.25, 0.25, 0.25))


def test_what_is_no_source(tmp_path):
    with pytest.raises(BadInput, match="there is no such file or folder"):
        read_images(tmp_path / "absent")
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"test images do not come as .zip; give a folder of CLASS folders"):
        read_images(tmp_path / "images.zip")


IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("names", [("x_test", "y_test"), ("images", "labels"), ("test_images", "test_labels")])
def test_arrays(tmp_path, names):
    np.savez(tmp_path / "a.npz", **{names[0]: IMAGES, names[1]: np.arange(6)[:, None] % 3})
    found = read_images(tmp_path / "a.npz")
    assert (found.form, found.shape, found.class_names) == ("arrays", (3, 8, 8), ("0", "1", "2"))
    np.testing.assert_array_equal(found.images, IMAGES.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.ids[5] == "test/5"


def test_arrays_with_names_of_their_own(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=IMAGES[..., 0], y_test=[0, 1, 1, 0, 1, 0], class_names=["ant", "bee"])
    assert read_images(tmp_path / "a.npz").class_names == ("ant", "bee")
    found = read_images(tmp_path / "a.npz", class_names=["bee", "cow", "ant"])
    assert found.labels.tolist() == [2, 0, 0, 2, 0, 2]
    with pytest.raises(BadInput, match="the class names that you gave lack 'ant'; its own are 'ant', 'bee'"):
        read_images(tmp_path / "a.npz", class_names=["bee", "cow"])
    with pytest.raises(BadInput, match="taken as they are; only image files are resized"):
        read_images(tmp_path / "a.npz", image_size=16)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"x_test": IMAGES}, r"has no labels \(y_test, test_labels, labels, y\); it holds x_test"),
        ({"x_train": IMAGES, "y_train": [0] * 6}, "has no images"),
        ({"x": IMAGES / 255, "y": [0, 1] * 3}, "x is float64, images must be uint8"),
        ({"x": IMAGES[0, 0], "y": [0, 1] * 4}, r"x has shape \(8, 3\); images are"),
        ({"x": IMAGES[:, :, :, :2], "y": [0, 1] * 3}, r"x has shape \(6, 8, 8, 2\); images are"),
        ({"x": IMAGES, "y": [0, 1]}, r"y is int64 of shape \(2,\); labels are 6 whole numbers"),
        ({"x": IMAGES, "y": [0.0, 1] * 3}, "y is float64"),
        (
            {"x": IMAGES, "y": [0, 1, 2, 3, -1, 0]},
            "label 4 is -1, and classes count from 0; labels of -1 mean a hidden",
        ),
        ({"x": IMAGES, "y": [0, 1, 2, 3, 900, 0]}, "label 4 is 900, more classes than images"),
        ({"x": IMAGES, "y": [0, 1, 2, 0, 1, 2], "class_names": ["a", "b"]}, "label 2 is 2, and there are 2 classes"),
        ({"x": IMAGES, "y": [0] * 6}, "expected two classes or more"),
        ({"x": IMAGES, "y": [0, 1] * 3, "class_names": ["a", "a"]}, "the class name 'a' occurs twice"),
        ({"x": np.array([{}] * 6, dtype=object), "y": [0, 1] * 3}, "not readable as an .npz of plain arrays"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, text):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadInput, match=text):
        read_images(tmp_path / "a.npz")


def test_an_array_file_that_is_damaged(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=[0, 1] * 3)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(BadInput, match=r"not readable as an .npz"):
        read_images(tmp_path / "a.npz")


def test_the_official_cifar_files(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    files = {"batches.meta": {b"label_names": [b"n%d" % n for n in range(10)]}}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        files[name] = {
            b"data": RNG.integers(0, 256, (20, 3072), dtype=np.uint8),
            b"labels": [n % 10 for n in range(20)],
        }
    for name, content in files.items():
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    for path in (root, tmp_path):
        found = read_images(path, cache=tmp_path / "cache")
        assert (found.form, found.shape, len(found)) == ("cifar10", (3, 32, 32), 20)
        np.testing.assert_array_equal(found.images[3].ravel(), files["test_batch"][b"data"][3])
        assert found.notes[0].startswith("not official")
    assert len(read_images(root, split="train", cache=tmp_path / "cache")) == 100
    with pytest.raises(BadInput, match="there is no split 'val'; CIFAR has train and test"):
        read_images(root, split="val", cache=tmp_path / "cache")


def test_the_forms_are_told_apart(tmp_path, digits):
    assert images.find_form(digits) == "folder"
    for form, names in {"cifar100": ("meta", "train", "test"), "huggingface": ("state.json",)}.items():
        (tmp_path / form).mkdir()
        for name in names:
            (tmp_path / form / name).touch()
        assert images.find_form(tmp_path / form) == form
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "data" / "test.parquet").touch()
    assert images.find_form(tmp_path / "hub") == "huggingface"
    assert images.find_form(tmp_path / "cifar-100-python.tar.gz") == "cifar100"


def test_reading_images_needs_no_torch(digits):
    code = f"import sys; from tailkeep.auditing.images import read_images; read_images({str(digits)!r}); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'pyarrow', 'onnxruntime')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
