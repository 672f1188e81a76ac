"""Mutated ONNX files, a few of the thousands of ``benchmarks/fuzz_onnx.py``: the caller lives and answers in words."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_onnx.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("fuzz_onnx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_onnx"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_onnx"]


def test_the_sound_models_are_answered(bench, tmp_path):
    images = bench.random_images(5)
    with bench.OnnxModels() as models:
        for name, data in bench.seeds().items():
            (tmp_path / "m.onnx").write_bytes(data)
            assert bench.judge(models, tmp_path / "m.onnx", images) == ("answered", ""), name
        assert models.worker.starts == 1


@pytest.mark.slow
def test_mutated_files(bench):
    found = bench.fuzz(150, seed=1, limit_s=30)
    assert found["wrong"] == []
    assert sum(found["outcomes"].values()) == 150
    assert found["outcomes"]["refused"] > 75  # the damage is real
    assert found["outcomes"]["answered"] > 5  # and does not only hit the first byte
    assert found["longest_s"] < 60
