"""A stored model from its plain description: build the architecture, apply the changes of shape, load the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from tailkeep.compression.base import Method
from tailkeep.errors import BadInput, StepFailed
from tailkeep.losses.base import Loss
from tailkeep.models.checkpoint import load_into, load_weights
from tailkeep.models.heads import fold_heads, normalize_head
from tailkeep.models.user import ModelCode, UserModel, build_user
from tailkeep.study.catalog import METHODS, AnyLoss, AnyModel

_MODEL: TypeAdapter[Any] = TypeAdapter(AnyModel)
BESIDE = ("source_hash", "head")
"""What a plain model holds beside its spec: the hash of a user's code, the head that its loss asked for."""


def loss_of(step: dict[str, Any]) -> Loss:
    """Return the loss of a step's spec."""
    loss: Loss = TypeAdapter(AnyLoss).validate_python(step["loss"])
    return loss


def with_head(plain: dict[str, Any], loss: Loss) -> dict[str, Any]:
    """Return a plain model with the head that ``loss`` needs."""
    return plain if loss.head == "linear" else {**plain, "head": {"scale": float(getattr(loss, "scale"))}}  # noqa: B009


def check_head(plain: dict[str, Any], loss: Loss) -> None:
    """Raise ``StepFailed`` where a model that is trained on has not the head that ``loss`` needs."""
    wanted = with_head({}, loss).get("head")
    if wanted is not None and plain.get("head") != wanted:
        has = "a linear one" if plain.get("head") is None else f"one of scale {plain['head']['scale']:g}"
        raise StepFailed(
            "head",
            f"loss {type(loss).model_fields['kind'].default} needs a normalised head of scale {wanted['scale']:g}, and "
            f"this parent has {has}; train the dense model by this loss, or take another loss here",
        )


def build_model(
    plain: dict[str, Any], code: ModelCode | None, num_classes: int, image_shape: tuple[int, int, int], seed: int
) -> nn.Module:
    """Return a freshly initialised model of a plain spec, channels last, without touching the global generator."""
    spec = _MODEL.validate_python({key: value for key, value in plain.items() if key not in BESIDE})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(spec, UserModel):
            model = build_user(_same_code(plain, code), num_classes, image_shape)
        else:
            model = spec.build(num_classes, image_shape)
        if plain.get("head") is not None:
            model = normalize_head(model, float(plain["head"]["scale"]), image_shape)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _same_code(plain: dict[str, Any], code: ModelCode | None) -> ModelCode:
    if code is None:
        raise BadInput("this model's code is the user's own; name it with --model-code module:factory")
    if code.source_hash != plain["source_hash"]:
        raise BadInput(f"--model-code {code.name}: the code has changed since this model was planned")
    return code


def method_of(kind: str) -> type[Method]:
    """Return the method class of a kind."""
    for cls in METHODS:
        if issubclass(cls, Method) and cls.model_fields["kind"].default == kind:
            return cls
    raise BadInput(f"no compression method of kind {kind!r}")


def rebuild(architecture: dict[str, Any], weights: Path, code: ModelCode | None) -> nn.Module:
    """Return a stored model with its tensors, in evaluation mode.

    ``architecture``: {"model": plain spec, "num_classes", "image_shape", "changes": [{"kind", "values"}, ...]}.
    """
    shape = tuple(architecture["image_shape"])
    model = fold_heads(build_model(architecture["model"], code, int(architecture["num_classes"]), shape, 0))
    for change in architecture["changes"]:
        method = method_of(change["kind"]).model_construct()
        model = method.rebuild(model, change["values"], shape)
    load_into(model, load_weights(weights), str(weights))
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]
