"""An audit of files: predictions, or models that run over labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tailkeep.auditing.cells import Options
from tailkeep.auditing.counts import read_class_names, read_train_counts
from tailkeep.auditing.images import TestImages, read_images
from tailkeep.auditing.models import ONNX, WEIGHTS, input_size, predict_file
from tailkeep.auditing.pairing import pair
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.request import AuditRequest
from tailkeep.auditing.result import Audit
from tailkeep.auditing.run import Pair, Question, answer
from tailkeep.auditing.tables import read_all
from tailkeep.errors import BadInput

Progress = Callable[[str, int, int], None]


def audit_files(request: AuditRequest, progress: Progress | None = None) -> Audit:
    """Return the audit that a request asks for. ``progress`` gets a file's name, images done and images in all.

    Raises BadInput where an input cannot be used, MissingExtra where an optional library is not installed.
    """
    policy = request.read_policy()  # its faults come before any model runs
    names = None if request.class_names is None else read_class_names(request.class_names)
    paths = [*request.baselines, *(path for _, files in request.candidates for path in files)]
    images = _images(request, paths, names)
    made = _predictions(request, paths, names, images, progress)
    counts = None
    if request.train_counts is not None:
        counts = read_train_counts(request.train_counts, made[0].class_names)
    baselines, rest = made[: len(request.baselines)], iter(made[len(request.baselines) :])
    after = [(name, [replace(next(rest), name=name) for _ in baselines]) for name, _ in request.candidates]
    named = [*baselines, *(one for _, models in after for one in models)]
    pairs: list[tuple[str, list[Pair]]] = [
        (name, [pair(*both) for both in zip(baselines, models, strict=True)]) for name, models in after
    ]
    notes = [] if images is None else list(images.notes)
    notes += [f"{one.name}: {note}" for one in named for note in one.source.get("notes", ())]
    data = {} if images is None else {"data": {images.source: {"form": images.form, "sha256": images.sha256}}}
    found = answer(
        Question(
            "audit", pairs, policy, counts, request.resamples, request.seed, tuple(dict.fromkeys(notes)), data
        )
    )  # fmt: skip
    return found if images is None else replace(found, thumbnails=_thumbnails(found, images))


def _is_model(path: Path) -> bool:
    return path.suffix.lower() in (ONNX, *WEIGHTS)


def _images(request: AuditRequest, paths: Sequence[Path], names: Sequence[str] | None) -> TestImages | None:
    """Return the test images, where a model needs them or pictures of flipped images are wanted."""
    if request.data is None:
        return None
    size: int | tuple[int, int] | None = request.image_size
    files = [path for path in paths if path.suffix.lower() == ONNX]
    if size is None and files:
        size = input_size(files[0], request.layout)
    normal = (0.5, 0.5) if request.mean is None or request.std is None else (request.mean, request.std)
    return read_images(
        request.data, image_size=size, class_names=names, mean=normal[0], std=normal[1], split=request.split,
        allow_bad=request.allow_bad,
    )  # fmt: skip


def _predictions(
    request: AuditRequest, paths: Sequence[Path], names: Sequence[str] | None, images: TestImages | None,
    progress: Progress | None,
) -> list[Predictions]:  # fmt: skip
    """Return the answers of every file, in their order; a model runs once, however often it stands there."""
    made: dict[Path, Predictions] = {}
    tables = [path for path in dict.fromkeys(paths) if not _is_model(path)]
    if tables:
        if images is not None and names is None:
            names = images.class_names
        given = {
            "label_column": request.label_column,
            "prediction_column": request.prediction_column,
            "id_column": request.id_column,
            "threshold": request.threshold,
        }
        options = Options(
            group_columns=request.group_columns,
            class_names=None if names is None else tuple(names),
            scores=request.scores,  # type: ignore[arg-type]
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        made |= dict(zip(tables, read_all(tables, options), strict=True))
    for path in dict.fromkeys(paths):
        if _is_model(path):
            assert images is not None  # the request demands data for a model
            report = None if progress is None else _named(progress, path.name)
            made[path] = predict_file(
                path, images, model_code=request.code_of(path), layout=request.layout, threads=request.threads,
                progress=report,
            )  # fmt: skip
    if request.group_columns and not tables:
        raise BadInput("--group: models over images have no columns; audit predictions to look at slices")
    return [made[path] for path in paths]


def _named(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _thumbnails(found: Audit, images: TestImages) -> dict[int, bytes]:
    """Return pictures of the flipped images that the page shows."""
    from tailkeep.report.audit_flips import rows_shown
    from tailkeep.report.thumbnails import png

    if found.analysis.task == "multiclass" and len(images) == int(found.candidates[0].classes["n"].sum()):
        return {row: png(np.asarray(images.images[row])) for row in rows_shown(found.analysis)}
    return {}
