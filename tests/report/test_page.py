from __future__ import annotations

import csv
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from tailkeep.errors import BadInput
from tailkeep.report import page, verdicts, write_report
from tailkeep.report.select import View

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    *("<script>alert(1)</script>", "=cmd()|x", "</style><img src=x onerror=alert(1)>"),
    *("a\x00\x1b\u202eb", '"]}[x', "{{7*7}}"),
)
FIGURES = {"excess-gap", "accuracy", "recall-change", "groups", "recall", "size"}


class Reader(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(analysis, tmp_path_factory) -> Path:
    return write_report(analysis, tmp_path_factory.mktemp("report") / "my report.html")


@pytest.fixture(scope="module")
def reader(report: Path) -> Reader:
    return Reader(report.read_text(encoding="utf-8"))


def test_figures_and_tables_lie_beside_the_page(report: Path) -> None:
    folder = report.with_name("my report_files")
    assert {path.stem for path in (folder / "figures").glob("*.svg")} == FIGURES
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in (folder / "figures").glob("*.svg"):
        assert 'aria-label="' in path.read_text(encoding="utf-8")
        assert not re.search(r'aria-label="\d+\|', path.read_text(encoding="utf-8"))
    stems = {path.name for path in (folder / "tables").iterdir()}
    assert {"gaps.csv", "recall.csv", "drop.md", "drop.tex", "verdicts.csv", "verdicts.md", "verdicts.tex"} <= stems
    assert not [path for path in report.parent.rglob("*") if path.name.endswith(".tmp")]


def test_the_page_shows_every_figure_in_both_layouts(reader: Reader) -> None:
    figures = {attributes["id"] for attributes in reader.all("figure")}
    assert figures == {f"figure-{name}" for name in FIGURES}
    assert len(reader.all("svg")) == 2 * len(FIGURES)
    assert all(a.get("aria-label") for a in reader.all("div") if a.get("role") == "img")


def test_the_verdict_comes_first(reader: Reader, analysis) -> None:
    ids = [attributes["id"] for attributes in reader.all("section")]
    assert ids == ["verdict", "excess", "gaps", "classes", "tail", "size", "controls", "failures", "origin"]
    words = " ".join(reader.words)
    for verdict in analysis.verdicts:
        assert verdicts.said(verdict) in words


def test_nothing_is_loaded_from_anywhere(report: Path, reader: Reader) -> None:
    for tag, attributes in reader.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert not attributes.get("src")
        if tag != "a":
            assert attributes.get("href", "data:,") == "data:,"
    assert not re.search(r"url\((?!#)|@import|https?://", report.read_text(encoding="utf-8"))


def test_the_policy_allows_this_style_and_this_script_alone(report: Path, reader: Reader) -> None:
    text = report.read_text(encoding="utf-8")
    found = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(style) == len(script) == len(found) == 1
    assert found[0] == page.policy(style[0], script[0])
    assert "unsafe" not in found[0]
    assert found[0].startswith("default-src 'none'")


def test_headings_and_tables_are_named(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(reader.all("caption")) == len(reader.all("table"))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ["accuracy", "gaps", "recall", "tail", "size", "seed_gaps"])
def test_the_csv_holds_the_analysis_digit_by_digit(report: Path, analysis, name: str) -> None:
    path = report.with_name("my report_files") / "tables" / f"{name}.csv"
    frame = getattr(analysis, name)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(frame.columns)
    for row, (_, wanted) in zip(rows, frame.iterrows(), strict=True):
        for column, value in wanted.items():
            if isinstance(value, str):
                assert row[column] == value
            elif np.isnan(value):
                assert row[column] == ""
            else:
                assert float(row[column]) == value


def test_the_page_says_the_numbers(reader: Reader, analysis) -> None:
    row = analysis.gaps[analysis.gaps["method"] == "QAT W8A4"].iloc[-1]
    assert f"+{row['drop']:.1f}" in " ".join(reader.words)
    assert analysis.provenance["result_hash"] in reader.words
    assert "1 h 23 min" in reader.words


def test_every_figure_links_its_numbers(report: Path, reader: Reader) -> None:
    links = {str(a.get("href")) for a in reader.all("a")}
    for name in ("gaps", "seed_gaps", "verdicts", "accuracy", "recall", "tail", "size"):
        assert f"my%20report_files/tables/{name}.csv" in links
    for link in links:
        if not link.startswith("#"):
            assert (report.parent / unquote(link)).is_file()


def test_a_rows_method_heads_it(reader: Reader, analysis) -> None:
    heads = [a for a in reader.all("th") if a.get("scope") == "row"]
    assert len(heads) > len(analysis.verdicts)


def test_where_it_comes_from_is_said_in_full(reader: Reader) -> None:
    words = " ".join(reader.words)
    assert "cifar10/train" in words
    assert "{" not in "".join(w for w in reader.words if "a3a3" in w)
    spec = "name: paper-small\nseeds: [0, 1, 2]\nmodels:\n  - kind: resnet\n    depth: 20\n"
    assert hashlib.sha256(spec.encode()).hexdigest() in words
    assert "0, 1, 2" in reader.words


def test_the_same_analysis_gives_the_same_page(analysis, report: Path, tmp_path: Path) -> None:
    again = write_report(analysis, tmp_path / "my report.html")
    assert again.read_bytes() == report.read_bytes()


def test_hostile_names_stay_names(make_analysis, tmp_path: Path) -> None:
    arms = {
        "dense": ("dense", "self", 0.0, 1e5, 1e6, 1e5),
        "<script>alert(2)</script>": ("technique", "dense", 2.0, 1e5, 1e6, 1e5),
        "3|</title><script>": ("control", "dense", 1.0, 1e5, 1e6, 1e5),
    }
    analysis = make_analysis(classes=HOSTILE, arms=arms, settings=("<b>-10", "=x-100"), models=("<i>m", "../../m"))
    spec = "x: </script><script>alert(3)</script>\x1b"
    analysis = replace(analysis, name="</title><script>alert(4)</script>", provenance={"spec": spec})
    out = write_report(analysis, tmp_path / "r.html")
    text = out.read_text(encoding="utf-8")
    reader = Reader(text)
    assert len(reader.all("script")) == len(reader.all("style")) == 1
    assert not {tag for tag, _ in reader.elements} & {"img", "i", "iframe", "object", "image", "foreignobject"}
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert "{{7*7}}" in " ".join(reader.words)
    assert "\x00" not in text
    assert "\x1b" not in text
    tables = tmp_path / "r_files" / "tables"
    assert "'=cmd()|x" in (tables / "recall.csv").read_text(encoding="utf-8")
    assert "<script>" not in (tables / "verdicts.md").read_text(encoding="utf-8")
    assert {path.parent.parent for path in (tmp_path / "r_files").rglob("*") if path.is_file()} == {
        tmp_path / "r_files"
    }


def test_no_twin_still_makes_a_page(make_analysis, tmp_path: Path) -> None:
    analysis = make_analysis(twin="none", settings=("natural-30",), failed=False)
    out = write_report(analysis, tmp_path / "r.html")
    reader = Reader(out.read_text(encoding="utf-8"))
    words = " ".join(reader.words)
    assert "The excess gap E is not available: the study has no balanced twin" in words
    assert "class truck has 12 images" in words
    assert {a["id"] for a in reader.all("figure")} == {f"figure-{name}" for name in FIGURES - {"excess-gap"}}
    assert "table-drop" in {a.get("id") for a in reader.all("table")}
    assert "failures" not in {a["id"] for a in reader.all("section")}
    assert not re.search(r"\bnan\b", " ".join(w for w in reader.words if "NaN" not in w), re.IGNORECASE)


def test_numbers_that_are_missing_are_dashes(analysis, tmp_path: Path) -> None:
    changes = {}
    for name in ("accuracy", "gaps", "recall", "tail", "size", "seed_gaps"):
        frame = getattr(analysis, name).copy()
        floats = frame.select_dtypes("float").columns
        frame.loc[frame["method"] != "dense", floats] = np.nan
        changes[name] = frame
    out = write_report(replace(analysis, **changes), tmp_path / "r.html")
    reader = Reader(out.read_text(encoding="utf-8"))
    assert "–" in reader.words
    assert not [word for word in reader.words if re.search(r"\bnan\b", word) and word != "nan"]


def test_an_empty_study_makes_a_page(analysis, tmp_path: Path) -> None:
    names = ("accuracy", "gaps", "recall", "tail", "size", "seed_gaps", "failures")
    empty = {name: pd.DataFrame(columns=getattr(analysis, name).columns) for name in names}
    out = write_report(
        replace(analysis, verdicts=(), notes=(), provenance={}, group_rule="", **empty), tmp_path / "r.html"
    )
    text = out.read_text(encoding="utf-8")
    assert "no compressed model to judge" in text
    assert "<figure" not in text


def test_a_second_report_leaves_nothing_of_the_first(analysis, make_analysis, tmp_path: Path) -> None:
    write_report(analysis, tmp_path / "r.html")
    mine = tmp_path / "r_files" / "figures" / "my-own.png"
    mine.write_bytes(b"x")
    write_report(make_analysis(twin="none"), tmp_path / "r.html")
    left = {path.name for path in (tmp_path / "r_files").rglob("*")}
    assert "excess-gap.png" not in left
    assert "excess.md" not in left
    assert "accuracy.png" in left
    assert mine.exists()


def test_a_break_in_the_middle_leaves_the_old_page_whole(analysis, tmp_path: Path, monkeypatch) -> None:
    out = write_report(analysis, tmp_path / "r.html")
    before = out.read_bytes()

    def broken(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(page, "page_html", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(replace(analysis, name="other"), out)
    assert out.read_bytes() == before


def test_a_folder_is_refused(analysis, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        write_report(analysis, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_has_nothing_to_complain_of(report: Path, tmp_path: Path) -> None:
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--dump-dom"),
        *(f"--user-data-dir={tmp_path}", "--window-size=1400,3000"),
    ]
    done = subprocess.run([str(CHROMIUM), *options, report.as_uri()], capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in done.stderr
    assert b"data-tip=" in done.stdout, "the page's script did not run"
    assert b'<div class="bar">' in done.stdout


def test_a_device_has_its_section(deployed, report: Path, tmp_path: Path) -> None:
    out = write_report(deployed, tmp_path / "r.html")
    text = out.read_text(encoding="utf-8")
    reader = Reader(text)
    ids = [attributes["id"] for attributes in reader.all("section")]
    assert ids[ids.index("size") + 1] == "deployment"
    figures = {"pareto-bytes", "pareto-macs", "pareto-latency-1", "pareto-latency-64"}
    assert {a["id"] for a in reader.all("figure")} == {f"figure-{name}" for name in FIGURES | figures}
    assert {"table-deployment", "table-frontier"} <= {a.get("id") for a in reader.all("table")}
    tables = {path.name for path in (tmp_path / "r_files" / "tables").iterdir()}
    assert {"pareto.csv", "latency.csv", "deployment.md", "deployment.tex", "frontier.md"} <= tables
    for link in {str(a.get("href")) for a in reader.all("a")}:
        assert link.startswith("#") or (tmp_path / unquote(link)).is_file()
    style, script = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0] for tag in ("style", "script"))
    assert page.policy(style, script) in {a.get("content") for a in reader.all("meta")}
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "Latency: not measured" not in text
    # Nothing of it where nothing was exported.
    plain = report.read_text(encoding="utf-8")
    assert not re.search(r"pareto|deployment|latency|frontier", plain)


def test_a_device_that_was_not_timed_says_so(analysis, deploy) -> None:
    view = View(deploy(analysis, batches=()))
    assert '<p class="absent">Latency: not measured.</p>' in page.page_html(view, [], "r_files")
    assert "tables/latency.csv" not in page.table_files(view)
