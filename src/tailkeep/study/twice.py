"""Notes where a study answers imbalance twice for the same classifier: each answer alone is right, both overshoot."""

from __future__ import annotations

from typing import Any

from tailkeep.study.spec import MethodEntry, ModelEntry, StudySpec


def twice(study: StudySpec) -> list[str]:
    """Return a note for each model or method whose loss and sampler both rebalance, and for each post-hoc adjustment of
    a model whose training had done so."""
    found = [f"{model.label}: {both}" for model in study.models if (both := _both(*_of_model(study, model)))]
    for entry in study.methods:
        if entry.method.trains and (both := _both(*_kinds(entry.loss, entry.sampler))):
            found.append(f"{entry.name}: {both}")
        if entry.method.kind == "logit_adjustment_post_hoc":
            found += [
                f"{entry.name}: takes the classes' prior off {name!r}, which was trained by {how} and has it off "
                "already; the adjustment is for plain cross-entropy on the images as they are"
                for name, how in _trained_by(study, entry).items()
            ]
    return found


def _both(loss: str | None, sampler: str | None) -> str | None:
    if loss is None or sampler is None:
        return None
    return f"loss {loss} and sampler {sampler} each make up for the imbalance; together they do so twice"


def _of_model(study: StudySpec, model: ModelEntry) -> tuple[str | None, str | None]:
    if model.weights is not None:  # trained elsewhere: nobody knows how
        return None, None
    return _kinds(model.loss or study.loss, model.sampler or study.sampler)


def _kinds(loss: Any, sampler: Any) -> tuple[str | None, str | None]:
    """The kinds of a loss and a sampler, None where they take the classes as they are."""
    drawn = str(sampler.plain()["kind"])
    return str(loss.plain()["kind"]) if loss.rebalances else None, None if drawn == "uniform" else drawn


def _trained_by(study: StudySpec, entry: MethodEntry) -> dict[str, str]:
    """By which loss or sampler the last training before a method rebalanced, by the name of what was trained."""
    methods = {each.name: each for each in study.methods}
    last = methods.get(entry.parent)
    while last is not None and not last.method.trains:
        last = methods.get(last.parent)
    if last is not None:
        return {last.name: how} if (how := _how(*_kinds(last.loss, last.sampler))) else {}
    models = [model for model in study.models if entry.models is None or model.label in entry.models]
    return {model.label: how for model in models if (how := _how(*_of_model(study, model)))}


def _how(loss: str | None, sampler: str | None) -> str | None:
    return f"loss {loss}" if loss else f"sampler {sampler}" if sampler else None
