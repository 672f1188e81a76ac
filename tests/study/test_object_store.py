"""A store on an object store: published once by its manifest, never believed without a hash, read by any machine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailkeep.errors import BadInput
from tailkeep.study.carry import carry_out
from tailkeep.study.gc import collect
from tailkeep.study.limits import StorageFailed
from tailkeep.study.object_store import ObjectStore
from tailkeep.study.objects import Objects
from tailkeep.study.plan import Step
from tailkeep.study.record import at_work, check_record, read_record, write_record
from tailkeep.study.retry import retry
from tailkeep.study.verify import verify

sys.path.append(str(Path(__file__).parent))
toy = importlib.import_module("toy_store")
KEY = toy.key_of("a step")
URLS = {"s3": "s3://{}/pre fix", "memory": "memory://{}/prefix"}


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest, bucket: str) -> str:
    """An empty place on the local S3 server, and one that fsspec's generic calls reach."""
    return URLS[request.param].format(bucket)


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Callable[[str], ObjectStore]:
    """The store as a machine of a name sees it, each with a cache of its own."""
    return lambda name: ObjectStore(url, cache=tmp_path / name)


def names(store: ObjectStore) -> list[str]:
    """The names of all objects, keys and tokens left out."""
    return sorted(name.rpartition("/")[2] for name in store.objects.listed())


def work(store: ObjectStore, text: str, token: str = "work") -> None:
    (store.partial("train", KEY, token) / "model.safetensors").write_text(text, encoding="utf-8")


def put_other(store: ObjectStore, name: str, data: bytes) -> None:
    """Write a file of a published step as nobody of tailkeep would."""
    own = store.index.commit(f"train/{KEY}", sure=True)
    assert own is not None
    store.objects.put(f"train/{KEY}/{own.token}/{name}", data)


# --- publishing and reading ------------------------------------------------------------------------------------------


def test_a_step_is_published_by_its_manifest_and_read_by_another_machine(machine: Callable[[str], ObjectStore]) -> None:
    one = machine("one")
    work(one, "weights")
    (one.root / "train" / f"{KEY}.partial" / "work" / "checkpoint.safetensors").write_text("half", encoding="utf-8")
    assert one.status("train", KEY) == "missing"
    assert one.publish("train", KEY, {"status": "done", "cost": 1})
    assert names(one) == ["manifest.json", "model.safetensors", "step.json"]
    two = machine("two")
    assert two.status("train", KEY) == "done"
    assert two.step("train", KEY) == {"status": "done", "cost": 1}
    assert two.file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "weights"
    assert two.file_hash("train", KEY, "model.safetensors") == one.file_hash("train", KEY, "model.safetensors")
    assert list((one.root / "train").glob("*.partial")) == []


def test_of_two_publishers_one_is_the_first_and_the_other_drops_its_files(
    machine: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have uploaded before either commits, as two machines may."""
    first, second = machine("one"), machine("two")
    work(first, "first")
    work(second, "second")
    arrived = ObjectStore._check_arrived

    def overtaken(store: ObjectStore, *given: Any) -> None:
        arrived(store, *given)
        if store is second:
            assert first.publish("train", KEY, {"status": "done", "by": "first"})

    monkeypatch.setattr(ObjectStore, "_check_arrived", overtaken)
    assert not second.publish("train", KEY, {"status": "done", "by": "second"})
    assert names(first) == ["manifest.json", "model.safetensors", "step.json"]
    for store in (first, second, machine("three")):
        assert store.step("train", KEY)["by"] == "first"
        assert store.file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "first"
    assert not list(second.root.rglob("*.partial"))


def test_a_commit_whose_answer_was_lost_is_this_processes(
    machine: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, create = machine("one"), Objects.create

    def deaf(own: Objects, name: str, data: bytes) -> str | None:
        create(own, name, data)
        return None

    monkeypatch.setattr(Objects, "create", deaf)
    work(store, "weights")
    assert store.publish("train", KEY, {"status": "done"})
    assert machine("two").status("train", KEY) == "done"


def test_files_without_a_manifest_are_invisible_and_collected(machine: Callable[[str], ObjectStore]) -> None:
    killed, store = machine("one"), machine("two")
    toy.stored(store, "train", "other")
    toy.recorded(store, "study", ("train", "other"), ("train", "a step"))
    work(killed, "weights")
    killed.objects.create = lambda name, data: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        killed.publish("train", KEY, {"status": "done"})
    assert store.status("train", KEY) == "missing"
    assert [key for _, key in store.steps()] == [toy.key_of("other")]
    assert verify(store).steps == 1
    held = store.leases.take(f"train.{KEY}", "at it")
    assert held is not None
    assert collect(store).removed == [], "a living process may be uploading"
    held.release()
    [item] = collect(store, dry_run=True).removed
    assert (item.what, item.kind, item.key) == ("upload", "train", KEY)
    assert item.bytes > len("weights")
    [item] = collect(store).removed
    assert [name for name in store.objects.listed() if KEY in name] == []
    work(store, "again")
    assert store.publish("train", KEY, {"status": "done"})
    assert collect(store).removed == []
    assert verify(store).steps == 2


def test_a_collection_does_not_take_what_was_committed_after_its_listing(
    machine: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = machine("one"), machine("two")
    toy.recorded(store, "study", ("train", "a step"))
    work(other, "weights")
    listed: list[Any] = []
    items, arrived = ObjectStore.items, ObjectStore._check_arrived

    def seen_before_the_commit(own: ObjectStore, *given: Any) -> None:
        arrived(own, *given)
        listed.extend(items(store))

    monkeypatch.setattr(ObjectStore, "_check_arrived", seen_before_the_commit)
    assert other.publish("train", KEY, {"status": "done"})
    monkeypatch.setattr(ObjectStore, "items", lambda own: listed)
    assert [item.what for item in collect(store).removed] == ["upload"]
    assert machine("three").file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "weights"


def test_uploads_that_were_collected_before_the_commit_are_not_committed(
    machine: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was frozen between its uploads and its commit."""
    store = machine("one")
    work(store, "weights")
    upload = Objects.upload

    def frozen(own: Objects, name: str, path: Path) -> None:
        upload(own, name, path)
        own.delete(name)

    monkeypatch.setattr(Objects, "upload", frozen)
    with pytest.raises(StorageFailed, match="not all that was uploaded has arrived"):
        store.publish("train", KEY, {"status": "done"})
    assert machine("two").status("train", KEY) == "missing"


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "manifest"])
def test_what_is_damaged_is_seen_and_never_served_and_done_again(
    machine: Callable[[str], ObjectStore], how: str
) -> None:
    store = machine("one")
    toy.recorded(store, "study", ("train", "a step"))
    work(store, "weights")
    store.publish("train", KEY, {"status": "done"})
    own = store.index.commit(f"train/{KEY}")
    assert own is not None
    if how == "gone":
        store.objects.delete(f"train/{KEY}/{own.token}/model.safetensors")
    elif how == "manifest":
        text = store.objects.get(f"train/{KEY}/manifest.json")
        assert text is not None
        store.objects.put(f"train/{KEY}/manifest.json", text[0].replace(b'"done"', b'"gone"'))
    else:
        put_other(store, "model.safetensors", {"changed": b"weighty", "cut": b"weight"}[how])
    reader = machine("two")
    [damage] = verify(reader, move=False).damages
    assert (damage.key, damage.moved) == (KEY, None)
    fault = {"gone": "is missing", "manifest": "the manifest does not check"}.get(how, "has changed")
    assert fault in damage.faults[0]
    if how == "manifest":
        assert reader.status("train", KEY) == "missing"
        assert verify(reader).damages[0].moved == f"{store.url}/train/{KEY}/manifest.damaged.json"
    else:
        with pytest.raises(StorageFailed, match=r"damaged: .*model.safetensors is missing or has changed"):
            reader.file("train", KEY, "model.safetensors")
    assert not (reader.folder("train", KEY) / "model.safetensors").exists()
    for each in (reader, machine("three")):
        assert each.damaged() == [("train", KEY)]
        assert each.status("train", KEY) == "missing"
    work(reader, "again")
    assert reader.publish("train", KEY, {"status": "done"})
    assert machine("four").file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "again"
    assert reader.damaged() == []
    assert len(reader.aside()) == 1
    assert [item.what for item in collect(reader).kept_damaged] == ["damaged"]
    collect(reader, damaged=True)
    assert names(reader).count("manifest.damaged.json") == 0
    assert verify(machine("five")).damages == []


def test_a_damaged_cache_is_downloaded_again(machine: Callable[[str], ObjectStore]) -> None:
    store = machine("one")
    work(store, "weights")
    store.publish("train", KEY, {"status": "done"})
    for name in ("model.safetensors", "remote.json"):
        (store.folder("train", KEY) / name).write_text("others", encoding="utf-8")
    again = machine("one")
    assert again.damaged() == [], "which lists everything"
    assert again.file("train", KEY, "model.safetensors").read_text(encoding="utf-8") == "weights"
    assert again.file_hash("train", KEY, "step.json") == store.file_hash("train", KEY, "step.json")


def test_what_another_process_publishes_is_seen(machine: Callable[[str], ObjectStore]) -> None:
    """Not from the memory of a listing, before a step is begun and after it has ended."""
    one, two = machine("one"), machine("two")
    assert one.damaged() == []
    assert one.status("train", KEY) == "missing"
    work(two, "weights")
    two.publish("train", KEY, {"status": "done"})
    assert one.status("train", KEY) == "missing", "remembered for some seconds"
    assert one.step("train", KEY)["status"] == "done", "but what must be there is looked up"

    three, step = machine("three"), Step(toy.key_of("other"), "train", {"parents": {}}, "other")
    assert three.damaged() == []
    toy.stored(two, "train", "other")

    def act(folder: Path) -> dict[str, Any]:
        raise AssertionError("done twice")

    assert carry_out(step, three, {}, act, lambda error: None) == "done"


def test_failed_steps_are_forgotten_with_their_files(machine: Callable[[str], ObjectStore]) -> None:
    store = machine("one")
    toy.stored(store, "train", "fine")
    toy.stored(store, "train", "failed", reason="nan", detail="of late")
    toy.recorded(store, "study", ("train", "fine"), ("train", "failed"))
    other = machine("two")
    assert [step.text for step in retry(other, "study")] == ["nan: of late"]
    assert machine("three").status("train", toy.key_of("failed")) == "missing"
    assert [name for name in other.objects.listed() if toy.key_of("failed") in name] == []
    assert not other.forget("train", toy.key_of("fine"))
    with pytest.raises(BadInput, match="no study 'x' has run in this store; it has study"):
        retry(other, "x")


def test_steps_that_no_study_needs_go(machine: Callable[[str], ObjectStore]) -> None:
    store = machine("one")
    for name in ("needed", "old"):
        toy.stored(store, "train", name)
    toy.recorded(store, "study", ("train", "needed"))
    (store.partial("train", toy.key_of("unfinished")) / "checkpoint.safetensors").write_bytes(b"x" * 500)
    found = collect(machine("one"))
    assert {(item.what, item.key) for item in found.removed} == {
        ("step", toy.key_of("old")), ("unfinished", toy.key_of("unfinished")),
    }  # fmt: skip
    assert found.kept_steps == 1
    assert [key for _, key in machine("two").steps()] == [toy.key_of("needed")]
    assert [name for name in store.objects.listed() if toy.key_of("old") in name] == []
    assert not (store.root / "train" / f"{toy.key_of('unfinished')}.partial").exists()


def test_records_are_whole_and_the_same_everywhere(machine: Callable[[str], ObjectStore]) -> None:
    one, two = machine("one"), machine("two")
    record = {"name": "s", "spec": "", "goals": [], "steps": [], "data": {"d": {"train": "a", "test": "b"}}}
    record["environment"] = {"threads": 1}
    write_record(one, "s", record)
    assert read_record(two.study_file("s")) == record
    with pytest.raises(BadInput, match="the data of study 's' changed"):
        check_record(two, "s", {"d": {"train": "a", "test": "c"}}, {"threads": 1}, False, False)
    found = one.objects.get("studies/s.json")
    assert found is not None
    one.objects.put("studies/s.json", found[0].replace(b'"threads": 1', b'"threads": 2'))
    with pytest.raises(BadInput, match="has changed since it was written"):
        read_record(two.study_file("s"))
    [damage] = verify(machine("three")).damages
    assert damage.moved == f"{one.url}/studies/s.json.damaged"
    assert not two.study_file("s").is_file()


def test_two_studies_of_one_name_are_told_apart(machine: Callable[[str], ObjectStore]) -> None:
    one, two = machine("one"), machine("two")
    with at_work(one, "s", ["a"]):
        with at_work(two, "s", ["a"]):
            pass
        with pytest.raises(BadInput, match="runs a study that is named 's' too"):
            at_work(two, "s", ["b"]).__enter__()
    assert one.leases.names() == []
