"""A Ray cluster for a run: found at its address or started on this machine, and checked before any compute.

Everything that a user can have wrong (no ray, an address that nobody answers, a node without the store) becomes
``BadInput`` here. Ray itself waits two minutes for an address that is dead, and then ends the process.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailkeep.errors import BadInput, MissingExtra
from tailkeep.study.pool import Executor
from tailkeep.study.ray_nodes import Node, check_nodes, living_nodes, whole_node
from tailkeep.study.ray_pool import InRay, Share

if TYPE_CHECKING:
    from tailkeep.study.runner import Options

ENGINES = ("processes", "ray")
ANSWER = 5.0
"""Seconds that an address has to accept a connection in."""
OBJECT_STORE = 100 << 20
"""Bytes of Ray's own shared memory: models travel through the study's store, a step's answer is a few bytes."""
CLIENT = "ray://"
FORMS = "auto, HOST:PORT (of `ray start --head`), or ray://HOST:PORT"


@dataclass(frozen=True)
class Workers:
    """What runs a study's steps on a cluster: how many at a time, what makes the executor, and what the steps get."""

    count: int
    executor: Callable[[], Executor]
    runtime: Any


def check_engine(options: Options) -> None:
    """Refuse settings that do not go together, a missing ray, and an address that nobody answers; starts nothing."""
    if options.engine not in ENGINES:
        raise BadInput(f"--engine {options.engine}: choose {' or '.join(ENGINES)}")
    if options.engine != "ray":
        for name, value in (("--address", options.address), ("--gpus-per-step", options.gpus_per_step)):
            if value is not None:
                raise BadInput(f"{name} {value}: is a setting of a Ray cluster; add --engine ray")
        return
    gpus = options.gpus_per_step
    if gpus is not None and options.device == "cpu":
        raise BadInput(f"--gpus-per-step {gpus:g}: the steps run on the CPU; add --device cuda")
    if gpus is not None and not 0 < gpus <= 1:
        raise BadInput(f"--gpus-per-step {gpus:g}: a step uses one GPU or a part of it; give a number up to 1")
    if re.fullmatch(r"cuda:\d+", options.device):
        raise BadInput(f"--device {options.device}: Ray chooses a step's GPU; give --device cuda")
    need_ray()
    if options.address is not None:
        _check_address(options.address, options.step_limit is not None)


def need_ray() -> Any:
    """Import ray, quiet and without usage reports. Raises ``MissingExtra`` with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints what its daemons say of a dead worker into this program's output, where --json must stand alone. The
    # engine says it too; Ray's own logs keep it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            f"--engine ray: ray cannot be imported ({error}); pip install 'tailkeep[ray]', on every node"
        ) from error
    return ray


def _check_address(address: str, limited: bool) -> None:
    client = address.startswith(CLIENT)
    if client and limited:
        raise BadInput(
            f"--address {address}: --step-limit is not possible through Ray Client; start the run on a machine of the "
            "cluster, with --address auto"
        )
    target = _running() if address == "auto" else address.removeprefix(CLIENT)
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInput(f"--address {address}: write {FORMS}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER) as there:
            answers = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_http2(there)
    except OSError as error:
        raise BadInput(
            f"--address {address}: nobody answers at {target} ({error}); is the cluster up (`ray status` there), and "
            f"the port open? Forms: {FORMS}. Without --address a cluster of this machine alone is started"
        ) from error
    if not answers:
        raise BadInput(f"--address {address}: what answers at {target} is no Ray cluster; write {FORMS}")


def _speaks_http2(there: socket.socket) -> bool:
    """Whether a server begins to talk as gRPC does. Ray itself waits for minutes for one that does not."""
    there.settimeout(ANSWER)
    head = b""
    with suppress(OSError):  # silent, or gone
        there.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # with empty settings
        while len(head) < 9 and (more := there.recv(9 - len(head))):
            head += more
    return len(head) == 9 and head[3] == 4  # a frame of settings comes first


def _running() -> str:
    """The address of the cluster that this machine is part of, as Ray finds it; ``BadInput`` where there is none."""
    from ray._private import services  # has no public name

    try:
        return str(services.canonicalize_bootstrap_address("auto"))
    except ConnectionError as error:
        raise BadInput(
            "--address auto: no Ray cluster runs on this machine; `ray start` joins one, or leave --address out to "
            "start one here"
        ) from error


@contextmanager
def connected(options: Options, runtime: Any, here: dict[str, Any]) -> Iterator[Workers]:
    """Connect to the cluster of --address or start one here, check its nodes, and leave it again.

    A connection that this process has already is used and kept. ``here`` is ``steps.environment`` of this process.
    Raises ``BadInput`` where a node cannot do the steps, and says which and why.
    """
    ray = need_ray()
    own = not ray.is_initialized()
    gpus = 0.0 if options.device == "cpu" else options.gpus_per_step or 1.0
    share = Share(options.threads, gpus, os.getcwd())
    if own:
        _connect(ray, options)
    try:
        absolute = _absolute(runtime)
        nodes = [node for node in living_nodes() if node.takes(share)]
        nodes = check_nodes(nodes, share, asdict(absolute), _paths(absolute, share.folder), here, options.new_env)
        if not nodes:
            raise BadInput(f"--engine ray: {_too_small(living_nodes(), share)}")
        count = options.workers or sum(node.takes(share) for node in nodes)
        yield Workers(count, lambda: InRay(share, whole_node(share)), absolute)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, options: Options) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is None:
        wanted = options.threads * max(1, options.workers)
        cores = wanted if options.workers and options.device == "cpu" else max(wanted, options.cores)
        # "local": without it, Ray joins whatever cluster it finds.
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        settings |= {"object_store_memory": OBJECT_STORE}
    else:
        settings["address"] = options.address
    where = f"--address {options.address}" if options.address else "a cluster of this machine"
    try:
        ray.init(**settings)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # Ray's way to take that signal
            raise
        text = " ".join(str(error).split())[:400]
        hint = "; where that cluster asks for a token, set RAY_AUTH_MODE=token" if options.address else ""
        raise BadInput(
            f"--engine ray: {where}: Ray cannot start or join it ({type(error).__name__}: {text}){hint}"
        ) from error


def _too_small(nodes: list[Node], share: Share) -> str:
    wanted = f"{share.cpus} CPU{'s' * (share.cpus > 1)}" + (f" and {share.gpus:g} GPU" if share.gpus else "")
    has = "; ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes[:5])
    return f"no node has the {wanted} of a step (the cluster has {has or 'no node'}); lower --threads, or add a node"


def _absolute(runtime: Any) -> Any:
    """The runtime with paths that hold on every node; a worker starts in another folder."""
    given = {"store": runtime.store, "data_root": runtime.data_root, "cache": runtime.cache}
    return replace(
        runtime,
        **{name: text if text is None or "://" in text else str(Path(text).absolute()) for name, text in given.items()},
    )


def _paths(runtime: Any, folder: str) -> list[str]:
    """What every node must have at the same path: the data, and the user's model code."""
    found = {runtime.data_root} if runtime.data_root else set()
    for facts in runtime.sources.values():
        path = facts["source"].get("path")
        if path is not None:
            found.add(str(Path(runtime.data_root or folder, Path(path).expanduser())))
    if runtime.model_code:
        file = runtime.model_code.rpartition(":")[0]
        found.add(str(Path(folder, file)) if file.endswith(".py") else folder)
    return sorted(found)
