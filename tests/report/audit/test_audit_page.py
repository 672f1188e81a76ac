from __future__ import annotations

import csv
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
from tailkeep.report.audit_flips import rows_shown
from tailkeep.report.audit_page import write_audit_report
from tailkeep.report.publish import policy
from tailkeep.report.thumbnails import png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    *("<script>alert(1)</script>", "=cmd()|x", "</style><img src=x onerror=alert(1)>"),
    *("a\x00\x1b\u202eb", '"]}[x', "{{7*7}}"),
)
SECTIONS = ["verdict", "change", "recall", "sure", "calibration", "flips", "seeds", "origin"]
PICTURE = png(np.full((3, 8, 8), 90, dtype=np.uint8))


class Reader(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for attributes in self.all(tag)]

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def thumbnails(audit) -> dict[int, bytes]:
    return dict.fromkeys(rows_shown(audit), PICTURE)


@pytest.fixture(scope="module")
def one(make_audit, tmp_path_factory) -> Path:
    audit = make_audit(seeds=True)
    return write_audit_report(audit, tmp_path_factory.mktemp("audit") / "my audit.html", thumbnails(audit))


@pytest.fixture(scope="module")
def reader(one: Path) -> Reader:
    return Reader(one)


def test_sections_stand_in_their_order(reader: Reader) -> None:
    assert reader.ids("section") == SECTIONS
    anchors = [str(a["href"])[1:] for a in reader.all("a") if str(a.get("href")).startswith("#")]
    assert anchors == ["verdict", *SECTIONS]  # the skip link, then the sections


def test_the_verdict_is_said_first(reader: Reader, audit) -> None:
    broken = [r for r in audit.candidates[0].gate.results if r.decision == "broken"]
    assert broken
    head = reader.said.split("Every check of the gate")[0]
    assert "Fail:" in head
    worst = max(broken, key=lambda r: r.estimate)
    assert f"{worst.check.name} loses {100 * worst.estimate:.1f}" in head
    assert "limit 2 pp, 95 % confidence" in head
    assert "more images would sooner show a fail" in head, "what was seen lies beyond the limit already"
    assert "about 3,345 test images" not in head


def test_figures_and_tables_lie_beside_the_page(one: Path, reader: Reader) -> None:
    folder = one.with_name("my audit_files")
    figures = {"change", "groups", "recall", "calibration", "seeds"}
    for kind in ("svg", "png"):
        assert {path.stem for path in (folder / "figures").glob(f"*.{kind}")} == figures
    assert set(reader.ids("figure")) == {f"figure-{name}" for name in figures}
    tables = {path.name for path in (folder / "tables").iterdir()}
    for name in ("gate", "summary", "classes", "groups", "seeds", "flips"):
        assert {f"{name}.csv", f"{name}.md", f"{name}.tex"} <= tables
    assert "a3" * 32 in (folder / "figures" / "change.svg").read_text(encoding="utf-8")
    assert "a3" * 32 in (folder / "tables" / "gate.md").read_text(encoding="utf-8")


def test_the_csv_holds_the_audit_digit_by_digit(one: Path, make_audit) -> None:
    frame = make_audit(seeds=True).candidates[0].classes
    with (one.with_name("my audit_files") / "tables" / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["candidate_name", *frame.columns]
    for row, wanted in zip(rows, frame.to_dict("records"), strict=True):
        assert {name: float(row[name]) for name in ("change", "n10", "p_mcnemar", "ece")} == {
            name: wanted[name] for name in ("change", "n10", "p_mcnemar", "ece")
        }


def test_nothing_is_loaded_from_anywhere(reader: Reader) -> None:
    for tag, attributes in reader.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;base64,")
        if tag != "a":
            assert attributes.get("href", "data:,") == "data:,"
    assert not re.search(r"url\((?!#)|@import|https?://", reader.text)


def test_the_policy_allows_this_style_and_this_script_alone(reader: Reader) -> None:
    found = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    style, script = (re.findall(rf"<{tag}>(.*?)</{tag}>", reader.text, re.DOTALL) for tag in ("style", "script"))
    assert len(style) == len(script) == 1
    assert found == [policy(style[0], script[0])]
    assert "unsafe" not in str(found[0])


def test_links_lead_to_files_and_ids_are_single(one: Path, reader: Reader) -> None:
    links = {str(a.get("href")) for a in reader.all("a")}
    assert all(link.startswith("#") or (one.parent / unquote(link)).is_file() for link in links)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_flipped_images_are_shown_the_worst_first(reader: Reader, make_audit) -> None:
    flips = make_audit(seeds=True).candidates[0].flips
    images = reader.all("img")
    assert len(images) == 60
    for image, row in zip(images, flips.to_dict("records"), strict=False):
        said = f"labelled {row['label']}, baseline said {row['baseline']}, candidate says {row['candidate']}"
        assert image["alt"] == f"image {row['id']}: {said}"
        assert image["class"] == "small"
    many = len(flips)
    assert (
        f"{many} images changed the answer: the 60 worst are shown, {many - 60} more are in flips.csv." in reader.said
    )


def test_hostile_names_stay_names(make_audit, tmp_path: Path) -> None:
    audit = make_audit(
        classes=HOSTILE,
        candidates={
            "</title><script>alert(2)</script>": 9.0,
            "3|<img src=x onerror=alert(3)>": 1.0,
            "../../x": 0.5,
        },
        baseline="<iframe src=x>",
        name="</title><script>alert(4)</script>",
        seeds=True,
    )
    reader = Reader(write_audit_report(audit, tmp_path / "r.html", thumbnails(audit)))
    assert len(reader.all("script")) == len(reader.all("style")) == 1
    assert not {tag for tag, _ in reader.elements} & {"iframe", "object", "image", "foreignobject", "i"}
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in reader.all("img"))
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert "{{7*7}}" in reader.said
    assert not re.search("[\x00\x1b]", reader.text)
    tables = tmp_path / "r_files" / "tables"
    assert "'=cmd()|x" in (tables / "classes.csv").read_text(encoding="utf-8")
    assert "<script>" not in (tables / "gate.md").read_text(encoding="utf-8")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "r.html"]
    assert {path.parent.parent for path in files} == {tmp_path / "r_files"}


def test_what_is_no_picture_is_not_embedded(audit, tmp_path: Path) -> None:
    rows = list(audit.candidates[0].flips["row"])
    pictures = {rows[0]: b"<svg onload=alert(1)>", rows[1]: PICTURE, rows[2]: b"\x89PNG\r\n\x1a\n"}
    reader = Reader(write_audit_report(audit, tmp_path / "r.html", pictures))
    assert len(reader.all("img")) == 1
    assert reader.said.count("no picture") == 59


def test_three_candidates_get_a_table_and_a_card_each(make_audit, tmp_path: Path) -> None:
    audit = make_audit(candidates={"pruned": 7.0, "int8": -1.0, "Pruned!": 2.0})
    reader = Reader(write_audit_report(audit, tmp_path / "r.html"))
    figures = reader.ids("figure")
    assert figures[:3] == ["figure-change-1-pruned", "figure-change-int8", "figure-change-3-pruned"]
    assert len([a for a in reader.all("li") if str(a.get("class")).startswith("card ")]) == 3
    assert reader.ids("table")[0] == "table-comparison"
    assert [a.get("data-pick") for a in reader.all("button") if "data-pick" in a] == ["0", "1", "2"]
    with (tmp_path / "r_files" / "tables" / "classes.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 30


def test_without_scores_or_thumbnails(make_audit, tmp_path: Path) -> None:
    audit = make_audit(scores=False, training=False)
    reader = Reader(write_audit_report(audit, tmp_path / "r.html"))
    assert reader.ids("section") == [name for name in SECTIONS if name not in ("calibration", "seeds")]
    assert not reader.all("img")
    assert not reader.all("select")
    assert "table-flips" in reader.ids("table")
    assert not re.search(r"\bnan\b", reader.said, re.IGNORECASE)
    assert "Trained on" not in reader.said


def test_a_thousand_classes(make_audit, tmp_path: Path) -> None:
    audit = make_audit(classes=[f"class {i:04d}" for i in range(1000)], n=50)
    out = write_audit_report(audit, tmp_path / "r.html")
    reader = Reader(out)
    assert "The 20 worst and the 10 best classes; 970 between them are in the table." in reader.said
    assert "figure-recall-map" in reader.ids("figure")
    assert out.stat().st_size < 2_000_000
    worst = audit.candidates[0].classes.sort_values(["change", "class_index"]).iloc[0]["class_name"]
    assert worst in reader.said.split("Who pays?")[1]
    with (tmp_path / "r_files" / "tables" / "classes.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1000


def test_many_labels_an_image(make_audit, tmp_path: Path) -> None:
    audit = make_audit(task="multilabel", n=300)
    reader = Reader(write_audit_report(audit, tmp_path / "r.html"))
    assert "Average precision (%)" in reader.said
    row = audit.candidates[0].classes.iloc[0]
    assert f"{row['average_precision']:.1f} before {row['average_precision_baseline']:.1f}" in reader.said
    assert "multi-label" in reader.said
    assert "positives that only the baseline has right" in reader.said


def test_an_audit_without_limits_judges_nothing(make_audit, tmp_path: Path) -> None:
    reader = Reader(write_audit_report(make_audit(limit=None), tmp_path / "r.html"))
    assert "No limit was set" in reader.said
    assert "table-gate" not in reader.ids("table")


def test_nothing_changed(audit, tmp_path: Path) -> None:
    flips = audit.candidates[0].flips
    calm = replace(audit.candidates[0], flips=flips.head(0))
    reader = Reader(write_audit_report(replace(audit, candidates=(calm,)), tmp_path / "r.html", {}))
    assert "No image's answer changed." in reader.said


def test_empty_classes_and_groups_are_dashes(audit, tmp_path: Path) -> None:
    first = audit.candidates[0]
    classes = first.classes.copy()
    floats = classes.select_dtypes("float").columns
    classes.loc[0, floats] = np.nan
    groups = pd.DataFrame(columns=first.groups.columns)
    audit = replace(audit, candidates=(replace(first, classes=classes, groups=groups),), notes=(), provenance={})
    reader = Reader(write_audit_report(audit, tmp_path / "r.html"))
    assert "figure-groups" not in reader.ids("figure")
    assert not re.search(r"\bnan\b", reader.said, re.IGNORECASE)


def test_the_same_audit_gives_the_same_page(make_audit, one: Path, tmp_path: Path) -> None:
    audit = make_audit(seeds=True)
    again = write_audit_report(audit, tmp_path / "my audit.html", thumbnails(audit))
    assert again.read_bytes() == one.read_bytes()


def test_a_second_report_leaves_nothing_of_the_first(make_audit, tmp_path: Path) -> None:
    write_audit_report(make_audit(candidates={"a": 7.0, "b": 1.0}), tmp_path / "r.html")
    mine = tmp_path / "r_files" / "figures" / "my-own.png"
    mine.write_bytes(b"x")
    write_audit_report(make_audit(scores=False), tmp_path / "r.html")
    left = {path.name for path in (tmp_path / "r_files").rglob("*")}
    assert not left & {"change-a.png", "change-b.svg", "calibration.md", "comparison.csv"}
    assert {"change.png", "my-own.png"} <= left


def test_a_folder_is_refused(audit, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        write_audit_report(audit, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_has_nothing_to_complain_of(one: Path, tmp_path: Path) -> None:
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--dump-dom"),
        *(f"--user-data-dir={tmp_path}", "--window-size=1400,3000"),
    ]
    done = subprocess.run([str(CHROMIUM), *options, one.as_uri()], capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in done.stderr
    assert b"data-tip=" in done.stdout, "the page's script did not run"
    assert b'<div class="filter">' in done.stdout, "the filter did not show"
