"""``tailkeep gc`` and ``retry``: what goes, what stays, and what they say."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tailkeep.errors import BadInput
from tailkeep.study.gc import collect
from tailkeep.study.lease import Lease, lease_name
from tailkeep.study.record import at_work
from tailkeep.study.retry import retry
from tailkeep.study.store import Store
from tailkeep.study.verify import verify

sys.path.append(str(Path(__file__).parent))
toy = importlib.import_module("toy_store")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Steps of studies one and two, a step of both, one of neither, and unfinished work of one and of neither."""
    store = Store(tmp_path / "store")
    for name in ("both", "one", "two", "neither"):
        toy.stored(store, "train", name)
    toy.recorded(store, "1", ("train", "both"), ("train", "one"), ("train", "one unfinished"))
    toy.recorded(store, "2", ("train", "both"), ("train", "two"))
    for name in ("one unfinished", "unfinished"):
        (store.partial("train", toy.key_of(name)) / "checkpoint.safetensors").write_bytes(b"x" * 500)
    return store


def there(store: Store) -> set[str]:
    names = ("both", "one", "two", "neither", "one unfinished", "unfinished")
    by_key = {toy.key_of(name): name for name in names}
    return {by_key[path.name.partition(".")[0]] for path in (store.root / "train").iterdir()}


def test_what_no_study_needs_goes_and_is_told(store: Store) -> None:
    size = sum(path.stat().st_size for path in store.folder("train", toy.key_of("neither")).iterdir())
    before = there(store)
    planned = collect(store.root, dry_run=True)
    assert there(store) == before, "a dry run removes nothing"
    found = collect(store.root)
    assert there(store) == {"both", "one", "two", "one unfinished"}
    assert found.removed == planned.removed
    assert {(item.what, item.key) for item in found.removed} == {
        ("step", toy.key_of("neither")),
        ("unfinished", toy.key_of("unfinished")),
    }
    assert (found.bytes, found.kept_steps, found.studies) == (size + 500, 3, ["1", "2"])
    assert not verify(store.root).damages
    assert collect(store.root).removed == []


def test_only_named_studies_are_kept(store: Store) -> None:
    collect(store.root, ["2"])
    assert there(store) == {"both", "two"}
    with pytest.raises(BadInput, match="--study 3: the store has 1, 2"):
        collect(store.root, ["3"])


def test_a_living_step_and_a_running_study_stay(store: Store) -> None:
    lease = store.leases.take(lease_name("train", toy.key_of("unfinished")), "unfinished")
    assert lease is not None
    with lease, at_work(store, "1", ["goal"]):
        found = collect(store.root, ["2"])
    assert there(store) == {"both", "one", "two", "one unfinished", "unfinished"}
    assert found.studies == ["1", "2"]


def test_work_that_no_record_names_stops_it(store: Store) -> None:
    with at_work(store), pytest.raises(BadInput, match="is at work here on what no record names"):
        collect(store.root)
    with at_work(store, "new", ["goal"]), pytest.raises(BadInput, match="no record names"):
        collect(store.root)
    assert "neither" in there(store)


def test_a_damaged_record_stops_it(store: Store) -> None:
    path = store.study_file("1")
    path.write_text(path.read_text(encoding="utf-8").replace('"train"', '"trani"', 1), encoding="utf-8")
    with pytest.raises(BadInput, match="has changed since it was written"):
        collect(store.root)
    assert "one" in there(store)


def test_damaged_steps_stay_unless_they_are_named(store: Store) -> None:
    folder = store.folder("train", toy.key_of("one"))
    (folder / "step.json").write_text("{}", encoding="utf-8")
    aside = store.move_aside("train", toy.key_of("one"))
    assert aside is not None
    found = collect(store.root)
    assert [item.path for item in found.kept_damaged] == [aside]
    assert aside.is_dir()
    collect(store.root, damaged=True)
    assert not aside.exists()


def test_leftovers_of_killed_removals_and_writes_go(store: Store) -> None:
    gone = store.root / "train" / f".{toy.key_of('x')}.12ab.gone"
    shutil.copytree(store.folder("train", toy.key_of("one")), gone)
    (store.root / "leases").mkdir(exist_ok=True)
    old, new = (store.root / "leases" / f".{name}.lease.1-ab.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    collect(store.root)
    assert not gone.exists()
    assert not old.exists()
    assert new.exists(), "it may be a living process's of this moment"


def test_a_run_waits_for_a_collection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease.take(store.root / "leases" / "gc.lease")
    assert lease is not None
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        lease.release()

    monkeypatch.setattr("tailkeep.study.record.time.sleep", sleep)
    with at_work(store, "1", ["goal"]):
        assert waited


def test_the_gc_command_says_what_and_how_many_bytes(store: Store, app: typer.Typer) -> None:
    dry = CliRunner().invoke(app, ["gc", str(store.root), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert f"would remove step: train {toy.key_of('neither')[:12]}" in dry.output
    facts = json.loads(CliRunner().invoke(app, ["gc", str(store.root), "--study", "1", "--json"]).output)
    assert {item["what"] for item in facts["removed"]} == {"step", "unfinished"}
    assert facts["bytes"] == sum(item["bytes"] for item in facts["removed"])
    assert "neither" not in there(store)


@pytest.fixture
def failed(store: Store) -> Callable[[], set[str]]:
    """Two failed steps of study 1 beside one of study 2; returns which are stored as failed."""
    names = {"nan": ("one", "nan"), "hang": ("both", "hang"), "other": ("two", "nan")}
    for name, reason in names.values():
        shutil.rmtree(store.folder("train", toy.key_of(name)))
        toy.stored(store, "train", name, reason=reason, detail="of late")

    def left() -> set[str]:
        return {k for k, (name, _) in names.items() if Store(store.root).status("train", toy.key_of(name)) == "failed"}

    return left


def test_failed_steps_are_made_pending_and_finished_ones_stay(store: Store, failed: Callable[[], set[str]]) -> None:
    assert failed() == {"nan", "hang", "other"}
    assert [step.label for step in retry(store.root, "1", "hang")] == ["both"]
    assert failed() == {"nan", "other"}
    assert [step.text for step in retry(store.root, "1")] == ["nan: of late"]
    assert failed() == {"other"}
    assert len(retry(store.root)) == 1
    assert failed() == set()
    assert retry(store.root) == []
    assert store.status("train", toy.key_of("neither")) == "done"
    with pytest.raises(BadInput, match="no study '3' has run in this store; it has 1, 2"):
        retry(store.root, "3")


def test_the_retry_command_takes_a_store_or_a_study_file(
    store: Store, failed: Callable[[], set[str]], app: typer.Typer, small: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps({**small, "name": "2"}), encoding="utf-8")
    told = CliRunner().invoke(app, ["retry", str(tmp_path / "study.yaml"), "--store", str(store.root)])
    assert told.exit_code == 0, told.output
    assert "pending: two (failed: nan: of late)" in told.output
    assert failed() == {"nan"}
    facts = json.loads(CliRunner().invoke(app, ["retry", str(store.root), "--json"]).output)
    assert {step["reason"] for step in facts["pending"]} == {"nan"}
    assert "no failed steps" in CliRunner().invoke(app, ["retry", str(store.root)]).output
