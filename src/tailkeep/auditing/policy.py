"""How much a class or a group may lose: the policy of an audit, from options or from a YAML file.

Everything that a person writes here is in percentage points (0..100); a ``Check`` carries shares (0..1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from tailkeep.analysis.gate import Check
from tailkeep.errors import BadInput
from tailkeep.spec import Spec
from tailkeep.yaml_reader import Document, Path_, explain, hint, read_yaml

MAX_CLASS_DROP = 2.0
CONFIDENCE = 0.95
FREQUENCY_GROUPS = ("many", "medium", "few", "majority", "minority")
FILE = "a policy file", "a mapping (max_class_drop: ..., classes: ..., groups: ...)"

Drop = Annotated[float, Field(ge=0, lt=100)]
Floor = Annotated[float, Field(gt=0, le=100)]


class Limits(Spec):
    """Limits of one class or group, in percentage points: of recall lost, and of recall itself.

    ``max_drop`` None: the loss is not checked. A class that says nothing of ``max_drop`` takes the policy's
    ``max_class_drop``; a group that says nothing has no such limit.
    """

    max_drop: Drop | None = None
    min_recall: Floor | None = None


class Policy(Spec):
    """What an audit's gate asks: no class may lose more than ``max_class_drop`` percentage points of its recall.

    ``confidence`` is what a decision needs, one-sided. ``classes`` sets other limits for the classes that it names,
    ``groups`` limits for groups ("few", or "column=value" of a column that the user chose).
    """

    max_class_drop: Drop = MAX_CLASS_DROP
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = CONFIDENCE
    classes: Mapping[str, Limits] = Field(default_factory=dict)
    groups: Mapping[str, Limits] = Field(default_factory=dict)
    _document: Document | None = PrivateAttr(default=None)

    @field_validator("classes", mode="after")
    @classmethod
    def _write_defaults_out(cls, value: Mapping[str, Limits], info: ValidationInfo) -> Mapping[str, Limits]:
        default = info.data.get("max_class_drop")  # absent where it was refused itself
        return {
            name: limits if "max_drop" in limits.model_fields_set else limits.model_copy(update={"max_drop": default})
            for name, limits in value.items()
        }

    @field_validator("groups", mode="after")
    @classmethod
    def _groups_say_something(cls, value: Mapping[str, Limits]) -> Mapping[str, Limits]:
        for name, limits in value.items():
            if limits.max_drop is None and limits.min_recall is None:
                raise ValueError(f"group {name!r} has no limit; give it max_drop or min_recall")
        return value

    def __eq__(self, other: object) -> bool:
        """Tell whether both ask the same, wherever they were written."""
        return isinstance(other, Policy) and self.plain() == other.plain()

    def where(self, *path: str) -> str:
        """Return "file:line" of an entry, or "policy" where it came from no file."""
        return self._document.where(path) if self._document else "policy"


def read_policy(path: Path, *, max_class_drop: float | None = None, confidence: float | None = None) -> Policy:
    """Read a policy file (YAML); a number that is given replaces the file's. Raises BadInput with file:line."""
    asked = {"max_class_drop": max_class_drop, "confidence": confidence}
    given = {key: value for key, value in asked.items() if value is not None}
    make_policy(**given)  # an option that is wrong is not the file's fault
    document = read_yaml(path, FILE)
    values = document.value | given
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        lines = [explain(document, detail, _known_keys) for detail in error.errors()]
        raise BadInput("\n".join(dict.fromkeys(lines))) from error
    policy._document = document
    return policy


def make_policy(*, max_class_drop: float = MAX_CLASS_DROP, confidence: float = CONFIDENCE) -> Policy:
    """Return the policy that two numbers make; raises BadInput that names the option."""
    try:
        return Policy(max_class_drop=max_class_drop, confidence=confidence)
    except ValidationError as error:
        detail = error.errors()[0]
        option = "--" + str(detail["loc"][0]).replace("_", "-")
        raise BadInput(f"{option} {detail.get('input')}: {detail['msg']}") from error


def _known_keys(path: Path_) -> Sequence[str]:
    return list((Limits if len(path) > 1 else Policy).model_fields)


@dataclass(frozen=True, eq=False)
class Counts:
    """What a candidate did to classes or groups; arrays int64 (units,), in the order of ``names``.

    ``n`` test images; ``n10`` baseline right and candidate wrong; ``n01`` the other way round; ``right`` the candidate
    right.
    """

    names: tuple[str, ...]
    n: NDArray[np.int64]
    n10: NDArray[np.int64]
    n01: NDArray[np.int64]
    right: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the columns belong together; a wrong one is a fault of the caller's."""
        for column in (self.n, self.n10, self.n01, self.right):
            if column.shape != (len(self.names),):
                raise ValueError(f"expected {len(self.names)} counts, got shape {column.shape}")
        if (np.minimum(self.n10, self.n01) < 0).any() or (self.n01 > self.right).any():
            raise ValueError("counts are not possible")
        if (self.n10 > self.n - self.right).any():
            raise ValueError("more images lost than are wrong")


def checks(policy: Policy, classes: Counts, groups: Counts | None = None) -> list[Check]:
    """Return what the gate shall decide, classes in their order first, then the policy's groups.

    Every class gets a check of its loss, unless the policy takes it out (``max_drop: null``), and one of its recall
    where the policy has a floor. Raises BadInput where the policy names a class or group that is not there, or leaves
    nothing to check.
    """
    _refuse_unknown(policy, "classes", "class", policy.classes, classes.names)
    names = () if groups is None else groups.names
    _refuse_unknown(policy, "groups", "group", policy.groups, names)
    default = Limits(max_drop=policy.max_class_drop)
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
    policy: Policy, key: str, what: str, named: Mapping[str, Any], known: tuple[str, ...], most: int = 30
) -> None:
    for name in named:
        if name in known:
            continue
        close = hint(name, known) if len(known) <= most else hint(name, known).split(" (choices")[0]
        none = f"; there are no {key}" if not known else ""
        rare = "; groups by frequency need training counts (--train-counts)" if name in FREQUENCY_GROUPS else ""
        raise BadInput(f"{policy.where(key, name)}: {key}: no {what} is called {name!r}{close}{none}{rare}")


def _unit_checks(unit: str, counts: Counts, index: int, limits: Limits) -> list[Check]:
    name, n, right = counts.names[index], int(counts.n[index]), int(counts.right[index])
    made = []
    if limits.max_drop is not None:
        lost, won = int(counts.n10[index]), int(counts.n01[index])
        made.append(Check("drop", unit, name, n, lost, won, limits.max_drop / 100))
    if limits.min_recall is not None:
        made.append(Check("recall", unit, name, n, n - right, right, limits.min_recall / 100))
    return made
