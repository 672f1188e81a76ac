"""Results between machines: ``export-results``, ``import-results`` and ``check-results``. ``register`` adds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailkeep.cli_options import STORE, DataRoot, Json, ModelCode, Overrides, StoreDir, StudyFile
from tailkeep.errors import BAD_INPUT, TailkeepError

if TYPE_CHECKING:
    from rich.console import Console

ResultsFile = Annotated[
    Path, typer.Argument(metavar="FILE.results.zip", help="A file of export-results.", show_default=False)
]
ResultsFiles = Annotated[
    list[Path], typer.Argument(metavar="FILE.results.zip...", help="Files of export-results.", show_default=False)
]
Device = Annotated[str, typer.Option(help="The device that the study ran on: cpu, cuda or cuda:N.")]
Out = Annotated[Path | None, typer.Option(help="The file to write.", show_default="NAME.results.zip")]
OfStudy = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Refuse results of a study with another name.")
]


def export_results(
    study: StudyFile,
    out: Out = None,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    device: Device = "cpu",
    model_code: ModelCode = None,
    overrides: Overrides = None,
    json_out: Json = False,
) -> None:
    """Write a study's results as one small file: labels, specs, hashes and counts, no weights and no logits."""
    from tailkeep.study.imported import SUFFIX
    from tailkeep.study.runner import Options, open_study
    from tailkeep.study.travel import export_results as export

    options = Options(
        store=store, data_root=data_root, device=device, model_code=model_code, overrides=overrides or [], yes=True
    )
    opened = open_study(study, options)
    facts = export(opened, out or Path(opened.plan.name.replace(" ", "-") + SUFFIX))
    if json_out:
        print(json.dumps(facts, indent=1))
        return
    console = _console()
    _print_facts(console, facts)
    console.print(f"file: {Path(facts['file']).resolve()}", markup=False, soft_wrap=True)


def import_results(
    files: ResultsFiles,
    store: StoreDir = STORE,
    study: OfStudy = None,
    json_out: Json = False,
) -> None:
    """Put results of other machines into a store: report, status and plan count them from then on."""
    from tailkeep.study.stores import open_store
    from tailkeep.study.travel import import_results as take

    found = take(files, open_store(store), study)
    if json_out:
        print(json.dumps({"store": store, "files": found}, indent=1))
        return
    console = _console()
    for facts in found:
        done = "already there" if facts["already_there"] else "imported"
        ran = "; ".join(facts["environments"])
        console.print(f"{done}: {_words(facts)}; predicted on {ran}", markup=False)
    console.print("`tailkeep report STUDY.yaml` with this --store counts them", markup=False)


def check_results(file: ResultsFile, json_out: Json = False) -> None:
    """Check a results file without data or weights: keys, predictions, counts and the result hash."""
    from tailkeep.study.travel import check_results as check

    try:
        facts = check(file)
    except TailkeepError as error:
        if not json_out:
            raise
        print(json.dumps({"file": str(file), "ok": False, "fault": str(error)}, indent=1))
        raise typer.Exit(BAD_INPUT) from error
    if json_out:
        print(json.dumps({**facts, "ok": True}, indent=1))
        return
    console = _console()
    _print_facts(console, facts)
    console.print(
        f"checked: {facts['steps']} steps have the keys of their content; {facts['frame_rows']} rows of the frame are "
        f"those of {facts['predictions']} predictions; the result hash is that of its parts"
    )
    console.print(
        "not checked, since it needs the data or the weights: that these models make these predictions, that these are "
        "the labels of this data, losses and sizes; names of cells are words of whoever exported"
    )


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("export-results")(export_results)
    app.command("import-results")(import_results)
    app.command("check-results")(check_results)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal  # a log or a pipe gets one line a message, whatever its width
    return console


def _words(facts: dict[str, Any]) -> str:
    from tailkeep.study.travel_frame import printable

    failed = f", {facts['steps_failed']} failed steps" if facts["steps_failed"] else ""
    name = printable(str(facts["study"]))
    return f"{Path(facts['file']).name}: study {name}, {facts['cells_done']} of {facts['cells']} cells{failed}"


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    size = f"{facts['bytes']:,} bytes, {facts['bytes_per_cell']:,} a finished cell"
    console.print(f"{_words(facts)}; {size}", markup=False)
    console.print(f"result hash {facts['result_hash']}, content {facts['content_hash'][:16]}")
