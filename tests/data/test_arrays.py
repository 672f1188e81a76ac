import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tailkeep.data import arrays
from tailkeep.data.arrays import Arrays
from tailkeep.data.subset import class_counts
from tailkeep.errors import BAD_INPUT, BadInput


@pytest.fixture
def content(rng):
    return {
        "x_train": rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(12) % 3,
    }


@pytest.fixture
def load(tmp_path):
    """Write arrays as tmp_path/mine.npz and load that; without any, load what lies there."""

    def run(content=None, **settings):
        if content is not None:
            np.savez_compressed(tmp_path / "mine.npz", **content)
        return Arrays(path=str(tmp_path / "mine.npz"), **settings).load(cache=tmp_path / "cache")

    return run


def test_images_and_labels(content, load):
    data = load(content)
    assert (data.name, data.class_names, data.notes) == ("mine", ("0", "1", "2"), ())
    assert np.array_equal(data.train.images, content["x_train"].transpose(0, 3, 1, 2))
    assert data.train.labels.tolist() == content["y_train"].tolist()
    assert class_counts(data.test.labels, 3) == (4, 4, 4)
    assert data.train.ids[:2].tolist() == ["train/0", "train/1"]
    assert data.test.ids[-1] == "test/11"


def test_layouts_give_one_dataset(content, load):
    last = load(content)
    first = {name: a.transpose(0, 3, 1, 2) if name[0] == "x" else a.astype(np.uint8) for name, a in content.items()}
    assert load(first).train.digest == last.train.digest
    grey = {name: a[..., :1] if name[0] == "x" else a for name, a in content.items()}
    flat = {name: a[..., 0] if name[0] == "x" else a for name, a in content.items()}
    assert load(grey).train.digest == load(flat).train.digest
    assert load(flat).image_shape == (1, 8, 8)


def test_class_names(content, load):
    assert load({**content, "class_names": np.array(["a", "b", "c"])}).class_names == ("a", "b", "c")
    with pytest.raises(BadInput, match="class_names holds a name twice"):
        load({**content, "class_names": np.array(["a", "b", "a"])})
    with pytest.raises(BadInput, match=r"y_train\[2\] is 2, there are 2 classes"):
        load({**content, "class_names": np.array(["a", "b"])})
    with pytest.raises(BadInput, match="at least 1 training images; 'd' has 0"):
        load({**content, "class_names": np.array(["a", "b", "c", "d"])})


def test_a_relative_path_is_taken_from_the_data_root(content, load, tmp_path):
    expected = load(content).train.digest
    assert Arrays(path="mine.npz").load(tmp_path, tmp_path / "cache").train.digest == expected
    with pytest.raises(BadInput, match=r"other\.npz: no such file; .path:. of kind arrays names an \.npz file"):
        Arrays(path="other.npz").load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_train": np.zeros((30, 8, 8, 3))}, "x_train is float64, images must be uint8 from 0 to 255"),
        ({"x_train": np.zeros((30, 8, 8, 4), np.uint8)}, r"x_train has shape \(30, 8, 8, 4\); images are"),
        ({"x_train": np.zeros((30, 64), np.uint8)}, r"x_train has shape \(30, 64\)"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test has shape"),
        ({"x_test": np.zeros((12, 9, 8, 3), np.uint8)}, "images of different shapes"),
        ({"y_train": np.arange(29)}, r"y_train is int64 of shape \(29,\), expected integers of shape \(30,\)"),
        ({"y_train": np.eye(3)[np.arange(30) % 3]}, "y_train is float64 of shape"),
        ({"y_test": np.arange(12) % 3 / 1}, "y_test is float64"),
        ({"y_train": np.arange(30) % 3 - 1}, r"y_train\[0\] is -1, labels count from 0"),
        ({"y_test": np.arange(12) % 4}, r"y_test\[3\] is 3, there are 3 classes"),
        ({"y_test": np.arange(12) % 2}, "at least 1 test images; '2' has 0"),
        ({"y_train": np.arange(30) % 3 + 1}, "at least 1 training images; '0' has 0"),
        # Labels that are some other number: names for a milliard classes would fill the memory.
        (
            {"y_train": np.array([*range(29), 10**9])},
            r"y_train\[29\] is 1000000000, but 30 training images cannot fill",
        ),
        ({"y_train": np.full(30, 2**63 + 1, np.uint64)}, "is 9223372036854775809, not the number of a class"),
        ({"y_test": np.full(12, 2**63 + 1, np.uint64)}, "is 9223372036854775809, not the number of a class"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("time_limit")
def test_arrays_that_do_not_fit(content, load, change, words):
    with pytest.raises(BadInput, match=words) as caught:
        load({**content, **change})
    assert caught.value.exit_code == BAD_INPUT
    assert "mine.npz" in str(caught.value)


def test_missing_arrays_are_named(content, load):
    del content["y_test"], content["x_train"]
    with pytest.raises(BadInput, match="lacks x_train, y_test; it holds y_train, x_test"):
        load(content)


def test_13_an_image_in_both_splits(content, load):
    content["x_test"][5] = content["x_train"][7]
    with pytest.raises(BadInput, match=r"1 test images .*: train/7 = test/5"):
        load(content)
    assert load(allow_overlap=True).notes == (
        "overlap: 1 test images have the same pixels as a training image (train/7 = test/5)",
    )


def test_15_changed_arrays_are_seen(content, load):
    before = load(content)
    content["x_train"][0, 0, 0, 0] ^= 1
    assert load(content).train.digest != before.train.digest
    assert load(content).test.digest == before.test.digest


def test_decoded_once(content, load, monkeypatch):
    first = load(content)
    monkeypatch.setattr(arrays, "_read", lambda path: pytest.fail("read again"))
    second = load()
    assert isinstance(second.train.images, np.memmap)
    assert second.train.digest == first.train.digest


def test_pickled_objects_do_not_run(content, load, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    for name in ("x_train", "class_names"):
        with pytest.raises(BadInput, match=r"not readable as an \.npz of plain arrays"):
            load({**content, name: np.array([Trap()] * 30, dtype=object)})
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_claims_too_much(content, load, tmp_path, monkeypatch):
    path = tmp_path / "mine.npz"
    np.savez(path, **content)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }".ljust(117) + b"\n"
    parts["x_train.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(BadInput, match=r"not readable as an \.npz"):
        load()
    monkeypatch.setattr(arrays, "TOTAL_LIMIT", 5000)
    with pytest.raises(BadInput, match="refused, its arrays unfold to"):
        load(content)


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_npz(load, tmp_path, data):
    (tmp_path / "mine.npz").write_bytes(data)
    with pytest.raises(BadInput, match=r"not readable as an \.npz|lacks x_train"):
        load()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_always_bad_input(content, tmp_path, rng, save):
    path = tmp_path / "mine.npz"
    save(path, **content)
    whole = path.read_bytes()
    refused = 0
    for turn in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(0, len(data))] if turn % 3 == 0 else data)
        try:
            Arrays(path=str(path))._decode(path)
        except BadInput:
            refused += 1
    assert refused > 100
