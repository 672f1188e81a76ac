"""The audit as a person reads it, at a terminal or in a CI log: the decision first, in words, then the tables."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import Gate
from tailkeep.analysis.slices import FREQUENCY
from tailkeep.analysis.summaries import UNITS
from tailkeep.auditing.outputs import ranking
from tailkeep.auditing.outputs.sentences import asked, by_decision, limit, need, of_check, shown, verdict
from tailkeep.report.audit_words import p_value
from tailkeep.report.words import number, printable, sentence, with_interval

SHOWN_CLASSES = 10
SHOWN_FLIPS = 10
PRECISIONS = {"precision": "precision", "AP": "average_precision"}
LOG_WIDTH = 200
COLOURS = {"fail": "bold red", "pass": "bold green", "cannot tell": "bold yellow"}
CELL_COLOURS = {
    "loses more": "red",
    "more false positives": "red",
    "below floor": "red",
    "kept": "green",
    "cannot tell": "yellow",
}
HEADLINES = ("accuracy", "balanced_accuracy", "worst_class_recall", "average_precision", "tail_share", "churn")


def as_text(analysis: AuditAnalysis, *, verbose: bool = False, colour: bool = False, width: int | None = None) -> str:
    """Return the audit in words and tables.

    ``verbose`` shows every class, summary and the first flipped images instead of those that matter most.
    ``colour`` writes terminal codes; ``width`` (columns) wraps sentences, None keeps each on one line as a log wants.
    """
    console = Console(
        file=io.StringIO(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        width=width or LOG_WIDTH,
        highlight=False,
        legacy_windows=False,
    )
    for candidate in analysis.candidates:
        said = verdict(candidate, analysis.baseline)
        _say(console, Text(said, style=COLOURS[candidate.gate.decision]), width)
        for warning in candidate.warnings:
            who = f"{shown(candidate.name)}: " if len(analysis.candidates) > 1 else ""
            _say(console, Text(f"WARNING: {who}{printable(warning)}", style="bold yellow"), width)
    for candidate in analysis.candidates:
        if len(analysis.candidates) > 1:
            _say(console, Text(f"\n{shown(candidate.name)} against {shown(analysis.baseline)}", style="bold"), width)
        for part in _parts(candidate, analysis.group_rule, verbose):
            _say(console, part, width)
    above = {f"{start}{w}" for one in analysis.candidates for w in one.warnings for start in ("", f"{one.name}: ")}
    notes = [note for note in dict.fromkeys(analysis.notes) if note not in above]
    if notes:
        _say(console, Text(), width)
    for note in notes:
        _say(console, Text(f"note: {printable(note)}", style="dim"), width)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(lines if colour else [line.rstrip() for line in lines]) + "\n"


def _say(console: Console, part: RenderableType, width: int | None) -> None:
    console.print(part, soft_wrap=width is None and not isinstance(part, Table))


def _parts(candidate: CandidateAudit, group_rule: str, verbose: bool) -> Iterable[RenderableType]:
    yield from _classes(candidate, verbose)
    yield from _groups(candidate, group_rule)
    yield from _other_checks(candidate, verbose)
    yield from _summary(candidate, verbose)
    yield from _seeds(candidate, verbose)
    yield from _flips(candidate, verbose)
    yield from _open_checks(candidate, verbose)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _table(names: Iterable[str], figures: Iterable[str]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(Text(name), overflow="fold", min_width=8)
    for name in figures:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _classes(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    gate = candidate.gate
    ranked = ranking.classes_by_weight(candidate)
    rows = ranked if verbose else ranked[:SHOWN_CLASSES]
    counts = candidate.classes["train_count"].notna().any()
    pairs = {head: key for head, key in PRECISIONS.items() if key in candidate.classes}
    figures = [
        *(["train"] if counts else []), "test", "recall", "change", *pairs, "p more", "p less", "decision",
    ]  # fmt: skip
    alpha = 1 - gate.confidence
    yield _title("Classes (images; recall in %; change in percentage points)")
    table = _table(["class"], figures)
    for row in rows:
        facts = row.facts
        train = [number(facts["train_count"], 0)] if counts else []
        word = ranking.word(row.results)
        table.add_row(
            Text(shown(facts["class_name"])),
            *train,
            f"{int(facts['n']):,}",
            _before_after(facts["recall_baseline"], facts["recall"]),
            with_interval(facts["change"], facts["change_low"], facts["change_high"], sign=True),
            *(_before_after(facts[f"{key}_baseline"], facts[key]) for key in pairs.values()),
            p_value(row.p_more, alpha),
            p_value(row.p_less, alpha),
            Text(word, style=CELL_COLOURS.get(word.split(",")[0], "")),
        )
    yield table
    if len(rows) < len(ranked):
        yield Text(f"{len(rows)} of {len(ranked)} classes: those that matter most to the decision (--verbose: all)")
    yield Text(_legend(gate), style="dim")


def _legend(gate: Gate) -> str:
    limits = sorted({r.check.limit for r in gate.results if r.check.kind == "drop" and r.check.unit == "class"})
    much = f"{limit(limits[0])} points" if len(limits) == 1 else "its limit"
    alpha = f"{1 - gate.confidence:.2g}"
    return (
        f"p more: below {alpha}, a class is shown to lose more than {much} (after Holm). "
        f"p less: below {alpha}, it is shown to lose less."
    )


def _before_after(before: Any, after: Any) -> str:
    return f"{number(before)} → {number(after)}"


def _groups(candidate: CandidateAudit, rule: str) -> Iterable[RenderableType]:
    if candidate.groups.empty:
        return
    yield _title("Who pays")
    table = _table(["group", "of"], ["classes", "test", "recall", "change", "p (Holm)", "decision"])
    for facts in candidate.groups.to_dict("records"):
        word = ranking.word(ranking.group_results(candidate.gate, str(facts["kind"]), str(facts["name"])))
        table.add_row(
            Text(shown(facts["name"])),
            Text(shown(facts["kind"])),
            number(facts["classes"], 0),
            number(facts["n"], 0),
            _before_after(facts["recall_baseline"], facts["recall"]),
            with_interval(facts["change"], facts["change_low"], facts["change_high"], sign=True),
            p_value(facts["p_adjusted"], 1 - candidate.gate.confidence),
            Text(word, style=CELL_COLOURS.get(word.split(",")[0], "")),
        )
    yield table
    if rule and (candidate.groups["kind"] == FREQUENCY).any():
        yield Text(f"Groups by training images: {printable(sentence(rule))}", style="dim")


def _other_checks(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    """Floors, false positives, and the policy's groups: their figures stand in no column."""
    gate = candidate.gate
    wanted = [r for r in gate.results if r.check.kind != "drop" or r.check.unit == "group"]
    rows = wanted if verbose else [r for r in wanted if r.decision != "kept"][:SHOWN_CLASSES]
    if not wanted:
        return
    rises = any(r.check.kind == "rise" for r in wanted)
    yield _title("Floors, false positives and groups" if rises else "Floors and groups")
    for result in rows:
        yield Text(f"- {of_check(result, gate.confidence)}")
    if len(rows) < len(wanted):
        yield Text(f"- {len(rows)} of {len(wanted)} checks shown (--verbose: all)")


def _summary(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    known = [r for r in candidate.summary.to_dict("records") if r["change"] == r["change"]]
    rows = [r for r in known if verbose or r["metric"] in HEADLINES]
    if not rows:
        return
    yield _title("Over all (percentage points)")
    table = _table(["figure"], ["baseline", "candidate", "change"])
    for facts in rows:
        table.add_row(
            Text(_figure(str(facts["metric"]))),
            number(facts["baseline"], 2),
            number(facts["candidate"], 2),
            with_interval(facts["change"], facts["low"], facts["high"], digits=2, sign=True),
        )
    yield table
    for warning in dict.fromkeys(str(r["warning"]) for r in rows if isinstance(r["warning"], str) and r["warning"]):
        yield Text(f"warning: {printable(warning)}", style="yellow")


def _figure(metric: str) -> str:
    """Return a metric's name with its unit, where that is not percentage points."""
    unit = UNITS.get(metric, "pp")
    return metric.replace("_", " ") + ("" if unit == "pp" else f" ({unit or 'a ratio'})")


def _seeds(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    if candidate.seeds is None or candidate.seeds.empty:
        return
    ranked = ranking.classes_by_weight(candidate)
    wanted = [row.facts["class_name"] for row in (ranked if verbose else ranked[:SHOWN_CLASSES])]
    yield _title("Over seeds (change in percentage points, t interval over pairs)")
    table = _table(["class"], ["change", "seeds"])
    by_name = {facts["class_name"]: facts for facts in candidate.seeds.to_dict("records")}
    for facts in (by_name[name] for name in wanted if name in by_name):
        change = with_interval(facts["change"], facts["change_low"], facts["change_high"], sign=True)
        table.add_row(Text(shown(facts["class_name"])), change, number(facts["seeds"], 0))
    yield table


def _flips(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    flips: pd.DataFrame = candidate.flips
    if flips.empty:
        return
    counts = flips["kind"].value_counts()
    yield Text(
        f"\nFlipped images: {counts.get('lost', 0):,} lost (right before, wrong now), {counts.get('won', 0):,} won, "
        f"{counts.get('other', 0):,} from one wrong class to another."
    )
    if not verbose:
        return
    yield _title("The worst first")
    table = _table(["image", "label", "baseline", "candidate", "kind"], ["row"])
    for facts in flips.head(SHOWN_FLIPS).to_dict("records"):
        names = [Text(shown(facts[key])) for key in ("id", "label", "baseline", "candidate", "kind")]
        table.add_row(*names, str(facts["row"]))
    yield table


def _open_checks(candidate: CandidateAudit, verbose: bool) -> Iterable[RenderableType]:
    left = by_decision(candidate.gate.results, "cannot tell")
    if not left:
        return
    rows = left if verbose else left[:SHOWN_CLASSES]
    yield _title("Cannot tell")
    for result in rows:
        yield Text(f"- {asked(result, candidate.gate.results)} {need(result)}")
    if len(rows) < len(left):
        yield Text(f"- and {len(left) - len(rows)} more (--verbose: all)")
