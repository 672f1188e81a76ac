"""``tailkeep verify``: every changed bit is found and told, moved aside, and nothing whole is touched."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tailkeep.errors import BadInput
from tailkeep.study.store import MANIFEST, Store
from tailkeep.study.verify import verify

sys.path.append(str(Path(__file__).parent))
toy = importlib.import_module("toy_store")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for name in ("a", "b"):
        toy.stored(store, "train", name)
        toy.stored(store, "predict", f"{name} leaf")
    toy.recorded(store, "s", ("train", "a"), ("predict", "a leaf"))
    return store


def bytes_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_whole_store_passes_untouched(store: Store, app: typer.Typer) -> None:
    before = bytes_of(store.root)
    seen: list[tuple[int, int]] = []
    found = verify(store.root, on_progress=lambda done, total: seen.append((done, total)))
    assert (found.steps, found.records, found.damages) == (4, 1, [])
    assert seen == [(number, 4) for number in range(5)]
    assert bytes_of(store.root) == before
    told = CliRunner().invoke(app, ["verify", str(store.root)])
    assert told.exit_code == 0, told.output
    assert "4 steps, 1 record and 0 imports checked" in told.output
    assert "none damaged" in told.output


@pytest.mark.parametrize("name", ["model.safetensors", "step.json", MANIFEST])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "gone"])
def test_damage_is_told_and_moved_aside(store: Store, name: str, how: str) -> None:
    path = store.folder("train", toy.key_of("a")) / name
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes([data[0] ^ 4]) + data[1:], "cut": data[:-1], "empty": b""}[how])
    assert [damage.moved for damage in verify(store.root, move=False).damages] == [None]
    [damage] = verify(store.root).damages
    assert (damage.kind, damage.key) == ("train", toy.key_of("a"))
    assert damage.moved == str(store.root / "train" / f"{damage.key}.damaged")
    assert Path(damage.moved).is_dir()
    assert Store(store.root).damaged() == [("train", damage.key)]
    again = verify(store.root)
    assert (again.damages, again.steps, len(again.aside)) == ([], 3, 1)


def test_every_bit_of_a_record_counts(store: Store) -> None:
    path = store.study_file("s")
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        bit = 1 << position % 8
        path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        damages = verify(store.root, move=False).damages
        assert [(damage.kind, damage.key) for damage in damages] == [("study", "s")], f"bit {bit} of byte {position}"
    [damage] = verify(store.root).damages
    assert damage.moved == str(path.with_name("s.json.damaged"))
    assert not path.exists()


def test_the_command_lists_damage_and_ends_with_3(store: Store, app: typer.Typer) -> None:
    folder = store.folder("train", toy.key_of("a"))
    (folder / "model.safetensors").write_bytes(b"other")
    told = CliRunner().invoke(app, ["verify", str(store.root), "--json", "--keep"])
    assert told.exit_code == 3
    facts = json.loads(told.output)
    assert (facts["whole"], facts["steps"]) == (False, 4)
    expected = {"kind": "train", "key": toy.key_of("a"), "faults": ["model.safetensors has changed"], "moved": None}
    assert facts["damages"] == [expected]
    words = CliRunner().invoke(app, ["verify", str(store.root)])
    assert words.exit_code == 3
    assert f"damaged: train {toy.key_of('a')[:12]}: model.safetensors has changed; moved to " in words.output
    after = CliRunner().invoke(app, ["verify", str(store.root)])
    assert after.exit_code == 0
    assert "1 damaged were moved aside before" in after.output


def test_a_file_that_cannot_be_read_is_damage_to_verify(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailkeep.study import store as module

    real = module.sha256_file

    def fail(path: Path) -> str:
        if toy.key_of("a") in str(path):
            raise OSError(5, os.strerror(5), str(path))
        return real(path)

    monkeypatch.setattr(module, "sha256_file", fail)
    [damage] = verify(store.root, move=False).damages
    assert damage.faults[0].startswith("cannot be read (Input/output error")


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_store_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(BadInput, match=r"no such folder|is not a store"):
        verify(tmp_path / place)


def test_work_under_way_is_no_step(store: Store) -> None:
    (store.partial("train", toy.key_of("c")) / "checkpoint.safetensors").write_bytes(b"half")
    assert verify(store.root).steps == 4
    assert store.partial("train", toy.key_of("c")).is_dir()


def test_a_link_out_of_the_store_is_not_followed_by_a_manifest(store: Store, tmp_path: Path) -> None:
    """A manifest from elsewhere may name any path."""
    folder = store.folder("train", toy.key_of("a"))
    facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    facts["files"]["../../../outside"] = {"sha256": "0" * 64, "bytes": 1}
    (folder / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    assert len(verify(store.root, move=False).damages) == 1
