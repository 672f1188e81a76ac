"""The images whose answer changed, the worst first: as a gallery where there are thumbnails, and as a table."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_tables import who
from tailkeep.report.audit_view import AuditView
from tailkeep.report.canvas import rows_of
from tailkeep.report.tables import Cell, Column, Row, Table, made, order
from tailkeep.report.thumbnails import pixels

if TYPE_CHECKING:
    from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit

MOST = 60
"""Images that a page shows in all."""
LEAST = 12
"""Images of each candidate at least."""
SMALL = 48
"""Pixels up to which a thumbnail is shown with its own pixels, not smoothed."""
LARGEST = 1 << 20
"""Bytes of a thumbnail above which it is left out."""
KINDS = {"lost": "lost", "won": "won", "other": "wrong in another way"}


def shown(view: AuditView, candidate: CandidateAudit) -> pd.DataFrame:
    """Return the flips of a candidate that the page shows: the worst."""
    part: pd.DataFrame = candidate.flips.head(max(LEAST, MOST // max(1, len(view.candidates))))
    return part


def rows_shown(analysis: AuditAnalysis) -> list[int]:
    """Return the rows of the test set whose thumbnails the page of this audit has room for, each once."""
    view = AuditView(analysis)
    return list(dict.fromkeys(int(row) for each in view.candidates for row in shown(view, each)["row"]))


def named(view: AuditView, value: Any) -> str:
    """Return the name of an answer: a class's where it is an index."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < len(view.analysis.class_names):
        return str(view.analysis.class_names[int(value)])
    return str(value)


def is_scored(candidate: CandidateAudit) -> bool:
    """Tell whether both models gave scores: then severity is the fall of the label's probability, else an order."""
    return bool(candidate.classes["ece_change"].notna().any())


def identity(row: Row) -> str:
    """Return what an image is called: its id, else its row."""
    value = row.get("id")
    missing = value is None or value is pd.NA or value == "" or (isinstance(value, float) and value != value)
    return str(row["row"]) if missing else str(value)


def galleries(view: AuditView, thumbnails: Mapping[int, bytes] | None) -> list[dict[str, Any]]:
    """Return what each candidate's gallery shows; without any thumbnail its ``images`` are empty."""
    return [_gallery(view, each, i, thumbnails or {}) for i, each in enumerate(view.candidates)]


def _gallery(
    view: AuditView, candidate: CandidateAudit, number: int, thumbnails: Mapping[int, bytes]
) -> dict[str, Any]:
    total, part = len(candidate.flips), shown(view, candidate)
    labels = {name: i for i, name in enumerate(sorted({named(view, value) for value in part["label"]}))}
    scored = is_scored(candidate)
    images = [_image(view, row, labels, thumbnails.get(int(row["row"])), scored) for row in rows_of(part)]
    counts = candidate.flips["kind"].value_counts() if total else pd.Series(dtype=int)
    return {
        "number": number,
        "name": candidate.name,
        "total": total,
        "images": images if any(each["data"] for each in images) else [],
        "labels": list(labels),
        "counts": [(kind, int(counts.get(kind, 0)), KINDS[kind]) for kind in KINDS if counts.get(kind, 0)],
        "said": _said(total, len(part)),
    }


def _image(
    view: AuditView, row: Row, labels: Mapping[str, int], thumbnail: bytes | None, scored: bool
) -> dict[str, Any]:
    label, before, after = (named(view, row[key]) for key in ("label", "baseline", "candidate"))
    size = pixels(thumbnail) if thumbnail is not None and len(thumbnail) <= LARGEST else None
    return {
        "data": base64.b64encode(thumbnail).decode("ascii") if thumbnail is not None and size else "",
        "small": size is not None and max(size) <= SMALL,
        "alt": f"image {identity(row)}: labelled {label}, baseline said {before}, candidate says {after}",
        "kind": row["kind"],
        "style": {"lost": "lost", "won": "kept"}.get(row["kind"], "silent"),
        "number": labels[label],
        **{"id": identity(row), "label": label, "before": before, "after": after},
        "fall": words.number(-row["severity"], 2, sign=True) if scored and words.known(row["severity"]) else "",
    }


def _said(total: int, many: int) -> str:
    """Say how many images are shown, and how many are not."""
    if not total:
        return "No image's answer changed."
    if total <= many:
        return f"{_images(total)} changed the answer, all shown here."
    more = f"{words.number(total - many, 0)} more are in flips.csv"
    return f"{_images(total)} changed the answer: the {many} worst are shown, {more}."


def _images(many: int) -> str:
    return "1 image" if many == 1 else f"{words.number(many, 0)} images"


def flip_sheet(view: AuditView) -> Table | None:
    """Return the flips that the page shows as a table; None where no answer changed."""
    rows = [
        {**row, "candidate_name": each.name, "method": each.name, "scored": is_scored(each)}
        for each in view.candidates
        for row in rows_of(shown(view, each))
    ]
    if not rows:
        return None
    columns = [
        *who(view),
        Column("Image", lambda row: Cell(identity(row)), number=False),
        *(
            Column(head, _answer(view, key), number=False)
            for head, key in (("Labelled", "label"), ("Baseline said", "baseline"), ("Candidate says", "candidate"))
        ),
        Column("Kind", lambda row: Cell(KINDS.get(row["kind"], str(row["kind"]))), number=False),
        *([_fall()] if any(is_scored(each) for each in view.candidates) else []),
    ]
    caption = (
        "Images whose answer changed, the worst first: those whose label lost most of its probability; without scores, "
        "those that were right and are wrong now, of rare classes first. flips.csv has all."
    )
    return made("flips", caption, columns, rows)


def _fall() -> Column:
    def cell(row: Row) -> Cell:
        value = -row["severity"] if row["scored"] and words.known(row["severity"]) else None
        return Cell(words.number(value, 2, sign=True), order=order(value))

    return Column("Change of p(label)", cell)


def _answer(view: AuditView, key: str) -> Any:
    return lambda row: Cell(named(view, row[key]))
