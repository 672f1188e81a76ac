"""The store: whole or absent, believed only where its manifest checks."""

from __future__ import annotations

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import pytest

from tailkeep.errors import BadInput
from tailkeep.files import write_json
from tailkeep.study.record import at_work, check_record, read_record, runs, study_of, write_record
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


def test_a_broken_step_is_moved_aside_and_kept(tmp_path: Path) -> None:
    folder = _publish(Store(tmp_path))
    (folder / "model.safetensors").write_bytes(b"changed")
    _publish(Store(tmp_path))
    assert Store(tmp_path).status("train", KEY) == "done"
    aside = tmp_path / "train" / f"{KEY}.damaged"
    assert (aside / "model.safetensors").read_bytes() == b"changed"
    (folder / MANIFEST).write_bytes(b"{")
    assert Store(tmp_path).damaged() == [], "what was done again is whole"
    assert Store(tmp_path).move_aside("train", KEY) == tmp_path / "train" / f"{KEY}.damaged2"
    assert Store(tmp_path).damaged() == [("train", KEY)]


def test_a_whole_step_is_never_moved_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _publish(store)
    assert store.move_aside("train", KEY) is None
    assert store.status("train", KEY) == "done"


def test_leftovers_of_a_kill_are_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = store.partial("train", KEY)
    for name in (".step.json.12-ab.tmp", ".checkpoint.safetensors.1-cd.tmp", "checkpoint.reading", "progress.json"):
        (work / name).write_bytes(b"half")
    folder = _publish(store)
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, "model.safetensors", "step.json"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_of_work_begins_with_the_last_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, token in enumerate(("first", "second")):
        work = store.partial("train", KEY, token)
        (work / "checkpoint.safetensors").write_text(token, encoding="utf-8")
        (work / "log.jsonl").write_text("half", encoding="utf-8")
        os.utime(work / "checkpoint.safetensors", (number, number))
    mine = store.adopt("train", KEY, "third")
    assert sorted(path.name for path in mine.iterdir()) == [".owner", "checkpoint.safetensors"]
    assert (mine / "checkpoint.safetensors").read_text(encoding="utf-8") == "second"
    assert [path.name for path in mine.parent.iterdir()] == ["third"]


def test_a_checkpoint_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    """It lay in the ``.partial`` folder itself."""
    above = tmp_path / "train" / f"{KEY}.partial"
    above.mkdir(parents=True)
    for name in ("checkpoint.safetensors", "log.jsonl", "progress.json"):
        (above / name).write_text("{}", encoding="utf-8")
    assert Store(tmp_path).progress("train", KEY) == {}
    mine = Store(tmp_path).adopt("train", KEY, "token")
    assert sorted(path.name for path in mine.iterdir()) == [".owner", "checkpoint.safetensors"]
    assert [path.name for path in above.iterdir()] == ["token"]


@pytest.mark.parametrize("wrote_again", [False, True])
def test_a_holder_that_was_passed_over_cannot_publish(tmp_path: Path, wrote_again: bool) -> None:
    """Even where a write of its own, such as a checkpoint, made the folder anew: it would lack the other files."""
    store = Store(tmp_path)
    (store.partial("train", KEY, "slow") / "model.safetensors").write_bytes(b"slow")
    work = store.adopt("train", KEY, "next")
    if wrote_again:
        write_json(work.parent / "slow" / "progress.json", {})
    with pytest.raises(FileNotFoundError):
        store.publish("train", KEY, {"status": "done"}, "slow")
    assert store.status("train", KEY) == "missing"
    (work / "model.safetensors").write_bytes(b"next")
    assert store.publish("train", KEY, {"status": "done"}, "next")
    assert store.file("train", KEY, "model.safetensors").read_bytes() == b"next"


def test_the_second_publisher_gives_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for token in ("a", "b"):
        (store.partial("train", KEY, token) / "model.safetensors").write_text(token, encoding="utf-8")
    assert store.publish("train", KEY, {"status": "done"}, "b")
    assert not Store(tmp_path).publish("train", KEY, {"status": "done"}, "a")
    assert store.file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "b"
    assert not list(tmp_path.rglob("*.partial"))


def test_a_step_is_synced_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = Store(tmp_path), list[tuple[str, str]]()
    (store.partial("train", KEY) / "model.safetensors").write_bytes(b"tensors")
    fsync, rename = os.fsync, os.rename

    def note_sync(handle: int) -> None:
        log.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def note_rename(source: Any, target: Any) -> None:
        log.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    store.publish("train", KEY, {"status": "done"})
    at = log.index(("rename", KEY))
    assert {name for what, name in log[:at] if what == "sync"} >= {"model.safetensors", "step.json", "work"}
    manifest = next(i for i, (_, name) in enumerate(log) if name.startswith(f".{MANIFEST}"))
    assert max(i for i, entry in enumerate(log) if entry == ("sync", "model.safetensors")) < manifest < at
    assert ("sync", "train") in log[at:]


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that cannot be read at the moment would else be done again beside itself."""
    _publish(Store(tmp_path))

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("tailkeep.study.store.sha256_file", fail)
    with pytest.raises(OSError, match="Input/output"):
        Store(tmp_path).status("train", KEY)


def test_a_process_at_work_is_seen_and_shares_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with at_work(store, "one", ["a", "b"]):
        with at_work(store, "two", ["c"]), at_work(store, "one", ["b", "a"]):
            assert sorted(study_of(holder) for holder in runs(store)) == ["one", "one", "two"]
        with pytest.raises(BadInput, match=r"process \d+ .* runs a study that is named 'one' too"):
            at_work(store, "one", ["other"]).__enter__()
    assert runs(store) == []


def test_23_a_living_holder_of_the_lock_of_old_is_named_and_a_dead_one_passed_over(tmp_path: Path) -> None:
    store, lock = Store(tmp_path), tmp_path / "lock.json"
    mine = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": platform.node()}
    lock.write_text(json.dumps(mine), encoding="utf-8")
    with pytest.raises(BadInput, match=rf"process {os.getpid()} .* is at work on this store"):
        at_work(store).__enter__()
    lock.write_text(json.dumps({**mine, "pid": 999999999}), encoding="utf-8")
    with at_work(store):
        pass


def test_a_changed_record_is_refused_and_one_of_old_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = {**_record(), "name": "s", "spec": "", "goals": [], "steps": []}
    write_record(store, "s", record)
    path = store.study_file("s")
    assert read_record(path) == record
    path.write_text(path.read_text(encoding="utf-8").replace('"aaaa', '"aaab'), encoding="utf-8")
    with pytest.raises(BadInput, match="has changed since it was written"):
        read_record(path)
    write_json(path, record)
    assert read_record(path) == record


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
