"""Leases: one living holder; a dead one is passed over, on this machine at once, on another after its silence."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dead import dead_process
from tailkeep.files import create_whole
from tailkeep.study import lease as module
from tailkeep.study.lease import Holder, Lease, Watch, busy, process_started, read_holder


def plant(path: Path, **changes: object) -> Holder:
    """A lease of another holder than this process."""
    holder = replace(
        Holder("t" * 16, module.machine(), "host", os.getpid(), process_started(os.getpid()) or 0), **changes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    return holder


def test_a_lease_has_one_holder_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "leases" / "a.lease"
    with Lease.take(path, "work") as held:  # type: ignore[union-attr]
        assert Lease.take(path) is None
        assert busy(path) == held.holder
        assert (held.holder.pid, held.holder.what) == (os.getpid(), "work")
    assert busy(path) is None
    assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == [], "nothing is left beside it"


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    pid, started = dead_process()
    plant(path, pid=pid, started=started)
    lease = Lease.take(path)
    assert lease is not None
    assert read_holder(path) == lease.holder


def test_a_process_that_got_a_dead_ones_number_is_another(tmp_path: Path) -> None:
    plant(tmp_path / "a.lease", started=1.0)
    assert Lease.take(tmp_path / "a.lease") is not None


def test_a_zombie_holds_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    plant(tmp_path / "a.lease", pid=child.pid, started=process_started(child.pid))
    assert busy(tmp_path / "a.lease") is not None
    child.kill()
    deadline = time.monotonic() + 10
    while process_started(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # killed, and not yet waited for
    assert busy(tmp_path / "a.lease") is None
    child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "x"}', "\x00\xff"])
def test_a_holder_elsewhere_lives_while_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Nor does a lease that names nobody stay for ever: its maker was killed before it wrote."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    path, watch = tmp_path / "a.lease", Watch()
    plant(path, machine="another machine", pid=1, started=0.0)
    if text != "[]":
        path.write_text(text, encoding="utf-8")
    os.utime(path, (1, 1))  # its clock is far behind: that says nothing
    for beat in range(2, 6):
        assert busy(path, watch) is not None
        time.sleep(0.2)
        os.utime(path, (beat, beat))
    assert busy(path, watch) is not None
    time.sleep(0.4)
    assert busy(path, watch) is None
    assert not path.exists()


def test_a_lease_that_changed_hands_is_not_taken_from_its_new_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a dead holder and the rename another process may have been faster."""
    path = tmp_path / "a.lease"
    pid, started = dead_process()
    dead = plant(path, pid=pid, started=started)
    living = plant(path, token="living")
    module._reclaim(path, dead)
    assert read_holder(path) == living

    looks = iter([dead, living])
    monkeypatch.setattr(module, "read_holder", lambda path: next(looks))
    module._reclaim(path, dead)  # the file changed after the second look: it is given back
    monkeypatch.undo()
    assert read_holder(path) == living


def test_the_holder_sees_that_it_was_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    lease = Lease.take(path)
    assert lease is not None
    assert lease.mine()
    path.unlink()
    other = plant(path, token="other")
    assert not lease.mine()
    lease.touch()
    lease.release()
    assert read_holder(path) == other, "and leaves the other's lease alone"


def test_the_heart_touches_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.05)
    monkeypatch.setattr(module, "HEART", module._Heart())
    with Lease.take(tmp_path / "a.lease") as lease:  # type: ignore[union-attr]
        os.utime(lease.path, (1, 1))
        deadline = time.monotonic() + 10
        while lease.path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.path.stat().st_mtime > 1


def test_without_hard_links_an_exclusive_create_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert create_whole(tmp_path / "a", b"first")
    assert not create_whole(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def grab(folder: str, results: str, rounds: int) -> None:
    """Take a lease again and again, a dead one among them; two holders at once would be seen by the folder."""
    path, room = Path(folder) / "a.lease", Path(folder) / "room"
    for _ in range(rounds):
        lease = Lease.take(path)
        if lease is None:
            continue
        room.mkdir()  # fails where another one is in
        room.rmdir()
        if os.urandom(1)[0] < 128:
            lease.release()
        else:  # leave it as a process that died would
            module.HEART.discard(lease)
            plant(path, token=lease.token, started=1.0)
    Path(results).write_text("fine", encoding="utf-8")


def test_many_processes_never_hold_one_lease_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context()
    folder = tmp_path / "leases"
    folder.mkdir()
    results = [tmp_path / f"{number}" for number in range(4)]
    processes = [context.Process(target=grab, args=(str(folder), str(path), 60)) for path in results]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [path.exists() and path.read_text(encoding="utf-8") for path in results] == ["fine"] * 4
