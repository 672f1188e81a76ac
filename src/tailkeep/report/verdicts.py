"""The verdicts for people: as rows, as plain text for a terminal, and as what the page's first lines show."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from tailkeep.analysis.result import StudyAnalysis, Verdict
from tailkeep.report import lost, words
from tailkeep.report.select import View, cleaned
from tailkeep.report.theme import VERDICTS

NEGATIVE = re.compile(r"(?<![\w.)-])-(?=\d)")
UNIT = re.compile(r"(?<=\d) (?=(?:pp|%|seeds?)(?!\w))")
LONGEST = 96
"""Characters of a headline that names the techniques; a longer one counts them."""

HEADS = {
    "dataset": "Dataset",
    "model": "Model",
    "technique": "Technique",
    "verdict": "Verdict",
    "excess": "Excess gap (pp)",
    "interval": "95 % interval",
    "p": "p (Holm)",
    "seeds": "Seeds",
}


def verdict_table(analysis: StudyAnalysis) -> list[dict[str, Any]]:
    """Return one dict a verdict with its plain values; what is not known is None."""
    return [
        {
            "dataset": v.dataset,
            "model": v.model,
            "method": v.method,
            "reference": v.reference,
            "twin": v.twin,
            "verdict": v.label,
            "seeds": v.seeds,
            "excess_gap": v.excess_gap,
            "low": v.low,
            "high": v.high,
            "upper_simultaneous": v.upper_simultaneous,
            "p": v.p,
            "p_adjusted": v.p_adjusted,
            "sign_flip_p": v.sign_flip_p,
            "sign_flip_floor": v.sign_flip_floor,
            "sentence": v.sentence,
        }
        for v in cleaned(analysis).verdicts
    ]


def verdict_rows(analysis: StudyAnalysis) -> list[dict[str, str]]:
    """Return one dict of texts a verdict, under the keys of ``HEADS`` and ``sentence``, ``sign`` and ``style``.

    ``dataset`` and ``model`` are left out where the study has one. Names carry no control characters, but they may
    hold a terminal library's own markup: escape them there.
    """
    return [_row(View(cleaned(analysis)), verdict) for verdict in cleaned(analysis).verdicts]


def _row(view: View, verdict: Verdict) -> dict[str, str]:
    style, sign = VERDICTS.get(verdict.label, ("absent", "–", "", ""))[:2]
    row = {
        "dataset": verdict.dataset,
        "model": verdict.model,
        "technique": verdict.method,
        "verdict": verdict.label,
        "excess": words.number(verdict.excess_gap, sign=True),
        "interval": words.interval(verdict.low, verdict.high) or words.NOTHING,
        "p": words.p_value(verdict.p_adjusted),
        "seeds": str(verdict.seeds),
        "sentence": verdict.sentence,
        "sign": sign,
        "style": style,
    }
    return {key: value for key, value in row.items() if key not in ("dataset", "model") or key in view.shown}


def verdict_text(analysis: StudyAnalysis, width: int = 80) -> str:
    """Return the verdicts as plain text of at most ``width`` columns: a table where it fits, and the sentences."""
    rows = verdict_rows(analysis)
    if not rows:
        return "No technique to judge.\n"
    keys = [key for key in HEADS if key in rows[0]]
    table = [[HEADS[key] for key in keys], *([_signed(row, key) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(keys))]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * wide for wide in widths))
    fits = max(len(line) for line in lines) <= width
    out = [*lines, ""] if fits else []
    for row in rows:
        mark = row["sentence"] if fits else f"{row['sign']} {row['verdict'].upper()}  {row['sentence']}"
        out.extend(textwrap.wrap(mark, max(20, width), subsequent_indent="  ") or [""])
    return "\n".join(out) + "\n"


def _signed(row: dict[str, str], key: str) -> str:
    return f"{row['sign']} {row[key]}" if key == "verdict" else row[key]


def said(verdict: Verdict) -> str:
    """Return the sentence without the technique's name in front, for a place that has it as its head.

    Numbers get a real minus and stay beside their unit.
    """
    start, colon, rest = verdict.sentence.partition("): ")
    named = bool(colon) and start.startswith(f"{verdict.method} (")
    text = rest[:1].upper() + rest[1:] if named else verdict.sentence
    text = NEGATIVE.sub(words.MINUS, text)
    return UNIT.sub(words.NO_BREAK, text)


def summary(view: View) -> str:
    """Say the outcome of the whole study in one sentence."""
    labels = [verdict.label for verdict in view.analysis.verdicts]
    if not labels:
        return "The study has no compressed model to judge."
    counted = [(label, labels.count(label)) for label in VERDICTS if label in labels]
    total = len(labels)
    thing = "pair of technique and model" if len(view.families) > 1 else "technique"
    things = thing.replace("pair", "pairs") if " " in thing else "techniques"
    if set(labels) == {"not available"}:
        known = [found for verdict in view.analysis.verdicts if (found := lost.worst_off(view, verdict)) is not None]
        if known and not view.has_excess:
            return lost.summary(view, known)
        return "The excess gap is not available for " + (
            f"the one {thing}." if total == 1 else f"any of {total} {things}."
        )
    if set(labels) == {"no claim"}:
        return "Too few seeds: no claim on " + (f"the one {thing}." if total == 1 else f"any of {total} {things}.")
    if len(counted) == 1:
        return f"The one {thing}: {labels[0]}." if total == 1 else f"All {total} {things}: {labels[0]}."
    if len(view.families) == 1:
        groups = [(label, [v.method for v in view.analysis.verdicts if v.label == label]) for label, _ in counted]
        names = ". ".join(f"{label.capitalize()}: {', '.join(methods)}" for label, methods in groups)
        if len(names) <= LONGEST:
            return f"{names}."
    parts = ", ".join(f"{many} {label}" for label, many in counted)
    return f"Of {total} {things}: {parts}."
