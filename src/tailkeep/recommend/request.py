"""What is asked: how much a class may lose, how sure the answer must be, and how small the model must be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailkeep.analysis.gate import MOST_CONFIDENCE, alpha_of
from tailkeep.errors import BadInput

BUDGETS = {
    # field: (option, what of a model is held against it)
    "smaller": ("--smaller", "packed_bytes"),
    "max_bytes": ("--max-bytes", "packed_bytes"),
    "max_macs": ("--max-macs", "macs"),
    "max_latency_ms": ("--max-latency-ms", "latency_ms"),
}
UNITS = {"smaller": "x", "max_bytes": " bytes", "max_macs": " MACs", "max_latency_ms": "ms"}


@dataclass(frozen=True)
class Request:
    """One question. ``max_class_drop`` is in percentage points of recall; at most one of the budgets is given.

    ``smaller``: at least so many times fewer packed bytes than the baseline; ``max_bytes`` packed bytes, ``max_macs``
    multiply-accumulates an image, ``max_latency_ms`` milliseconds an image in ONNX Runtime on this machine.
    ``baseline`` names one of the study's models, ``seed`` the training that would be deployed (else the study's
    first). Raises ``BadInput`` for values that make no question.
    """

    max_class_drop: float = 2.0
    confidence: float = 0.95
    smaller: float | None = None
    max_bytes: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    baseline: str | None = None
    seed: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.max_class_drop < 100:
            raise BadInput(
                f"--max-class-drop {self.max_class_drop:g}: expected percentage points above 0 and under 100, such as 2"
            )
        if not 0.5 < self.confidence <= MOST_CONFIDENCE:
            raise BadInput(
                f"--confidence {self.confidence:g}: expected a share above 0.5 and at most {MOST_CONFIDENCE}, "
                "such as 0.95"
            )
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            options = " and ".join(BUDGETS[name][0] for name in given)
            raise BadInput(f"{options}: give one budget, so that it is clear what a model must be small in")
        for name in given:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0) or (name == "smaller" and value < 1):
                least = "1 or more" if name == "smaller" else "above 0"
                raise BadInput(f"{BUDGETS[name][0]} {value:g}: expected a finite number, {least}")
        if self.seed is not None and self.seed < 0:
            raise BadInput(f"--seed {self.seed}: expected 0 or more")

    @property
    def short(self) -> str:
        """The question in a few words, which name the folder of its answer: "10pp 4x"."""
        budget = self.budget
        parts = [
            f"{self.max_class_drop:g}pp",
            "" if budget is None else f"{budget.bound:g}{UNITS[budget.kind]}",
            "" if self.confidence == type(self).confidence else f"{self.confidence:g}",
            "" if self.baseline is None else re.sub(r"[^\w.+()-]", "_", self.baseline),
            "" if self.seed is None else f"seed {self.seed}",
        ]
        return " ".join(part for part in parts if part)

    @property
    def limit(self) -> float:
        """The loss that a class may have, as a share."""
        return self.max_class_drop / 100

    @property
    def alpha(self) -> float:
        """The chance of a wrong "safe" that is allowed."""
        return alpha_of(self.confidence)

    @property
    def budget(self) -> Budget | None:
        """The budget that is given, or None."""
        for name in BUDGETS:
            if (value := getattr(self, name)) is not None:
                return Budget(name, float(value))
        return None


@dataclass(frozen=True)
class Budget:
    """One bound on a model's cost. ``kind`` is a key of ``BUDGETS``."""

    kind: str
    bound: float

    @property
    def timed(self) -> bool:
        """Whether it takes a measurement of the exported file, and so a trained model."""
        return self.kind == "max_latency_ms"

    @property
    def measure(self) -> str:
        """The cost that is held against the bound."""
        return BUDGETS[self.kind][1]

    def most(self, baseline: dict[str, Any]) -> float:
        """Return the largest cost that is allowed. ``baseline`` has its ``packed_bytes``."""
        return float(baseline["packed_bytes"]) / self.bound if self.kind == "smaller" else self.bound

    def meets(self, cost: dict[str, Any], baseline: dict[str, Any]) -> bool:
        """Return whether a model of this cost is in budget; one whose cost is not known is not."""
        value = cost.get(self.measure)
        return value is not None and float(value) <= self.most(baseline)

    @property
    def words(self) -> str:
        """The budget in words."""
        return {
            "smaller": f"at least {self.bound:g} times smaller than the baseline",
            "max_bytes": f"at most {self.bound:,.0f} packed bytes",
            "max_macs": f"at most {self.bound:,.0f} multiply-accumulates an image",
            "max_latency_ms": f"at most {self.bound:g} ms an image",
        }[self.kind]
