"""The latency measurement on sessions that only advance a clock: nothing here depends on this machine's speed."""

import gc
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tailkeep.errors import BadInput
from tailkeep.export import latency
from tailkeep.export.latency import exclusive, measure_latency

SHAPE = (1, 2, 2)
COST = {"dense": 4e-3, "half": 2e-3, "twin": 4e-3}


class Machine:
    """A clock that only sessions move, each by its cost times the images times the mood of the machine."""

    def __init__(self, mood=lambda call: 1.0):
        self.now, self.calls, self.mood, self.opened = 0.0, [], mood, []

    def clock(self):
        return self.now

    def open(self, path, threads):
        machine, name = self, path.stem
        self.opened.append((name, threads))

        class Session:
            def run(self, images):
                assert images.dtype == np.float32
                machine.calls.append((name, len(images)))
                machine.now += COST[name] * len(images) * machine.mood(len(machine.calls))
                return np.zeros((len(images), 3), np.float32)

        return Session()


@pytest.fixture(autouse=True)
def _idle(monkeypatch):
    monkeypatch.setattr(latency, "load_average", lambda: 0.1)
    monkeypatch.setattr(latency, "available_cores", lambda: 2)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "latency.lock"


def measure(machine, lock, names=("dense", "half", "twin"), **settings):
    settings = {"batches": (1, 8), "rounds": 6, "min_time": 0.02, **settings}
    paths = {name: Path(f"{name}.onnx") for name in names}
    return measure_latency(paths, SHAPE, "dense", lock=lock, open_session=machine.open, clock=machine.clock, **settings)


def test_every_model_and_batch_is_there(lock):
    machine = Machine()
    found = measure(machine, lock, threads=2)
    assert [(t.name, t.batch) for t in found.timings] == [(name, batch) for name in COST for batch in (1, 8)]
    assert found.of("half", 8).median_ms == pytest.approx(16)
    assert found.of("dense", 1).low_ms == pytest.approx(found.of("dense", 1).high_ms) == pytest.approx(4)
    assert {t.rounds for t in found.timings} == {6}
    assert found.of("dense", 1).runs == 6 * 5, "4 ms each, so five fill the 20 ms of a round"
    assert found.of("dense", 8).runs == 6, "32 ms fill a round alone"
    assert machine.opened == [(name, 2) for name in COST]
    with pytest.raises(KeyError):
        found.of("dense", 2)


def test_ratios_are_to_the_dense_model(lock):
    found = measure(Machine(), lock)
    assert found.of("half", 1).ratio == pytest.approx(0.5)
    assert {found.of("dense", batch).ratio for batch in (1, 8)} == {1.0}
    one = found.of("dense", 8)
    assert (one.ratio_low, one.ratio, one.ratio_high) == (1.0, 1.0, 1.0)


def test_a_model_to_itself_is_exactly_one_in_any_weather(lock):
    moods = np.random.default_rng(0).uniform(0.5, 3, 100_000)
    found = measure(Machine(lambda call: moods[call]), lock)
    assert found.of("dense", 1).ratio == found.of("dense", 8).ratio == 1.0
    assert found.of("dense", 8).spread > 0


def test_the_models_take_turns(lock):
    """A machine that grows slower hits all alike, which one model after the other would not give."""
    machine = Machine(lambda call: 1.0 + call / 2000)
    found = measure(machine, lock, rounds=20)
    assert found.of("twin", 1).ratio == pytest.approx(1.0, abs=0.1)
    assert found.of("half", 1).ratio == pytest.approx(0.5, abs=0.05)
    assert found.of("dense", 1).high_ms > 1.1 * found.of("dense", 1).low_ms


def test_each_round_times_all_in_an_order_of_its_own(lock):
    machine = Machine()
    measure(machine, lock, min_time=1e-6)
    blocks = machine.calls[-6 * 6 * 2 :]  # one run that warms the caches, and one that is timed
    rounds = [tuple(blocks[start : start + 12 : 2]) for start in range(0, len(blocks), 12)]
    assert all(Counter(one) == Counter(rounds[0]) and len(set(one)) == 6 for one in rounds)
    assert len(set(rounds)) > 3
    again = Machine()
    measure(again, lock, min_time=1e-6)
    assert again.calls == machine.calls, "the order comes from the seed"
    other = Machine()
    measure(other, lock, min_time=1e-6, seed=1)
    assert other.calls != machine.calls


def test_warm_up_is_not_timed(lock):
    """The first runs allocate memory: they cost a hundred times as much, and no timing shows it."""
    warm = latency.WARM_UP_RUNS
    found = measure(Machine(lambda call: 100.0 if call <= warm else 1.0), lock, names=("dense",), batches=(1,))
    assert found.of("dense", 1).high_ms == pytest.approx(4)


def test_a_clock_that_stands_still_ends(lock, monkeypatch):
    monkeypatch.setitem(COST, "dense", 0.0)
    monkeypatch.setattr(latency, "MOST_RUNS", 16)
    found = measure(Machine(lambda call: 0.0), lock, names=("dense",), batches=(1,), rounds=1)
    assert found.of("dense", 1).spread == 0


def test_noise_is_noted(lock):
    calm = measure(Machine(), lock)
    assert calm.notes == ()
    moods = np.random.default_rng(0).uniform(0.5, 3, 100_000)
    notes = measure(Machine(lambda call: moods[call]), lock).notes
    assert any(note.startswith("half at batch 8 is noisy") for note in notes)


def test_a_busy_machine_is_noted(lock, monkeypatch):
    loads = iter([1.9, 3.0])
    monkeypatch.setattr(latency, "load_average", lambda: next(loads))
    assert measure(Machine(), lock).notes == (
        "the machine was busy before the start: load 1.9 and 1 threads on 2 cores",
        "the machine was busy at the end: load 3.0 on 2 cores",
    )
    monkeypatch.setattr(latency, "load_average", lambda: None)
    assert measure(Machine(), lock).notes == ()


def test_two_measurements_do_not_run_side_by_side(lock):
    code = f"""
import sys
from pathlib import Path
from tailkeep.errors import BadInput
from tailkeep.export.latency import exclusive
try:
    with exclusive(Path({str(lock)!r})):
        print("went in")
except BadInput as error:
    print(error)
"""
    with exclusive(lock):
        inside = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert inside == f"another measurement is running (process {os.getpid()}); start this one after it\n"
    with exclusive(lock):
        pass  # the lock is free again, with its file still there


def test_a_measurement_that_may_wait_takes_its_turn(lock):
    code = f"""
import time
from pathlib import Path
from tailkeep.export.latency import exclusive
with exclusive(Path({str(lock)!r})):
    print("in", flush=True)
    time.sleep(1)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    with pytest.raises(BadInput, match="another measurement"), exclusive(lock):
        pass
    with exclusive(lock, wait=60):
        assert other.wait(timeout=60) == 0, "it went in after the other was out"


def test_the_lock_is_held_while_models_run_and_freed_after_a_failure(lock):
    def open_session(path, threads):
        with pytest.raises(BadInput, match="another measurement"), exclusive(lock):
            pass
        raise BadInput("no such model")

    with pytest.raises(BadInput, match="no such model"):
        measure_latency({"dense": Path("dense.onnx")}, SHAPE, "dense", lock=lock, open_session=open_session)
    assert measure(Machine(), lock).timings


def test_the_lock_follows_no_link(lock, tmp_path):
    (tmp_path / "victim").write_text("mine")
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(BadInput, match="cannot be opened as a lock"), exclusive(lock):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_what_cannot_be_measured_is_refused(lock):
    with pytest.raises(BadInput, match="'dense' is not among the models to measure: half"):
        measure(Machine(), lock, names=("half",))
    for settings in ({"rounds": 0}, {"batches": ()}, {"batches": (0,)}, {"min_time": 0.0}, {"threads": 0}):
        with pytest.raises(ValueError, match="nothing to measure"):
            measure(Machine(), lock, **settings)


def test_a_model_that_does_not_run_is_named(lock):
    class Broken:
        def run(self, images):
            raise RuntimeError("got 3 channels")

    with pytest.raises(BadInput, match=r"dense: cannot run on \(1, 1, 2, 2\) images: got 3 channels"):
        measure_latency({"dense": Path("x")}, SHAPE, "dense", lock=lock, open_session=lambda *_: Broken())
    assert gc.isenabled()


def test_what_the_system_says(monkeypatch):
    monkeypatch.undo()
    assert 1 <= latency.available_cores() <= multiprocessing.cpu_count()
    assert latency.load_average() is None or latency.load_average() >= 0
    assert latency.default_lock().name.startswith("tailkeep-latency-")
