from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import Check, CheckResult, Gate

HOSTILE = 'a"<b>&[x](http://evil)\x1b[31m\u202e\n{0}[/]'
"""A class name as an attacker would choose it: quotes, XML, a link, a terminal code, reversed text, markup."""

Unit = tuple[str, str, int, int, int, str, int | None]
"""kind, name, n, n10, n01, decision, images needed."""
UNITS: tuple[Unit, ...] = (
    ("drop", "cat", 500, 40, 5, "broken", None),
    ("drop", "dog", 500, 12, 6, "cannot tell", 3345),
    ("drop", "owl", 500, 2, 12, "kept", None),
    ("recall", "owl", 500, 200, 300, "broken", None),
    ("drop", "emu", 0, 0, 0, "cannot tell", 800),
)


def result(unit: Unit) -> CheckResult:
    kind, name, n, n10, n01, word, needed = unit
    limit = 0.02 if kind == "drop" else 0.7
    estimate = math.nan if n == 0 else (n10 - n01) / n if kind == "drop" else n01 / n
    p = 0.0004 if word == "broken" else 0.4
    return CheckResult(
        check=Check(kind, "group" if "=" in name else "class", name, n, n10, n01, limit),
        estimate=estimate, low=estimate - 0.02, high=estimate + 0.02, p_broken=p / 2, p_broken_adjusted=p,
        p_kept=0.013 if word == "kept" else 0.6, decision=word, exact=True, images_needed=needed,
    )  # fmt: skip


def class_row(index: int, name: str, n: int, n10: int, n01: int) -> dict[str, Any]:
    change = math.nan if n == 0 else -100 * (n10 - n01) / n
    return {
        "class_index": index, "class_name": name, "group": "many", "train_count": 1000.0 - index, "n": n,
        "recall_baseline": 80.0, "recall": 80.0 + change, "recall_low": 70.0, "recall_high": 90.0, "change": change,
        "change_low": change - 2, "change_high": change + 2, "n11": n // 2, "n10": n10, "n01": n01, "n00": 0,
        "changed": n10 + n01, "p_mcnemar": 0.001, "p_adjusted": 0.01, "worst_bound": -9.5, "ece_baseline": math.nan,
        "ece": math.nan, "ece_change": math.nan,
    }  # fmt: skip


def build_candidate(name: str, units: tuple[Unit, ...]) -> CandidateAudit:
    results = tuple(result(unit) for unit in units)
    words = {r.decision for r in results}
    decision = "fail" if "broken" in words else "cannot tell" if "cannot tell" in words else "pass"
    drops = [u for u in units if u[0] == "drop" and "=" not in u[1]]
    return CandidateAudit(
        name=name,
        gate=Gate(results, 0.95, decision),
        classes=pd.DataFrame([class_row(i, u[1], u[2], u[3], u[4]) for i, u in enumerate(drops)]),
        groups=pd.DataFrame(
            [
                {
                    "kind": "frequency", "name": "few", "classes": 3, "n": 1500, "recall_baseline": 70.0,
                    "recall": 66.5, "change": -3.5, "change_low": -5.0, "change_high": -2.0, "p_mcnemar": 0.001,
                    "p_adjusted": 0.002,
                }
            ]
        ),
        summary=pd.DataFrame(
            [
                {"metric": "accuracy", "baseline": 80.0, "candidate": 79.6, "change": -0.4, "low": -0.9, "high": 0.1,
                 "warning": ""},
                {"metric": "g_mean", "baseline": 79.0, "candidate": 77.0, "change": -2.0, "low": math.nan,
                 "high": math.nan, "warning": "7 discordant pairs: read this interval with care"},
            ]
        ),
        flips=pd.DataFrame(
            [
                {"row": 7, "id": "img\x1b7", "label": "cat", "baseline": "cat", "candidate": "dog", "kind": "lost",
                 "severity": 0.9},
                {"row": 3, "id": "img3", "label": "dog", "baseline": "cat", "candidate": "dog", "kind": "won",
                 "severity": 0.1},
            ]
        ),
        seeds=None,
    )  # fmt: skip


def build_analysis(*units: Unit, names: tuple[str, ...] = ("pruned",), path: str = "out/a b.csv") -> AuditAnalysis:
    units = units or UNITS
    return AuditAnalysis(
        name="audit",
        task="multiclass",
        baseline="dense",
        class_names=tuple(dict.fromkeys(u[1] for u in units if "=" not in u[1])),
        group_names=("many", "few"),
        group_rule="by the number of training images",
        candidates=tuple(build_candidate(name, units) for name in names),
        notes=("the rows were paired by their ids",),
        provenance={"candidates": {name: {"path": path, "sha256": "0" * 64} for name in names}},
        study=None,  # type: ignore[arg-type]
    )


@pytest.fixture
def make_analysis() -> Callable[..., AuditAnalysis]:
    """Builds an analysis by hand, so that the outputs are tested on what they may get, and not on statistics."""
    return build_analysis


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def every_kind() -> tuple[Unit, ...]:
    """What ``make_analysis()`` is made of: broken, open, kept, a floor, a class without images."""
    return UNITS
