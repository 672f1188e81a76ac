"""Results that travel light: a study's labels, specs, hashes and counts in one file, to another store or a reader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput
from tailkeep.files import read_json, write_atomic
from tailkeep.study.imported import FOLDER, SUFFIX, Source, imported, read_results
from tailkeep.study.results import predictions
from tailkeep.study.store import Store
from tailkeep.study.travel_archive import pack, unpack_bytes
from tailkeep.study.travel_check import check_content
from tailkeep.study.travel_collect import collect
from tailkeep.study.travel_format import Content, to_members
from tailkeep.study.travel_frame import named, printable

if TYPE_CHECKING:
    from tailkeep.study.runner import Study


def export_results(study: Study, out: Path) -> dict[str, Any]:
    """Write the results of a study to ``out``; return the facts of the file.

    Equal results give equal bytes, and an equal content hash whatever the zip library. Raises ``BadInput`` where
    nothing is finished, or the file cannot be written.
    """
    if out.is_dir():
        raise BadInput(f"--out {out}: is a folder; name a file in it, such as {out / ('mine' + SUFFIX)}")
    content = collect(study.plan, study.store, study.resolved.datasets, study.text, study.spec.split)
    check_content(content)  # what a reader would refuse is not written
    data, key = pack(to_members(content))
    try:
        write_atomic(out, data)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from error
    return {"file": str(out), "bytes": len(data), **_facts(content, key), **_per_cell(content, len(data))}


def check_results(path: Path) -> dict[str, Any]:
    """Check a results file without data or weights; return its facts. Raises ``BadInput`` where anything is amiss."""
    source = read_results(path)
    size = path.stat().st_size
    return {"file": str(path), "bytes": size, **_facts(source.content, source.key), **_per_cell(source.content, size)}


def import_results(paths: list[Path], store: Store, study: str | None = None) -> list[dict[str, Any]]:
    """Put results files into a store, all of them or none; return the facts of each.

    Everything is checked before anything is taken. Raises ``BadInput`` where a file does not check, is of another study
    than the one named, of other data than the store's record of the same study, or contradicts what is there: the
    same prediction step with other labels.
    """
    sources = [read_results(path) for path in paths]
    known: list[Source] = list(imported(store).sources)
    found = []
    for source in sources:
        _check_study(source, store, known, study)
        again = any(source.key == other.key for other in known)
        for other in known:
            if other.key != source.key:
                _check_against(source, other)
        _check_against_store(source, store)
        known.append(source)
        facts = {"file": str(source.path), **_facts(source.content, source.key), "already_there": again}
        found.append({**facts, "environments": source.environments()})
    for source in sources:
        name = f"{FOLDER}/{source.key}{SUFFIX}"
        if not any(other.path == store.root / name for other in known):
            _put(source, store, name)
    return found


def _put(source: Source, store: Store, name: str) -> None:
    """Copy a file that was checked, unless it has changed since."""
    try:
        data = source.path.read_bytes()
        if unpack_bytes(data)[1] != source.key:
            raise BadInput(f"{source.path}: changed while it was imported")
        store.put(name, data)
    except OSError as error:
        raise BadInput(f"{store.address}/{name}: cannot be written ({error.strerror})") from error


def _check_study(source: Source, store: Store, known: list[Source], study: str | None) -> None:
    """Refuse another study than the one that was named, and one of the same name on other data."""
    name, data = source.content.study.name, source.content.study.data
    if study is not None and name != study:
        raise BadInput(f"{source.path}: holds results of study {printable(name)!r}, not of {study!r}")
    others: list[tuple[str, dict[str, dict[str, str]]]] = [
        (str(other.path), {label: facts.plain() for label, facts in other.content.study.data.items()})
        for other in known
        if other.content.study.name == name
    ]
    try:
        record = store.study_file(name)
        if record.is_file():
            others.append((str(record), read_json(record)["data"]))
    except (BadInput, KeyError):  # a name that is none, or a record of another kind, says nothing of the data
        pass
    for where, other_data in others:
        for label, facts in data.items():
            for split in ("train", "test"):
                other_hash = str(other_data.get(label, {}).get(split, getattr(facts, split)))
                if other_hash != getattr(facts, split):
                    raise BadInput(
                        f"{source.path}: study {printable(name)!r} ran on other data than in {where}: "
                        f"{printable(label)} ({split}) is {getattr(facts, split)[:12]} here, {other_hash[:12]} there. "
                        "Results of both would stand side by side; import into a store of its own"
                    )


def _check_against(source: Source, other: Source) -> None:
    """Refuse a file that says of a prediction something else than another file does."""
    mine, theirs = source.content, other.content
    for name in set(mine.groups) & set(theirs.groups):
        if not np.array_equal(mine.labels[name], theirs.labels[name]) or mine.ids[name] != theirs.ids[name]:
            raise BadInput(f"{source} and {other} contradict each other: the same images have other true labels")
    for key in mine.predictions.keys() & theirs.predictions.keys():
        facts = theirs.predictions[key]
        _compare(source, str(other), key, theirs.labels[facts.group], theirs.guesses[facts.group][facts.row])


def _check_against_store(source: Source, store: Store) -> None:
    for key in source.content.predictions:
        if store.status("predict", key) == "done":
            arrays = predictions(store, key)
            where = f"{store.address} (predicted there)"
            _compare(source, where, key, arrays["labels"], arrays["logits"].argmax(axis=1))


def _compare(source: Source, where: str, key: str, labels: NDArray[Any], guesses: NDArray[Any]) -> None:
    content = source.content
    facts = content.predictions[key]
    own_labels, own = content.labels[facts.group], content.guesses[facts.group][facts.row]
    if not np.array_equal(own_labels, labels):
        what = "the same images have other true labels"
    elif not np.array_equal(own, guesses):
        different = np.flatnonzero(own != guesses)
        what = (
            f"{len(different)} of {len(own)} predicted labels differ, the first of image "
            f"{printable(content.ids[facts.group][different[0]])!r}"
        )
    else:
        return
    cell = next(cell for cell in content.cells if key in cell.predict_keys)
    raise BadInput(
        f"{source} and {where} contradict each other on {named(cell)} (predict {key[:12]}): {what}. One of them was "
        "changed, or the two machines round differently; leave one out"
    )


def _facts(content: Content, key: str) -> dict[str, Any]:
    """What a results file holds, as plain values."""
    done = [cell for cell in content.cells if cell.predict_key in content.predictions]
    failed = [step for step in content.steps.values() if step.status == "failed"]
    return {
        "study": content.study.name,
        "cells": len(content.cells),
        "cells_done": len(done),
        "steps": len(content.steps),
        "steps_failed": len(failed),
        "predictions": len(content.predictions),
        "frame_rows": len(content.frame["n"]),
        "result_hash": content.study.result_hash,
        "content_hash": key,
        "code_version": content.study.code_version,
    }


def _per_cell(content: Content, size: int) -> dict[str, Any]:
    """Bytes of the file a finished cell."""
    done = sum(cell.predict_key in content.predictions for cell in content.cells)
    return {"bytes_per_cell": round(size / max(1, done))}
