"""Small studies whose results travel, and files that no exporter would write."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tailkeep import cli, cli_travel
from tailkeep.study.runner import Options, Study, open_study
from tailkeep.study.travel_archive import pack, unpack
from tailkeep.study.travel_format import Content, from_members, to_members


def tiny(seeds: list[int]) -> dict[str, Any]:
    """A study of a few seconds with a control, a chain and a student."""
    recipe = {"epochs": 1, "batch_size": 32, "lr": 0.1, "precision": "float32"}
    return {
        "name": "tiny",
        "data": {"source": {"kind": "digits"}},
        "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 40}],
        "balanced": "matched",
        "models": [{"model": {"kind": "digits_net"}}],
        "recipe": {**recipe, "epochs": 2},
        "controls": {"continued": ["pruned"]},
        "methods": [
            {"name": "pruned", "method": {"kind": "filter_pruning", "ratio": 0.5}, "recipe": {**recipe, "lr": 0.02}},
            {"name": "pruned PTQ", "parent": "pruned", "method": {"kind": "ptq"}},
            {
                "name": "distilled",
                "method": {"kind": "distillation"},
                "student": {"kind": "digits_net", "width": 0.5},
                "recipe": recipe,
            },
        ],
        "seeds": seeds,
        "evaluate": "both",
        "validation_per_class": 10,
    }


def opened(home: Path, store: str, seeds: list[int], **changes: Any) -> Study:
    path = home / f"{store}.yaml"
    path.write_text(json.dumps({**tiny(seeds), **changes}), encoding="utf-8")
    return open_study(path, Options(store=home / store, workers=1, cache=home / "cache"))


def ran(home: Path, store: str, seeds: list[int]) -> Study:
    study = opened(home, store, seeds)
    assert not study.run().failed
    return study


def names(study: Study) -> dict[str, list[str]]:
    return {name: facts["class_names"] for name, facts in study.resolved.datasets.items()}


def content_of(path: Path) -> Content:
    return from_members(unpack(path)[0])


def write(path: Path, content: Content) -> Path:
    """Write a content as it is, with hashes of members that fit."""
    path.write_bytes(pack(to_members(content))[0])
    return path


def flip(data: bytes, place: int, bit: int = 0) -> bytes:
    return bytes([*data[:place], data[place] ^ (1 << bit), *data[place + 1 :]])


def zipped(path: Path, members: dict[str, bytes], sealed: bool = True) -> Path:
    """Write a zip that the writer would not: any names, sizes and comment."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"0" * 64 if sealed else b""
        for name, data in members.items():
            archive.writestr(name, data)
    data = buffer.getvalue()
    if sealed:
        data = data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode()
    path.write_bytes(data)
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it printed."""
    if "check-results" not in {each.name for each in cli.app.registered_commands}:
        cli_travel.register(cli.app)
    with pytest.raises(SystemExit) as left:
        cli.main([str(each) for each in arguments])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err
