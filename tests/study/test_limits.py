"""What a machine runs out of is told apart and said in words."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailkeep.errors import BadInput, StepFailed
from tailkeep.files import fsync_folder, write_atomic
from tailkeep.study import limits
from tailkeep.study.limits import StorageFailed, TryAgain, check_room, own_failure, storage_errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x", "/store/a"), "disk_full"),
        (OSError(errno.EDQUOT, "x"), "disk_full"),
        (OSError(errno.EROFS, "x"), "read_only"),
        (OSError(errno.EIO, "x"), "disk_error"),
        (ValueError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
    ],
)
def test_24_what_a_disk_reports_is_told_in_words(error: Exception, reason: str) -> None:
    with pytest.raises(StorageFailed) as caught, storage_errors(Path("/store")):
        raise error
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{reason}: /store")
    assert "the same command goes on where it stopped" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), reason), "it crosses from a worker whole"


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), RuntimeError("x"), BadInput("x"), KeyboardInterrupt()])
def test_all_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, storage_errors(Path("/store")):
        raise error
    assert caught.value is error


def test_25_memory_is_worth_another_try_and_nan_is_not() -> None:
    def none() -> None:
        return None

    found = own_failure(MemoryError("x"), none)
    assert isinstance(found, TryAgain)
    assert found.reason == "out_of_memory"
    assert isinstance(own_failure(RuntimeError("DefaultCPUAllocator: can't allocate memory"), none), TryAgain)
    nan = StepFailed("nan", "the loss")
    assert own_failure(nan, none) is nan
    assert own_failure(RuntimeError("a fault of tailkeep"), none) is None
    code = SimpleNamespace(raised=lambda error: True, name="mine.py:build")
    of_the_user = own_failure(ValueError("x"), lambda: code)
    assert of_the_user is not None
    assert (of_the_user.reason, of_the_user.detail) == ("model_code", "mine.py:build: ValueError: x")
    again = pickle.loads(pickle.dumps(TryAgain("hang", "so")))
    assert (type(again), again.reason, again.detail) == (TryAgain, "hang", "so")


def test_24_room_is_checked_before_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "not" / "there" / "yet"
    check_room(place, 1e6)
    assert not place.exists()
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e6))
    with pytest.raises(BadInput, match=r"needs about 80 MB, 5 MB are free"):
        check_room(place, 80e6)

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "x")

    monkeypatch.setattr(limits.tempfile, "TemporaryFile", refuse)
    with pytest.raises(BadInput, match=r"cannot be written \(Read-only file system\)"):
        check_room(place, 1)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="x"):
        write_atomic(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text(encoding="utf-8") == "old"
    with pytest.raises(OSError, match="x"):
        fsync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "gone" / "a", "x", make_parent=False)
