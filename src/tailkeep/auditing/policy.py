"""How much a class or a group may lose: the policy of an audit, from options or from a YAML file.

Everything that a person writes here is in percentage points (0..100); a ``Check`` carries shares (0..1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from tailkeep.analysis.gate import MOST_CONFIDENCE, Check
from tailkeep.errors import BadInput
from tailkeep.spec import Spec
from tailkeep.yaml_reader import Document, Path_, explain, hint, read_yaml

MAX_CLASS_DROP = 2.0
CONFIDENCE = 0.95
FREQUENCY_GROUPS = ("many", "medium", "few", "frequent", "middle", "rare", "majority", "minority")
FILE = "a policy file", "a mapping (max_class_drop: ..., classes: ..., groups: ...)"

YAML_WORDS = {
    # what the readers say of a file's values: what that is in YAML
    "not NoneType": "and the file is empty",
    "not list": "not a list",
    "not str": "not a text",
    "not int": "not a number",
    "not float": "not a number",
    "not bool": "not true or false",
    "Input should be a valid dictionary or instance of Limits": "expected limits, such as {max_drop: 1}",
    "Input should be a valid mapping": "expected names with limits, such as cat: {max_drop: 1}",
    "(given: None)": "(nothing is given)",
    "(given: True)": "(given: true)",
    "(given: False)": "(given: false)",
}


def _no_truth(value: Any) -> Any:
    """Refuse true and false, which Python takes for 1 and 0."""
    if isinstance(value, (bool, np.bool_)):
        raise ValueError("expected a number, not true or false")
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
Drop = Annotated[Number, Field(ge=0, lt=100)]
Floor = Annotated[Number, Field(gt=0, le=100)]


class Limits(Spec):
    """Limits of one class or group, in percentage points: of recall lost, and of recall itself.

    ``max_drop`` None: the loss is not checked. A class that says nothing of ``max_drop`` takes the policy's
    ``max_class_drop``; a group that says nothing has no such limit. ``max_false_positive_rise`` is how much the share
    of images that are wrongly given a class may rise; it goes as ``max_drop`` does, and groups have none.
    """

    max_drop: Drop | None = None
    min_recall: Floor | None = None
    max_false_positive_rise: Drop | None = None


class Policy(Spec):
    """What an audit's gate asks: no class may lose more than ``max_class_drop`` percentage points of its recall.

    ``confidence`` is what a decision needs, one-sided. ``max_false_positive_rise`` (percentage points of a class's
    negatives) is not checked where it is None. ``notes`` say what an option
    replaced in the file. ``classes`` sets other limits for the classes that it names,
    ``groups`` limits for groups ("few", or "column=value" of a column that the user chose).
    """

    max_class_drop: Drop = MAX_CLASS_DROP
    confidence: Annotated[Number, Field(gt=0.5, le=MOST_CONFIDENCE)] = CONFIDENCE
    max_false_positive_rise: Drop | None = None
    classes: Mapping[str, Limits] = Field(default_factory=dict)
    groups: Mapping[str, Limits] = Field(default_factory=dict)
    _document: Document | None = PrivateAttr(default=None)
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("classes", mode="after")
    @classmethod
    def _write_defaults_out(cls, value: Mapping[str, Limits], info: ValidationInfo) -> Mapping[str, Limits]:
        defaults = {  # absent where they were refused themselves
            "max_drop": info.data.get("max_class_drop"),
            "max_false_positive_rise": info.data.get("max_false_positive_rise"),
        }
        return {
            name: limits.model_copy(update={k: v for k, v in defaults.items() if k not in limits.model_fields_set})
            for name, limits in value.items()
        }

    @field_validator("groups", mode="after")
    @classmethod
    def _groups_say_something(cls, value: Mapping[str, Limits]) -> Mapping[str, Limits]:
        for name, limits in value.items():
            if limits.max_false_positive_rise is not None:
                raise ValueError(f"group {name!r}: max_false_positive_rise is a limit of classes; take it out")
            if limits.max_drop is None and limits.min_recall is None:
                raise ValueError(f"group {name!r} has no limit; give it max_drop or min_recall")
        return value

    def __eq__(self, other: object) -> bool:
        """Tell whether both ask the same, wherever they were written."""
        return isinstance(other, Policy) and self.plain() == other.plain()

    @property
    def notes(self) -> tuple[str, ...]:
        """What an option replaced in the policy's file."""
        return self._notes

    def where(self, *path: str) -> str:
        """Return "file:line" of an entry, or "policy" where it came from no file."""
        return self._document.where(path) if self._document else "policy"


def read_policy(
    path: Path,
    *,
    max_class_drop: float | None = None,
    confidence: float | None = None,
    max_false_positive_rise: float | None = None,
) -> Policy:
    """Read a policy file (YAML); a number that is given replaces the file's, and a note of the policy says so.

    Raises BadInput with file:line.
    """
    asked = {
        "max_class_drop": max_class_drop,
        "confidence": confidence,
        "max_false_positive_rise": max_false_positive_rise,
    }
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    make_policy(**given)  # an option that is wrong is not the file's fault
    try:
        document = read_yaml(path, FILE)
    except BadInput as error:
        raise BadInput(_in_yaml_words(str(error))) from error
    values = document.value | given
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        lines = [_in_yaml_words(explain(document, detail, _known_keys)) for detail in error.errors()]
        raise BadInput("\n".join(dict.fromkeys(lines))) from error
    policy._document = document
    policy._notes = tuple(
        f"{_option(key)} {value:g} replaces the {document.value[key]} of {document.where((key,))}"
        for key, value in given.items()
        if key in document.value and document.value[key] != value
    )
    return policy


def make_policy(
    *,
    max_class_drop: float = MAX_CLASS_DROP,
    confidence: float = CONFIDENCE,
    max_false_positive_rise: float | None = None,
    python: bool = False,
) -> Policy:
    """Return the policy that these numbers make; raises BadInput that names the option (``python``: the argument)."""
    try:
        return Policy(
            max_class_drop=max_class_drop, confidence=confidence, max_false_positive_rise=max_false_positive_rise
        )
    except ValidationError as error:
        detail = error.errors()[0]
        name = str(detail["loc"][0])
        message = detail["msg"].removeprefix("Value error, ")
        raise BadInput(f"{name if python else _option(name)} {detail.get('input')}: {message}") from error


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _in_yaml_words(text: str) -> str:
    """Say in YAML's words what a reader says in Python's."""
    for python, plain in YAML_WORDS.items():
        if python.startswith("not "):
            text = re.sub(rf"{python}$", plain, text)
        else:
            text = text.replace(python, plain)
    return text


def _known_keys(path: Path_) -> Sequence[str]:
    known = list((Limits if len(path) > 1 else Policy).model_fields)
    return known[:2] if path[0] == "groups" else known


@dataclass(frozen=True, eq=False)
class Counts:
    """What a candidate did to classes or groups; arrays int64 (units,), in the order of ``names``.

    ``n`` test images; ``n10`` baseline right and candidate wrong; ``n01`` the other way round; ``right`` the candidate
    right. ``negatives`` int64 (units, 4), where known, are n11, n10, n01 and n00 of the images that are not of a class.
    """

    names: tuple[str, ...]
    n: NDArray[np.int64]
    n10: NDArray[np.int64]
    n01: NDArray[np.int64]
    right: NDArray[np.int64]
    negatives: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check that the columns belong together; a wrong one is a fault of the caller's."""
        for column in (self.n, self.n10, self.n01, self.right):
            if column.shape != (len(self.names),):
                raise ValueError(f"expected {len(self.names)} counts, got shape {column.shape}")
        if (np.minimum(self.n10, self.n01) < 0).any() or (self.n01 > self.right).any():
            raise ValueError("counts are not possible")
        if (self.n10 > self.n - self.right).any():
            raise ValueError("more images lost than are wrong")


def checks(policy: Policy, classes: Counts, groups: Counts | None = None, counted: bool = False) -> list[Check]:
    """Return what the gate shall decide, classes in their order first, then the policy's groups.

    Every class gets a check of its loss, unless the policy takes it out (``max_drop: null``), one of its recall where
    the policy has a floor, and one of its false positives where the policy has a limit on their rise. ``counted`` says
    that training images are known. Raises BadInput where the policy names a class or group that is not there, or leaves
    nothing to check.
    """
    _refuse_unknown(policy, "classes", "class", policy.classes, classes.names)
    names = () if groups is None else groups.names
    _refuse_unknown(policy, "groups", "group", policy.groups, names, counted=counted)
    default = Limits(max_drop=policy.max_class_drop, max_false_positive_rise=policy.max_false_positive_rise)
    made: list[Check] = []
    for index, name in enumerate(classes.names):
        made += _unit_checks("class", classes, index, policy.classes.get(name, default))
    for name, limits in policy.groups.items():
        assert groups is not None
        made += _unit_checks("group", groups, names.index(name), limits)
    if not made:
        raise BadInput(f"{policy.where()}: the policy checks nothing; give a class a max_drop or a min_recall")
    return made


def _refuse_unknown(
    policy: Policy, key: str, what: str, named: Mapping[str, Any], known: tuple[str, ...], most: int = 30,
    counted: bool = False,
) -> None:  # fmt: skip
    for name in named:
        if name in known:
            continue
        close = hint(name, known) if len(known) <= most else hint(name, known).split(" (choices")[0]
        none = f"; there are no {key}" if not known else ""
        rare = ""
        if key == "groups" and name in FREQUENCY_GROUPS:
            rare = (
                "; the training counts decide which groups by frequency there are"
                if counted
                else "; groups by frequency need training counts (--train-counts; in Python train_counts)"
            )
        raise BadInput(f"{policy.where(key, name)}: {key}: no {what} is called {name!r}{close}{none}{rare}")


def _unit_checks(unit: str, counts: Counts, index: int, limits: Limits) -> list[Check]:
    name, n, right = counts.names[index], int(counts.n[index]), int(counts.right[index])
    made = []
    if limits.max_drop is not None:
        lost, won = int(counts.n10[index]), int(counts.n01[index])
        made.append(Check("drop", unit, name, n, lost, won, limits.max_drop / 100))
    if limits.min_recall is not None:
        made.append(Check("recall", unit, name, n, n - right, right, limits.min_recall / 100))
    if limits.max_false_positive_rise is not None and counts.negatives is not None:
        negative = counts.negatives[index].tolist()
        rise = limits.max_false_positive_rise / 100
        made.append(Check("rise", unit, name, sum(negative), negative[1], negative[2], rise))
    return made
