from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tailkeep.report import origin, write_report
from tailkeep.report.select import View, cleaned

HASHES = ("c5" * 32, "a3" * 32, "b4" * 32)


@pytest.fixture(scope="module")
def files(analysis, tmp_path_factory) -> Path:
    write_report(analysis, tmp_path_factory.mktemp("report") / "r.html")
    return next(tmp_path_factory.getbasetemp().glob("report*/r_files"))


def chunks(image: bytes) -> dict[str, str]:
    """The text chunks of a PNG file, each checked."""
    found, at = {}, 8
    while at < len(image):
        size = int.from_bytes(image[at : at + 4], "big")
        kind, body = image[at + 4 : at + 8], image[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(image[at + 8 + size : at + 12 + size], "big")
        if kind == b"iTXt":
            name, text = body.split(b"\0\0\0\0\0", 1)
            found[name.decode()] = text.decode()
        at += 12 + size
    return found


def test_each_figure_file_says_where_it_comes_from(files: Path) -> None:
    for path in (files / "figures").glob("*.png"):
        found = chunks(path.read_bytes())
        assert found["Title"].startswith("paper-small: ")
        assert all(digest in found["Description"] for digest in HASHES)
        assert "seeds 0, 1, 2" in found["Description"]
    for path in (files / "figures").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        first, second = list(root)[:2]
        assert first.tag.endswith("title")
        assert second.tag.endswith("desc")
        assert all(digest in str(second.text) for digest in HASHES)


def test_a_stamped_png_still_opens(files: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for path in (files / "figures").glob("*.png"):
        with image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
            assert picture.width > 1000


def test_tables_for_papers_say_where_they_come_from(files: Path) -> None:
    for path in [*(files / "tables").glob("*.tex"), *(files / "tables").glob("*.md")]:
        assert HASHES[0] in path.read_text(encoding="utf-8")


def test_hostile_names_do_not_leave_the_stamp(analysis) -> None:
    view = View(cleaned(replace(analysis, name="a</desc><script>\nx\x00")))
    line = origin.stamp(view)
    assert "\n" not in line
    root = ElementTree.fromstring(origin.stamped_svg('<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>', line, line))
    assert [child.tag.rpartition("}")[2] for child in root] == ["title", "desc", "g"]


def test_the_study_files_hash_is_that_of_its_bytes(analysis) -> None:
    text = "name: x\nseeds: [0]\n\n"
    view = View(cleaned(cleaned(replace(analysis, provenance={"spec": text}))))
    assert origin.origin(view)["short"]["Study file, SHA-256"] == hashlib.sha256(text.encode()).hexdigest()


def test_facts_are_flat_and_an_unknown_one_is_a_dash(analysis) -> None:
    assert origin.flat({"cifar10": {"train": "a", "test": "b"}, "n": 3}) == {
        "cifar10 · train": "a",
        "cifar10 · test": "b",
        "n": "3",
    }
    assert origin.flat(None) == {}
    short = origin.origin(View(replace(analysis, provenance={})))["short"]
    assert short["Result hash"] == short["Study file, SHA-256"] == "–"
