"""A short form of ``benchmarks/recommend.py``: how often it is wrong, how often it finds what is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recommend.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_recommend", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_recommend"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["all at the limit", "all at the limit, with wins", "the smallest are unsafe"])
def test_an_unsafe_model_is_seldom_called_safe(benchmark: Any, name: str) -> None:
    found = benchmark.simulate(benchmark.SCENARIOS[name], runs=300, seed=1, check=4)
    for order, rate in found.items():
        assert rate.wrong_low <= benchmark.WRONG, order
    assert found["predicted power"].keeps


def test_the_order_by_predicted_power_finds_what_the_smallest_first_misses(benchmark: Any) -> None:
    found = benchmark.simulate(benchmark.SCENARIOS["the smallest are unsafe"], runs=200, seed=2)
    ours, other = found["predicted power"], found["smallest that looks safe"]
    assert ours.possible >= 100
    assert ours.found >= benchmark.FOUND * ours.possible
    assert ours.any_small > 2 * other.any_small
