"""What a person at a terminal sees of a study: progress, plan, status and verdict; JSON where a script reads."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tailkeep.errors import BadInput
from tailkeep.files import read_json, results_folder, write_atomic, write_json
from tailkeep.study.engine import Event, Outcome
from tailkeep.study.estimate import duration
from tailkeep.study.imported import Imported, imported, is_brought
from tailkeep.study.plan import TRAININGS
from tailkeep.study.runner import Study
from tailkeep.study.store import Store
from tailkeep.study.stores import Place, open_store
from tailkeep.study.travel_frame import printable

if TYPE_CHECKING:
    from tailkeep.analysis.result import StudyAnalysis

RUNTIMES = {"onnx": "ONNX Runtime", "executorch": "ExecuTorch"}
SHOWN = 10
"""Classes of an exported file that are named, the worst first."""
LOOK = 1.0
"""Seconds between looks at the progress of what runs; a training writes it once a second."""
COLOURS = {"not robust": "red", "robust": "green", "more robust": "green", "cannot tell": "yellow"}


def _console() -> Console:
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal  # a log or a pipe gets one line a message, whatever its width
    return console


class Display:
    """Progress of a run: a bar with the time left on a terminal, one line a finished training elsewhere.

    ``noun``: what the steps that make models are called.
    """

    def __init__(self, study: Study, quiet: bool = False, noun: str = "training") -> None:
        self.study, self.console = study, _console()
        self.live = self.console.is_terminal and not quiet
        self.quiet, self.noun = quiet, noun
        todo = study.todo
        self.trainings = sum(step.kind in TRAININGS for step in todo.values())
        self.work = sum(study.seconds(step) for step in todo.values())
        self.finished = 0.0
        self.done = 0
        self.started = time.monotonic()
        self.running: dict[str, Any] = {}
        self._shares: dict[str, float] = {}
        self._looked = -LOOK
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.live)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        if not self.quiet:
            from tailkeep.analysis.words import plural

            stored = len(self.study.plan.trainings()) - self.trainings
            self.console.print(
                f"[bold]{escape(self.study.plan.name)}[/]: {plural(self.trainings, self.noun)} to do, {stored} stored "
                f"already, {self.study.options.at_a_time}"
            )
        self.progress.start()
        self.total = self.progress.add_task("all", total=max(self.work, 1e-9), note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.progress.stop()

    def event(self, event: Event) -> None:
        """Take a word from the engine."""
        step = event.step
        if event.what == "start":
            self.running[step.key] = step
            if self.live:
                self.tasks[step.key] = self.progress.add_task(f"  {escape(step.label)}", total=1.0, note="")
            return
        self.running.pop(step.key, None)
        self._shares.pop(step.key, None)
        if step.key in self.tasks:
            self.progress.remove_task(self.tasks.pop(step.key))
        if event.what == "retry":
            self._say(f"[yellow]again[/] {escape(step.label)}: {escape(event.detail)}")
            return
        self.finished += self.study.seconds(step)
        if event.what in ("failed", "skipped"):
            self._say(f"[red]{event.what}[/] {escape(step.label)}: {escape(event.detail)}")
        elif step.kind in TRAININGS:
            self.done += 1
            if not self.live:
                self._say(f"[{self.done}/{self.trainings}] {escape(step.label)} ({self._left(self._now())})")
        self.wait()

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text)

    def _left(self, now: float) -> str:
        """Time left, where ``now`` of the estimated work is done."""
        passed = time.monotonic() - self.started
        if now <= 0 or passed < 2:
            return "estimating"
        return f"{duration(passed * max(self.work - now, 0) / now)} left"

    def _now(self) -> float:
        """The estimated work that is done, running steps by what they last said of themselves in their small files."""
        if time.monotonic() - self._looked >= LOOK:  # hundreds of files, where hundreds of steps run
            self._looked = time.monotonic()
            self._look()
        steps = self.running.items()
        return self.finished + sum(self.study.seconds(step) * self._shares.get(key, 0.0) for key, step in steps)

    def _look(self) -> None:
        for key, step in self.running.items():
            facts = self.study.store.progress(step.kind, key)
            if facts:
                self._shares[key] = facts["step"] / facts["steps"]
                if self.live:
                    note = f"loss {facts['loss']:.3f}, {facts['images_per_second']:,} images/s"
                    self.progress.update(self.tasks[key], completed=self._shares[key], note=note)

    def wait(self) -> None:
        """Refresh the bars."""
        if self.live:
            now = self._now()
            note = f"{self.done}/{self.trainings} trainings, {self._left(now)}"
            self.progress.update(self.total, completed=now, note=note)


@dataclass(frozen=True)
class Results:
    """Where the results of a study lie."""

    folder: Path
    report: Path
    analysis: StudyAnalysis


def check_out(study: Study, out: Path | None) -> None:
    """Make the folder of the results, so that a place that cannot be written is known before hours of compute."""
    results_folder(out or Path("tailkeep-results") / study.plan.name)


def write_results(study: Study, out: Path | None) -> Results:
    """Write report.html, frame.csv and verdict.json; return where."""
    from tailkeep.report.page import write_report

    frame, analysis = study.analyse()
    folder = out or Path("tailkeep-results") / study.plan.name
    write_atomic(folder / "frame.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "verdict.json", verdict_json(analysis))
    report = write_report(analysis, folder / "report.html")
    return Results(folder, report, analysis)


def verdict_json(analysis: StudyAnalysis) -> dict[str, Any]:
    """Return the verdict for scripts; no timing in it, so that a second run writes the same bytes."""
    return {
        "study": analysis.name,
        "margin": analysis.margin,
        "primary_twin": analysis.primary_twin,
        "seeds": list(analysis.seeds),
        "verdicts": [_plain(asdict(verdict)) for verdict in analysis.verdicts],
        "failures": len(analysis.failures),
        "notes": list(analysis.notes),
        "result_hash": analysis.provenance["result_hash"],
        "data": analysis.provenance["data"],
        "code_version": analysis.provenance["code_version"],
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and v != v else v for k, v in values.items()}


def print_verdict(study: Study, results: Results, outcome: Outcome | None, as_json: bool) -> None:
    """Print the verdict and where the report is."""
    analysis = results.analysis
    if as_json:
        found = {**verdict_json(analysis), "report": str(results.report)}
        if outcome is not None:
            found |= {"steps_done": len(outcome.done), "steps_failed": len(outcome.failed)}
        print(json.dumps(found, indent=1))
        return
    console = _console()
    console.print(_verdict_table(analysis), soft_wrap=False)
    for v in analysis.verdicts:
        console.print(f"- {escape(v.sentence)}")
    for note in analysis.notes:
        console.print(f"[dim]note: {escape(note)}[/]")
    if len(analysis.failures):
        console.print(f"[red]{len(analysis.failures)} cells failed; the report lists them with their reasons[/]")
    done = "" if outcome is None else f"{len(outcome.done)} steps done now; "
    console.print(f"{done}result hash {analysis.provenance['result_hash'][:16]}")
    console.print(f"report: {results.report.resolve()}", soft_wrap=True)  # a path that wraps cannot be clicked


def _verdict_table(analysis: StudyAnalysis) -> Table:
    twin = {"full": "E_full", "matched": "E_matched"}.get(analysis.primary_twin, "E")
    table = Table(title=f"{analysis.name}: excess gap {twin} in percentage points (above 0: less robust to imbalance)")
    tested = any(_figure(v.p_adjusted) is not None for v in analysis.verdicts)
    for name in ("model", "method", "verdict"):
        table.add_column(name, overflow="fold")  # a name that is cut names nothing
    for name in ("excess gap", "95 % interval", *(["p (Holm)"] if tested else []), "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for v in analysis.verdicts:
        gap, low, high, p = (_figure(value) for value in (v.excess_gap, v.low, v.high, v.p_adjusted))
        figures = [
            "–" if gap is None else f"{gap:+.2f}",
            "–" if low is None or high is None else f"{low:+.2f} to {high:+.2f}",
            *(["–" if p is None else f"{p:.3f}"] if tested else []),
        ]
        word = f"[{COLOURS.get(v.label, 'default')}]{v.label}[/]"
        table.add_row(escape(v.model), escape(v.method), word, *figures, str(v.seeds))
    return table


def _figure(value: float | None) -> float | None:
    """A number that is known, else None."""
    return None if value is None or value != value else value


def print_export(facts: dict[str, Any], as_json: bool) -> None:
    """Print what an exported file is and whether it does what the simulated model does."""
    from tailkeep.analysis.deployment import LEAST_AGREEMENT
    from tailkeep.analysis.words import plural

    if as_json:
        print(json.dumps(_plain(facts), indent=1))
        return
    console = _console()
    what = f"{facts['method']}, {facts['setting']}, {facts['model']}, seed {facts['seed']}"
    console.print(f"[bold]{escape(what)}[/]: {facts['file_bytes']:,} bytes, {facts['gzip_bytes']:,} compressed")
    held = f"{facts['int8_weights']:,} of them int8"
    if facts.get("int4_weights"):
        held += f", {facts['int4_weights']:,} int4"
    console.print(f"{facts['weights']:,} weights ({held}), {facts['macs']:,} MACs")
    if "batch" in facts:
        left = ", ".join(f"{name} ({count})" for name, count in facts["operators"].items())
        console.print(
            f"{plural(facts['batch'], 'image')} a call; XNNPACK runs {f'all but {left}' if left else 'everything'}"
        )
    console.print(
        f"{RUNTIMES[facts['format']]} predicts what the simulated model does on {facts['agreement']:.2%} of the "
        f"images; worst class {escape(str(facts['worst_agreement_class']))}, {facts['worst_agreement']:.2%}"
    )
    less = {name: share for name, share in facts.get("agreement_by_class", {}).items() if share < 1}
    if less:
        worst = sorted(less.items(), key=lambda pair: pair[1])[:SHOWN]
        text = ", ".join(f"{name} {share:.2%}" for name, share in worst)
        console.print(f"{len(less)} of the classes below 100 %: {escape(text)}", soft_wrap=True)
    if facts["agreement"] < LEAST_AGREEMENT:
        console.print(f"[red]below {LEAST_AGREEMENT:.1%}: the study's figures do not speak for this file[/]")
    console.print(f"file: {Path(facts['path']).resolve()}", soft_wrap=True)


def print_plan(study: Study, as_json: bool) -> None:
    """Print what a study would take."""
    facts = {**study.summary(), "cells_imported": _cells_imported(study)}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    console = _console()
    console.print(f"[bold]{escape(facts['study'])}[/]: {facts['cells']} cells")
    console.print(
        f"{facts['trainings_without_controls']} distinct trainings, {facts['trainings_saved_by_sharing']} fewer than "
        f"without sharing; controls add {facts['trainings_of_controls']}"
    )
    console.print(f"stored already: {facts['trainings_stored']} trainings; to do: {facts['trainings_to_do']}")
    if facts["cells_imported"]:
        console.print(f"imported: {facts['cells_imported']} cells, whose predictions are not made again")
    rough = "from this store's timings" if facts["estimate_from_measurements"] else "a rough guess"
    console.print(
        f"estimate: {duration(facts['estimate_seconds'])} with {study.options.worker_count} at a time ({rough}), "
        f"{facts['estimate_bytes'] / 1e6:,.0f} MB of disk"
    )
    for note in study.resolved.notes:
        console.print(f"[dim]note: {escape(note)}[/]")


def _cells_imported(study: Study) -> int:
    brought = imported(study.store)
    return sum(is_brought(cell, study.store, brought) for cell in study.plan.cells)


def print_status(place: Place, as_json: bool) -> None:
    """Print how far each study of a store is, what failed and what runs."""
    store = open_store(place)
    brought = imported(store)
    if not store.has_studies() and not brought.sources and not brought.faults:
        raise BadInput(f"{store.address}: no study has run in this store yet (give another --store?)")
    facts = [_study_status(store, brought, path) for path in store.files_in("studies", ".json")]
    running = _running(store)
    if as_json:
        imports = {"imported": _imports(brought), "imports_damaged": brought.faults}
        print(json.dumps({"studies": facts, "running": running, **imports}, indent=1))
        return
    console = _console()
    table = Table(title=store.address)
    for name in ("study", "goals done", "failed steps", "missing"):
        table.add_column(name, justify="left" if name == "study" else "right", overflow="fold")
    for fact in facts:
        row = (fact["study"], f"{fact['done']}/{fact['goals']}", str(fact["failed"]), str(fact["missing"]))
        table.add_row(*map(escape, row))
    console.print(table, soft_wrap=False)
    for fact in _imports(brought):
        what = f"{fact['cells_done']} of {fact['cells']} cells of study {printable(fact['study'])}"
        console.print(f"imported: {what} ({'; '.join(fact['environments'])}), {fact['file']}", markup=False)
    for fault in brought.faults:
        console.print(f"an imported file does not count: {fault}", markup=False)
    for item in running:
        console.print(
            f"running or left unfinished: {item['kind']} {item['key'][:12]}, step {item['step']} of {item['steps']}"
        )


def _imports(brought: Imported) -> list[dict[str, Any]]:
    """What each imported file holds."""
    found = []
    for source in brought.sources:
        cells = source.content.cells
        done = sum(cell.predict_key in source.content.predictions for cell in cells)
        facts = {"study": source.content.study.name, "cells": len(cells), "cells_done": done}
        found.append({**facts, "file": str(source.path), "environments": source.environments()})
    return found


def _study_status(store: Store, brought: Imported, path: Path) -> dict[str, Any]:
    record = read_json(path)
    kinds = {key: kind for kind, key in record["steps"]}
    states = [store.status(kinds[key], key) for key in record["goals"]]
    states = [
        "done" if state != "done" and brought.has(key) else state
        for key, state in zip(record["goals"], states, strict=True)
    ]
    return {
        "study": record["name"],
        "goals": len(states),
        "done": states.count("done"),
        "failed": sum(store.status(kind, key) == "failed" for kind, key in record["steps"]),
        "missing": states.count("missing"),
    }


def _running(store: Store) -> list[dict[str, Any]]:
    found = []
    for kind in ("train", "transform"):
        for path in sorted((store.root / kind).glob("*.partial")) if (store.root / kind).is_dir() else []:
            key = path.name.removesuffix(".partial")
            facts = store.progress(kind, key)
            if facts:
                found.append({"kind": kind, "key": key, **facts})
    return found
