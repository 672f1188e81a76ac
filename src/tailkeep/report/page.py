"""The page: one HTML file that needs nothing beside it, and a folder with its figures and tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tailkeep.analysis.result import StudyAnalysis
from tailkeep.analysis.words import plural
from tailkeep.report import (
    canvas,
    charts,
    deployment,
    forest,
    heatmap,
    lost,
    origin,
    pareto,
    publish,
    repairs,
    tables,
    theme,
    verdicts,
    words,
    writers,
)
from tailkeep.report.publish import Drawn, page_path, policy, rendered, template
from tailkeep.report.select import View, cleaned

__all__ = ["Drawn", "draw", "page_html", "policy", "sheets", "table_files", "write_report"]

NUMBERS = ("verdicts", "accuracy", "gaps", "recall", "tail", "size", "seed_gaps", "failures")
"""The analysis' own tables, in the order in which the page links them."""


def write_report(analysis: StudyAnalysis, out: Path) -> Path:
    """Write the page to ``out`` and its figures and tables to the folder ``<stem>_files`` beside it; return ``out``.

    Every file appears whole or not at all, the page last. Raises BadInput where ``out`` is a folder.
    """
    out = page_path(out)
    view = View(cleaned(analysis))
    drawn = draw(view)
    return publish.publish(
        out,
        view.analysis.name,
        origin.stamp(view),
        drawn,
        table_files(view),
        lambda folder: page_html(view, drawn, folder),
    )


def draw(view: View) -> list[Drawn]:
    """Draw every figure that the analysis has the numbers for."""
    found: list[canvas.Figure | None] = [
        forest.excess_figure(view),
        charts.accuracy_figure(view),
        *heatmap.heat_figures(view, "change"),
        charts.group_figure(view),
        *heatmap.heat_figures(view, "recall"),
        charts.size_figure(view),
        *pareto.pareto_figures(view),
        *repairs.repair_figures(view),
    ]
    return publish.draw(found)


def sheets(view: View) -> dict[str, tables.Table]:
    """Return the tables for people that have rows, by name."""
    margin = f"{view.analysis.margin:g}"
    found = [
        tables.verdict_sheet(view),
        tables.gap_pivot(
            view, "excess", "excess", f"Excess gap E in pp, 95 % intervals over seeds; the margin is {margin} pp."
        ),
        tables.gap_pivot(
            view, "drop", "drop", "Compression drop D in pp: the reference's accuracy minus the method's, same data."
        ),
        tables.gap_pivot(
            view, "gap", "gap", "Imbalance gap G in pp: the accuracy after balanced training minus after imbalanced."
        ),
        tables.accuracy_sheet(view),
        tables.tail_sheet(view),
        tables.control_sheet(view),
        tables.size_sheet(view),
        deployment.deployment_sheet(view),
        deployment.frontier_sheet(view),
        tables.recall_sheet(view),
        tables.failure_sheet(view),
        *repairs.repair_sheets(view),
    ]
    return {table.name: table for table in found if table is not None and table.rows}


def table_files(view: View) -> dict[str, str]:
    """Return the files of all tables: the analysis' own as CSV, those for people as Markdown and LaTeX."""
    result = view.analysis
    frames = {
        "verdicts": pd.DataFrame(verdicts.verdict_table(result)),
        "accuracy": result.accuracy,
        "gaps": result.gaps,
        "recall": result.recall,
        "tail": result.tail,
        "size": result.size,
        "failures": result.failures,
        "seed_gaps": result.seed_gaps,
        **_device_frames(view),
        **repairs.repair_frames(view),
    }
    line = origin.stamp(view)
    files = {f"tables/{name}.csv": writers.csv_text(frame) for name, frame in frames.items()}
    return files | writers.sheet_files(sheets(view), line)


def _device_frames(view: View) -> dict[str, pd.DataFrame]:
    """Return the tables that a study has where its models were exported or timed."""
    if not view.has_deployment:
        return {}
    found = {"pareto": view.analysis.pareto, "latency": view.analysis.latency}
    return {name: frame for name, frame in found.items() if len(frame)}


def page_html(view: View, drawn: Sequence[Drawn], folder: str) -> str:
    """Return the page's HTML. ``folder`` is the name of the folder beside it."""
    style = theme.css() + _method_css(view) + template("style.css")
    style += template("device.css") if view.has_deployment else ""
    style += template("repairs.css") if view.analysis.repairs else ""
    return rendered(
        "report.html.j2",
        style,
        template("page.js"),
        drawn,
        folder,
        a=view.analysis,
        tables=sheets(view),
        **_words(view),
    )


def _words(view: View) -> dict[str, Any]:
    """Return what the template says that is neither a figure nor a table."""
    return {
        "row_heads": ("Method", "Technique"),
        "cards": _cards(view),
        "summary": verdicts.summary(view),
        "facts": _facts(view),
        "methods": [{"name": method, "number": i, "role": view.roles[method]} for i, method in enumerate(view.methods)],
        "number_of": {method: i for i, method in enumerate(view.methods)},
        "has_excess": view.has_excess,
        "has_deployment": view.has_deployment,
        "has_latency": view.analysis.latency["median_ms"].notna().any() if len(view.analysis.latency) else False,
        "repairs": repairs.sections(view),
        "numbers": [*NUMBERS, *_device_frames(view), *repairs.repair_frames(view)],
        "group_rule": words.sentence(view.analysis.group_rule),
        "origin": origin.origin(view),
    }


def _method_css(view: View) -> str:
    names = theme.method_colours(view.methods, view.roles)
    return "".join(f".m{i}{{--tone:var(--{names[method]})}}\n" for i, method in enumerate(view.methods))


def _cards(view: View) -> list[dict[str, Any]]:
    cards = []
    for row, verdict in zip(verdicts.verdict_rows(view.analysis), view.analysis.verdicts, strict=True):
        where = view.family_name(verdict.dataset, verdict.model)
        known = words.known(verdict.excess_gap)
        found = None if view.has_excess else lost.worst_off(view, verdict)
        worst = None if found is None else (words.number(found.change, sign=True), lost.said(view, found))
        number = view.methods.index(verdict.method)
        say = verdicts.said(verdict)
        cards.append({**row, "where": where, "known": known, "number": number, "sentence": say, "worst": worst})
    return cards


def _facts(view: View) -> list[str]:
    result = view.analysis
    datasets = list(dict.fromkeys(dataset for dataset, _ in view.families))
    models = list(dict.fromkeys(model for _, model in view.families))
    facts = [
        datasets[0] if len(datasets) == 1 else plural(len(datasets), "dataset"),
        models[0] if len(models) == 1 else plural(len(models), "model"),
        plural(len(view.settings), "setting"),
        plural(len(result.seeds), "seed"),
        f"{result.primary_twin} balanced twin" if result.primary_twin != "none" else "no balanced twin",
        f"margin {result.margin:g} pp",
    ]
    return facts
