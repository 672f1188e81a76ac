"""The study file: what is crossed with what. Every error names file:line, the value and the choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from tailkeep.data.batches import Augment
from tailkeep.errors import BadInput
from tailkeep.export.settings import Export
from tailkeep.losses.cross_entropy import CrossEntropy
from tailkeep.sampling import Uniform
from tailkeep.spec import Spec
from tailkeep.study.catalog import AnyLoss, AnyMethod, AnyModel, AnyProfile, AnySampler, AnySource
from tailkeep.training.recipe import Recipe
from tailkeep.yaml_reader import Document, explain, hint, parse_yaml, read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,63}")
RESERVED = ("dense", "self", "teacher", "student_alone", "continued", "other_seed")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 letters, digits, spaces or . _ + - ( ), and starts with a letter or digit")
    return value


class DataEntry(Spec):
    """A dataset: its source, augmentation (null: the source's usual) and class order, most frequent first.

    ``imbalance`` replaces the study's settings for this dataset.
    """

    source: AnySource
    imbalance: tuple[AnyProfile, ...] | None = None
    augment: Augment | None = None
    class_order: tuple[str, ...] | None = None

    @field_validator("imbalance", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("imbalance")
    @classmethod
    def _some(cls, value: tuple[AnyProfile, ...] | None) -> tuple[AnyProfile, ...] | None:
        if value is not None:
            _no_twice("imbalance setting", [profile.label for profile in value])
        return value or None


class ModelEntry(Spec):
    """A model family. ``weights`` (safetensors) imports a trained model instead of training one.

    ``twins``: false leaves the balanced twins of this model and of all that is made of it out.
    """

    model: AnyModel
    name: str | None = None
    recipe: Recipe | None = None
    loss: AnyLoss | None = None
    sampler: AnySampler | None = None
    weights: str | None = None
    twins: bool = True

    @property
    def label(self) -> str:
        """Name in tables: the given one, else the model's own."""
        return self.name or self.model.label


class MethodEntry(Spec):
    """A technique under its name in the study. ``parent`` and ``teacher`` name other methods, or "dense".

    ``teacher_seeds`` makes the teacher an ensemble: the same one of these seeds (or of "all") beside this seed's own.
    A method that does not train has no recipe. ``twins``: false leaves its balanced twins out, and its excess gap.
    """

    name: str
    method: AnyMethod
    recipe: Recipe | None = None
    parent: str = "dense"
    teacher: str | None = None
    teacher_seeds: tuple[int, ...] | Literal["all"] | None = None
    student: AnyModel | None = None
    loss: AnyLoss = CrossEntropy()
    sampler: AnySampler = Uniform()
    models: tuple[str, ...] | None = None
    twins: bool = True

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"{value!r} has a meaning of its own; choose another name")
        if value.startswith(("dense", "student alone")):
            raise ValueError("names that start with 'dense' or 'student alone' belong to the references and controls")
        return _name(value)

    @model_validator(mode="after")
    def _recipe_fits(self) -> MethodEntry:
        if self.method.trains and self.recipe is None:
            raise ValueError(f"recipe is missing; {self.method.kind} trains")
        if not self.method.trains and self.recipe is not None:
            raise ValueError(f"{self.method.kind} does not train; leave its recipe out")
        if isinstance(self.teacher_seeds, tuple) and (
            not self.teacher_seeds or len(set(self.teacher_seeds)) < len(self.teacher_seeds)
        ):
            raise ValueError("teacher_seeds: name at least one seed, and each once, or 'all'")
        if self.teacher_seeds is not None and not self.method.needs_teacher:
            raise ValueError(f"'teacher_seeds' is for methods with a teacher; {self.method.kind} has none")
        return self

    @model_validator(mode="after")
    def _student_fits(self) -> MethodEntry:
        if self.student is not None and not self.method.needs_teacher:
            raise ValueError(f"'student' is for methods with a teacher; {self.method.kind} works on its parent")
        return self


class Controls(Spec):
    """Which controls are planned. ``continued``: true for one per fine-tuning recipe, or the methods that get one."""

    continued: bool | tuple[str, ...] = True
    student_alone: bool = True
    churn_floor: bool = True


class StudySpec(Spec):
    """A study: datasets x imbalance settings x models x methods x seeds, with balanced twins and controls."""

    name: str
    data: tuple[DataEntry, ...] = Field(min_length=1)
    imbalance: tuple[AnyProfile, ...] = Field(min_length=1)
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    recipe: Recipe
    methods: tuple[MethodEntry, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    balanced: Literal["full", "matched", "both", "none"] = "full"
    loss: AnyLoss = CrossEntropy()
    sampler: AnySampler = Uniform()
    controls: Controls = Controls()
    rotate_class_order: tuple[int, ...] = ()
    subset_seed: int | None = None
    training_seed: int | None = None
    validation_per_class: int = Field(default=0, ge=0)
    evaluate: Literal["test", "validation", "both"] = "test"
    margin: float = Field(default=1.0, gt=0, lt=100)
    group_cuts: tuple[int, int] = (20, 100)
    export: Export | None = None

    @field_validator("export", mode="before")
    @classmethod
    def _yes_is_the_defaults(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("data", "imbalance", "models", "methods", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        return _name(value)

    @property
    def split(self) -> str:
        """The split that the figures are of; the other one, where both are evaluated, is to choose by."""
        return "validation" if self.evaluate == "validation" else "test"

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        _no_twice("seed", self.seeds)
        _no_twice("method", [m.name for m in self.methods])
        _no_twice("model", [m.label for m in self.models])
        _no_twice("imbalance setting", [p.label for p in self.imbalance])
        _no_twice("dataset", [d.source.label for d in self.data])
        for seed in self.rotate_class_order:
            if seed not in self.seeds:
                raise ValueError(f"rotate_class_order: {seed} is not among the seeds {list(self.seeds)}")
        if self.evaluate != "test" and not self.validation_per_class:
            raise ValueError(f"evaluate: {self.evaluate} needs validation_per_class above 0")
        low, high = self.group_cuts
        if not 0 < low <= high:
            raise ValueError(f"group_cuts are two numbers of training images, 0 < low <= high, not {low} and {high}")
        if self.subset_seed is not None and self.training_seed is not None and len(self.seeds) > 1:
            raise ValueError("with subset_seed and training_seed both fixed every seed is one and the same model")
        imported = [m.label for m in self.models if m.weights is not None]
        if imported and self.balanced != "none":
            raise ValueError(
                f"model {imported[0]!r} is imported, so it has no balanced twin and an excess gap would mean nothing; "
                "set 'balanced: none'"
            )
        for entry in self.methods:
            for seed in entry.teacher_seeds if isinstance(entry.teacher_seeds, tuple) else ():
                if seed not in self.seeds:
                    raise ValueError(f"method {entry.name!r}: teacher_seeds has {seed}; the seeds are {self.seeds}")
        _check_links(self)
        return self


def _no_twice(what: str, names: Any) -> None:
    for index, name in enumerate(names):
        if name in list(names)[:index]:
            raise ValueError(f"the {what} {name!r} stands twice; give each its own name")


def _check_links(study: StudySpec) -> None:
    """Every parent, teacher and model that is named exists, and no method descends from itself."""
    methods = {m.name: m for m in study.methods}
    labels = [m.label for m in study.models]
    for entry in study.methods:
        for role in ("parent", "teacher"):
            named = getattr(entry, role)
            if named is not None and named != "dense" and named not in methods:
                raise ValueError(
                    f"method {entry.name!r}: its {role} {named!r} is missing{hint(named, ['dense', *methods])}"
                )
        for label in entry.models or ():
            if label not in labels:
                raise ValueError(f"method {entry.name!r}: no model is called {label!r}{hint(label, labels)}")
        for linked in (entry.parent, entry.teacher):
            parent = methods.get(linked or "dense")
            if parent and parent.models is not None and not set(entry.models or labels) <= set(parent.models):
                raise ValueError(f"method {entry.name!r} runs on models that its parent or teacher {linked!r} does not")
    for entry in study.methods:
        _check_cycle(entry.name, methods)
        parent = methods.get(entry.parent)
        quantized = parent is not None and parent.method.final
        if quantized and entry.student is None and not entry.method.takes_quantized:
            assert parent is not None
            raise ValueError(
                f"method {entry.name!r} starts from {parent.name!r}, which is quantized; quantization comes last "
                "in a pipeline (a method with a teacher may have it as a teacher, with a 'student' of its own)"
            )
    continued = study.controls.continued
    for name in continued if isinstance(continued, tuple) else ():
        if name not in methods:
            raise ValueError(f"controls.continued: no method is called {name!r}{hint(name, list(methods))}")


def _check_cycle(start: str, methods: dict[str, MethodEntry]) -> None:
    def walk(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            raise ValueError("methods descend from each other in a cycle: " + " -> ".join((*trail, name)))
        entry = methods.get(name)
        if entry:
            for linked in (entry.parent, entry.teacher):
                if linked:
                    walk(linked, (*trail, name))

    walk(start, ())


def load_study(path: Path, overrides: list[str] | None = None) -> tuple[StudySpec, str]:
    """Read a study file; return the spec and the text it came from.

    ``overrides`` are ``a.0.b=value`` (the value is YAML). Raises ``BadInput`` naming file:line, cause and fix.
    """
    document = read_yaml(path)
    for override in overrides or []:
        _apply(document, override)
    changed = "".join(f"# changed by --set {override}\n" for override in overrides or [])
    return check_study(document), path.read_text(encoding="utf-8") + changed


def _apply(document: Document, override: str) -> None:
    """Set one value by its dotted path."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise BadInput(f"--set {override}: write it as path.to.key=value, for instance recipe.epochs=3")
    value = parse_yaml(f"value: {text}", f"--set {dotted}").value["value"]
    *parents, last = dotted.split(".")
    here: Any = document.value
    try:
        for part in parents:
            here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
        if isinstance(here, list):
            here[int(last)] = value
        else:
            here[last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise BadInput(f"--set {override}: the study has no place {dotted!r}") from error


def check_study(document: Document) -> StudySpec:
    """Validate a parsed file; raises ``BadInput`` with a line for each fault."""
    try:
        return StudySpec.model_validate(document.value)
    except ValidationError as error:
        faults = _of_their_own(error.errors())
        lines = [explain(document, detail, partial(_known_keys, document=document)) for detail in faults]
        raise BadInput("\n".join(dict.fromkeys(lines))) from error


def _of_their_own(faults: Sequence[Any]) -> list[Any]:
    """Leave out that a list is too short where that is because of a fault in what it lists."""

    def follows(fault: Any) -> bool:
        at = fault["loc"]
        within = [other for other in faults if len(other["loc"]) > len(at) and other["loc"][: len(at)] == at]
        return fault["type"] == "too_short" and bool(within)

    return [fault for fault in faults if not follows(fault)]


def _known_keys(path: tuple[str | int, ...], document: Document) -> list[str]:
    """The keys that the innermost spec around ``path`` knows, found by its ``kind`` where it has one."""
    here: Any = document.value
    for part in path[:-1]:
        here = here[part]
    names: dict[str, list[str]] = {}
    for cls in _all_specs():
        kind = cls.model_fields.get("kind")
        names[str(kind.default) if kind else cls.__name__] = list(cls.model_fields)
    if isinstance(here, dict) and here.get("kind") in names:
        return names[here["kind"]]
    owner = {
        "data": "DataEntry", "models": "ModelEntry", "methods": "MethodEntry", "controls": "Controls",
        "recipe": "Recipe", "augment": "Augment", "export": "Export",
    }  # fmt: skip
    named = [str(part) for part in path[:-1] if isinstance(part, str)]
    return names[owner.get(named[-1], "StudySpec")] if named else names["StudySpec"]


def _all_specs() -> list[type[Spec]]:
    found: list[type[Spec]] = []
    todo = list(Spec.__subclasses__())
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += cls.__subclasses__()
    return found


def study_text(study: StudySpec) -> str:
    """Return the whole study as YAML, defaults written out."""
    return yaml.safe_dump(study.plain(), sort_keys=False, allow_unicode=True)
