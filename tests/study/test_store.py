"""The store: whole or absent, believed only where its manifest checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailkeep.errors import BadInput
from tailkeep.study.record import check_record, lock, write_record
from tailkeep.study.store import MANIFEST, Store

KEY = "k" * 64


def _publish(store: Store, status: str = "done") -> Path:
    (store.partial("train", KEY) / "model.safetensors").write_bytes(b"tensors" * 100)
    store.publish("train", KEY, {"status": status})
    return store.folder("train", KEY)


def test_publish_leaves_no_partial_and_reads_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = _publish(store)
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, "model.safetensors", "step.json"]
    assert not list(tmp_path.glob("train/*.partial"))
    assert Store(tmp_path).status("train", KEY) == "done"


@pytest.mark.parametrize("name", ["model.safetensors", "step.json", MANIFEST])
def test_any_changed_byte_makes_a_step_missing(tmp_path: Path, name: str) -> None:
    path = _publish(Store(tmp_path)) / name
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 37):
        path.write_bytes(bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]]))
        assert Store(tmp_path).status("train", KEY) == "missing", f"bit 0 of byte {position} of {name}"
    path.write_bytes(data)
    assert Store(tmp_path).status("train", KEY) == "done"


@pytest.mark.parametrize("name", ["model.safetensors", "step.json", MANIFEST])
def test_truncated_or_absent_files_make_a_step_missing(tmp_path: Path, name: str) -> None:
    path = _publish(Store(tmp_path)) / name
    path.write_bytes(path.read_bytes()[:-1])
    assert Store(tmp_path).status("train", KEY) == "missing"
    path.unlink()
    assert Store(tmp_path).status("train", KEY) == "missing"
    with pytest.raises(BadInput, match="not stored whole"):
        Store(tmp_path).file("train", KEY, name)


def test_a_folder_that_exists_is_not_a_step_that_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "train" / KEY
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    assert Store(tmp_path).status("train", KEY) == "missing"
    _publish(Store(tmp_path))
    assert Store(tmp_path).status("train", KEY) == "done", "a broken leftover gives way to a whole result"


def test_nothing_stored_is_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = (_publish(store) / MANIFEST).read_bytes()
    (store.partial("train", KEY) / "model.safetensors").write_bytes(b"other")
    store.publish("train", KEY, {"status": "done"})
    assert (store.folder("train", KEY) / MANIFEST).read_bytes() == before


def test_only_a_failed_step_can_be_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _publish(store)
    store.forget("train", KEY)
    assert store.status("train", KEY) == "done"
    other = Store(tmp_path / "other")
    _publish(other, "failed")
    other.forget("train", KEY)
    assert other.status("train", KEY) == "missing"


def test_names_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="outside"):
        Store(tmp_path / "store").folder("train", "../../etc")


def test_a_living_holder_is_named_and_a_dead_one_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with lock(store), pytest.raises(BadInput, match=r"process \d+ .* is at work on this store"), lock(store):
        pass
    (tmp_path / "lock.json").write_text(
        '{"pid": 999999999, "started": 1.0, "host": "' + __import__("platform").node() + '"}'
    )
    with lock(store):
        assert (tmp_path / "lock.json").exists()
    assert not (tmp_path / "lock.json").exists()


def _record(**changes: Any) -> dict[str, Any]:
    environment = {"torch": "2.13", "threads": 1, "device": "cpu", **changes}
    return {"data": {"digits": {"train": "a" * 64, "test": "b" * 64}}, "environment": environment}


def test_15_data_that_changed_since_stops_the_run(tmp_path: Path) -> None:
    store, last = Store(tmp_path), _record()
    write_record(store, "s", last)
    now = {"digits": {"train": "a" * 64, "test": "c" * 64}}
    with pytest.raises(BadInput, match=r"(?s)data of study 's' changed.*digits \(test\): bbbb.* -> cccc.*--new-data"):
        check_record(store, "s", now, last["environment"], False, False)
    check_record(store, "s", now, last["environment"], True, False)


def test_26_an_environment_that_changed_since_stops_the_run(tmp_path: Path) -> None:
    store, last = Store(tmp_path), _record()
    write_record(store, "s", last)
    with pytest.raises(BadInput, match=r"(?s)environment of study 's' changed.*threads: 1 -> 2.*--new-env"):
        check_record(store, "s", last["data"], _record(threads=2)["environment"], False, False)
    check_record(store, "s", last["data"], _record(threads=2)["environment"], False, True)
