"""A step carried out: under its lease, published once, and alone on the machine where it measures time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailkeep.errors import StepFailed
from tailkeep.study.carry import HELD, carry_out, holder_of, store_failure, turn
from tailkeep.study.lease import Lease, lease_name
from tailkeep.study.limits import StorageFailed, TryAgain, own_failure
from tailkeep.study.plan import Step
from tailkeep.study.store import Store

STEP = Step("k" * 64, "train", {"parents": {}}, "a label")
MEASURE = Step("m" * 64, "measure", {"parents": {}}, "times")


def carried(store: Store, act: Callable[[Path], dict[str, Any]], step: Step = STEP) -> str:
    record = {"spec": step.spec, "label": step.label, "facts": {}}
    return carry_out(step, store, record, act, lambda error: own_failure(error, lambda: None))


def fine(folder: Path) -> dict[str, Any]:
    (folder / "model.safetensors").write_bytes(b"weights")
    return {"cost": 1}


def raising(error: BaseException) -> Callable[[Path], dict[str, Any]]:
    def act(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint.safetensors").write_bytes(b"half way")
        (folder / "log.jsonl").write_bytes(b"half")
        raise error

    return act


def test_a_step_is_published_with_its_record_and_nothing_is_left_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert carried(store, fine) == "done"
    record = store.step("train", STEP.key)
    assert {k: record[k] for k in ("status", "label", "cost")} == {"status": "done", "label": "a label", "cost": 1}
    assert record["seconds"] >= 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "manifest.json", "step.json", "model.safetensors",
    }  # fmt: skip
    assert carried(store, raising(AssertionError("done twice"))) == "done"


def test_a_failure_of_its_own_is_stored_without_half_done_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert carried(store, raising(StepFailed("nan", "the loss"))) == "failed"
    record = store.step("train", STEP.key)
    assert (record["reason"], record["detail"]) == ("nan", "the loss")
    assert {path.name for path in store.folder("train", STEP.key).iterdir()} == {"manifest.json", "step.json"}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), TryAgain),
        (OSError(28, "full"), StorageFailed),
        (RuntimeError("a fault of tailkeep"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_is_not_the_steps_own_leaves_its_checkpoint_and_no_lease(
    tmp_path: Path, error: BaseException, raised: type[BaseException]
) -> None:
    store = Store(tmp_path)
    with pytest.raises(raised):
        carried(store, raising(error))
    assert store.status("train", STEP.key) == "missing"
    assert holder_of(STEP, store) is None

    def resumes(folder: Path) -> dict[str, Any]:
        assert [path.name for path in sorted(folder.iterdir())] == [".owner", "checkpoint.safetensors"]
        return fine(folder)

    assert carried(store, resumes) == "done"


def test_memory_is_not_kept_by_the_error(tmp_path: Path) -> None:
    """Else the next try would find the tensors of the last one still there."""
    with pytest.raises(TryAgain) as caught:
        carried(Store(tmp_path), raising(MemoryError()))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_step_that_another_one_holds_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lease = store.leases.take(lease_name("train", STEP.key))
    assert lease is not None
    assert carried(store, raising(AssertionError("worked at twice"))) == HELD
    assert not store_failure(STEP, store, "hang", "x")
    assert store.status("train", STEP.key) == "missing"
    lease.release()
    assert store_failure(STEP, store, "hang", "x")
    assert store.step("train", STEP.key)["reason"] == "hang"


@pytest.mark.parametrize("fails", [False, True])
def test_who_was_passed_over_neither_publishes_nor_fails_the_step(tmp_path: Path, fails: bool) -> None:
    """A frozen machine wakes up: the lease and the folder of work went to another process."""
    store = Store(tmp_path)

    def sleeper(folder: Path) -> dict[str, Any]:
        fine(folder)
        (tmp_path / "leases" / f"{lease_name('train', STEP.key)}.lease").unlink()
        other = store.leases.take(lease_name("train", STEP.key))
        assert other is not None
        store.adopt("train", STEP.key, other.token)
        if fails:
            raise FileNotFoundError(str(folder))
        return {}

    assert carried(store, sleeper) == HELD
    assert store.status("train", STEP.key) == "missing"


def test_nothing_starts_while_time_is_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with turn(MEASURE, store) as lease:
        assert lease is not None
        assert carried(store, raising(AssertionError("started"))) == HELD
        assert holder_of(STEP, store) is not None
        other = Step("o" * 64, "measure", {"parents": {}}, "other times")
        with turn(other, store) as second:
            assert second is None, "nor does another measurement"
    assert holder_of(STEP, store) is None
    assert carried(store, fine) == "done"


def test_a_measurement_waits_for_what_runs_on_this_machine(tmp_path: Path) -> None:
    store, began = Store(tmp_path), threading.Event()
    running = store.leases.take(lease_name("train", STEP.key))
    Lease.take(tmp_path / "leases" / "run.x.lease")  # a process at work is no step
    assert running is not None

    def act(folder: Path) -> dict[str, Any]:
        began.set()
        return {}

    thread = threading.Thread(target=carried, args=(store, act, MEASURE))
    thread.start()
    time.sleep(0.5)
    assert not began.is_set()
    running.release()
    assert began.wait(30)
    thread.join(30)
    assert store.status("measure", MEASURE.key) == "done"
