"""The answer on a terminal: the sentence, the order, the evidence, what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailkeep.recommend.answer import Evidence, Recommendation, Tried
from tailkeep.recommend.decide import CANNOT_TELL, NOTHING, SAFE
from tailkeep.study.display import Display
from tailkeep.study.runner import Study

COLOURS = {SAFE: "green", NOTHING: "red", CANNOT_TELL: "yellow"}


def console() -> Console:
    """Return a console that gives a log one line a message, whatever its width."""
    found = Console(highlight=False)
    found.soft_wrap = not found.is_terminal
    return found


def runner_with_bars(study: Study) -> dict[str, str]:
    """Do what is missing of a study, with the progress that ``tailkeep run`` shows; return failures by key."""
    with Display(study, noun="model") as display:
        return study.run(display.event, display.wait).failed


def say_to(terminal: Console) -> Callable[[str], None]:
    """Return a function that prints a line."""
    return lambda line: terminal.print(escape(line))


def write_page(answer: Recommendation, out: Path) -> Path:
    """Write ``recommend.html`` and its folder; return the page's path."""
    from tailkeep.report.recommend_page import write_recommendation

    return write_recommendation(answer.to_dict(), out / "recommend.html")


def print_answer(answer: Recommendation, page: Path, as_json: bool) -> None:
    """Print the answer."""
    if as_json:
        print(json.dumps({**answer.to_dict(), "report": str(page)}, indent=1))
        return
    terminal = console()
    terminal.print(f"[bold {COLOURS[answer.status]}]{answer.status.upper()}[/] {escape(answer.sentence)}")
    terminal.print(_frontier(answer), soft_wrap=False)
    shown = _evidence_of(answer)
    if shown is not None:
        terminal.print(_evidence(shown), soft_wrap=False)
    if answer.needs and answer.chosen is None:
        which = f"for {escape(answer.stopped or '')} (an 80 % chance of a pass if nothing is truly lost)"
        terminal.print(f"What it takes to tell, {which}:")
        for need in answer.needs:
            terminal.print(f"- class {escape(need)}")
    for note in answer.notes:
        terminal.print(f"[dim]note: {escape(note)}[/]")
    if answer.export is not None and answer.place is not None:
        terminal.print(f"model: {escape(answer.place['file'])}", soft_wrap=True)
        terminal.print(f"write it for a runtime: {escape(answer.export)}", soft_wrap=True)
    terminal.print(f"report: {page.resolve()}", soft_wrap=True)


def _frontier(answer: Recommendation) -> Table:
    table = Table(
        title=f"{escape(answer.study)}: candidates against {escape(answer.baseline['model'])}, in their order"
    )
    for name in ("candidate", "status"):
        table.add_column(name, overflow="fold")
    for name in ("times smaller", "worst class on validation (pp)", "predicted power"):
        table.add_column(name, justify="right")
    ranked = sorted(answer.frontier, key=lambda each: (each.place or 1_000, -(each.times_smaller or 0)))
    for each in ranked:
        place = "" if each.place is None else f"{each.place}. "
        bold = "bold" if each.name == answer.chosen else None
        table.add_row(f"{place}{escape(each.name)}", _status(each), *_figures(each), style=bold)
    return table


def _status(each: Tried) -> str:
    return escape(f"{each.status}: {each.detail}" if each.detail else each.status)


def _figures(each: Tried) -> tuple[str, str, str]:
    times = "–" if each.times_smaller is None else f"{each.times_smaller:.1f}"
    worst = "–" if each.worst_loss is None else f"{_points(-each.worst_loss)} ({escape(each.worst_class)})"
    return times, worst, "–" if each.power is None else f"{each.power:.1%}"


def _points(share: float) -> str:
    """A change in percentage points; a zero carries no sign."""
    value = round(100 * share, 1)
    return f"{value:+.1f}" if value else "0.0"


def _evidence_of(answer: Recommendation) -> Evidence | None:
    """The candidate whose classes are shown: the chosen one, else the first of the order."""
    return next((each for each in answer.evidence if answer.chosen in (None, each.name)), None)


def _evidence(shown: Evidence) -> Table:
    table = Table(title=f"{escape(shown.name)} on the held-out images")
    table.add_column("class", overflow="fold")
    for name in ("change of recall (pp)", "interval", "lost / won / of"):
        table.add_column(name, justify="right")
    table.add_column("decision")
    for c in shown.classes:
        ends = f"{_points(-c.high)} to {_points(-c.low)}"
        table.add_row(escape(c.name), _points(-c.loss), ends, f"{c.n10} / {c.n01} / {c.n}", c.decision)
    return table
