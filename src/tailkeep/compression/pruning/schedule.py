"""How much is pruned where (the published ratios by layer) and when (once, in rounds, or gradually)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from tailkeep.compression.base import Method

SPAN = 0.6
ROUNDS = {"iterative": 4, "gradual": 100}
"""Default number of times that the mask grows."""
ROUNDING = 1e-9
"""Progress is a quotient of whole numbers: a third of 0.6 must not fall short of 0.2."""


def _resnet56(layer1: float, layer2: float, block1: float, layer3: float) -> dict[str, float]:
    """Ratios by layer, blocks counted from 0: layer2 spares blocks 0, 5 and 8, layer3 block 0 and 4."""
    ratios = {f"layer1.{block}.conv1": layer1 for block in range(9)}
    ratios |= {f"layer2.{block}.conv1": layer2 for block in (1, 2, 3, 4, 6, 7)}
    ratios["layer3.1.conv1"] = block1
    return ratios | {f"layer3.{block}.conv1": layer3 for block in (2, 3, 5, 6, 7, 8)}


SCHEDULES: dict[str, dict[str, float]] = {
    "resnet56_filter_rank": _resnet56(0.6, 0.5, 0.1, 0.3),
    "resnet56_filter_rank_v2": _resnet56(0.7, 0.6, 0.2, 0.4),
}
"""The published schedules: ratio by layer; a layer that is not named keeps all its filters."""


def share_at(progress: float, when: str, rounds: int | None, span: float) -> float:
    """Return the share (0 to 1) of the final ratio that is due at ``progress`` (0 to 1) of the training.

    "one_shot": all of it from the start. "iterative" (Han et al. 2015): ``rounds`` equal parts, the first at the start
    and the last at ``span``. "gradual" (Zhu and Gupta 2017): 1 - (1 - t)^3 with t = progress / ``span``, which is
    their s_t = s_f + (s_i - s_f)(1 - t)^3 for s_i = 0, on a grid of ``rounds`` equal parts of the span (they, too,
    update every so many steps alone). It never falls, and is exactly 1 from ``span`` on.
    """
    if when == "one_shot" or progress >= span:
        return 1.0
    t = progress / span
    parts = rounds or ROUNDS[when]
    if when == "iterative":
        return min(math.floor(t * (parts - 1) + ROUNDING) + 1, parts) / parts
    t = min(math.floor(t * parts + ROUNDING) / parts, 1.0)
    return 1.0 - (1.0 - t) ** 3


class PacedMethod(Method):
    """A pruning method with a schedule over its training.

    ``when``: "one_shot" prunes before the training; "iterative" in ``rounds`` equal parts (4); "gradual" by a cubic
    that is fast first, in at most ``rounds`` updates (100). ``span`` is the share of the training after which the final
    ratio is reached. Without training both prune once, at the end.
    """

    when: Literal["one_shot", "iterative", "gradual"] = "one_shot"
    rounds: int | None = Field(None, ge=1, le=10_000)
    span: float = Field(SPAN, gt=0, le=1)

    @model_validator(mode="after")
    def _no_idle_schedule(self) -> PacedMethod:
        if self.when == "one_shot" and (self.rounds is not None or self.span != SPAN):
            raise ValueError("rounds and span belong to when: iterative or gradual; one_shot prunes once, at the start")
        return self

    def share(self, progress: float) -> float:
        """Return the share of the final ratio that is due at ``progress`` (``share_at``)."""
        return share_at(progress, self.when, self.rounds, self.span)
