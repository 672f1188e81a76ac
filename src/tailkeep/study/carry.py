"""A step carried out: under its lease, in a folder of its own, published or stored as failed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailkeep.errors import StepFailed
from tailkeep.study.lease import Holder, lease_name, machine
from tailkeep.study.leases import Held
from tailkeep.study.limits import TryAgain, storage_errors
from tailkeep.study.plan import Step
from tailkeep.study.store import Store

HELD = "held"
NOT_STEPS = ("run.", "gc.", "measuring.")


def carry_out(
    step: Step,
    store: Store,
    record: dict[str, Any],
    act: Callable[[Path], dict[str, Any]],
    failure_of: Callable[[Exception], StepFailed | None],
) -> str:
    """Do ``act`` in the step's folder of work, and publish what it returns; return "done", "failed" or ``HELD``.

    ``failure_of`` says what of an error belongs to the step alone. Raises ``TryAgain`` for what another try may mend,
    ``StorageFailed`` where the disk fails, and every error that is nobody's in particular.
    """
    with storage_errors(store.root), turn(step, store) as lease:
        if lease is None:
            return HELD
        store.refresh(step.kind, step.key)  # another process may have published it since this one last looked
        if store.is_whole(step.kind, step.key):
            return store.status(step.kind, step.key)
        folder = store.adopt(step.kind, step.key, lease.token)
        started = time.time()
        try:
            result = {"status": "done", **act(folder)}
        except Exception as error:
            if not lease.mine():  # silent for too long, and passed over: the folder went to another process
                return HELD
            failure = failure_of(error)
            if failure is None:
                raise
            result = {"status": "failed", "reason": failure.reason, "detail": failure.detail}
            again = TryAgain(failure.reason, failure.detail) if isinstance(failure, TryAgain) else None
        else:
            again = None
        if again is not None:  # raised out here, where no traceback keeps the step's tensors alive
            raise again
        if result["status"] == "failed":
            _empty(folder)
        return _publish(step, store, {**record, **result, "seconds": round(time.time() - started, 3)}, lease)


def store_failure(step: Step, store: Store, reason: str, detail: str) -> bool:
    """Store a step as failed that could not say so itself; return False where another process is at it."""
    with storage_errors(store.root), turn(step, store, alone=False) as lease:
        if lease is None:
            return False
        if not store.is_whole(step.kind, step.key):
            _empty(store.adopt(step.kind, step.key, lease.token))
            record = {"spec": step.spec, "label": step.label, "facts": {}, "status": "failed"}
            _publish(step, store, {**record, "reason": reason, "detail": detail}, lease)
        return True


def _publish(step: Step, store: Store, record: dict[str, Any], lease: Held) -> str:
    try:
        store.publish(step.kind, step.key, record, lease.token)
    except FileNotFoundError:
        if lease.mine():
            raise
        return HELD
    return store.status(step.kind, step.key)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ".owner":
            path.unlink()


def holder_of(step: Step, store: Store) -> Holder | None:
    """Return the living process that keeps a step from being started here: its own holder, or who measures time."""
    return store.leases.busy(lease_name(step.kind, step.key)) or store.leases.busy(_measuring())


@contextmanager
def turn(step: Step, store: Store, alone: bool = True) -> Iterator[Held | None]:
    """Hold a step's lease; None where another process has it, or measures time on this machine.

    A measuring step has the machine for itself: it first says so, which keeps other processes of this store from
    starting steps here, and then waits for those that are under way.
    """
    lease = store.leases.take(lease_name(step.kind, step.key), step.label)
    if lease is None:
        yield None
        return
    with lease:
        if step.kind != "measure" or not alone:
            yield None if alone and store.leases.busy(_measuring()) else lease
            return
        quiet = store.leases.take(_measuring(), step.label)
        if quiet is None:
            yield None
            return
        with quiet:
            while _others_here(store, lease.token):
                time.sleep(store.leases.poll)
            yield lease


def _measuring() -> str:
    name = hashlib.sha256(machine().encode("utf-8")).hexdigest()[:16]
    return f"measuring.{name}"


def _others_here(store: Store, token: str) -> bool:
    """Whether other steps of this store run on this machine."""
    leases = store.leases
    for name in leases.names():
        holder = None if name.startswith(NOT_STEPS) else leases.read(name)
        if holder is not None and holder.here and holder.token != token and leases.busy(name) is not None:
            return True
    return False
