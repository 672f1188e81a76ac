"""Failed steps made pending again: their records go, so that the next run tries them as if for the first time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.study.engine import reason_of
from tailkeep.study.limits import storage_errors
from tailkeep.study.record import read_record
from tailkeep.study.store import Store
from tailkeep.study.stores import Place, open_store


@dataclass(frozen=True)
class Pending:
    """A step that had failed and is pending again."""

    kind: str
    key: str
    label: str
    reason: str
    text: str

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def retry(root: Place, study: str | None = None, reason: str | None = None) -> list[Pending]:
    """Make failed steps of a store pending: all of them, or those of a study's last run, or of one reason.

    Nothing is computed; the next run does what is pending. Raises ``BadInput`` where there is no such store or study.
    """
    store = open_store(root)
    store.check()
    steps = store.steps() if study is None else _of_study(store, study)
    found = []
    with storage_errors(store.root):
        for kind, key in steps:
            if store.status(kind, key) != "failed":
                continue
            step = store.step(kind, key)
            if reason in (None, step["reason"]) and store.forget(kind, key):
                found.append(Pending(kind, key, str(step.get("label", "")), str(step["reason"]), reason_of(step)))
    return found


def _of_study(store: Store, study: str) -> list[tuple[str, str]]:
    path = store.study_file(study)
    if not path.is_file():
        names = [other.stem for other in store.files_in("studies", ".json")]
        raise BadInput(
            f"{store.address}: no study {study!r} has run in this store; it has {', '.join(names) or 'none'}"
        )
    return [(kind, key) for kind, key in read_record(path)["steps"]]
