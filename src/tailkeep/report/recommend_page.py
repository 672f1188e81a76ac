"""The page of a recommendation: the answer, the frontier, the evidence by class, and the order that was fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailkeep.report import publish, recommend_charts, recommend_tables, theme, words, writers
from tailkeep.report.canvas import Figure
from tailkeep.report.publish import Drawn, page_path, rendered, template
from tailkeep.report.recommend_view import ANSWERS, RecommendView, view_of
from tailkeep.report.tables import Table


def write_recommendation(facts: Mapping[str, Any], out: Path) -> Path:
    """Write the page of a recommendation's plain values to ``out``, figures and tables to ``<stem>_files`` beside it.

    Every file appears whole or not at all, the page last. Raises BadInput where ``out`` is a folder.
    """
    out = page_path(out)
    view = view_of(facts)
    drawn = publish.draw(figures(view))
    return publish.publish(
        out, view.facts["study"], stamp(view), drawn, table_files(view), lambda folder: page_html(view, drawn, folder)
    )


def figures(view: RecommendView) -> list[Figure | None]:
    """Return the figures, in the order in which the page shows them."""
    evidence = [recommend_charts.evidence_figure(view, index) for index in range(len(view.evidence))]
    return [recommend_charts.frontier_figure(view), *evidence]


def sheets(view: RecommendView) -> dict[str, Table]:
    """Return the tables for people that have rows, by name."""
    found = [recommend_tables.frontier_sheet(view), recommend_tables.class_sheet(view)]
    return {table.name: table for table in found if table is not None and table.rows}


def table_files(view: RecommendView) -> dict[str, str]:
    """Return the files of the tables: CSV with every digit, Markdown and LaTeX as people read them."""
    files = {"tables/frontier.csv": writers.csv_text(recommend_tables.frontier_frame(view))}
    classes = recommend_tables.class_frame(view)
    if len(classes):
        files["tables/classes.csv"] = writers.csv_text(classes)
    return files | writers.sheet_files(sheets(view), stamp(view))


def stamp(view: RecommendView) -> str:
    """Return one line that traces a file back."""
    question = view.facts["question"]
    return (
        f"recommendation {view.facts['study']}; baseline {view.facts['baseline']['model']}; seed "
        f"{view.facts['baseline']['seed']}; limit {question['max_class_drop']:g} points; confidence "
        f"{view.confidence}; code version {view.facts['provenance']['code_version']}"
    )


def page_html(view: RecommendView, drawn: Sequence[Drawn], folder: str) -> str:
    """Return the page's HTML. ``folder`` is the name of the folder beside it."""
    facts = view.facts
    style, sign = ANSWERS[facts["status"]]
    return rendered(
        "recommend.html.j2",
        theme.css() + template("style.css") + template("audit.css"),
        template("page.js"),
        drawn,
        folder,
        a={"name": facts["study"]},
        tables=sheets(view),
        r=facts,
        answer={"style": style, "sign": sign},
        facts=_facts(view),
        order=facts["order"],
        confidence=view.confidence,
        methods=[],
        number_of={},
        row_heads=("Candidate", "Class"),
        undrawn=len(facts["evidence"]) - len(view.evidence),
    )


def _facts(view: RecommendView) -> list[str]:
    facts, question = view.facts, view.facts["question"]
    images = sum(question["held_out_images"].values())
    found = [f"baseline {facts['baseline']['model']}, seed {facts['baseline']['seed']}"]
    found.append(f"at most {question['max_class_drop']:g} points lost by a class")
    found += [question["budget"]] if question["budget"] else []
    found.append(f"{view.confidence} confidence")
    found.append(f"{len(facts['frontier'])} candidates")
    found.append(f"{words.number(images, 0)} held-out images of {len(question['held_out_images'])} classes")
    return found
