"""``tailkeep audit``: its options, and what becomes of the result. ``register`` puts it into the command line."""

from __future__ import annotations

import difflib
import os
import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailkeep.errors import BadInput

if TYPE_CHECKING:
    from tailkeep.analysis.audit import AuditAnalysis
    from tailkeep.auditing.request import AuditRequest

INPUTS, GATE, TABLES, MODELS, OUTPUTS, COMPUTE = (
    "What is compared",
    "The gate",
    "Reading predictions",
    "Running models",
    "Output",
    "Computation",
)
PLAIN_SIGNS = str.maketrans({"−": "-", "–": "-", "─": "-", "→": ">", "…": "~"})
CORES = os.cpu_count() or 1


class Format(str, Enum):
    """The forms of the output."""

    text = "text"
    json = "json"
    sarif = "sarif"
    junit = "junit"


class Scores(str, Enum):
    """What the score columns of a file are."""

    auto = "auto"
    logits = "logits"
    probabilities = "probabilities"


class Layout(str, Enum):
    """The order of an image batch's axes."""

    auto = "auto"
    nchw = "nchw"
    nhwc = "nhwc"


EPILOG = (
    "Example: `tailkeep audit --baseline dense.csv --candidate pruned=pruned.csv --max-class-drop 2 "
    "--output junit=audit.xml --output sarif=audit.sarif`\n\n"
    "Exit codes: 0 every class is shown to lose less than the limit; 1 a class is shown to lose more; 5 cannot tell: "
    "the test set is too small, and the output says how many more images would do; 2 bad input; 70 unexpected error. "
    "With several candidates the worst counts: 1 before 5 before 0."
)

Baselines = Annotated[
    list[Path],
    typer.Option(
        "--baseline", metavar="FILE", show_default=False, rich_help_panel=INPUTS,
        help="The model before: predictions (.csv, .parquet, .npz), .onnx or weights. Again: a further seed.",
    ),
]  # fmt: skip
Candidates = Annotated[
    list[str],
    typer.Option(
        "--candidate", metavar="[NAME=]FILE", show_default=False, rich_help_panel=INPUTS,
        help="The model after. Again: another candidate, or under the same NAME the next seed, as the baselines go.",
    ),
]  # fmt: skip
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", rich_help_panel=INPUTS,
        help="Labelled test images for models: a folder of class folders, an array file, a Hugging Face dataset.",
    ),
]  # fmt: skip
ModelCode = Annotated[
    list[str] | None,
    typer.Option(
        "--model-code", metavar="[NAME=]MODULE:FACTORY", rich_help_panel=INPUTS, show_default=False,
        help="Makes the network that weights (.safetensors) belong to; again with the NAME of a candidate whose "
        "network is another. This runs your code.",
    ),
]  # fmt: skip
MaxClassDrop = Annotated[
    float | None,
    typer.Option(
        "--max-class-drop", metavar="POINTS", rich_help_panel=GATE, show_default="2, or the policy's",
        help="Percentage points of recall that a class may lose.",
    ),
]  # fmt: skip
MaxFalsePositiveRise = Annotated[
    float | None,
    typer.Option(
        "--max-false-positive-rise", metavar="POINTS", rich_help_panel=GATE, show_default="not asked, or the policy's",
        help="Percentage points by which the share of other images that are given a class may rise.",
    ),
]  # fmt: skip
Confidence = Annotated[
    float | None,
    typer.Option(metavar="SHARE", rich_help_panel=GATE, show_default="0.95", help="How sure a decision must be."),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", rich_help_panel=GATE, help="YAML with limits by class and group."),
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", metavar="NAME", rich_help_panel=TABLES, help="Column of true classes.")
]
PredictionColumn = Annotated[
    str | None,
    typer.Option("--prediction-column", metavar="NAME", rich_help_panel=TABLES, help="Column of predicted classes."),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        "--id-column", metavar="NAME", rich_help_panel=TABLES, help="Column that pairs the rows (else their order)."
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="COLUMN", rich_help_panel=TABLES, help="Column of a slice to look at. Repeatable."),
]
ScoresOption = Annotated[Scores, typer.Option("--scores", rich_help_panel=TABLES, help="What score columns hold.")]
ClassNames = Annotated[
    Path | None,
    typer.Option("--class-names", metavar="FILE", rich_help_panel=TABLES, help="Names of the classes, one a line."),
]
TrainCounts = Annotated[
    Path | None,
    typer.Option(
        "--train-counts", metavar="PATH", rich_help_panel=TABLES,
        help="Training images by class (CSV or JSON: class, count; or a folder of class folders): who is rare.",
    ),
]  # fmt: skip
Threshold = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", rich_help_panel=TABLES, help="Multi-label: a score above it is a yes."),
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", rich_help_panel=MODELS, help="Mean of each channel, for pixels in 0..1."),
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", rich_help_panel=MODELS, help="Deviation of each channel.")]
ImageSize = Annotated[
    str | None,
    typer.Option("--image-size", metavar="PIXELS|HxW", rich_help_panel=MODELS, help="Size that images are brought to."),
]
Split = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=MODELS, help="Which split of the data is the test set.")
]
AllowBad = Annotated[
    int,
    typer.Option("--allow-bad", metavar="N", min=0, rich_help_panel=MODELS, help="Damaged images to skip, at most."),
]
Threads = Annotated[
    int, typer.Option(metavar="N", min=1, rich_help_panel=MODELS, help="Threads of a model.", show_default="all cores")
]
LayoutOption = Annotated[Layout, typer.Option("--layout", rich_help_panel=MODELS, help="Axes of the model's input.")]
Resamples = Annotated[
    int, typer.Option(metavar="N", min=1, rich_help_panel=COMPUTE, help="Bootstrap resamples of the summary figures.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, rich_help_panel=COMPUTE, help="Seed of the bootstrap.")]
FormatOption = Annotated[Format, typer.Option("--format", rich_help_panel=OUTPUTS, help="What is printed.")]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output", metavar="[FORMAT=]FILE", rich_help_panel=OUTPUTS,
        help="Write a file, in --format or the one named: --output sarif=audit.sarif. Repeatable.",
    ),
]  # fmt: skip
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", rich_help_panel=OUTPUTS, help="Write the HTML report into this folder."),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", rich_help_panel=OUTPUTS, help="Show every class, figure and the worst flips.")
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("audit", epilog=EPILOG)(audit)


def audit(
    baseline: Baselines,
    candidate: Candidates,
    data: Data = None,
    model_code: ModelCode = None,
    max_class_drop: MaxClassDrop = None,
    max_false_positive_rise: MaxFalsePositiveRise = None,
    confidence: Confidence = None,
    policy: PolicyFile = None,
    label_column: LabelColumn = None,
    prediction_column: PredictionColumn = None,
    id_column: IdColumn = None,
    group: Groups = None,
    scores: ScoresOption = Scores.auto,
    class_names: ClassNames = None,
    train_counts: TrainCounts = None,
    threshold: Threshold = None,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    layout: LayoutOption = Layout.auto,
    split: Split = "test",
    allow_bad: AllowBad = 0,
    threads: Threads = CORES,
    format_: FormatOption = Format.text,
    output: Outputs = None,
    report: Report = None,
    verbose: Verbose = False,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
) -> None:
    """Compare a model before and after compression: does any class lose more than it may?"""
    targets = _targets(output or [], format_)
    pairs = _candidates(candidate)  # words that do not fit are said before anything heavy is imported
    code, candidate_code = _codes(model_code or [], [name for name, _ in pairs])
    from tailkeep.auditing.places import check_places
    from tailkeep.auditing.request import AuditRequest

    request = AuditRequest(
        baselines=tuple(baseline), candidates=pairs, data=data, model_code=code, max_class_drop=max_class_drop,
        confidence=confidence, policy=policy, label_column=label_column, prediction_column=prediction_column,
        id_column=id_column, group_columns=tuple(group or ()), scores=scores.value, class_names=class_names,
        train_counts=train_counts, threshold=threshold, mean=_numbers("--mean", mean), std=_numbers("--std", std),
        image_size=_size(image_size), layout=layout.value, resamples=resamples, seed=seed,
        candidate_code=candidate_code, split=split, allow_bad=allow_bad, threads=threads,
        max_false_positive_rise=max_false_positive_rise,
    )  # fmt: skip
    request.read_policy()  # its faults are told before any model runs
    check_places([path for _, path in targets], report, request.inputs())
    raise typer.Exit(_run(request, targets, format_, report, verbose))


def _run(
    request: AuditRequest, targets: list[tuple[Format, Path]], shown: Format, report: Path | None, verbose: bool
) -> int:
    """Audit, write what was asked for, print; return the exit code."""
    from tailkeep.auditing.files import audit_files
    from tailkeep.auditing.places import written
    from tailkeep.files import write_atomic

    result = audit_files(request, _progress if sys.stderr.isatty() else None)
    for form, path in targets:
        with written("--output", path):
            write_atomic(path, _written(result.analysis, form, verbose))
    if report is not None:
        with written("--report", report):
            page = result.write_report(report)
        typer.echo(f"report: {Path(page).resolve()}", err=True)
    _print(result.analysis, shown, verbose)
    return int(result.exit_code)


def _progress(name: str, done: int, total: int) -> None:
    """Say on the terminal how far a model is."""
    typer.echo(f"\r{name}: {done:,} of {total:,} images", err=True, nl=done >= total)


def _written(analysis: AuditAnalysis, form: Format, verbose: bool) -> str:
    from tailkeep.auditing import outputs

    if form is Format.text:
        return outputs.as_text(analysis, verbose=verbose)
    return {Format.json: outputs.as_json, Format.sarif: outputs.as_sarif, Format.junit: outputs.as_junit}[form](
        analysis
    )


def _print(analysis: AuditAnalysis, form: Format, verbose: bool) -> None:
    """Print to standard output, in colour on a terminal; signs that its encoding lacks are written in ASCII."""
    from rich.console import Console

    from tailkeep.auditing.outputs import as_text

    terminal = Console()
    if form is Format.text and terminal.is_terminal:
        colour = not terminal.no_color and terminal.color_system is not None
        text = as_text(analysis, verbose=verbose, colour=colour, width=max(terminal.width, 100))
    else:
        text = _written(analysis, form, verbose)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:  # a minus must not become "?", which would turn a loss into a gain
        text = text.translate(PLAIN_SIGNS).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text)
    sys.stdout.flush()


def _targets(outputs: list[str], form: Format) -> list[tuple[Format, Path]]:
    """Return the format and path of every --output."""
    found: list[tuple[Format, Path]] = []
    formats = [member.value for member in Format]
    for output in outputs:
        named, equals, path = output.partition("=")
        known = equals and named in formats
        if equals and not known and re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", named):
            close = difflib.get_close_matches(named.lower(), formats, 1)
            mean = f"; did you mean {close[0]}?" if close else ""
            raise BadInput(
                f"--output {output}: {named} is no format{mean} (choices: {', '.join(formats)}; a file of this name is "
                f"./{output})"
            )
        target = (Format(named), Path(path)) if known else (form, Path(output))
        if not target[1].name:
            raise BadInput(f"--output {output}: name a file")
        found.append(target)
    return found


def _candidates(given: list[str]) -> tuple[tuple[str, tuple[Path, ...]], ...]:
    """Return candidates by name, in the order of their first file. One without a name takes its file's.

    A text that is the path of a file is not split, so that a path may hold "=".
    """
    named: dict[str, list[Path]] = {}
    plain: list[Path] = []
    order: list[str | Path] = []
    for text in given:
        name, equals, path = text.partition("=")
        if equals and not Path(text).exists():
            if not name or not path:
                raise BadInput(f"--candidate {text}: write it as NAME=FILE, or FILE alone")
            name = _readable(name)
            if name not in named:
                order.append(name)
            named.setdefault(name, []).append(Path(path))
        else:
            if Path(text).is_dir():
                raise BadInput(f"--candidate {text}: is a folder; name a file of predictions or a model")
            plain.append(Path(text))
            order.append(Path(text))
    stems = [_readable(path.stem) for path in plain] + list(named)
    found: list[tuple[str, tuple[Path, ...]]] = []
    for item in order:
        if isinstance(item, Path):
            # Files of one name in several folders go by their paths: only a name that is given joins seeds.
            stem = _readable(item.stem)
            found.append((stem if stems.count(stem) == 1 else _readable(item.as_posix()), (item,)))
        else:
            found.append((item, tuple(named[item])))
    return tuple(found)


def _codes(given: list[str], names: list[str]) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """Return the code of every model, and that of the candidates which have their own."""
    common: str | None = None
    own: dict[str, str] = {}
    for text in given:
        name, equals, code = text.partition("=")
        if not equals:
            if common is not None:
                raise BadInput(f"--model-code {text}: a second one needs a candidate's name: NAME=MODULE:FACTORY")
            common = text
        elif name not in names:
            raise BadInput(f"--model-code {text}: no candidate is called {name!r} (there are: {', '.join(names)})")
        else:
            own[name] = code
    return common, tuple(own.items())


def _readable(name: str) -> str:
    """Return a file's name as text: bytes that are no UTF-8 are written as ``\\xff``, since tables hold none."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"{option} {text}: expected numbers with commas between, one a channel: 0.5,0.5,0.5") from error


def _size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of "32" or "32x48"."""
    if text is None:
        return None
    parts = text.lower().split("x")
    try:
        height, width = (int(part) for part in (parts if len(parts) > 1 else parts * 2))
    except ValueError as error:
        raise BadInput(f"--image-size {text}: expected pixels, as in 32, or height x width, as in 32x48") from error
    return height, width
