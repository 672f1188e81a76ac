from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailkeep.recommend import recommend
from tailkeep.recommend.answer import Recommendation

FINE = {"epochs": 4, "batch_size": 32, "lr": 0.02, "precision": "float32"}
INT8 = {"kind": "ptq", "weight_bits": 7, "placement": "runtime", "keep_first_last": False}
STUDY: dict[str, Any] = {
    "name": "asked",
    "data": {"source": {"kind": "digits", "test_per_class": 80}},
    "imbalance": [{"kind": "exponential", "ratio": 5, "n_max": 60}],
    "validation_per_class": 20,
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": {"epochs": 8, "batch_size": 32, "lr": 0.1, "precision": "float32"},
    "methods": [],
    "seeds": [0],
}
SAME = {"name": "same", "method": {"kind": "continue"}, "recipe": {**FINE, "epochs": 0}}
INTEGERS = {"name": "int8", "method": INT8}
RUINED = {"name": "ruined", "method": {"kind": "filter_pruning", "ratio": 0.9}, "recipe": {**FINE, "epochs": 0}}
PRUNED = [
    {"name": f"pruned {ratio}", "method": {"kind": "filter_pruning", "ratio": ratio / 100}, "recipe": FINE}
    for ratio in (20, 40, 60, 90)
]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: the dense model is trained once."""
    return tmp_path_factory.mktemp("recommend") / "store"


@pytest.fixture
def asked() -> Callable[..., dict[str, Any]]:
    """Return a study with some methods, which a test may change."""
    return lambda *methods: {**copy.deepcopy(STUDY), "methods": [copy.deepcopy(method) for method in methods]}


@pytest.fixture
def ask(tmp_path: Path, store: Path, one_thread: None) -> Callable[..., Recommendation]:
    """Write a study and ask for a recommendation, with the results in the test's folder."""

    def call(study: dict[str, Any], **settings: Any) -> Recommendation:
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps(study), encoding="utf-8")
        given = {"store": store, "workers": 1, "out": tmp_path / "out", "max_class_drop": 10.0, **settings}
        return recommend(path, **given)

    return call
