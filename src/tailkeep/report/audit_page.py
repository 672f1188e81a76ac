"""The page of an audit: the verdict on each candidate, who pays, how sure that is, and the images that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tailkeep.report import (
    audit_charts,
    audit_class_tables,
    audit_flips,
    audit_forest,
    audit_gate,
    audit_tables,
    publish,
    theme,
    words,
    writers,
)
from tailkeep.report.audit_view import AuditView, cleaned_audit
from tailkeep.report.canvas import Figure
from tailkeep.report.origin import flat
from tailkeep.report.publish import Drawn, page_path, rendered, template
from tailkeep.report.tables import Table

if TYPE_CHECKING:
    from tailkeep.analysis.audit import AuditAnalysis

TRACED = 12
"""Facts of the provenance that a figure's file carries at most."""
FIRST = ("result hash", "code version")
"""Those that it carries in any case."""


def write_audit_report(analysis: AuditAnalysis, out: Path, thumbnails: Mapping[int, bytes] | None = None) -> Path:
    """Write the page to ``out`` and its figures and tables to the folder ``<stem>_files`` beside it; return ``out``.

    ``thumbnails`` are PNG files by the row of the flipped image (``report.thumbnails.png`` makes them); those of the
    images that the page shows go into it. Every file appears whole or not at all, the page last. Raises BadInput where
    ``out`` is a folder.
    """
    out = page_path(out)
    view = AuditView(cleaned_audit(analysis))
    drawn = publish.draw(figures(view))
    return publish.publish(
        out,
        view.analysis.name,
        stamp(view),
        drawn,
        table_files(view),
        lambda folder: audit_html(view, drawn, folder, thumbnails),
    )


def figures(view: AuditView) -> list[Figure | None]:
    """Return the figures, in the order in which the page shows them."""
    if not view.candidates:
        return []
    return [
        *(audit_forest.change_figure(view, each) for each in view.candidates),
        audit_forest.group_figure(view),
        *audit_charts.recall_figures(view),
        audit_charts.calibration_figure(view),
        audit_forest.seed_figure(view),
    ]


def sheets(view: AuditView) -> dict[str, Table]:
    """Return the tables for people that have rows, by name."""
    if not view.candidates:
        return {}
    found = [
        audit_tables.comparison_sheet(view),
        audit_tables.gate_sheet(view),
        audit_tables.summary_sheet(view),
        audit_class_tables.class_sheet(view),
        audit_class_tables.group_sheet(view),
        audit_class_tables.calibration_sheet(view),
        audit_class_tables.seed_sheet(view),
        audit_flips.flip_sheet(view),
    ]
    return {table.name: table for table in found if table is not None and table.rows}


def frames(view: AuditView) -> dict[str, pd.DataFrame]:
    """Return the audit's own tables, of all candidates, by name; those without rows are left out."""
    found = {
        "gate": audit_tables.gate_frame(view),
        "summary": audit_tables.with_name(view, lambda each: each.summary),
        "classes": audit_tables.with_name(view, lambda each: each.classes),
        "groups": audit_tables.with_name(view, lambda each: each.groups),
        "seeds": audit_tables.with_name(view, lambda each: each.seeds),
        "flips": audit_tables.with_name(view, lambda each: each.flips),
    }
    return {name: frame for name, frame in found.items() if len(frame)}


def table_files(view: AuditView) -> dict[str, str]:
    """Return the files of all tables: the audit's own as CSV, those for people as Markdown and LaTeX."""
    line = stamp(view)
    files = {f"tables/{name}.csv": writers.csv_text(frame) for name, frame in frames(view).items()}
    return files | writers.sheet_files(sheets(view), line)


def stamp(view: AuditView) -> str:
    """Return one line that traces a file back: the audit, the models, and where they came from."""
    analysis = view.analysis
    facts = _origin(view)[0]
    first = [name for name in FIRST if name in facts]
    traced = [*first, *(name for name in facts if name not in first)][:TRACED]
    parts = [
        f"audit {analysis.name}",
        f"baseline {analysis.baseline}",
        f"candidates {', '.join(each.name for each in view.candidates)}",
        *(f"{name} {facts[name]}" for name in traced),
    ]
    return "; ".join(" ".join(part.split()) for part in parts)


def audit_html(
    view: AuditView, drawn: Sequence[Drawn], folder: str, thumbnails: Mapping[int, bytes] | None = None
) -> str:
    """Return the page's HTML. ``folder`` is the name of the folder beside it."""
    tones = "".join(f".m{i}{{--tone:var(--tech-{i % len(theme.TECHNIQUES)})}}\n" for i in range(len(view.candidates)))
    return rendered(
        "audit.html.j2",
        theme.css() + tones + template("style.css") + template("audit.css"),
        template("page.js") + template("audit.js"),
        drawn,
        folder,
        a=view.analysis,
        tables=sheets(view),
        **_words(view, thumbnails),
    )


def _words(view: AuditView, thumbnails: Mapping[int, bytes] | None) -> dict[str, Any]:
    """Return what the template says that is neither a figure nor a table."""
    galleries = audit_flips.galleries(view, thumbnails)
    facts, environment = _origin(view)
    return {
        "summary": audit_gate.headline(view),
        "cards": audit_gate.cards(view),
        "facts": _facts(view),
        "methods": [{"name": each.name, "number": i} for i, each in enumerate(view.candidates)],
        "number_of": {each.name: i for i, each in enumerate(view.candidates)},
        "row_heads": ("Candidate", "Class", "Class or group", "Group", "Metric", "Image"),
        "several": view.several,
        "multilabel": view.multilabel,
        "has_scores": view.has_scores,
        "images": view.images,
        "confidence": audit_gate.percent(view.candidates[0].gate.confidence) if view.candidates else words.NOTHING,
        "group_rule": words.sentence(view.analysis.group_rule),
        "worst": [said for each in view.candidates if (said := audit_tables.worst_words(view, each))],
        "galleries": galleries,
        "numbers": list(frames(view)),
        "origin": facts,
        "environment": environment,
    }


def _facts(view: AuditView) -> list[str]:
    analysis = view.analysis
    classes = len(analysis.class_names)
    found = [_called("baseline", analysis.baseline)]
    if not view.several:
        found += [_called("candidate", each.name) for each in view.candidates]
    else:
        found.append(f"{len(view.candidates)} candidates")
    found.append(f"{words.number(classes, 0)} classes")
    tested = sum(view.candidates[0].classes["n"]) if view.candidates else 0
    found.append(f"{words.number(tested, 0)} {'positive labels' if view.multilabel else 'test images'}")
    found += ["multi-label"] if view.multilabel else []
    return found


def _called(role: str, name: str) -> str:
    return role if name == role else f"{role} {name}"


def _origin(view: AuditView) -> tuple[dict[str, str], dict[str, str]]:
    """Return the provenance on one level, the environment apart."""
    provenance = view.analysis.provenance
    facts = flat({key: value for key, value in provenance.items() if key != "environment"})
    return {name.replace("_", " "): value for name, value in facts.items()}, flat(provenance.get("environment"))
