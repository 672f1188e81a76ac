"""The command line. Heavy imports wait until a command needs them, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
import traceback
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tailkeep import __version__
from tailkeep.cli_audit import register as register_audit
from tailkeep.cli_options import (
    STORE,
    Address,
    DataRoot,
    Device,
    Engine,
    GpusPerStep,
    Json,
    ModelCode,
    NewData,
    NewEnv,
    Overrides,
    RetryFailed,
    StoreDir,
    StudyFile,
    Threads,
    Workers,
)
from tailkeep.cli_recommend import register as register_recommend
from tailkeep.cli_store import register as register_store
from tailkeep.cli_travel import register as register_travel
from tailkeep.errors import BAD_INPUT, CELLS_FAILED, INTERRUPTED, UNEXPECTED, TailkeepError

if TYPE_CHECKING:
    from tailkeep.study.runner import Options, Study

app = typer.Typer(
    name="tailkeep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Do your rare classes survive compression?\n\n"
        "A study file crosses datasets, class imbalance, models, compression methods and seeds. "
        "**plan** says what it would take, **run** does it (and resumes), **status** tells how far it is, "
        "**report** draws what is stored, **export** writes a stored model for a runtime. "
        "**recommend** searches a study's candidates for the smallest model that is shown to keep every class. "
        "**audit** needs no study: it compares two models, or their predictions, and fails where a class is lost.\n\n"
        "Start with: `tailkeep run studies/demo.yaml`, or "
        "`tailkeep audit --baseline dense.csv --candidate int8.csv`"
    ),
    epilog=(
        "Exit codes: 0 done; 1 a class lost too much (audit), nothing is safe (recommend); 2 bad input, before any "
        "compute; 3 some cells failed; 5 cannot tell (audit, recommend); 70 unexpected error; 130 interrupted."
    ),
)

Out = Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="tailkeep-results/NAME")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with a very large grid.")]


class FileFormat(str, Enum):
    """What `export` writes."""

    onnx = "onnx"
    executorch = "executorch"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tailkeep {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; ``main`` reads --debug itself, since errors end there."""


def _open(study: Path, options: Options) -> Study:
    from tailkeep.study.runner import open_study

    return open_study(study, options)


def _options(**given: Any) -> Options:
    from tailkeep.study.runner import Options

    given["overrides"] = given.get("overrides") or []
    return Options(**given)


@app.command()
def run(
    study: StudyFile,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    workers: Workers = 0,
    threads: Threads = 1,
    device: Device = "cpu",
    engine: Engine = "processes",
    address: Address = None,
    gpus_per_step: GpusPerStep = None,
    model_code: ModelCode = None,
    overrides: Overrides = None,
    out: Out = None,
    retry_failed: RetryFailed = False,
    new_data: NewData = False,
    new_env: NewEnv = False,
    step_limit: Annotated[
        float | None,
        typer.Option(
            "--step-limit",
            min=0,
            metavar="MINUTES",
            help="A step that takes longer is ended and tried again; 0: none.",
        ),
    ] = None,
    yes: Yes = False,
    json_out: Json = False,
) -> None:
    """Run a study: train, compress, predict, judge; write the report. What is stored is never done again."""
    from tailkeep.study.display import Display, check_out, print_verdict, write_results

    opened = _open(
        study,
        _options(
            store=store, data_root=data_root, workers=workers, threads=threads, device=device, model_code=model_code,
            overrides=overrides, retry_failed=retry_failed, new_data=new_data, new_env=new_env, yes=yes,
            step_limit=step_limit or None, engine=engine, address=address, gpus_per_step=gpus_per_step,
        ),
    )  # fmt: skip
    check_out(opened, out)
    for warning in opened.resolved.warnings:
        typer.echo(f"warning: {warning}", err=True)
    with Display(opened, quiet=json_out) as display:
        outcome = opened.run(display.event, display.wait)
    results = write_results(opened, out)
    print_verdict(opened, results, outcome, json_out)
    if outcome.failed:
        raise typer.Exit(CELLS_FAILED)


@app.command()
def plan(
    study: StudyFile,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    workers: Workers = 0,
    threads: Threads = 1,
    device: Device = "cpu",
    model_code: ModelCode = None,
    overrides: Overrides = None,
    yes: Yes = False,
    json_out: Json = False,
) -> None:
    """Say what a study would run, what is stored already, and about how long the rest takes."""
    from tailkeep.study.display import print_plan

    opened = _open(
        study,
        _options(
            store=store, data_root=data_root, workers=workers, threads=threads, device=device, model_code=model_code,
            overrides=overrides, yes=yes,
        ),
    )  # fmt: skip
    print_plan(opened, json_out)


@app.command()
def status(store: StoreDir = STORE, json_out: Json = False) -> None:
    """Tell how far the studies of a store are, and what is running now."""
    from tailkeep.study.display import print_status

    print_status(store, json_out)


@app.command()
def report(
    study: StudyFile,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    device: Device = "cpu",
    model_code: ModelCode = None,
    overrides: Overrides = None,
    out: Out = None,
    json_out: Json = False,
) -> None:
    """Draw the report of what is stored, without running anything."""
    from tailkeep.study.display import print_verdict, write_results

    opened = _open(
        study,
        _options(store=store, data_root=data_root, device=device, model_code=model_code, overrides=overrides, yes=True),
    )
    print_verdict(opened, write_results(opened, out), None, json_out)


@app.command()
def export(
    study: StudyFile,
    method: Annotated[str, typer.Option(help="A method's name in the study, or dense.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="METHOD.onnx or METHOD.pte")
    ] = None,
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", help="What to write.", show_default="executorch for .pte, else onnx"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a call of a .pte file, which fixes them.", show_default="1")
    ] = None,
    pack_weights: Annotated[
        bool,
        typer.Option(
            "--pack-weights",
            help="ONNX: weights of 4 bits or fewer two to a byte: same kernels, a smaller file, for onnxruntime 1.23.",
        ),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Which model, where there are several.")] = None,
    setting: Annotated[str | None, typer.Option(help="Which imbalance setting, where there are several.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which dataset, where there are several.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed; else the study's first.")] = None,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    model_code: ModelCode = None,
    overrides: Overrides = None,
    json_out: Json = False,
) -> None:
    """Write a stored model as an ONNX or ExecuTorch file; say how far its runtime agrees with the simulated model."""
    from tailkeep.study.display import print_export
    from tailkeep.study.exporting import Choice, destination, export_cell

    target, name = destination(out, method, None if file_format is None else file_format.value)
    opened = _open(study, _options(store=store, data_root=data_root, model_code=model_code, overrides=overrides))
    choice = Choice(method, model, setting, dataset, seed)
    print_export(export_cell(opened, choice, target, name, batch, pack_weights), json_out)


register_audit(app)
register_recommend(app)
register_travel(app)
register_store(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every error becomes words and an exit code."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, standalone_mode=False)
        if code == INTERRUPTED:  # typer makes an exit code of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except TailkeepError as error:
        if debug:
            traceback.print_exc()
        print(f"tailkeep: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("\ntailkeep: interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        _leave(INTERRUPTED)
    except Exception as error:
        show = getattr(error, "show", None)  # a wrong option or argument; typer brings its own copy of click
        if callable(show):
            show()
            sys.exit(BAD_INPUT)
        if debug:
            traceback.print_exc()
        print(
            f"tailkeep: unexpected {type(error).__name__}: {error}\n"
            "This is a fault of tailkeep or of the machine, not a verdict. What was finished is stored; "
            "`tailkeep --debug ...` shows where it happened.",
            file=sys.stderr,
        )
        sys.exit(UNEXPECTED)


def _leave(code: int) -> NoReturn:
    """Leave at once: a step that still runs in a thread would hold the interpreter until it ends."""
    import os

    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)
