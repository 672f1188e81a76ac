"""What is chosen from: every method of the study on every model that it runs on, with what must be made on the way."""

from __future__ import annotations

from dataclasses import dataclass

from tailkeep.study.plan import closure
from tailkeep.study.spec import MethodEntry, StudySpec
from tailkeep.training.recipe import Recipe

SIZED = {
    *("ptq", "qat", "qat_distillation", "distillation", "dkd", "feature_distillation", "balanced_distillation"),
    *("long_tail_distillation", "adjusted_distillation", "self_distillation", "performance_weighted", "continue"),
    *("tau_normalisation", "weight_scaling", "logit_adjustment_post_hoc", "classifier_retraining"),
}
"""Kinds of method whose model has the same size however long it trained, and on whatever weights."""


@dataclass(frozen=True)
class Candidate:
    """``method`` of ``model``, or the dense model itself. ``chain``: the methods that it takes, itself among them.

    ``trains``: whether any of them trains, so that a short training tells something of a long one. ``sized``: whether
    its size is known without any training.
    """

    name: str
    model: str
    method: str
    chain: tuple[str, ...]
    trains: bool
    sized: bool


def candidates_of(study: StudySpec, baseline: str, smaller_models: tuple[str, ...] = ()) -> tuple[Candidate, ...]:
    """Return the candidates in the study's order: methods on the baseline's model and on the others.

    ``smaller_models`` are dense models that are candidates themselves.
    """
    methods = {entry.name: entry for entry in study.methods}
    labels = [model.label for model in study.models]
    found = []
    for label in labels:
        name = f"dense, {label}"
        if label != baseline and label in smaller_models:
            found.append(Candidate(name, label, "dense", (), False, True))
        for entry in study.methods:
            if entry.models is not None and label not in entry.models:
                continue
            stands_on = closure(entry.name, lambda name: _linked(methods[name], methods))
            chain = tuple(name for name in methods if name in stands_on)
            entries = [methods[name] for name in chain]
            found.append(
                Candidate(
                    name=entry.name if len(labels) == 1 or entry.models == (label,) else f"{entry.name}, {label}",
                    model=label,
                    method=entry.name,
                    chain=chain,
                    trains=any(_length(each.recipe) > 0 for each in entries),
                    sized=all(_is_sized(each) for each in entries),
                )
            )
    return tuple(found)


def _linked(entry: MethodEntry, methods: dict[str, MethodEntry]) -> list[str]:
    """The methods that are a method's parent or teacher."""
    return [name for name in (entry.parent, entry.teacher) if name in methods]


def _length(recipe: Recipe | None) -> float:
    if recipe is None:
        return 0.0
    return float(recipe.steps if recipe.steps is not None else recipe.epochs or 0)


def _is_sized(entry: MethodEntry) -> bool:
    plain = entry.method.plain()
    if plain["kind"] == "filter_pruning":
        return bool(plain["scope"] == "layer" and plain["target"] == "filters" and plain.get("when") != "gradual")
    return plain["kind"] in SIZED
