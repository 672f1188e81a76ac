"""From a study to an ExecuTorch file by the command line, and what is said where that cannot be."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.data.digits import Digits
from tailkeep.errors import BadInput
from tailkeep.study.deploy import agreement_by_class, evaluated_images
from tailkeep.study.display import print_export
from tailkeep.study.exporting import destination
from tailkeep.study.runner import Options, Study, open_study

THERE = importlib.util.find_spec("executorch") is not None
STUDY: dict[str, Any] = {
    "name": "portable",
    "data": {"source": {"kind": "digits"}},
    "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 60}],
    "balanced": "none",
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": {"epochs": 10, "batch_size": 32, "lr": 0.1, "precision": "float32"},
    "methods": [
        {"name": "int8", "method": {"kind": "ptq", "placement": "runtime", "keep_first_last": False}},
        {"name": "A4", "method": {"kind": "ptq", "activation_bits": 4}},
    ],
    "controls": {"continued": False, "churn_floor": False},
    "seeds": [0],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study above, run once."""
    folder = tmp_path_factory.mktemp("portable")
    (folder / "study.yaml").write_text(json.dumps(STUDY), encoding="utf-8")
    opened = open_study(folder / "study.yaml", Options(store=folder / "store", workers=1, cache=folder / "cache"))
    assert not opened.run().failed
    return opened


@pytest.fixture
def export(study: Study, cli: Any) -> Callable[..., Any]:
    file = study.store.root.parent / "study.yaml"
    return lambda *more: cli("export", file, "--store", study.store.root, *more)


@pytest.mark.skipif(not THERE, reason="needs tailkeep[executorch]")
@pytest.mark.slow
def test_a_model_by_the_command_line(export: Any, study: Study, tmp_path: Path) -> None:
    steps = sorted(str(path) for path in study.store.root.glob("*/*"))
    done = export("--method", "int8", "--out", tmp_path / "out" / "m.pte", "--batch", "7", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["format"], facts["method"], facts["batch"]) == ("executorch", "int8", 7)
    assert facts["file_bytes"] == (tmp_path / "out" / "m.pte").stat().st_size
    assert facts["agreement"] >= 0.99
    assert set(facts["agreement_by_class"]) == set("0123456789")
    assert 0.9 * facts["weights"] < facts["int8_weights"] < facts["weights"], "the last layer is float"
    done = export("--method", "dense", "--format", "executorch")
    assert done.returncode == 0, done.stderr
    assert "1 image a call; XNNPACK runs everything" in done.stdout
    assert "ExecuTorch predicts what the simulated model does on 100.00% of the images" in done.stdout
    assert (tmp_path / "dense.pte").is_file()
    assert sorted(str(path) for path in study.store.root.glob("*/*")) == steps, "the store is as it was"


@pytest.mark.skipif(THERE, reason="executorch is installed")
def test_a_missing_library_is_named_and_nothing_is_written(export: Any, tmp_path: Path) -> None:
    refused = export("--method", "dense", "--out", tmp_path / "m.pte")
    assert refused.returncode == 2
    assert "pip install 'tailkeep[executorch]'" in refused.stderr
    assert not (tmp_path / "m.pte").exists()


def test_a_model_that_xnnpack_cannot_run_is_refused_first(export: Any, tmp_path: Path) -> None:
    refused = export("--method", "A4", "--format", "executorch", "--out", tmp_path / "m")
    assert refused.returncode == 3
    assert "layers have activations of 4 bits" in refused.stderr
    assert "write it as ONNX (--format onnx)" in refused.stderr
    assert not (tmp_path / "m").exists()


def test_a_batch_is_for_executorch(export: Any) -> None:
    refused = export("--method", "dense", "--batch", "4")
    assert refused.returncode == 2
    assert "--batch is for --format executorch" in refused.stderr


def test_the_suffix_says_the_format() -> None:
    assert destination(None, "my int8", None) == (Path("my-int8.onnx"), "onnx")
    assert destination(None, "my int8", "executorch") == (Path("my-int8.pte"), "executorch")
    assert destination(Path("a.pte"), "int8", None) == (Path("a.pte"), "executorch")
    assert destination(Path("a.bin"), "int8", None) == (Path("a.bin"), "onnx")
    assert destination(Path("a"), "int8", "executorch") == (Path("a"), "executorch")
    for out, given, right in ((Path("a.pte"), "onnx", ".onnx"), (Path("a.onnx"), "executorch", ".pte")):
        with pytest.raises(BadInput, match=f"is not what --format {given} writes; call it {right}"):
            destination(out, "int8", given)


def test_the_evaluated_images_are_those_of_the_prediction() -> None:
    digits, source = Digits().load(), {"kind": "digits"}
    tested = evaluated_images({"data": {"digest": digits.test.digest}}, source, None, None)
    assert (tested == digits.test.images).all()
    held = {"digest": digits.train.digest, "validation": {"per_class": 3, "seed": 1}}
    kept = evaluated_images({"data": held}, source, None, None)
    places = [int(np.flatnonzero((digits.train.images == image).all((1, 2, 3)))[0]) for image in kept]
    assert np.bincount(digits.train.labels[places]).tolist() == [3] * 10
    with pytest.raises(BadInput, match="changed since the study ran"):
        evaluated_images({"data": {"digest": digits.train.digest}}, source, None, None)


def test_agreement_is_told_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    simulated = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1, 1]]
    ran = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1, 2]]
    found = agreement_by_class(simulated, ran, np.array([0, 0, 1, 1, 1, 1]), ["a", "b", "none"])
    assert found["agreement_by_class"] == {"a": 1.0, "b": 0.75}, "a class without images has no share"
    assert (found["worst_agreement_class"], found["agreement"]) == ("b", 5 / 6)
    facts = {"method": "int8", "setting": "s", "model": "m", "seed": 0, "path": "m.pte", "format": "executorch"}
    counts = {"file_bytes": 1, "gzip_bytes": 1, "weights": 1, "int8_weights": 1, "macs": 1, "batch": 2}
    print_export({**facts, **counts, "operators": {"aten.erf.default": 2}, **found}, False)
    shown = capsys.readouterr().out
    assert "2 images a call; XNNPACK runs all but aten.erf.default (2)" in shown
    assert "1 of the classes below 100 %: b 75.00%" in shown
    assert "below 99.5%: the study's figures do not speak for this file" in shown
