"""The audit as JSON for scripts: everything that the analysis holds, under a schema with a version.

The keys of schema 1 do not change their meaning; a later schema may add keys under the same number, and counts up where
one is taken away or means something else. Tables are lists of rows, in the analysis' columns. What is not known (NaN,
infinity) is null. Recalls and changes in ``classes``, ``groups`` and ``summary`` are percentage points, estimates and
limits in ``gate`` are shares of 0..1.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
import pandas as pd

from tailkeep import __version__
from tailkeep.analysis.audit import AuditAnalysis
from tailkeep.analysis.gate import Gate
from tailkeep.auditing.outputs.sentences import decision, exit_code, of_check, verdict

SCHEMA = "tailkeep-audit/1"


def as_json(analysis: AuditAnalysis) -> str:
    """Return the whole audit as JSON text in ASCII; equal analyses give equal bytes."""
    head = {
        "schema": SCHEMA,
        "tool": {"name": "tailkeep", "version": __version__},
        "decision": decision(analysis),
        "exit_code": exit_code(analysis),
    }
    candidates = [
        {**_plain(candidate), "gate": _gate(candidate.gate), "sentence": verdict(candidate, analysis.baseline)}
        for candidate in analysis.candidates
    ]
    return json.dumps({**head, **_plain(analysis), "candidates": candidates}, indent=1, allow_nan=False) + "\n"


def _gate(gate: Gate) -> dict[str, Any]:
    results = [
        {
            **_plain(result.check),
            **{key: value for key, value in _plain(result).items() if key != "check"},
            "images_needed_if": result.needed_if,
            "outlook": result.outlook,
            "sentence": of_check(result, gate.confidence),
        }
        for result in gate.results
    ]
    return {
        "decision": gate.decision,
        "exit_code": gate.exit_code,
        "confidence": gate.confidence,
        "results": results,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; raises TypeError for one that has no form there."""
    if value is None or isinstance(value, (str, bool, int)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, PathLike):
        return str(fspath(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray, pd.Series)):
        return [_plain(item) for item in value]
    if value is pd.NA or value is pd.NaT:
        return None
    raise TypeError(f"no JSON form for {type(value).__name__}")
