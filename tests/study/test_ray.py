"""Steps on a Ray cluster of this machine: the results of one process, and what dies costs only itself."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tailkeep.errors import BadInput
from tailkeep.study.engine import RETRIES, Engine, Event, Outcome
from tailkeep.study.limits import StorageFailed
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.ray_cluster import need_ray
from tailkeep.study.ray_nodes import PATIENCE, check_nodes, living_nodes, whole_node
from tailkeep.study.ray_pool import InRay, Share
from tailkeep.study.results import result_hash
from tailkeep.study.runner import Study
from tailkeep.study.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs tailkeep[ray]"),
]

HERE = str(Path(__file__).parent)
sys.path.append(HERE)
toy = importlib.import_module("toy_work")
diary_of, wait_until = toy.diary_of, toy.wait_until
SHARE = Share(1, 0.0, "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two CPUs, to which this process is connected."""
    ray = need_ray()
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)  # for the workers of every node
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


def plan_of(**steps: str) -> Plan:
    """A plan of steps without parents, by name and what they do."""
    plan = Plan("toy")
    for name, what in steps.items():
        plan.steps[name] = Step(name, "predict", {"what": what, "parents": {}}, name)
        plan.cells.append(Cell({"role": "technique"}, name, name, (1, 1)))
    return plan


@pytest.fixture
def engine(cluster: Any, runtime: Any) -> Callable[..., Engine]:
    """An engine over toy work, on the cluster."""

    def make(plan: Plan, workers: int = 2, **settings: Any) -> Engine:
        store = Store(Path(runtime.store))
        return Engine(plan, store, toy.act, runtime, workers, executor=lambda: InRay(SHARE), **settings)

    return make


def pids_of(runtime: Any) -> list[int]:
    if not Path(runtime.diary).exists():
        return []
    return [int(line.split()[1]) for line in Path(runtime.diary).read_text(encoding="utf-8").splitlines()]


def test_a_study_has_the_result_of_one_process(
    cluster: Any, small: dict[str, Any], opened: Callable[..., Study], tmp_path: Path
) -> None:
    """The steps run elsewhere, by workers that start in another folder: the store's path here is made absolute."""
    small["recipe"]["epochs"], small["balanced"], small["controls"] = 1, "none", {"continued": False}
    small["methods"] = small["methods"][:1]
    alone = opened(small, store=tmp_path / "alone", workers=1)
    shared = opened(small, store=Path(os.path.relpath(tmp_path / "shared")), workers=2, engine="ray")
    assert "by Ray" in shared.options.at_a_time
    outcomes = [study.run() for study in (alone, shared)]
    assert all(not outcome.failed and len(outcome.done) == 4 for outcome in outcomes)
    assert result_hash(alone.plan, alone.store) == result_hash(shared.plan, shared.store)
    assert not list((tmp_path / "shared" / "leases").glob(".ray*")), "the nodes' token is gone"
    assert shared.run() == Outcome(), "nothing is left to do"
    assert need_ray().is_initialized(), "a connection that was there before is left alone"


def test_a_worker_that_is_killed_is_retried_and_then_reported(engine: Any, runtime: Any) -> None:
    events: list[Event] = []
    plan = plan_of(once="killed", always="killed", fine="do")
    plan.steps["once"].spec["times"] = 1
    outcome = engine(plan, on_event=events.append).run()
    assert sorted(outcome.done) == ["fine", "once"]
    assert outcome.failed["always"].startswith("worker_killed: 3 times in turn; the last time: a worker or its node")
    assert Counter(diary_of(runtime)) == {"once": 2, "always": 1 + RETRIES, "fine": 1}
    assert Store(Path(runtime.store)).step("predict", "always")["reason"] == "worker_killed"
    assert Counter(event.step.key for event in events if event.what == "retry") == {"once": 1, "always": RETRIES}


def test_a_step_that_hangs_is_ended_at_its_limit(engine: Any, runtime: Any) -> None:
    plan = plan_of(stuck="hang", slow="hang", fine="do")
    plan.steps["slow"].spec["times"] = 1
    outcome = engine(plan, step_limit=1.2).run()
    assert outcome.failed == {"stuck": "hang: 3 times in turn; the last time: no end after 0.02 minutes (--step-limit)"}
    assert sorted(outcome.done) == ["fine", "slow"]
    assert Counter(diary_of(runtime)) == {"stuck": 1 + RETRIES, "slow": 2, "fine": 1}
    assert not any(psutil.pid_exists(pid) for pid in pids_of(runtime)[:2]), "its process is gone"


def test_the_limit_does_not_count_the_wait_for_a_worker(engine: Any, runtime: Any) -> None:
    """Two CPUs, four steps: the last two wait for as long as the first two take."""
    plan = plan_of(a="nap", b="nap", c="nap", d="nap")
    started = time.monotonic()
    assert sorted(engine(plan, workers=4, step_limit=4.0).run().done) == ["a", "b", "c", "d"]
    assert time.monotonic() - started > 4.5, "they did wait"
    assert len(diary_of(runtime)) == 4


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("full", StorageFailed, "no space is left"),
        ("input", BadInput, "the data changed"),
        ("crash", RuntimeError, "a fault of tailkeep"),
        ("odd", RuntimeError, "Odd: one and two"),
    ],
)
def test_an_error_arrives_as_what_it_was(engine: Any, what: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        engine(plan_of(a=what)).run()
    assert type(caught.value) is error
    assert "toy_work.py" in str(caught.value.__cause__), "with the traceback of the worker"
    if isinstance(caught.value, StorageFailed):
        assert (caught.value.reason, caught.value.exit_code) == ("disk_full", 3)


def test_what_runs_out_of_memory_gets_a_node_for_itself(cluster: Any, runtime: Any) -> None:
    asked: list[bool] = []

    def alone(measures: bool) -> dict[str, Any]:
        asked.append(measures)
        return whole_node(SHARE)(measures)

    plan = plan_of(greedy="memory", other="do")
    plan.steps["greedy"].spec["times"] = 1
    made = Engine(
        plan, Store(Path(runtime.store)), toy.act, runtime, 2, executor=lambda: InRay(SHARE, alone)
    )  # fmt: skip
    assert sorted(made.run().done) == ["greedy", "other"]
    assert asked == [False]
    assert whole_node(SHARE)(False) == {"num_cpus": 2}


def test_time_is_measured_with_all_the_cpus_of_this_node(cluster: Any) -> None:
    settings = whole_node(SHARE)(True)
    assert settings["num_cpus"] == 2
    assert settings["scheduling_strategy"].node_id == living_nodes()[0].id


def test_threads_are_set_before_torch_is_imported(cluster: Any, tmp_path: Path) -> None:
    executor = InRay(Share(2, 0.0, str(tmp_path)))
    future = executor.submit(toy.surroundings, Step("a", "train", {}, "a"), None, None)
    assert future.result(120) == f"2 2 2 False {tmp_path}"
    executor.shutdown()


def test_an_interrupt_ends_the_tasks(engine: Any, runtime: Any) -> None:
    deadline = time.monotonic() + 120

    def interrupt() -> None:
        assert time.monotonic() < deadline, "the workers did not start"
        if len(pids_of(runtime)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine(plan_of(a="sleep", b="sleep", queued="do"), workers=3, on_wait=interrupt).run()
    assert not any(psutil.pid_exists(pid) for pid in pids_of(runtime))
    assert set(diary_of(runtime)) == {"a", "b"}


DRIVER = """
import sys
from types import SimpleNamespace
sys.path.append(sys.argv[1])
import toy_work
from tailkeep.study.plan import Step
from tailkeep.study.ray_cluster import need_ray
from tailkeep.study.ray_pool import InRay, Share
need_ray().init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
step = Step("a", "train", {"what": "sleep"}, "a")
InRay(Share(1, 0.0, "")).submit(toy_work.act, step, SimpleNamespace(diary=sys.argv[3]), None).result()
"""


def test_tasks_end_with_the_run_that_was_killed(cluster: Any, runtime: Any) -> None:
    command = [sys.executable, "-c", DRIVER, HERE, cluster.address, runtime.diary]
    driver = subprocess.Popen(command)
    try:
        wait_until(lambda: pids_of(runtime) or driver.poll() is not None)
        (pid,) = pids_of(runtime)
        assert psutil.pid_exists(pid)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not psutil.pid_exists(pid))
    assert not psutil.pid_exists(pid)


def test_a_study_over_an_object_store_from_the_command_line(
    small: dict[str, Any], opened: Callable[..., Study], write: Any, bucket: str, tmp_path: Path
) -> None:
    small["methods"] = small["methods"][:1]
    study = opened(small)
    study.run()
    place = f"s3://{bucket}/studies"
    path = write(tmp_path / "again.yaml", small)
    options = ["--engine", "ray", "--workers", "2", "--store", place, "--out", str(tmp_path / "out"), "--json"]
    command = [sys.executable, "-m", "tailkeep", "run", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps_done"] == len(study.plan.steps)
    found = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert found["result_hash"] == result_hash(study.plan, study.store)


def test_a_node_that_goes_costs_the_steps_that_ran_there(cluster: Any, engine: Any, runtime: Any) -> None:
    """Three steps on two nodes wait for a word; the node that has one of them goes before that is said."""
    node = cluster.add_node(num_cpus=1)
    wait_until(lambda: len(living_nodes()) == 2)
    events: list[Event] = []
    plan, gone = plan_of(a="patient", b="patient", c="patient"), []

    def lose_a_node() -> None:
        if len(diary_of(runtime)) == 3 and not gone:
            gone.append(node)
            cluster.remove_node(node, allow_graceful=False)
            wait_until(lambda: not all(map(psutil.pid_exists, pids_of(runtime))))
            Path(runtime.mended).touch()

    outcome = engine(plan, workers=3, on_event=events.append, on_wait=lose_a_node).run()
    assert gone
    assert (sorted(outcome.done), outcome.failed) == (["a", "b", "c"], {})
    retried = [event.detail for event in events if event.what == "retry"]
    assert len(retried) == 1
    assert retried[0].startswith("worker_killed: a worker or its node ended")
    assert len(diary_of(runtime)) == 4
    wait_until(lambda: len(living_nodes()) == 1)


def test_a_node_is_asked_before_any_compute(cluster: Any, tmp_path: Path) -> None:
    from tailkeep.study.steps import Runtime, environment

    runtime = Runtime(str(tmp_path / "store"), {})
    here, facts = environment(runtime), vars(runtime)
    nodes = living_nodes()
    assert check_nodes(nodes, SHARE, facts, [str(tmp_path)], here, False) == nodes
    assert list((tmp_path / "store" / "leases").iterdir()) == [], "the token is removed"
    other = {**here, "torch": "1.0", "cpu": "an older one"}
    with pytest.raises(BadInput) as caught:
        check_nodes(nodes, SHARE, facts, [str(tmp_path / "images")], other, False)
    said = str(caught.value)
    assert f"node {nodes[0].name}: {tmp_path / 'images'} is not there" in said
    with pytest.raises(BadInput) as caught:
        check_nodes(nodes, SHARE, facts, [], other, False)
    assert f"torch is {here['torch']} there and 1.0 here; install the same there" in str(caught.value)
    assert f"cpu is {here['cpu']} there and an older one here" in str(caught.value)
    check_nodes(nodes, SHARE, facts, [], {**here, "cpu": "an older one"}, new_env=True)
    assert PATIENCE >= 60, "a node that imports torch from a network disk takes its time"


def test_a_node_without_the_store_is_named(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailkeep.study import ray_nodes
    from tailkeep.study.steps import Runtime, environment

    runtime = Runtime(str(tmp_path / "store"), {})
    here = environment(runtime)
    for place, words in (("nowhere", "the store is not there"), ("other", "another folder lies at the store's path")):
        (tmp_path / "other").write_text("not the token", encoding="ascii")

        @contextmanager
        def told(store: str, at: Path = tmp_path / place) -> Iterator[tuple[str, str]]:
            yield str(at), "token"

        monkeypatch.setattr(ray_nodes, "token_in", told)
        with pytest.raises(BadInput, match=words) as caught:
            check_nodes(living_nodes(), SHARE, vars(runtime), [], here, False)
        assert "put --store where every node reads and writes it" in str(caught.value)
