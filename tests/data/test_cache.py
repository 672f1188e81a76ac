import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailkeep.data import cache
from tailkeep.data.cache import cache_root, cached, entry_key, file_facts
from tailkeep.data.dataset import Dataset, Split, split_digest

KEY = "k" * 64


@pytest.fixture
def dataset(rng):
    def split(name, count):
        images = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % 2
        ids = np.array([f"{name}/é{index}" for index in range(count)])
        return Split(images, labels, ids, split_digest(images, labels, ("a", "b")))

    return Dataset("mine", ("a", "b"), split("train", 12), split("test", 6), ("a note",))


@pytest.fixture
def source(dataset):
    """A decoder that counts its calls."""

    class Decode:
        calls = 0

        def __call__(self):
            self.calls += 1
            return dataset

    return Decode()


def same(a, b):
    splits = [(getattr(a, name), getattr(b, name)) for name in ("train", "test")]
    return (a.name, a.class_names, a.notes) == (b.name, b.class_names, b.notes) and all(
        x.digest == y.digest and all(np.array_equal(getattr(x, part), getattr(y, part)) for part in cache._ARRAYS)
        for x, y in splits
    )


def entry(folder):
    return folder / "data" / KEY


def test_decoded_once_and_memory_mapped(tmp_path, dataset, source):
    for _ in range(3):
        found = cached(tmp_path, KEY, source)
        assert same(found, dataset)
        assert isinstance(found.train.images, np.memmap)
        assert not found.train.images.flags.writeable
    assert source.calls == 1
    assert cached(tmp_path, "j" * 64, source) is not None
    assert source.calls == 2


FILES = [f"{split}-{part}.npy" for split in ("train", "test") for part in ("images", "labels", "ids")]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_a_damaged_entry_is_decoded_again(tmp_path, dataset, source, name, harm):
    cached(tmp_path, KEY, source)
    path = entry(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[harm])
    assert same(cached(tmp_path, KEY, source), dataset)
    assert source.calls == 2
    assert same(cached(tmp_path, KEY, source), dataset)
    assert source.calls == 2  # and it was mended
    assert [path.name for path in (tmp_path / "data").iterdir()] == [KEY]


def test_damage_behind_the_same_times_is_found_when_asked(tmp_path, dataset, source):
    cached(tmp_path, KEY, source)
    path = entry(tmp_path) / "train-images.npy"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert same(cached(tmp_path, KEY, source, verify=True), dataset)
    assert source.calls == 2


def test_an_entry_that_was_only_touched_is_kept(tmp_path, source):
    cached(tmp_path, KEY, source)
    for path in entry(tmp_path).iterdir():
        os.utime(path, (1, 1))
    cached(tmp_path, KEY, source)
    assert source.calls == 1


@pytest.mark.parametrize("change", [{"format": 2}, {"key": "j" * 64}, {"files": None}, {"digests": {}}])
def test_a_manifest_of_something_else(tmp_path, source, change):
    cached(tmp_path, KEY, source)
    path = entry(tmp_path) / "manifest.json"
    body = {**cache.read_json(path)["body"], **change}
    cache.write_json(path, {"body": body, "sha256": cache._hash(body)})
    cached(tmp_path, KEY, source)
    assert source.calls == 2


def test_pickles_in_an_entry_are_never_loaded(tmp_path, source):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    cached(tmp_path, KEY, source)
    path = entry(tmp_path) / "train-ids.npy"
    np.save(path, np.array([Trap()] * 12, dtype=object), allow_pickle=True)
    manifest = cache.read_json(entry(tmp_path) / "manifest.json")
    fact = {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": cache.sha256_file(path)}
    manifest["body"]["files"]["train-ids.npy"] = fact
    cache.write_json(entry(tmp_path) / "manifest.json", {**manifest, "sha256": cache._hash(manifest["body"])})
    cached(tmp_path, KEY, source)
    assert source.calls == 2
    assert not (tmp_path / "sprung").exists()


def test_a_cache_that_cannot_be_written(tmp_path, dataset, source):
    (tmp_path / "file").write_text("not a folder")
    for _ in range(2):
        assert same(cached(tmp_path / "file", KEY, source), dataset)
    assert source.calls == 2


def test_a_disk_that_is_full(tmp_path, dataset, source, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    assert same(cached(tmp_path, KEY, source), dataset)
    assert list((tmp_path / "data").iterdir()) == []  # no half of an entry is left


def test_a_cache_that_is_read_only_is_read(tmp_path, dataset, source, monkeypatch):
    cached(tmp_path, KEY, source)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    # Root may write whatever the modes say, so writing itself is taken away.
    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    assert same(cached(tmp_path, KEY, source), dataset)
    assert source.calls == 1
    assert same(cached(tmp_path, "j" * 64, source), dataset)  # and a new one comes from memory
    assert source.calls == 2


def test_an_entry_that_another_process_published_first(tmp_path, dataset, source):
    def decode():
        cached(tmp_path, KEY, source)
        return dataset

    assert same(cached(tmp_path, KEY, decode), dataset)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [KEY]


def test_a_decoder_that_fails_leaves_nothing(tmp_path):
    def decode():
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        cached(tmp_path, KEY, decode)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_swept_after_a_day(tmp_path, source):
    data = tmp_path / "data"
    old, young, other = data / ".old.1.partial", data / ".new.1.partial", data / "entry"
    for folder in (old, young, other):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    long_ago = time.time() - 2 * cache._STALE_SECONDS
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    cached(tmp_path, KEY, source)
    assert sorted(path.name for path in data.iterdir()) == sorted([KEY, ".new.1.partial", "entry"])


def test_the_key_knows_the_files(tmp_path):
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    path.write_bytes(b"1")

    def key(spec=None, root=path.parent):
        return entry_key(spec or {"kind": "folder"}, root, file_facts(root, sorted(root.iterdir())))

    first = key()
    assert key() == first
    assert key({"kind": "arrays"}) != first
    shutil.copytree(path.parent, tmp_path / "b", copy_function=shutil.copy2)
    assert key(root=tmp_path / "b") != first  # the same names, sizes and times elsewhere
    times = path.stat()
    path.write_bytes(b"2")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert key() != first  # the change time tells
    second = key()
    path.rename(path.with_name("y.png"))
    assert key() not in (first, second)


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TAILKEEP_CACHE", str(tmp_path / "named"))
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root(None) == tmp_path / "named"
    monkeypatch.delenv("TAILKEEP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(None) == tmp_path / ".cache" / "tailkeep"


def test_the_digest_is_of_names_labels_and_pixels(dataset):
    split, names = dataset.train, dataset.class_names
    assert split_digest(np.asfortranarray(split.images), split.labels, names) == split.digest
    turned = split.labels[::-1]
    others = [
        split_digest(split.images[::-1], split.labels, names),
        split_digest(split.images, turned, names),
        split_digest(split.images, split.labels, ("a", "c")),
        split_digest(split.images.reshape(12, 3, 2, 8), split.labels, names),
    ]
    assert len({split.digest, *others}) == 5
    assert len(replace(split, labels=turned)) == 12
