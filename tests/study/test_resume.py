"""What a kill costs, and that a second run costs nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tailkeep.study.results import result_hash
from tailkeep.study.runner import Study

RUN = "import sys; from tailkeep.cli import main; main(sys.argv[1:])"


def test_a_second_run_trains_nothing_and_writes_the_same_bytes(
    small: dict[str, Any], cli: Any, write: Any, tmp_path: Path
) -> None:
    write(tmp_path / "study.yaml", small)
    first = cli("run", "study.yaml", "--workers", "1")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "tailkeep-results" / "small"
    files = ["report.html", "frame.csv", "verdict.json"]
    before = {name: (folder / name).read_bytes() for name in files}
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "tailkeep-store").rglob("manifest.json")}
    second = cli("run", "study.yaml", "--workers", "1")
    assert second.returncode == 0, second.stderr
    assert "0 trainings to do, 18 stored already" in second.stdout
    assert "0 steps done now" in second.stdout
    assert {name: (folder / name).read_bytes() for name in files} == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "tailkeep-store").rglob("manifest.json")} == stored


def _start(study: Path, store: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, "run", str(study), "--store", str(store), "--workers", str(workers)]
    return subprocess.Popen(
        [*command, "--out", str(store.parent / "out")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_resumes_to_the_same_result_hash(
    small: dict[str, Any], opened: Callable[..., Study], write: Any, tmp_path: Path, workers: int
) -> None:
    small["recipe"]["epochs"] = 12
    whole = opened(small, store=tmp_path / "whole")
    assert not whole.run().failed
    expected = result_hash(whole.plan, whole.store)

    study, store = write(tmp_path / "again.yaml", small), tmp_path / "killed"
    kills, deadline = 0, time.monotonic() + 300
    while kills < 3 and time.monotonic() < deadline:
        process = _start(study, store, workers)
        goal = kills + 1
        while process.poll() is None and len(list(store.glob("t*/*/manifest.json"))) < goal * 3 - 1:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        time.sleep(0.1)  # into the next step
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # the main process alone: its workers must not go on beside the next run
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "a worker outlived its run"
        kills += 1
    assert kills >= 2, "the run was too short to be killed"
    resumed = opened(small, store=store, workers=workers)
    left = resumed.todo
    assert 0 < len(left) < len(resumed.plan.steps), "something was kept, something was left"
    outcome = resumed.run()
    assert not outcome.failed
    assert set(outcome.done) == set(left)
    assert result_hash(resumed.plan, resumed.store) == expected


def test_a_step_killed_in_the_middle_resumes_from_its_checkpoint(
    small: dict[str, Any], opened: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small["methods"], small["balanced"] = [small["methods"][0]], "none"
    small["controls"] = {"continued": False}
    whole = opened(small, store=tmp_path / "whole")
    whole.run()

    import tailkeep.training.loop as loop

    class Killed(BaseException):
        pass

    saved: list[int] = []
    original = loop.Checkpoint.save

    def save_then_die(self: Any, model: Any, optimizer: Any, step: int, log: Any) -> None:
        original(self, model, optimizer, step, log)
        saved.append(step)
        if len(saved) == 4:
            raise Killed

    monkeypatch.setattr(loop.Checkpoint, "save", save_then_die)
    broken = opened(small, store=tmp_path / "broken", checkpoint_every=0.0)
    with pytest.raises(Killed):
        broken.run()
    first: list[int] = []
    restore = loop.Checkpoint.restore

    def note(self: Any, model: Any, optimizer: Any) -> Any:
        step, log = restore(self, model, optimizer)
        first.append(step)
        return step, log

    monkeypatch.setattr(loop.Checkpoint, "save", original)
    monkeypatch.setattr(loop.Checkpoint, "restore", note)
    broken.run()
    assert first[0] == saved[-1] == 4, "it went on at the step of the last checkpoint"
    assert result_hash(broken.plan, broken.store) == result_hash(whole.plan, whole.store)


def test_workers_never_change_a_result(small: dict[str, Any], opened: Callable[..., Study], tmp_path: Path) -> None:
    one, two = opened(small, store=tmp_path / "one", workers=1), opened(small, store=tmp_path / "two", workers=2)
    one.run()
    two.run()
    assert result_hash(one.plan, one.store) == result_hash(two.plan, two.store)
