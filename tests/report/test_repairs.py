"""The section "Where to repair": what stands in it, its figure in both layouts, and that an ordinary page has none."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailkeep import frame as frames
from tailkeep.analysis.repairs import STAGE_COLUMNS
from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.study import analyse
from tailkeep.report import canvas, page, repair_panel, repairs, svg, write_report
from tailkeep.report.select import View

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DENSE = {"plain": 57.0, "balanced softmax": 70.5, "LDAM-DRW": 72.4}
COMPRESSION = {"W4A8": (7.7, 1.8), "pruned + W4A8": (11.9, 4.5)}
PLACES = {"": (0, 0), " + balanced": (1, 0), " + adjusted": (0, 1)}
Maker = Callable[..., StudyAnalysis]


def arms() -> list[dict[str, Any]]:
    """Three dense models, two compressions, each plain, repaired during and repaired after; one repair alone."""
    found = []
    for model, level in DENSE.items():
        before = model != "plain"
        found.append(arm(model, "dense", level, 1.0, before=before))
        if not before:
            found.append(arm(model, "adjusted", 68.9, 1.0, after=True))
        for method, (times, cost) in COMPRESSION.items():
            for name, (during, after) in PLACES.items():
                if before and after:
                    continue
                gained = (
                    level - cost + (0 if before else 9.0 * during + 6.5 * after) - (1.2 if before and during else 0)
                )
                places = {"before": before, "during": bool(during), "after": bool(after), "compressed": True}
                found.append(arm(model, method + name, gained, times, **places))
    return found


def arm(model: str, method: str, level: float, times: float, **stages: bool) -> dict[str, Any]:
    role = "dense" if method == "dense" else "technique"
    places = {"before": False, "during": False, "after": False, "compressed": False, **stages}
    return {"model": model, "method": method, "role": role, "level": level, "times": times, **places}


def rows_of(each: dict[str, Any], setting: str, seed: int, split: str, level: float, twin: str) -> list[dict[str, Any]]:
    """Counts of a cell: recall falls with the rank of the class, the more so where nothing was repaired."""
    draw = np.random.default_rng([seed, len(each["method"]), len(each["model"]), split == "test"])
    repaired = each["before"] or each["during"] or each["after"]
    slope = (20 if repaired else 75) if twin == "imbalanced" else 5
    values = level + slope * (0.5 - np.arange(10) / 9) + draw.normal(0, 2.5, 10) + 0.4 * seed
    tp = np.clip(np.round(values * 10), 0, 1000).astype(int)
    counts = [int(5000 * 100 ** (-rank / 9)) for rank in range(10)] if twin == "imbalanced" else [5000] * 10
    names = {name: each[name] for name in ("model", "method", "role")}
    cell = {"dataset": "cifar10", "setting": setting, "twin": twin, **names, "seed": seed, "split": split}
    made = []
    for index, right in enumerate(tp.tolist()):
        wrong = 1000 - right
        own = {"n": 1000, "tp": right, "fp": 1000 - int(tp[index - 1]), "fn": wrong, "loss_sum": float(wrong)}
        which = {"class_index": index, "class_name": CLASSES[index], "train_count": counts[index]}
        for reference in ("self", "dense") if each["role"] == "technique" else ("self",):
            joint = {"n11": right, "n10": 0, "n01": 0, "n00": wrong, "changed": 0}
            made.append({**cell, **which, "reference": reference, **own, **joint})
    return made


def study(
    settings: tuple[str, ...] = ("exponential-100",),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    validation: bool = True,
    chosen: list[dict[str, Any]] | None = None,
) -> StudyAnalysis:
    """A study of repairs at three places, without any training."""
    rows, stages, sizes = [], [], []
    for setting in settings:
        for each in arms() if chosen is None else chosen:
            names = {"dataset": "cifar10", "setting": setting, "twin": "imbalanced"}
            names |= {name: each[name] for name in ("model", "method")}
            stages.append({**names, **{name: each[name] for name in STAGE_COLUMNS[5:]}})
            for seed in seeds:
                packed = 1_090_000 / each["times"]
                figures = {"weights": 270_896, "macs": 40_800_000, "packed_bytes": packed}
                sizes.append({**names, "role": each["role"], "seed": seed, **figures})
                for split in ("test", "validation") if validation else ("test",):
                    rows += rows_of(each, setting, seed, split, each["level"], "imbalanced")
                rows += rows_of(each, setting, seed, "test", 86.0, "full")
    return analyse(
        frames.build(rows),
        pd.DataFrame(sizes),
        pd.DataFrame(),
        name="where to repair",
        planned_twins=("full",),
        provenance={"result_hash": "c5" * 32, "code_version": "0.1.0"},
        stages=pd.DataFrame(stages, columns=STAGE_COLUMNS),
    )


SMALL = [
    arm("plain", "dense", 57.0, 1.0),
    arm("balanced", "dense", 70.0, 1.0, before=True),
    arm("plain", "int4", 55.0, 7.9, compressed=True),
    arm("balanced", "int4", 68.0, 7.9, before=True, compressed=True),
    arm("other", "int4", 66.0, 7.9, before=True, compressed=True),
]


@pytest.fixture(scope="module")
def repaired() -> StudyAnalysis:
    return study()


@pytest.fixture(scope="module")
def view(repaired: StudyAnalysis) -> View:
    return View(repaired)


@pytest.fixture(scope="module")
def html(view: View) -> str:
    drawn = page.publish.draw(repairs.repair_figures(view))
    return page.page_html(view, drawn, "report_files")


def layers(spec: canvas.Spec) -> list[list[dict[str, Any]]]:
    """The layers of both panels of a figure."""
    rows = spec["vconcat"][1]["vconcat"]
    return [panel["layer"] for row in rows for panel in row["hconcat"]]


def points(spec: canvas.Spec) -> list[list[dict[str, Any]]]:
    """The marks of both panels."""
    return [layer["data"]["values"] for panel in layers(spec) for layer in panel if layer["mark"]["type"] == "point"]


def test_the_section_follows_the_verdicts(html: str, view: View) -> None:
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids.index("repair") == ids.index("verdict") + 1
    assert '<a href="#repair">' in html
    (repair,) = view.analysis.repairs
    for text in repair.sentences:
        assert f"<li>{text}</li>" in html
    assert html.count('<table id="table-repairs"') == html.count('<table id="table-repairs-where"') == 1
    assert 'id="figure-repairs"' in html


def test_an_ordinary_page_has_none_of_it(analysis: StudyAnalysis) -> None:
    view = View(analysis)
    assert repairs.repair_figures(view) == repairs.repair_sheets(view) == []
    assert repairs.repair_frames(view) == {}
    text = page.page_html(view, [], "report_files")
    assert "repair" not in text


def test_every_model_is_a_mark_in_both_panels_and_layouts(view: View) -> None:
    (figure,) = repairs.repair_figures(view)
    assert figure is not None
    (repair,) = view.analysis.repairs
    for spec in (figure.wide, figure.narrow):
        for marks in points(spec):
            assert len(marks) == len(repair.table) == len(arms())
            assert sum(mark["full"] for mark in marks) == 4, "open: the uncompressed ones"
            assert {mark["stage"] for mark in marks} == {"no repair", "before", "during", "after", "before + during"}
    balanced, worst = points(figure.wide)
    assert sorted(mark["y"] for mark in balanced) == pytest.approx(sorted(repair.table["balanced_accuracy"]))
    assert sorted(mark["y"] for mark in worst) == pytest.approx(sorted(repair.table["worst_class_recall"]))


def test_what_stands_for_its_place_is_large(view: View) -> None:
    (figure,) = repairs.repair_figures(view)
    (repair,) = view.analysis.repairs
    assert figure is not None
    large = {mark["tip"].split("|")[1] for mark in points(figure.wide)[0] if mark["area"] > 100}
    named = {f"{row['method']} · {row['model']}" for row in repair.where.to_dict("records")}
    named.add(f"{repair.best[1]} · {repair.best[0]}" if repair.best else "")
    assert {" · ".join(tip.split(" · ")[:2]) for tip in large} == named


def test_bars_are_the_gains_intervals_about_the_mark(view: View) -> None:
    (figure,) = repairs.repair_figures(view)
    (repair,) = view.analysis.repairs
    assert figure is not None
    row = repair.table[(repair.table["model"] == "plain") & (repair.table["method"] == "W4A8 + balanced")].iloc[0]
    mark = next(m for m in points(figure.wide)[0] if m["y"] == pytest.approx(row["balanced_accuracy"]))
    assert mark["high"] - mark["low"] == pytest.approx(row["gain_high"] - row["gain_low"])
    assert mark["low"] < mark["y"] < mark["high"]
    base = next(m for m in points(figure.wide)[0] if "dense · plain" in m["tip"])
    assert "low" not in base


def test_lines_are_the_baseline_and_the_best(view: View) -> None:
    (figure,) = repairs.repair_figures(view)
    (repair,) = view.analysis.repairs
    assert figure is not None
    table = repair.table.set_index(["model", "method"])
    for panel, column in zip(layers(figure.wide), ("balanced_accuracy", "worst_class_recall"), strict=True):
        lines = [x["data"]["values"][0]["y"] for x in panel if x["mark"].get("strokeDash")]
        assert lines == pytest.approx([table.loc[pair, column] for pair in (repair.baseline, repair.best)])


def test_marks_of_one_size_stand_side_by_side_and_sizes_in_order() -> None:
    rows = [
        {"times_smaller": size, "stage": stage} for size in (1.0, 7.7, 8.0) for stage in ("none", "before", "after")
    ]
    for width in (220, 430):
        places = repair_panel.spread(rows, width)
        low, high = (math.log(end) for end in places.ends)
        pixels = [width * (math.log(at) - low) / (high - low) for at in places.at]
        assert all(7 <= pixel <= width - 7 for pixel in pixels)
        assert len({round(pixel, 3) for pixel in pixels}) == len(rows), "no mark covers another"
        assert max(pixels[:3]) < min(pixels[3:])
        assert pixels[0] < pixels[1] < pixels[2]
        assert places.sizes[0] == pytest.approx(1.0)


def test_where_names_of_sizes_would_touch_the_ends_keep_theirs() -> None:
    rows = [{"times_smaller": size, "stage": "before"} for size in (1.0, 1.6, 6.17, 7.47)]
    assert [round(size, 2) for size in repair_panel.spread(rows, 230).sizes] == [1.0, 1.6, 7.47]
    assert [round(size, 2) for size in repair_panel.spread(rows, 600).sizes] == [1.0, 1.6, 6.17, 7.47]


@pytest.mark.parametrize("sizes", [(1.0,), (1.0, 1.0), (0.5, 1.0, 4000.0)])
def test_any_sizes_have_places(sizes: tuple[float, ...]) -> None:
    places = repair_panel.spread([{"times_smaller": size, "stage": "before"} for size in sizes], 200)
    assert places.ends[0] < min(places.at) <= max(places.at) < places.ends[1]


def test_each_place_has_a_colour_and_a_shape_of_its_own() -> None:
    assert len(set(repair_panel.STAGES.values())) == len(repair_panel.STAGES) == 8
    assert len({repair_panel.shape(stage) for stage in repair_panel.STAGES}) == 8


def test_marks_carry_their_numbers_and_method(view: View) -> None:
    (figure,) = repairs.repair_figures(view)
    assert figure is not None
    drawing = svg.inline(canvas.to_svg(figure.narrow), "n0")
    number = view.methods.index("W4A8 + balanced")
    tips = re.findall(rf'data-m="{number}"[^>]*><title>([^<]*)', drawing)
    assert any(
        re.fullmatch(
            r"W4A8 \+ balanced · plain · repaired during · 7\.7x smaller · balanced accuracy 6\d\.\d % · "
            r"gain \+\d\.\d \[\d\.\d, \d+\.\d\] pp · worst class \d+\.\d %",
            tip,
        )
        for tip in tips
    )
    for name in ("no repair", "before + during", "baseline", "times smaller", "worst-class recall"):
        assert f">{name}" in drawing


def test_the_table_has_gains_with_intervals_and_sorts_by_number(view: View) -> None:
    where, table = repairs.repair_sheets(view)
    assert (where.name, table.name) == ("repairs-where", "repairs")
    assert len(table.rows) == len(arms())
    row = dict(zip(table.heads, table.rows[table.methods.index("W4A8 + balanced")], strict=True))
    assert row["Repaired"].text == "during"
    assert (row["Smaller"].text, row["Smaller"].order) == ("7.7x", pytest.approx(7.7))
    assert re.fullmatch(r"\+\d\.\d", row["Gain (pp)"].text)
    assert re.fullmatch(r"\[\d\.\d, \d+\.\d\]", row["Gain (pp)"].small)
    assert row["Gain (pp)"].order == pytest.approx(float(row["Gain (pp)"].text), abs=0.06)
    assert row["Excess gap E (pp)"].text != "–"
    assert table.rows[0][table.heads.index("Gain (pp)")].small == "", "the baseline against itself"
    assert "The best is dense (LDAM-DRW)" in table.caption
    assert len(where.rows) == 2 * 5


def test_files_hold_every_digit(tmp_path: Path) -> None:
    repaired = study(seeds=(0, 1), chosen=SMALL)
    write_report(repaired, tmp_path / "report.html")
    folder = tmp_path / "report_files"
    assert (folder / "figures/repairs.svg").is_file()
    assert (folder / "tables/repairs.tex").is_file()
    with (folder / "tables/repairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (repair,) = repaired.repairs
    assert [float(row["gain"]) for row in rows] == repair.table["gain"].tolist()
    assert (folder / "tables/repairs_where.csv").is_file()
    assert (folder / "tables/repairs_summary.csv").is_file()
    assert "report_files/tables/repairs_where.csv" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_section_a_setting() -> None:
    view = View(study(("exponential-10", "exponential-100"), seeds=(0,), chosen=SMALL))
    assert [figure.name for figure in repairs.repair_figures(view) if figure] == ["repairs-1", "repairs-2"]
    assert [each["head"] for each in repairs.sections(view)] == ["exponential-10", "exponential-100"]
    assert len(repairs.repair_frames(view)["repairs"]) == 2 * len(SMALL)
    html = page.page_html(view, page.publish.draw(repairs.repair_figures(view)), "files")
    assert (
        html.index('id="figure-repairs-1"') < html.index('id="table-repairs-1"') < html.index('id="figure-repairs-2"')
    )
    assert "1 seed, no claim" in html


def test_without_validation_the_page_says_so() -> None:
    view = View(study(seeds=(0, 1), validation=False, chosen=SMALL))
    (figure,) = repairs.repair_figures(view)
    assert figure is not None
    assert "best repaired" not in figure.caption
    assert len([x for x in layers(figure.wide)[0] if x["mark"].get("strokeDash")]) == 1
    where, table = repairs.repair_sheets(view)
    assert "Below the best (pp)" not in table.heads
    assert [cell.text for cell in where.rows[1]][2:5] == ["–", "–", "–"]
    html = page.page_html(view, [], "files")
    assert "nothing is picked on the images that the figures come from" in html


def test_unknown_sizes_give_sentences_and_no_figure() -> None:
    chosen = [{**each, "times": float("nan")} for each in SMALL]
    view = View(study(seeds=(0, 1), chosen=chosen))
    assert repairs.repair_figures(view) == [None]
    assert repairs.sections(view)[0]["said"][0].startswith("Compressed, to sizes that are not known")


def test_hostile_names_stay_names() -> None:
    repaired = study(seeds=(0, 1), chosen=SMALL)
    bad = "<img src=x>\u202e\x00"
    (repair,) = repaired.repairs
    table = repair.table.replace("balanced", bad)
    where = repair.where.replace("balanced", bad)
    hostile = replace(
        repair, table=table, where=where, best=(bad, "dense"), sentences=(f"{bad} wins",), notes=(f"{bad} lost",)
    )
    view = View(replace(repaired, repairs=(hostile,)))
    html = page.page_html(view, page.publish.draw(repairs.repair_figures(view)), "files")
    assert "<img" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "&lt;img src=x&gt;�� wins" in html
