import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tailkeep.data import cifar
from tailkeep.data.cifar import Cifar10, Cifar100
from tailkeep.data.subset import class_counts
from tailkeep.errors import BadInput

BATCHES = [f"data_batch_{n}" for n in range(1, 6)]
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


@pytest.fixture
def load(tmp_path):
    def run(root, source=None):
        return (source or Cifar10()).load(root, tmp_path / "cache")

    return run


def pack(folder):
    """The official archive's layout; the folder goes."""
    path = folder.parent / ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    return path


def rewrite(root, name, content):
    (root / FOLDER / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


def expected(files, names):
    """Pixels and labels by the format's description: row-major red, green and blue planes."""
    rows = [row for name in names for row in files[name][b"data"]]
    images = np.array([[[row[1024 * c + 32 * y :][:32] for y in range(32)] for c in range(3)] for row in rows])
    return images, [label for name in names for label in files[name][b"labels"]]


def test_the_folder_as_its_description_says(cifar_files, cifar_folder, load):
    data = load(cifar_folder)
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.image_shape == (3, 32, 32)
    for split, names in ((data.train, BATCHES), (data.test, ["test_batch"])):
        images, labels = expected(cifar_files, names)
        assert np.array_equal(split.images, images)
        assert split.labels.tolist() == labels
    assert class_counts(data.train.labels, 10) == (10,) * 10
    assert data.train.ids[[0, 21, 99]].tolist() == ["data_batch_1/0", "data_batch_2/1", "data_batch_5/19"]


def test_folder_parent_archive_and_environment_give_one_dataset(cifar_folder, load, monkeypatch, tmp_path):
    digests = [load(cifar_folder).train.digest, load(cifar_folder / FOLDER).train.digest]
    archive = pack(cifar_folder / FOLDER)
    digests += [load(cifar_folder).train.digest, load(archive).train.digest]
    monkeypatch.setenv("TAILKEEP_DATA_ROOT", str(cifar_folder))
    digests.append(load(None).train.digest)
    assert len(set(digests)) == 1


def test_keys_of_text_and_arrays_of_python_3(cifar_files, cifar_folder, load):
    before = load(cifar_folder)
    for name, content in cifar_files.items():
        text = {key.decode(): value for key, value in content.items()}
        (cifar_folder / FOLDER / name).write_bytes(pickle.dumps(text, protocol=4))
    assert load(cifar_folder).train.digest == before.train.digest


def test_15a_other_checksums_are_noted_as_not_official(cifar_folder, load, monkeypatch):
    notes = load(cifar_folder).notes
    assert len(notes) == 1
    assert notes[0].startswith("not official: checksums differ for batches.meta, data_batch_1, ")
    for path in (cifar_folder / FOLDER).iterdir():  # as if these were the official files
        monkeypatch.setitem(cifar._CIFAR10.md5, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    shutil.rmtree(cifar_folder.parent / "cache")
    assert load(cifar_folder).notes == ()
    monkeypatch.setitem(cifar._CIFAR10.md5, "data_batch_3", "0" * 32)
    shutil.rmtree(cifar_folder.parent / "cache")
    assert load(cifar_folder).notes == ("not official: checksums differ for data_batch_3",)


def test_15a_a_file_that_would_run_code(cifar_folder, cifar_files, load, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    for name in ("batches.meta", "data_batch_4"):
        rewrite(cifar_folder, name, {**cifar_files[name], b"extra": Trap()})
        with pytest.raises(BadInput, match=rf"{name}: refused, it asks for (posix|nt)\.system"):
            load(cifar_folder)
        rewrite(cifar_folder, name, cifar_files[name])
    rewrite(cifar_folder, "test_batch", {**cifar_files["test_batch"], b"extra": Trap()})
    pack(cifar_folder / FOLDER)
    with pytest.raises(BadInput, match=r"test_batch: refused, it asks for (posix|nt)\.system"):
        load(cifar_folder)
    assert not (tmp_path / "sprung").exists()


def test_missing_files_are_named(cifar_folder, load):
    (cifar_folder / FOLDER / "data_batch_3").unlink()
    (cifar_folder / FOLDER / "test_batch").unlink()
    with pytest.raises(BadInput, match="these files are missing: data_batch_3, test_batch"):
        load(cifar_folder)
    pack(cifar_folder / FOLDER)
    with pytest.raises(BadInput, match="these files are missing: data_batch_3, test_batch"):
        load(cifar_folder)


def test_an_archive_without_class_names(cifar_folder, load):
    (cifar_folder / FOLDER / "batches.meta").unlink()
    pack(cifar_folder / FOLDER)
    with pytest.raises(BadInput, match=r"these files are missing: batches\.meta"):
        load(cifar_folder)


def test_nothing_there_says_what_to_do(tmp_path, load):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=f"holds neither {FOLDER} nor {ARCHIVE}.*--data-root"):
        load(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"no such folder.*fetch https://"):
        load(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="holds neither"):
        load(tmp_path / "file")


ROWS = np.zeros((20, 3072), dtype=np.uint8)
LABELS = [n % 10 for n in range(20)]


def bottomless():
    value = [0]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({b"data": ROWS[:, :100], b"labels": LABELS}, "data is not a uint8 array of rows of 3072 values"),
        ({b"data": ROWS.astype(np.int64), b"labels": LABELS}, "data is not a uint8 array"),
        ({b"data": ROWS.tolist(), b"labels": LABELS}, "data is not a uint8 array"),
        ({b"labels": LABELS}, "data is not a uint8 array"),
        ({b"data": ROWS}, "labels is not a list of 20 labels"),
        ({b"data": ROWS, b"labels": LABELS[:19]}, "labels is not a list of 20 labels"),
        ({b"data": ROWS, b"labels": [*LABELS[:19], 10]}, "label 19 is 10, not a number from 0 to 9"),
        ({b"data": ROWS, b"labels": [-1, *LABELS[1:]]}, "label 0 is -1, not a number from 0 to 9"),
        ({b"data": ROWS, b"labels": [True, *LABELS[1:]]}, "label 0 is of type bool"),
        ({b"data": ROWS, b"labels": [10**5000, *LABELS[1:]]}, "label 0 is of type int"),
        ({b"data": ROWS, b"labels": [bottomless(), *LABELS[1:]]}, "label 0 is of type list"),
        (b"<html>", "cannot be read as a CIFAR file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_batch_that_is_no_batch(cifar_folder, load, content, words):
    rewrite(cifar_folder, "data_batch_2", content)
    with pytest.raises(BadInput, match=f"data_batch_2: {words}"):
        load(cifar_folder)


@pytest.mark.parametrize("names", [None, [b"a"] * 10, [b"a", b"b"], [*map(str, range(9)), 9], "0123456789"])
def test_class_names_that_are_none(cifar_folder, load, names):
    rewrite(cifar_folder, "batches.meta", {b"label_names": names})
    with pytest.raises(BadInput, match="label_names is not a list of 10 different names"):
        load(cifar_folder)


def test_a_class_without_an_image(cifar_folder, cifar_files, load):
    labels = [label if label != 7 else 8 for label in cifar_files["test_batch"][b"labels"]]
    rewrite(cifar_folder, "test_batch", {**cifar_files["test_batch"], b"labels": labels})
    with pytest.raises(BadInput, match="every class needs at least 1 test images; 'horse' has 0"):
        load(cifar_folder)


def test_a_file_too_large_is_not_read(cifar_folder, load, monkeypatch):
    monkeypatch.setattr(cifar, "MEMBER_LIMIT", 50_000)
    with pytest.raises(BadInput, match=r"batch_1: larger than .* not a CIFAR file"):
        load(cifar_folder)


def test_cifar_100_has_fine_labels(tmp_path, rng, load):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class {n}" for n in range(100)]
    meta = {b"fine_label_names": [n.encode() for n in names], b"coarse_label_names": [b"coarse"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    for name, count in (("train", 200), ("test", 100)):
        labels = [n % 100 for n in range(count)]
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    data = load(tmp_path, Cifar100())
    assert data.class_names == tuple(names)
    assert class_counts(data.train.labels, 100) == (2,) * 100
    with pytest.raises(BadInput, match=f"holds neither {FOLDER}"):
        load(tmp_path)


@pytest.mark.cifar
@pytest.mark.skipif("TAILKEEP_DATA_ROOT" not in os.environ, reason="needs TAILKEEP_DATA_ROOT")
def test_the_whole_of_cifar_10(load):
    root = Path(os.environ["TAILKEEP_DATA_ROOT"])
    data = load(root)
    assert class_counts(data.train.labels, 10) == (5000,) * 10
    assert class_counts(data.test.labels, 10) == (1000,) * 10
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
