"""Where a model of the study answers imbalance: before compression, during it, after it. Plain values only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stages:
    """``before``: the model that is compressed was trained or repaired for rare classes. ``during``: a compression was,
    by its loss, its sampler or itself. ``after``: what came of it was, or a model that nothing makes smaller.

    ``compressed``: whether anything was made smaller.
    """

    before: bool = False
    during: bool = False
    after: bool = False
    compressed: bool = False


def objective_answers(entry: dict[str, Any]) -> bool:
    """Return whether a resolved entry's loss, sampler or mixing does anything but take the data as it is."""
    mix = entry["recipe"].get("mix") or {}
    return (
        entry["loss"]["kind"] != "cross_entropy" or entry["sampler"]["kind"] != "uniform" or mix.get("kind") == "remix"
    )


def stages(model: dict[str, Any], chain: Iterable[dict[str, Any]]) -> Stages:
    """Return the stages of a dense ``model`` and the methods (resolved entries) that it went through, in order."""
    methods = list(chain)
    small = [index for index, method in enumerate(methods) if method["compresses"]]
    answers = [
        index for index, method in enumerate(methods) if method["answers_imbalance"] or objective_answers(method)
    ]
    first = small[0] if small else -1
    trained = model["weights"] is None and objective_answers(model)
    return Stages(
        before=trained or any(index < first for index in answers),
        during=any(index in small for index in answers),
        after=any(index > first and index not in small for index in answers),
        compressed=bool(small),
    )
