"""The built-in space: what is tried where a study names no methods.

Filter pruning at three strengths, 8-bit integers, 4-bit weights, both together, and a distilled student of half the
width; each fine-tuned by the loss that the dense model was trained by and, where that is plain cross-entropy, also by
balanced softmax; and the 8-bit ones of the former with post-hoc logit adjustment.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tailkeep.study.spec import MethodEntry, ModelEntry, StudySpec
from tailkeep.training.recipe import Recipe

RATIOS = (0.3, 0.5, 0.7)
PRUNED, QUANTIZED = (0.25, 0.25), (0.15, 0.1)
"""Length and peak learning rate of a fine-tuning, as shares of the dense recipe's (docs/results/tune.md)."""
PLAIN: dict[str, Any] = StudySpec.model_fields["loss"].default.plain()
REPAIR = {"kind": "balanced_softmax"}
WITH_WIDTH = ("resnet", "digits_net")


def built_in(study: StudySpec, saturates: bool) -> tuple[MethodEntry, ...]:
    """Return the methods of the space for the study's models.

    ``saturates``: this CPU's integer kernels overflow with 8-bit weights, so that integers get 7 (see export).
    """
    found: list[dict[str, Any]] = []
    losses: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for model in study.models:
        for loss in _losses(study, model):
            losses.setdefault(str(sorted(loss.items())), (loss, []))[1].append(model.label)
    labels = tuple(model.label for model in study.models)
    found.append(_int8("int8", "dense", labels, saturates))
    for loss, models in losses.values():
        found += _of_loss(study, loss, tuple(models), saturates)
    unbiased = [model.label for model in study.models if _takes_the_prior_off(study, model)]
    if unbiased:
        for method in [m for m in found if m["method"]["kind"] == "ptq" and m.get("answers", PLAIN) == PLAIN]:
            fitting = tuple(label for label in method["models"] if label in unbiased)
            found += [_adjusted(method["name"], fitting)] if fitting else []
    for method in found:
        method.pop("answers", None)
    return tuple(MethodEntry.model_validate(method) for method in found)


def _losses(study: StudySpec, model: ModelEntry) -> list[dict[str, Any]]:
    """The losses that a model is fine-tuned by: its own, and where that does nothing for rare classes a repair."""
    own = PLAIN if model.weights is not None else (model.loss or study.loss).plain()
    return [own, REPAIR] if own == PLAIN else [own]


def _takes_the_prior_off(study: StudySpec, model: ModelEntry) -> bool:
    """Whether logit adjustment makes sense: nothing else has taken the classes' prior off the model's logits."""
    plain = model.weights is not None or (model.loss or study.loss).plain() == PLAIN
    return bool(plain and (model.sampler or study.sampler).plain()["kind"] == "uniform")


def _of_loss(study: StudySpec, loss: dict[str, Any], models: tuple[str, ...], saturates: bool) -> list[dict[str, Any]]:
    """The pipelines that are fine-tuned by one loss."""
    tail = "" if loss == PLAIN else f" ({loss['kind'].replace('_', ' ')})"
    common: dict[str, Any] = {"loss": loss, "models": models}
    found = []
    for ratio in RATIOS:
        name = f"pruned {ratio:.0%}".replace("%", "") + tail
        method = {"kind": "filter_pruning", "ratio": ratio}
        found.append({"name": name, "method": method, "recipe": tuned(study.recipe, *PRUNED), **common})
        found.append({**_int8(f"{name} + int8", name, models, saturates), "answers": loss})
    method = {"kind": "qat", "weight_bits": 4, "placement": "runtime", "keep_first_last": False}
    found.append({"name": f"W4A8{tail}", "method": method, "recipe": tuned(study.recipe, *QUANTIZED), **common})
    for entry in study.models:
        plain = entry.model.plain()
        student = {**plain, "width": plain.get("width", 0) / 2}
        if entry.label in models and plain["kind"] in WITH_WIDTH and _can_be_built(entry, student):
            which = f" of {entry.label}" if len(study.models) > 1 else ""
            name, own = f"half width{which}{tail}", (entry.label,)
            found.append(
                {
                    **{"name": name, "method": {"kind": "distillation"}, "student": student, "loss": loss},
                    **{"recipe": (entry.recipe or study.recipe).plain(), "models": own},
                }
            )
            found.append({**_int8(f"{name} + int8", name, own, saturates), "answers": loss})
    return found


def _can_be_built(entry: ModelEntry, student: dict[str, Any]) -> bool:
    """Whether the model's family has one so narrow."""
    try:
        type(entry.model).model_validate(student)
    except ValidationError:
        return False
    return True


def _int8(name: str, parent: str, models: tuple[str, ...], saturates: bool) -> dict[str, Any]:
    """Integers for a runtime, by post-training quantization."""
    bits = 7 if saturates else 8
    method = {"kind": "ptq", "weight_bits": bits, "placement": "runtime", "keep_first_last": False}
    return {"name": name, "method": method, "parent": parent, "models": models}


def _adjusted(parent: str, models: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": f"{parent} + logits adjusted",
        "method": {"kind": "logit_adjustment_post_hoc"},
        "parent": parent,
        "models": models,
    }


def tuned(recipe: Recipe, length: float, rate: float) -> dict[str, Any]:
    """Return the fine-tuning that goes with a dense recipe: ``length`` and ``rate`` times its length and peak rate."""
    plain = recipe.plain()
    if plain["steps"] is not None:
        plain["steps"] = max(1, round(plain["steps"] * length))
    else:
        plain["epochs"] = max(1.0, round(plain["epochs"] * length, 2))
    return {**plain, "lr": plain["lr"] * rate, "warmup": 0.0, "schedule": {"kind": "one_cycle"}}
