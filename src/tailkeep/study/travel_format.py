"""What a results file holds, as values: their shapes and types, to members and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from tailkeep.errors import BadInput
from tailkeep.frame import COLUMNS
from tailkeep.spec import Spec
from tailkeep.study.travel_archive import array_bytes, json_bytes, parse_array, parse_json

T = TypeVar("T")
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
GroupName = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Fact = str | int | float | bool | None
MANY_CLASSES = 1 << 16


class _Part(Spec):
    """A value of the file: no key too many, nothing taken for something else."""

    model_config = ConfigDict(strict=True)


class DataFacts(_Part):
    """The content hashes of a dataset's splits, and its classes in order."""

    train: Text
    test: Text
    class_names: Annotated[list[Text], Field(min_length=1, max_length=MANY_CLASSES)]


class StudyFacts(_Part):
    """Where the results come from. ``environments`` are those of the steps, once each."""

    name: Text
    spec: str
    split: Literal["test", "validation"]
    data: dict[Text, DataFacts]
    code_version: Text
    result_hash: Hash
    environments: list[dict[Text, Fact]]


class Cost(_Part):
    """What a model costs."""

    weights: Count
    macs: Count
    packed_bytes: Count


class StepFacts(_Part):
    """A step: the canonical content that its key is the hash of, how it ended, and where."""

    spec: dict[str, Any]
    status: Literal["done", "failed", "missing"]
    environment: Count | None = None  # index into the study's environments
    cost: Cost | None = None
    reason: Text | None = None
    detail: str | None = None


class Labels(_Part):
    """A cell's names: labels, which no hash covers."""

    dataset: Text
    setting: Text
    twin: Literal["imbalanced", "full", "matched"]
    model: Text
    method: Text
    role: Literal["dense", "technique", "control"]
    seed: Annotated[int, Field(ge=-(1 << 62), lt=1 << 62)]
    split: Literal["test", "validation"]


class FileFacts(_Part):
    """Sizes of an exported model file, and how far it agrees with the simulated model."""

    file_bytes: Count
    gzip_bytes: Count
    agreement: float | None = None
    worst_agreement: float | None = None
    worst_agreement_class: Text | None = None
    largest_difference: float | None = None


class CellFacts(_Part):
    """A planned cell, its steps, and the stored predictions that it is compared with."""

    labels: Labels
    model_key: Hash
    predict_key: Hash
    counts: list[Count]
    references: dict[Text, Hash] = Field(default_factory=dict)
    validation_key: Hash | None = None
    export_key: Hash | None = None
    export_predict_key: Hash | None = None
    file: FileFacts | None = None

    @property
    def predict_keys(self) -> list[str]:
        """Keys of the cell's own predictions, as ``plan.Cell.predict_keys``."""
        return [key for key in (self.predict_key, self.validation_key, self.export_predict_key) if key is not None]


class PredictionFacts(_Part):
    """Which row of which group's array a prediction is, and the hashes that the result hash is made of."""

    group: GroupName
    row: Count
    arrays_sha256: Hash  # of the labels as int64 and the logits as float32, little-endian, one after the other
    logits_sha256: Hash
    model_sha256: Hash | None = None


class Group(_Part):
    """The images that predictions were made of: a split of a dataset, by content hash."""

    dataset: Text
    split: Literal["test", "validation"]
    data: dict[str, Any]


@dataclass
class Content:
    """All of a results file. ``labels`` (N,), ``guesses`` (predictions, N) and ``ids`` (N) are by group."""

    study: StudyFacts
    steps: dict[str, StepFacts]
    cells: list[CellFacts]
    predictions: dict[str, PredictionFacts]
    groups: dict[str, Group]
    frame: dict[str, list[Any]]  # the columns of the frame
    labels: dict[str, NDArray[Any]]
    guesses: dict[str, NDArray[Any]]
    ids: dict[str, list[str]]


def narrow(values: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return class indices in as few bytes as they fit in."""
    if classes > MANY_CLASSES:
        raise BadInput(f"a results file holds at most {MANY_CLASSES:,} classes; there are {classes:,}")
    return values.astype("<u1" if classes <= 256 else "<u2")


def to_members(content: Content) -> dict[str, bytes]:
    """Return the members of a results file."""
    grouped = {name: group.plain() for name, group in content.groups.items()}
    rows = {key: facts.plain() for key, facts in content.predictions.items()}
    found = {
        "study.json": json_bytes(content.study.plain()),
        "steps.json": json_bytes({key: step.plain() for key, step in content.steps.items()}),
        "cells.json": json_bytes([cell.plain() for cell in content.cells]),
        "predictions.json": json_bytes({"groups": grouped, "predictions": rows}),
        "frame.json": json_bytes(content.frame),
    }
    for name in content.groups:
        found[f"labels-{name}.npy"] = array_bytes(content.labels[name])
        found[f"predictions-{name}.npy"] = array_bytes(content.guesses[name])
        found[f"ids-{name}.json"] = json_bytes(content.ids[name])
    return found


def from_members(members: dict[str, bytes]) -> Content:
    """Return what the members hold; raises ``BadInput`` where one is missing or not of its shape."""

    def read(name: str, kind: type[T] | Any) -> Any:
        return _validated(name, kind, parse_json(name, _member(members, name)))

    both = read("predictions.json", dict[Literal["groups", "predictions"], dict[str, Any]])
    groups = _validated("predictions.json", dict[GroupName, Group], both.get("groups"))
    rows = _validated("predictions.json", dict[Hash, PredictionFacts], both.get("predictions"))
    wanted = {"study.json", "steps.json", "cells.json", "predictions.json", "frame.json"}
    wanted |= {name for g in groups for name in (f"labels-{g}.npy", f"predictions-{g}.npy", f"ids-{g}.json")}
    stray = sorted(set(members) - wanted)
    if stray:
        raise BadInput(f"its member {stray[0]!r} belongs to no group of predictions")
    frame = read("frame.json", dict[str, list[Any]])
    if set(frame) != set(COLUMNS):
        raise BadInput(f"frame.json has not the columns of the frame: {', '.join(sorted(set(frame) ^ set(COLUMNS)))}")
    return Content(
        study=read("study.json", StudyFacts),
        steps=read("steps.json", dict[Hash, StepFacts]),
        cells=read("cells.json", list[CellFacts]),
        predictions=rows,
        groups=groups,
        frame=frame,
        labels={g: _array(members, f"labels-{g}.npy", 1) for g in groups},
        guesses={g: _array(members, f"predictions-{g}.npy", 2) for g in groups},
        ids={g: read(f"ids-{g}.json", list[Text]) for g in groups},
    )


def _member(members: dict[str, bytes], name: str) -> bytes:
    if name not in members:
        raise BadInput(f"its member {name!r} is missing")
    return members[name]


def _array(members: dict[str, bytes], name: str, dimensions: int) -> NDArray[Any]:
    array = parse_array(name, _member(members, name))
    if array.ndim != dimensions:
        raise BadInput(f"{name} has {array.ndim} dimensions, not {dimensions}")
    return np.asarray(array)


def _validated(name: str, kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind, config=None).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f": {str(part)[:40]!r}" for part in first["loc"])
        raise BadInput(f"{name}{where}: {first['msg']}") from error
