"""Files that are damaged, hostile or forged: each is refused in words, before anything is taken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.errors import BadInput
from tailkeep.spec import content_key
from tailkeep.study import travel_archive
from tailkeep.study.travel import check_results, export_results
from tailkeep.study.travel_archive import array_bytes, json_bytes, parse_array, unpack
from tailkeep.study.travel_format import CellFacts, Content
from travel_cases import command, content_of, flip, ran, write, zipped


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file of one seed."""
    home = tmp_path_factory.mktemp("sound")
    export_results(ran(home, "machine", [0]), home / "sound.results.zip")
    return home / "sound.results.zip"


def test_any_flipped_bit_and_any_truncation_is_refused(sound: Path, tmp_path: Path) -> None:
    data, path = sound.read_bytes(), tmp_path / "bad.results.zip"
    generator = np.random.default_rng(0)
    places = [*range(60), *range(len(data) - 200, len(data)), *generator.integers(0, len(data), 100).tolist()]
    for place in places:
        path.write_bytes(flip(data, place, int(generator.integers(8))))
        with pytest.raises(BadInput, match=r"bad.results.zip: "):
            unpack(path)
    for length in (0, 1, 3, 21, 22, 85, 86, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(BadInput, match=r"bad.results.zip: "):
            unpack(path)


def manifest(**changes: Any) -> bytes:
    body = {"format": "tailkeep results", "version": 1, "files": {}, **changes}
    return json_bytes({**body, "self": content_key(body)})


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda p: p.write_text("<html>not found</html>"), "is not a zip file"),
    "empty": (lambda p: p.write_bytes(b""), "is not a zip file"),
    "folder": (lambda p: p.mkdir(), "cannot be read"),
    "absent": (lambda p: None, "cannot be read"),
    "another zip": (lambda p: zipped(p, {"a.txt": b"a"}, sealed=False), "is not whole, or no results file"),
    "parent": (lambda p: zipped(p, {"../study.json": b"{}"}), r"'../study.json' leads outside"),
    "absolute": (lambda p: zipped(p, {"/etc/passwd": b"x"}), "leads outside"),
    "drive": (lambda p: zipped(p, {"C:\\a.json": b"x"}), "leads outside"),
    "stranger": (lambda p: zipped(p, {"run.py": b"x"}), "does not belong into a results file"),
    "pickle": (lambda p: zipped(p, {"labels-0123456789abcdef.pkl": b"x"}), "does not belong"),
    "no manifest": (lambda p: zipped(p, {"study.json": b"{}"}), "it has no manifest.json"),
    "other version": (lambda p: zipped(p, {"manifest.json": manifest(version=2)}), "of version .2.; this .* version 1"),
    "other format": (lambda p: zipped(p, {"manifest.json": manifest(format="x")}), "is no results file"),
    "too many": (lambda p: zipped(p, {f"ids-{i:016x}.json": b"" for i in range(200)}), "would unpack to more than"),
    "unlisted": (lambda p: zipped(p, {"manifest.json": manifest(), "study.json": b"{}"}), "differ: 'study.json'"),
    "nan": (lambda p: zipped(p, {"manifest.json": b'{"format":NaN}\n'}), "not readable as JSON"),
    "deep": (lambda p: zipped(p, {"manifest.json": b"[" * 200_000}), "not readable as JSON"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_words(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.results.zip"
    make, words = BAD_FILES[case]
    make(path)
    for arguments in (["check-results", path], ["import-results", path, "--store", tmp_path / "store"]):
        code, _, told = command(capsys, *arguments)
        assert code == 2
        assert re.search(rf"(?s)bad.results.zip: .*{words}", told), told
    assert not (tmp_path / "store").exists()


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(tmp_path / "bomb.results.zip", {"study.json": bytes(3 << 20)})
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(travel_archive, "JSON_LIMIT", 2 << 20)
    with pytest.raises(BadInput, match=r"'study.json' has 3 MB, and such a member has at most 2"):
        unpack(bomb)
    monkeypatch.setattr(travel_archive, "TOTAL_LIMIT", 2 << 20)
    with pytest.raises(BadInput, match=r"would unpack to more than 2 MB"):
        unpack(bomb)
    lying = bytearray(bomb.read_bytes())  # a size in the directory that is not the data's
    place = lying.rfind(b"PK\x01\x02") + 24
    lying[place : place + 4] = (100).to_bytes(4, "little")
    bomb.write_bytes(lying)
    with pytest.raises(BadInput, match=r"damaged|cut short"):
        unpack(bomb)
    monkeypatch.setattr(travel_archive, "FILE_LIMIT", 100)
    with pytest.raises(BadInput, match="refused, it has"):
        unpack(bomb)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, "<f4"), "uint8 or uint16 are expected"),
        (np.array([{}], dtype=object), "not a plain .npy array"),
        (np.zeros((2, 2), "u1", order="F"), "uint8 or uint16 are expected"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (10**12,), }", "not a plain"),
    ],
    ids=["floats", "objects", "fortran", "an expression for a shape"],
)
def test_only_plain_arrays_are_read(array: Any, words: str) -> None:
    buffer = io.BytesIO()
    if isinstance(array, bytes):
        buffer.write(array)
    else:
        np.save(buffer, array, allow_pickle=True)
    with pytest.raises(BadInput, match=words):
        parse_array("labels-x.npy", buffer.getvalue())
    huge = array_bytes(np.zeros(8, "u1")).replace(b"(8,)", b"(99999999999,)".ljust(4))
    with pytest.raises(BadInput, match=r"not a plain \.npy array"):
        parse_array("labels-x.npy", huge)


def _first(content: Content) -> CellFacts:
    return next(cell for cell in content.cells if cell.labels.method == "pruned")


def _set(content: Content, place: str, index: int, value: Any) -> None:
    content.frame[place][index] = value


def _guess(content: Content) -> None:
    name = next(iter(content.groups))
    content.guesses[name] = (content.guesses[name] + 1) % 10


def _beyond(content: Content) -> None:
    name = next(iter(content.groups))
    content.guesses[name] = content.guesses[name] + np.uint8(5)


def _step(content: Content, **changes: Any) -> None:
    key = _first(content).model_key
    spec = {**content.steps[key].spec, **changes}
    content.steps[key] = content.steps[key].model_copy(update={"spec": spec})


def _data(content: Content) -> None:
    facts = content.study.data["digits"].model_copy(update={"test": "c" * 64})
    content.study = content.study.model_copy(update={"data": {"digits": facts}})


def _cell(content: Content, **changes: Any) -> None:
    place = content.cells.index(_first(content))
    content.cells[place] = content.cells[place].model_copy(update=changes)


def _model(content: Content) -> None:
    key = _first(content).predict_key
    content.predictions[key] = content.predictions[key].model_copy(update={"model_sha256": "d" * 64})


def _no_loss(content: Content) -> None:
    content.frame["loss_sum"] = [0.0] * len(content.frame["loss_sum"])


FORGERIES: dict[str, tuple[Callable[[Content], Any], str]] = {
    "a count": (lambda c: _set(c, "tp", 3, c.frame["tp"][3] + 1), "frame.json: tp is .* but the predictions give"),
    "a word for a count": (lambda c: _set(c, "tp", 3, "3"), "frame.json: tp is '3'"),
    "a row less": (lambda c: [values.pop() for values in c.frame.values()], "frame.json (has|lacks)"),
    "a column less": (lambda c: c.frame.pop("tp"), "not the columns of the frame: tp"),
    "predicted labels": (_guess, "frame.json: .* but the predictions give"),
    "a class that is none": (_beyond, "a class index beyond its 10 classes"),
    "losses": (_no_loss, "a loss_sum of 0.0 for class . cannot be"),
    "a negative loss": (lambda c: _set(c, "loss_sum", 0, -1.0), "'-1.0' is no sum of losses"),
    "a step's settings": (lambda c: _step(c, seed=7), "is not what its key says"),
    "a lost parent": (lambda c: c.steps.pop(c.cells[0].model_key), "descends from .* which is not in the file"),
    "other data": (_data, "images of 'digits' are other data than the study's"),
    "counts of a cell": (lambda c: _cell(c, counts=[1] * 10), "its model was trained on other counts"),
    "a cell's model": (lambda c: _cell(c, model_key=c.cells[0].model_key), "not one of this cell's model"),
    "a model's hash": (_model, "the result hash is .* by its parts, not"),
    "a lost prediction": (lambda c: c.predictions.pop(_first(c).predict_key), "but its prediction says otherwise"),
    "ids": (lambda c: c.ids[next(iter(c.ids))].pop(), "does not fit together"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_was_forged_is_found(case: str, sound: Path, tmp_path: Path) -> None:
    content = content_of(sound)
    forge, words = FORGERIES[case]
    forge(content)
    path = write(tmp_path / "forged.results.zip", content)
    with pytest.raises(BadInput, match=rf"(?s)forged.results.zip: .*{words}"):
        check_results(path)
