"""Options that several commands have, spelled once."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

STORE = "tailkeep-store"
"""Where finished steps lie unless --store says otherwise."""


def store_text(text: str) -> str:
    """Return --store as it is, where it is a URL (a ``Path`` would drop a slash of it), else as paths are written."""
    return text if "://" in text else str(Path(text))


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)]
StoreDir = Annotated[
    str,
    typer.Option(
        "--store", metavar="FOLDER|URL", parser=store_text,
        help="Finished steps: a folder, or s3://bucket/prefix; shared by studies, safe to resume.",
    ),
]  # fmt: skip
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder with the datasets (else TAILKEEP_DATA_ROOT, else a download)."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 is one a core. Never changes a result.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each step. Other threads give other rounding.")]
Engine = Annotated[str, typer.Option(metavar="processes|ray", help="What runs the steps: processes here, or Ray.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT.", show_default="one started here"
    ),
]
GpusPerStep = Annotated[
    float | None, typer.Option("--gpus-per-step", help="Part of a GPU that Ray reserves for a step.", show_default="1")
]
ModelCode = Annotated[
    str | None,
    typer.Option("--model-code", metavar="MODULE:FACTORY", help="Your own model (kind: user). This runs your code."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the study: --set recipe.epochs=3"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try steps again that failed before.")]
NewData = Annotated[bool, typer.Option("--new-data", help="Go on although the data changed.")]
NewEnv = Annotated[bool, typer.Option("--new-env", help="Go on although the environment changed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def in_panel(option: Any, panel: str) -> Any:
    """Return what one of the options above says of itself, for a panel of a command's help."""
    said = copy(get_args(option)[1])
    said.rich_help_panel = panel
    return said
