"""The nodes of a Ray cluster: what they have, and whether each can do a study's steps, asked before any compute.

A node that has another torch, or does not see the store, would fail in the middle of a study or give other bits. So a
small task on each of them tells its versions and its machine, reads a token that this process wrote into the store,
and looks for the data.
"""

from __future__ import annotations

import importlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import make_folder, temporary_name, write_atomic
from tailkeep.study.object_store import ObjectStore
from tailkeep.study.objects import Objects
from tailkeep.study.ray_pool import Share
from tailkeep.study.stores import is_url, worker_store

PATIENCE = 120.0
"""Seconds that a node has to answer in; it imports torch first."""
SAME = ("tailkeep", "source", "torch", "numpy", "python")
"""Facts of ``steps.environment`` that every node must share; ``HARDWARE`` may differ by --new-env."""
HARDWARE = ("machine", "cpu", "gpu")
SHOWN = 5


@dataclass(frozen=True)
class Node:
    """A living node: Ray's id of it, its name for people, and what it has in all."""

    id: str
    name: str
    cpus: float
    gpus: float

    def takes(self, share: Share) -> int:
        """How many steps fit on the node at a time. A part of a GPU is of one GPU."""
        most = int(self.cpus // share.cpus)
        return most if not share.gpus else min(most, int(self.gpus) * int(1 / share.gpus + 1e-9))


def living_nodes() -> list[Node]:
    """Return the cluster's living nodes, in the order of their addresses."""
    ray: Any = importlib.import_module("ray")  # whose own types are incomplete
    found = []
    for facts in ray.nodes():
        if facts["Alive"]:
            has = facts["Resources"]
            address, host = facts["NodeManagerAddress"], facts.get("NodeManagerHostname", "")
            name = f"{address} ({host})" if host and host != address else str(address)
            found.append(Node(facts["NodeID"], name, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return sorted(found, key=lambda node: (node.name, node.id))


def whole_node(share: Share) -> Callable[[bool], dict[str, Any]]:
    """Return what gives Ray's settings of a task that has a node for itself.

    Time is always measured on one node: the one that this process is connected to where that takes steps, else the
    first. What needs memory gets any node with as many CPUs as the smallest that takes steps.
    """

    def settings(measures: bool) -> dict[str, Any]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in living_nodes() if node.takes(share)]
        if not nodes:
            return {}
        if not measures:
            return {"num_cpus": min(node.cpus for node in nodes)}
        own = ray.get_runtime_context().get_node_id()
        node = next((node for node in nodes if node.id == own), nodes[0])
        return {"num_cpus": node.cpus, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False)}

    return settings


@contextmanager
def token_in(store: str) -> Iterator[tuple[str, str]]:
    """Write a token file into the store while the nodes look for it; give its place and its text."""
    text = secrets.token_hex(16)
    if is_url(store):
        objects = _objects(store)
        name = f"leases/.ray-{text[:8]}.tmp"
        objects.put(name, text.encode("ascii"))
        try:
            yield f"{store.rstrip('/')}/{name}", text
        finally:
            objects.delete(name)
        return
    path = temporary_name(make_folder(Path(store) / "leases") / "ray")
    write_atomic(path, text)
    try:
        yield str(path), text
    finally:
        with suppress(OSError):
            path.unlink()


def _objects(store: str) -> Objects:
    opened = worker_store(store)
    assert isinstance(opened, ObjectStore)
    return opened.objects


def check_nodes(
    nodes: Sequence[Node],
    share: Share,
    runtime: dict[str, Any],
    paths: Sequence[str],
    here: dict[str, Any],
    new_env: bool,
) -> list[Node]:
    """Ask every node for what a step needs of it; return those that still live when all have answered.

    Raises ``BadInput`` with what differs, node by node.

    ``runtime`` are the fields of ``steps.Runtime``, ``paths`` what must be there, ``here`` is this process's
    ``steps.environment``.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with token_in(runtime["store"]) as (place, text):
        # Made here and sent by value, so that a node without tailkeep can say so; torch is imported by one a node.
        ask = ray.remote(_question())
        asked = {}
        for node in nodes:
            where = NodeAffinitySchedulingStrategy(node.id, soft=False)
            settings = {"num_cpus": 0, "num_gpus": share.gpus, "max_retries": 0, "scheduling_strategy": where}
            asked[node.id] = ask.options(**settings).remote(place, text, list(paths), runtime)
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=PATIENCE)
        complaints, gone = {}, set[str]()
        for node in nodes:
            try:
                facts = ray.get(asked[node.id], timeout=0)
            except ray.exceptions.GetTimeoutError:
                ray.cancel(asked[node.id], force=True)
                facts = {"wrong": [f"no answer within {PATIENCE:.0f} seconds; is it busy with other work?"]}
            except ray.exceptions.RayError as error:
                if node.id not in {living.id for living in living_nodes()}:
                    gone.add(node.id)
                    continue
                facts = {"wrong": [f"could not be asked: {str(error).strip().splitlines()[-1][:300]}"]}
            complaints[node.name] = facts["wrong"] or _differences(facts["environment"], here, new_env)
    _raise_if_any({name: wrong for name, wrong in complaints.items() if wrong})
    return [node for node in nodes if node.id not in gone]


def _question() -> Callable[..., dict[str, Any]]:
    """Return the function that runs on a node; local, so that Ray sends its code and not its name."""

    def look(place: str, text: str, paths: list[str], runtime: Any) -> dict[str, Any]:
        import os
        import sys

        try:
            from tailkeep.study.ray_pool import set_threads

            set_threads(runtime["threads"])
            from tailkeep.study.ray_nodes import look_around
        except Exception as error:
            return {
                "wrong": [
                    f"tailkeep of this version cannot be imported by {sys.executable} ({error}); install it there as "
                    "it is here"
                ]
            }
        return look_around(place, text, [path for path in paths if not os.path.exists(path)], runtime)

    return look


def look_around(place: str, text: str, missing: list[str], runtime: dict[str, Any]) -> dict[str, Any]:
    """Say, on a node, what is wrong there, and its ``steps.environment``."""
    wrong = [f"{path} is not there; it must be at the same path on every node" for path in missing]
    wrong += _store_trouble(place, text)
    try:
        from tailkeep.study.steps import Runtime, environment

        return {"wrong": wrong, "environment": environment(Runtime(**runtime))}
    except Exception as error:
        return {"wrong": [*wrong, f"torch does not work there ({type(error).__name__}: {error})"]}


def _store_trouble(place: str, text: str) -> list[str]:
    """What keeps this node from the store in which the token lies; nothing where it can be read and written."""
    remedy = "put --store where every node reads and writes it at the same path"
    try:
        if is_url(place):
            store, _, token = place.rpartition("/leases/")
            there = _objects(store).get(f"leases/{token}")
            found = "" if there is None else there[0].decode("ascii", "replace")
        else:
            found = Path(place).read_text(encoding="ascii", errors="replace")
            with tempfile.TemporaryFile(dir=Path(place).parent):
                pass
    except Exception as error:
        return [f"the store is not there or cannot be written ({type(error).__name__}: {error}); {remedy}"]
    return [] if found == text else [f"another folder lies at the store's path; {remedy}"]


def _differences(there: dict[str, Any], here: dict[str, Any], new_env: bool) -> list[str]:
    """Say how a node's environment differs from this process's, as far as that matters."""
    wrong = []
    for fact in (*SAME, *(() if new_env else HARDWARE)):
        theirs, ours = there.get(fact), here.get(fact)
        if fact == "python":
            theirs, ours = (".".join(str(version).split(".")[:2]) for version in (theirs, ours))
        if theirs != ours:
            mend = "would give other rounding; leave it out, or pass --new-env"
            mend = "install the same there" if fact in SAME else mend
            wrong.append(f"{fact} is {theirs} there and {ours} here; {mend}")
    return wrong


def _raise_if_any(complaints: dict[str, list[str]]) -> None:
    if complaints:
        lines = [f"  node {name}: {text}" for name, wrong in complaints.items() for text in wrong]
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        count = f"{len(complaints)} node{'s' * (len(complaints) > 1)} of the Ray cluster"
        raise BadInput(f"--engine ray: {count} cannot do this study's steps:\n" + "\n".join(lines[:SHOWN]) + more)
