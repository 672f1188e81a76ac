"""Who pays: the change of recall by class, by group and over seeds, each with its interval, zero and the limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tailkeep.report import words
from tailkeep.report.audit_gate import percent
from tailkeep.report.audit_view import DECISIONS, AuditView, drop_limits, group_key, judged
from tailkeep.report.canvas import (
    NARROW,
    WIDE,
    Figure,
    Layout,
    Spec,
    columns,
    fitted,
    grid,
    leaf,
    rows_of,
    stack,
    styled,
)
from tailkeep.report.interval_panel import TEXT, is_cut, panel, with_gap

if TYPE_CHECKING:
    from tailkeep.analysis.audit import CandidateAudit
    from tailkeep.analysis.gate import CheckResult

KEY = "▼ shown to lose more than the limit, ● shown to lose less, ○ cannot tell."
MOST_GROUPS = 30
"""Above this many groups a figure shows those that changed most to the worse."""


def style_of(result: CheckResult | None) -> str:
    """Return the style of a decision; "plain" where nothing was asked."""
    return DECISIONS[result.decision][0] if result is not None else "plain"


def change_rows(view: AuditView, candidate: CandidateAudit) -> tuple[pd.DataFrame, int]:
    """Return the rows of a candidate's figure by class, and how many classes are left out."""
    frame, left = view.chosen(candidate.classes)
    checks, limits = judged(candidate.gate, "class"), drop_limits(candidate.gate, "class")
    number = view.candidates.index(candidate)
    rows = []
    for r in rows_of(frame):
        found = words.with_interval(r["change"], r["change_low"], r["change_high"], sign=True)
        counts = f"{r['n10']:,.0f} / {r['n01']:,.0f} / {r['n']:,.0f}"
        result = checks.get(r["class_name"])
        said = f" · {result.decision}" if result is not None else ""
        rows.append(
            {
                **{"label": r["label"], "value": r["change"], "low": r["change_low"], "high": r["change_high"]},
                **{"limit": -limits.get(r["class_name"], np.nan), "style": style_of(result)},
                **{"words": found, "counts": counts, "images": words.number(r["train_count"], 0)},
                "tip": f"{number}|{r['label']} · {found} pp{said} · lost {r['n10']:,.0f}, won {r['n01']:,.0f} "
                f"of {r['n']:,.0f} {view.images}",
            }
        )
    return pd.DataFrame(rows), left


def change_figure(view: AuditView, candidate: CandidateAudit) -> Figure | None:
    """Draw a candidate's change of recall by class; None where no class has a test image."""
    rows, left = change_rows(view, candidate)
    if rows.empty:
        return None
    texts = ("words", "counts", "images") if view.has_training else ("words", "counts")
    same = pd.concat([change_rows(view, each)[0] for each in view.candidates], ignore_index=True)
    charts = [_one(rows, layout, texts, left, same) for layout in (WIDE, NARROW)]
    number, level = view.candidates.index(candidate), percent(candidate.gate.confidence)
    return Figure(
        f"change{view.suffixes[number]}",
        f"Change of recall by class{f' · {candidate.name}' if view.several else ''}",
        f"Dot plot of the change of recall in percentage points by class, with {level} intervals. {_extremes(rows)}",
        " ".join(_caption(view, candidate, rows, left, is_cut(rows, same))),
        *charts,
        data=("classes",),
    )


def _caption(view: AuditView, candidate: CandidateAudit, rows: pd.DataFrame, left: int, cut: bool) -> Iterator[str]:
    """Say what a figure by class shows; of several, the first explains its marks."""
    between = f"Recall of {candidate.name} minus that of {view.analysis.baseline}"
    if view.candidates.index(candidate):
        yield f"{between}, read as above."
    else:
        yield f"{between}, with Tango's {percent(candidate.gate.confidence)} score interval, a class at a time."
        if rows["limit"].notna().any():
            yield "Dashed: the limit." if rows["limit"].nunique() == 1 else "Ticks: the limit of each class."
        if (rows["style"] != "plain").any():
            yield KEY
        yield f"Lost: {view.images} that only the baseline has right; won: that only the candidate has."
    if left or not view.candidates.index(candidate):
        yield view.chosen_words(left)
    if cut:
        yield "Intervals that leave the frame are cut; the table has their ends."


def _extremes(rows: pd.DataFrame) -> str:
    """Say the ends, for who cannot see the figure."""
    low, high = rows.iloc[int(rows["value"].argmin())], rows.iloc[int(rows["value"].argmax())]
    return f"Lowest: {low['label']} {low['words']}. Highest: {high['label']} {high['words']}."


def group_rows(view: AuditView, candidate: CandidateAudit) -> tuple[pd.DataFrame, int]:
    """Return the rows of a candidate's figure by group, and how many groups are left out."""
    frame = candidate.groups[candidate.groups["change"].notna()]
    left = max(0, len(frame) - MOST_GROUPS)
    if left:
        kept = frame.sort_values("change", kind="stable").head(MOST_GROUPS).index
        frame = frame.loc[sorted(kept)]
    checks, limits = judged(candidate.gate, "group"), drop_limits(candidate.gate, "group")
    number = view.candidates.index(candidate)
    rows = []
    for r in rows_of(frame):
        key = group_key(r["kind"], r["name"])
        label = r["name"] if r["kind"] == "frequency" else f"{r['kind']}: {r['name']}"
        found = words.with_interval(r["change"], r["change_low"], r["change_high"], sign=True)
        result = checks.get(key)
        said = f" · {result.decision}" if result is not None else ""
        rows.append(
            {
                **{"label": label, "value": r["change"], "low": r["change_low"], "high": r["change_high"]},
                **{"limit": -limits.get(key, np.nan), "style": style_of(result), "words": found},
                "counts": f"{r['n']:,.0f} {view.images}",
                "tip": f"{number}|{label} · {found} pp{said} · {r['n']:,.0f} {view.images}",
            }
        )
    return pd.DataFrame(rows), left


def group_figure(view: AuditView) -> Figure | None:
    """Draw the change of recall by group, a frame a candidate; None without any group."""
    found = [(each, *group_rows(view, each)) for each in view.candidates]
    found = [(each, rows, left) for each, rows, left in found if len(rows)]
    if not found:
        return None
    charts = [_several(found, layout, ("words", "counts")) for layout in (WIDE, NARROW)]
    left = max(left for _, _, left in found)
    more = f" {left} groups that changed less to the worse are in the table." if left else ""
    level = percent(found[0][0].gate.confidence)
    return Figure(
        "groups",
        "Change of recall by group",
        f"Dot plot of the change of recall in percentage points by group, with {level} intervals.",
        f"Recall minus the baseline's, with {level} intervals. {words.sentence(view.analysis.group_rule)}{more}",
        *charts,
        data=("groups",),
    )


def seed_figure(view: AuditView) -> Figure | None:
    """Draw the change over pairs of seeds by class; None where there is one pair."""
    found = []
    for number, each in enumerate(view.candidates):
        if each.seeds is None or each.seeds.empty:
            continue
        place = {name: i for i, name in enumerate(view.ordered(each.classes)["class_name"])}
        frame = each.seeds.assign(place=each.seeds["class_name"].map(place), class_index=0)
        frame = frame[frame["change"].notna()].sort_values("place", kind="stable")
        if len(frame) > MOST_GROUPS:
            frame = frame.sort_values("change", kind="stable").head(MOST_GROUPS)
        rows = []
        for r in rows_of(frame):
            text = words.with_interval(r["change"], r["change_low"], r["change_high"], sign=True)
            rows.append(
                {
                    **{"label": r["class_name"], "value": r["change"], "style": "plain", "words": text},
                    **{"low": r["change_low"], "high": r["change_high"], "limit": np.nan},
                    "counts": f"{r['seeds']:,.0f} pairs of seeds",
                    "tip": f"{number}|{r['class_name']} · {text} pp · {r['seeds']:,.0f} pairs of seeds",
                }
            )
        found.append((each, pd.DataFrame(rows), 0))
    found = [each for each in found if len(each[1])]
    if not found:
        return None
    charts = [_several(found, layout, ("words", "counts")) for layout in (WIDE, NARROW)]
    return Figure(
        "seeds",
        "Change of recall over seeds",
        "Dot plot of the mean change of recall in percentage points by class over pairs of seeds, with t intervals.",
        "The mean change over pairs of seeds with its t interval: how much another seed would move it. Of many "
        f"classes the {MOST_GROUPS} worst.",
        *charts,
        data=("seeds",),
    )


def _one(rows: pd.DataFrame, layout: Layout, texts: tuple[str, ...], left: int, same: pd.DataFrame) -> Spec:
    layout = fitted(layout, rows["label"], (210, 118))
    room = 0 if layout.narrow else sum(TEXT[: len(texts)])
    width = layout.width - layout.label - 16 - room
    if left:
        rows = with_gap(rows, left)
    return styled(stack([leaf(panel(rows, width, layout, () if layout.narrow else texts, same))], 10), layout)


Found = list[tuple["CandidateAudit", pd.DataFrame, int]]


def _several(found: Found, layout: Layout, texts: tuple[str, ...]) -> Spec:
    """Draw a frame a candidate on one scale: with texts where there is one, side by side where there are more."""
    names = [label for _, rows, _ in found for label in rows["label"]]
    layout = fitted(layout, names, (210, 118))
    together = pd.concat([rows for _, rows, _ in found], ignore_index=True)
    alone = len(found) == 1
    if alone and not layout.narrow:
        across, width = 1, layout.width - layout.label - 16 - sum(TEXT[: len(texts)])
    else:
        across, width = columns(layout, len(found), layout.label)
    parts = []
    for i, (candidate, rows, _) in enumerate(found):
        chart = panel(rows, width, layout, texts if alone and not layout.narrow else (), together, i % across == 0)
        parts.append(leaf(chart if alone else chart.properties(title=candidate.name)))
    return styled(grid(parts, across), layout)
