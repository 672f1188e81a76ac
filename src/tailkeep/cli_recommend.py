"""``tailkeep recommend``: its options. ``register`` puts it into the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailkeep import cli_options as options
from tailkeep.cli_options import STORE, StudyFile

QUESTION, BUDGET, OUTPUT, COMPUTE = "The question", "Budget (one at most)", "Output", "Computation"

EPILOG = (
    "Example: `tailkeep recommend studies/recommend.yaml --max-class-drop 10 --smaller 4`\n\n"
    "Exit codes: 0 a safe model was found; 1 nothing is safe: every candidate is shown to lose a class too much; "
    "5 cannot tell: the output says how many more test images would do; 2 bad input; 3 the baseline failed; "
    "70 unexpected error."
)

MaxClassDrop = Annotated[
    float,
    typer.Option(
        "--max-class-drop", metavar="POINTS", rich_help_panel=QUESTION,
        help="Percentage points of recall that a class may lose.",
    ),
]  # fmt: skip
Confidence = Annotated[
    float, typer.Option(metavar="SHARE", rich_help_panel=QUESTION, help="How sure the answer must be.")
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", rich_help_panel=QUESTION, show_default="the study's only model",
        help="The study's model that is in use now: losses are counted from it.",
    ),
]  # fmt: skip
Seed = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=QUESTION, show_default="the study's first", help="The training that would be deployed."
    ),
]
Smaller = Annotated[
    float | None, typer.Option(metavar="TIMES", rich_help_panel=BUDGET, help="So many times fewer packed bytes.")
]
MaxBytes = Annotated[
    float | None, typer.Option("--max-bytes", metavar="BYTES", rich_help_panel=BUDGET, help="Packed bytes at most.")
]
MaxMacs = Annotated[
    float | None,
    typer.Option(
        "--max-macs", metavar="MACS", rich_help_panel=BUDGET, help="Multiply-accumulates an image at most: 2e7."
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ms", metavar="MS", rich_help_panel=BUDGET,
        help="Milliseconds an image at most, in ONNX Runtime on this machine.",
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=OUTPUT, help="Folder for the results.", show_default="tailkeep-results/NAME recommend/QUESTION"
    ),
]

StoreDir = Annotated[str, options.in_panel(options.StoreDir, COMPUTE)]
DataRoot = Annotated[Path | None, options.in_panel(options.DataRoot, COMPUTE)]
Workers = Annotated[int, options.in_panel(options.Workers, COMPUTE)]
Threads = Annotated[int, options.in_panel(options.Threads, COMPUTE)]
Device = Annotated[str, options.in_panel(options.Device, COMPUTE)]
ModelCode = Annotated[str | None, options.in_panel(options.ModelCode, COMPUTE)]
Overrides = Annotated[list[str] | None, options.in_panel(options.Overrides, COMPUTE)]
RetryFailed = Annotated[bool, options.in_panel(options.RetryFailed, COMPUTE)]
NewData = Annotated[bool, options.in_panel(options.NewData, COMPUTE)]
NewEnv = Annotated[bool, options.in_panel(options.NewEnv, COMPUTE)]
Json = Annotated[bool, options.in_panel(options.Json, OUTPUT)]


def recommend(
    study: StudyFile,
    max_class_drop: MaxClassDrop = 2.0,
    confidence: Confidence = 0.95,
    smaller: Smaller = None,
    max_bytes: MaxBytes = None,
    max_macs: MaxMacs = None,
    max_latency_ms: MaxLatency = None,
    baseline: Baseline = None,
    seed: Seed = None,
    store: StoreDir = STORE,
    data_root: DataRoot = None,
    workers: Workers = 0,
    threads: Threads = 1,
    device: Device = "cpu",
    model_code: ModelCode = None,
    overrides: Overrides = None,
    retry_failed: RetryFailed = False,
    new_data: NewData = False,
    new_env: NewEnv = False,
    out: Out = None,
    json_out: Json = False,
) -> None:
    """Find the smallest model that keeps every class, shown on images that the search never saw."""
    from tailkeep.recommend import shown
    from tailkeep.recommend.run import quiet, recommend_study

    terminal = shown.console()
    answer = recommend_study(
        study,
        say=(lambda line: None) if json_out else shown.say_to(terminal),
        runner=quiet if json_out else shown.runner_with_bars,
        max_class_drop=max_class_drop, confidence=confidence, smaller=smaller, max_bytes=max_bytes, max_macs=max_macs,
        max_latency_ms=max_latency_ms, baseline=baseline, seed=seed, out=out, store=store, data_root=data_root,
        workers=workers, threads=threads, device=device, model_code=model_code, overrides=overrides or [],
        retry_failed=retry_failed, new_data=new_data, new_env=new_env,
    )  # fmt: skip
    shown.print_answer(answer, shown.write_page(answer, Path(answer.folder)), json_out)
    raise typer.Exit(answer.exit_code)


def register(app: typer.Typer) -> None:
    """Add the command ``recommend``."""
    app.command(epilog=EPILOG)(recommend)
