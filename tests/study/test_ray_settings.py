"""What can be wrong with the settings of a Ray cluster, said before anything starts; and what fits on a node."""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tailkeep.errors import BadInput, MissingExtra
from tailkeep.study import lease
from tailkeep.study.engine import RETRIES, Engine, Event
from tailkeep.study.lease import Holder
from tailkeep.study.limits import TryAgain
from tailkeep.study.plan import Cell, Plan, Step
from tailkeep.study.ray_cluster import _absolute, _paths, check_engine
from tailkeep.study.ray_nodes import Node, _store_trouble, token_in
from tailkeep.study.ray_pool import Share, versions
from tailkeep.study.runner import Options
from tailkeep.study.steps import Runtime
from tailkeep.study.store import Store


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "dask"}, "--engine dask: choose processes or ray"),
        ({"address": "auto"}, "--address auto: is a setting of a Ray cluster; add --engine ray"),
        ({"gpus_per_step": 0.5}, "--gpus-per-step 0.5: is a setting of a Ray cluster"),
        ({"engine": "ray", "gpus_per_step": 0.5}, "the steps run on the CPU; add --device cuda"),
        ({"engine": "ray", "gpus_per_step": 2.0, "device": "cuda"}, "give a number up to 1"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray chooses a step's GPU; give --device cuda"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_engine(Options(**options))
    assert words in str(caught.value)


@pytest.mark.parametrize("address", ["nonsense", "host:", ":80", "host:99999", "ray://host", "host:port"])
def test_an_address_of_no_known_form_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match="write auto, HOST:PORT"):
        check_engine(Options(engine="ray", address=address))


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_that_nobody_answers_is_refused_at_once(prefix: str) -> None:
    pytest.importorskip("ray")
    address, started = f"{prefix}127.0.0.1:{closed_port()}", time.monotonic()
    with pytest.raises(BadInput, match=r"nobody answers at 127\.0\.0\.1") as caught:
        check_engine(Options(engine="ray", address=address))
    assert str(caught.value).startswith(f"--address {address}")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_an_address_where_something_else_answers_is_refused(answer: bytes) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            there, _ = server.accept()
            with there:
                there.recv(24)
                there.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"what answers at {address} is no Ray cluster"):
            check_engine(Options(engine="ray", address=address))
        thread.join()


def test_auto_without_a_cluster_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from ray._private import services

    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(BadInput, match="no Ray cluster runs on this machine"):
        check_engine(Options(engine="ray", address="auto"))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    with pytest.raises(BadInput, match="--address auto: nobody answers at"):
        check_engine(Options(engine="ray", address="auto"))


def test_ray_client_has_no_step_limit() -> None:
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match="--step-limit is not possible through Ray Client"):
        check_engine(Options(engine="ray", address="ray://127.0.0.1:10001", step_limit=5))


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[ray\]'") as caught:
        check_engine(Options(engine="ray"))
    assert caught.value.exit_code == 2


def test_the_command_line_says_it_in_one_line(
    cli: Callable[..., Any], write: Callable[..., Path], small: dict[str, Any], tmp_path: Path
) -> None:
    study = write(tmp_path / "study.yaml", small)
    done = cli("run", study, "--engine", "ray", "--address", f"127.0.0.1:{closed_port()}")
    assert done.returncode == 2
    assert "nobody answers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tailkeep-store").exists()


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "fits"),
    [
        (8, 0, Share(1), 8), (8, 0, Share(3), 2), (2, 0, Share(4), 0), (8, 0, Share(1, 1.0), 0),
        (8, 2, Share(1, 0.5), 4), (8, 2, Share(1, 0.4), 4), (3, 2, Share(1, 0.25), 3), (64, 1, Share(1, 0.1), 10),
    ],
)  # fmt: skip
def test_how_many_steps_fit_on_a_node(cpus: float, gpus: float, share: Share, fits: int) -> None:
    assert Node("id", "name", cpus, gpus).takes(share) == fits


def test_paths_hold_on_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {"a": {"source": {"kind": "folder", "path": "mine"}, "name": "a"}, "b": {"source": {"kind": "digits"}}}
    here = str(tmp_path)
    runtime = _absolute(Runtime("store", sources, data_root=None, model_code="net.py:make"))
    assert runtime.store == str(tmp_path / "store")
    assert _paths(runtime, here) == [str(tmp_path / "mine"), str(tmp_path / "net.py")]
    runtime = _absolute(Runtime("s3://bucket/store", sources, data_root="data", model_code="net:make"))
    assert (runtime.store, runtime.data_root) == ("s3://bucket/store", str(tmp_path / "data"))
    assert _paths(runtime, here) == sorted([here, str(tmp_path / "data"), str(tmp_path / "data" / "mine")])


def test_the_nodes_token_is_written_and_removed(tmp_path: Path) -> None:
    with token_in(str(tmp_path)) as (place, text):
        assert Path(place).read_text(encoding="ascii") == text
        assert _store_trouble(place, text) == []
        assert "another folder lies at the store's path" in _store_trouble(place, "another")[0]
    assert not Path(place).exists()
    assert "the store is not there" in _store_trouble(place, text)[0]


def test_the_nodes_token_in_an_object_store(bucket: str) -> None:
    with token_in(f"s3://{bucket}/studies") as (place, text):
        assert place.startswith(f"s3://{bucket}/studies/leases/")
        assert _store_trouble(place, text) == []
        assert "another folder lies at the store's path" in _store_trouble(place, "another")[0]
    assert "another folder" in _store_trouble(place, text)[0], "the token is gone"
    elsewhere = place.replace(bucket, "no-such-bucket")
    assert "there is no such bucket" in _store_trouble(elsewhere, text)[0]


def test_versions_are_those_of_what_is_imported() -> None:
    import numpy
    import torch

    told = versions()
    assert (told["torch"], told["numpy"]) == (torch.__version__, numpy.__version__)


class Loses:
    """An executor on another machine: its worker dies each time, and leaves a lease that looks alive for a while."""

    retries_alone = False

    def __init__(self, store: Store) -> None:
        self.store, self.submitted = store, list[str]()

    def submit(self, work: Any, step: Step, runtime: Any, limit: float | None) -> cf.Future[str]:
        self.submitted.append(step.key)
        future: cf.Future[str] = cf.Future()
        if step.key == "fine":
            self.store.partial(step.kind, step.key)
            self.store.publish(step.kind, step.key, {"status": "done"})
            future.set_result("done")
            return future
        left = self.store.leases.take(lease.lease_name(step.kind, step.key))
        assert isinstance(left, lease.Lease)
        lease.HEART.discard(left)
        far = dataclasses.asdict(dataclasses.replace(left.holder, machine="another", host="far"))
        left.path.write_text(json.dumps(far), encoding="utf-8")
        future.set_exception(TryAgain("worker_killed", "its node ended"))
        return future

    def shutdown(self, now: bool = False) -> None:
        pass


def test_tries_are_bounded_where_the_dead_holder_is_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time its lease must first be seen to be dead; after the last try too, and there is no try after that."""
    monkeypatch.setattr(lease, "PATIENCE", 0.6)
    store, plan, events = Store(tmp_path), Plan("toy"), list[Event]()
    for name in ("lost", "fine"):
        plan.steps[name] = Step(name, "predict", {"parents": {}}, name)
        plan.cells.append(Cell({}, name, name, (1, 1)))
    far, waited = Loses(store), set[Holder | None]()
    engine = Engine(
        plan, store, lambda step, runtime: "", SimpleNamespace(), 1, events.append,
        lambda: waited.update(engine.waiting.values()), executor=lambda: far,
    )  # fmt: skip
    outcome = engine.run()
    assert far.submitted.count("lost") == 1 + RETRIES
    assert far.submitted.index("fine") == 1, "the others need not wait for that"
    assert {holder.host for holder in waited if holder} == {"far"}
    assert outcome.failed == {"lost": "worker_killed: 3 times in turn; the last time: its node ended"}
    assert store.step("predict", "lost")["reason"] == "worker_killed"
    assert outcome.done == ["fine"]
    assert os.listdir(tmp_path / "leases") in ([], [".reclaim"])
