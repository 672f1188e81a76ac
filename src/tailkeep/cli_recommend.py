"""``tailkeep recommend``: its options. ``register`` puts it into the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

QUESTION, BUDGET, OUTPUT, COMPUTE = "The question", "Budget (one at most)", "Output", "Computation"

EPILOG = (
    "Example: `tailkeep recommend studies/recommend.yaml --max-class-drop 10 --smaller 4`\n\n"
    "Exit codes: 0 a safe model was found; 1 nothing is safe: every candidate is shown to lose a class too much; "
    "5 cannot tell: the output says how many more test images would do; 2 bad input; 3 the baseline failed; "
    "70 unexpected error."
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)]
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
StoreDir = Annotated[
    Path, typer.Option("--store", rich_help_panel=COMPUTE, help="Folder of finished steps; safe to resume.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", rich_help_panel=COMPUTE, help="Folder with the datasets.")
]
Workers = Annotated[int, typer.Option(min=0, rich_help_panel=COMPUTE, help="Worker processes; 0 is one a core.")]
Threads = Annotated[int, typer.Option(min=1, rich_help_panel=COMPUTE, help="Threads of each step.")]
Device = Annotated[str, typer.Option(rich_help_panel=COMPUTE, help="cpu, cuda or cuda:N.")]
ModelCode = Annotated[
    str | None,
    typer.Option(
        "--model-code", metavar="MODULE:FACTORY", rich_help_panel=COMPUTE, help="Your own model. This runs your code."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", rich_help_panel=COMPUTE, help="Change one value of the study."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", rich_help_panel=COMPUTE, help="Try steps again that failed before.")
]
NewData = Annotated[bool, typer.Option("--new-data", rich_help_panel=COMPUTE, help="Go on although the data changed.")]
NewEnv = Annotated[
    bool, typer.Option("--new-env", rich_help_panel=COMPUTE, help="Go on although the environment changed.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=OUTPUT, help="Folder for the results.", show_default="tailkeep-results/NAME recommend"
    ),
]
Json = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON for scripts.")]


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
    store: StoreDir = Path("tailkeep-store"),
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
    from tailkeep.recommend.run import out_folder, quiet, recommend_study

    folder = out_folder(out, study)
    terminal = shown.console()
    answer = recommend_study(
        study,
        say=(lambda line: None) if json_out else shown.say_to(terminal),
        runner=quiet if json_out else shown.runner_with_bars,
        max_class_drop=max_class_drop, confidence=confidence, smaller=smaller, max_bytes=max_bytes, max_macs=max_macs,
        max_latency_ms=max_latency_ms, baseline=baseline, seed=seed, out=folder, store=store, data_root=data_root,
        workers=workers, threads=threads, device=device, model_code=model_code, overrides=overrides or [],
        retry_failed=retry_failed, new_data=new_data, new_env=new_env,
    )  # fmt: skip
    shown.print_answer(answer, shown.write_page(answer, folder), json_out)
    raise typer.Exit(answer.exit_code)


def register(app: typer.Typer) -> None:
    """Add the command ``recommend``."""
    app.command(epilog=EPILOG)(recommend)
