"""Leases on an object store: created once, taken over by one of two, given up by who was passed over."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest

from dead import dead_process
from tailkeep.errors import BadInput
from tailkeep.study import lease as clock
from tailkeep.study.lease import HEART, Holder, Watch, new_holder
from tailkeep.study.object_lease import ObjectLease, ObjectLeases, body, path_of
from tailkeep.study.objects import Objects, open_objects


@pytest.fixture(params=["s3", "memory"])
def objects(request: pytest.FixtureRequest, bucket: str) -> Objects:
    return open_objects(f"{request.param}://{bucket}/leases of")


@pytest.fixture
def leases(objects: Objects) -> ObjectLeases:
    return ObjectLeases(objects, Watch())


def plant(objects: Objects, name: str, beat: int = 0, **changes: Any) -> Holder:
    """A lease of another holder than this process."""
    holder = replace(new_holder(""), token="t" * 16, **changes)
    objects.put(path_of(name), body(holder, beat))
    return holder


def test_a_lease_has_one_holder_until_it_is_given_back(leases: ObjectLeases, objects: Objects) -> None:
    other = ObjectLeases(objects, Watch())
    with leases.take("train.a", "work") as held:  # type: ignore[union-attr]
        assert other.take("train.a") is None
        assert leases.take("train.a") is None
        assert other.busy("train.a") == held.holder
        assert (held.holder.pid, held.holder.what) == (os.getpid(), "work")
        assert held.mine()
        assert other.names() == ["train.a"]
    assert leases.busy("train.a") is None
    assert leases.read("train.a") is None
    assert other.names() == []
    assert other.take("train.a") is not None


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(
    leases: ObjectLeases, objects: Objects
) -> None:
    pid, started = dead_process()
    plant(objects, "a", pid=pid, started=started)
    assert leases.busy("a") is None
    lease = leases.take("a")
    assert lease is not None
    assert leases.read("a") == lease.holder


def test_a_holder_elsewhere_lives_while_its_heart_beats(
    leases: ObjectLeases, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 0.4)
    monkeypatch.setattr("tailkeep.study.object_lease.REMEMBERED", 0.0)
    for beat in range(4):
        plant(objects, "a", beat, machine="another machine")
        assert leases.busy("a") is not None
        assert leases.take("a") is None
        time.sleep(0.25)
    assert leases.busy("a") is not None
    time.sleep(0.6)
    assert leases.busy("a") is None
    assert leases.take("a") is not None


def test_a_lease_that_names_nobody_is_taken_over_in_the_end(
    leases: ObjectLeases, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "PATIENCE", 0.3)
    objects.put(path_of("a"), b"{")
    assert leases.take("a") is None
    time.sleep(0.5)
    assert leases.take("a") is not None


def test_of_two_who_judged_a_holder_dead_one_takes_the_lease(
    objects: Objects, leases: ObjectLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the judgement of the one and its write the other was faster."""
    pid, started = dead_process()
    plant(objects, "a", pid=pid, started=started)
    fast, won = ObjectLeases(objects, Watch()), []
    lives = ObjectLeases._lives

    def overtaken(own: ObjectLeases, data: bytes, version: str) -> bool:
        alive = lives(own, data, version)
        if own is leases and not alive and not won:
            won.append(fast.take("a"))
        return alive

    monkeypatch.setattr(ObjectLeases, "_lives", overtaken)
    assert leases.take("a") is None
    [winner] = won
    assert winner is not None
    assert winner.mine()
    assert leases.busy("a") == winner.holder


def test_the_heart_rewrites_what_is_held(
    leases: ObjectLeases, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "HEARTBEAT", 0.05)
    heart = clock._Heart()
    monkeypatch.setattr("tailkeep.study.object_lease.HEART", heart)
    with leases.take("a") as lease:  # type: ignore[union-attr]
        first = objects.get(path_of("a"))
        assert first is not None
        deadline = time.monotonic() + 20
        while (now := objects.get(path_of("a"))) == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert now is not None
        assert now[1] != first[1]
        assert leases.read("a") == lease.holder
    assert leases.read("a") is None


def test_the_holder_sees_that_it_was_passed_over_and_leaves_the_other_alone(
    leases: ObjectLeases, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leases.take("a")
    assert lease is not None
    other = plant(objects, "a")
    assert not lease.mine()
    lease.touch()
    assert leases.read("a") == other
    monkeypatch.setattr(clock, "PATIENCE", 0.0)  # it has been silent for long
    lease.release()
    assert leases.read("a") == other


def test_answers_that_were_lost_lose_no_lease(
    leases: ObjectLeases, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is sent again after a lost answer, and finds what it has done itself."""
    create, change = objects.create, objects.replace
    leases.take("first")  # which tries the server

    def deaf(call: Any) -> Any:
        def lost(*given: Any) -> None:
            call(*given)

        return lost

    monkeypatch.setattr(objects, "create", deaf(create))
    lease = leases.take("a")
    assert lease is not None
    monkeypatch.setattr(objects, "replace", deaf(change))
    lease.touch()
    monkeypatch.undo()
    lease.touch()
    assert lease.mine()
    lease.release()
    assert leases.read("a") is None


def test_a_server_that_knows_no_conditions_is_refused(leases: ObjectLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would both hold every lease, and both publish."""
    monkeypatch.setattr(type(leases.objects), "create", lambda own, name, data: own.put(name, data))
    with pytest.raises(BadInput, match="overwrites an object that it was asked to create only where there is none"):
        leases.take("a")
    assert leases.names() == []


def test_what_dead_processes_left_is_put_away(leases: ObjectLeases, objects: Objects) -> None:
    pid, started = dead_process()
    plant(objects, "run.dead", pid=pid, started=started)
    plant(objects, "run.elsewhere", machine="another machine")
    living = leases.take("run.mine")
    leases.tidy()
    assert leases.names() == ["run.elsewhere", "run.mine"]
    assert isinstance(living, ObjectLease)
    HEART.discard(living)
