"""Checkpoints and model code as people really give them, seen from the command line: exit code and words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tailkeep.cli import main

STUDY = """\
name: mine
data:
  source: {kind: digits}
imbalance: {kind: natural}
balanced: none
models:
  - model: {kind: user, name: net}
    weights: WEIGHTS
recipe: {epochs: 1, batch_size: 32, lr: 0.1, precision: float32}
methods:
  - {name: A8, method: {kind: qat, keep_first_last: false}, recipe: {epochs: 0, precision: float32}}
controls: {continued: false}
seeds: [0]
"""
NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)
        self.calls = 0

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.fc(x)
"""

Refusal = Callable[..., str]


@pytest.fixture
def state(tmp_path: Path) -> dict[str, torch.Tensor]:
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    torch.manual_seed(0)
    return dict(namespace["Net"](10).state_dict())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run one command in an empty folder, in this process; return (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def refused(command: Any, tmp_path: Path) -> Refusal:
    """Plan a study with these weights and this code; return the words of the refusal, exit code 2."""

    def plan(weights: str, net: str = NET, factory: str = "Net") -> str:
        (tmp_path / "study.yaml").write_text(STUDY.replace("WEIGHTS", weights), encoding="utf-8")
        name = f"net_{abs(hash(net))}.py"
        (tmp_path / name).write_text(net, encoding="utf-8")
        code, _, err = command("plan", "study.yaml", "--model-code", f"{name}:{factory}")
        assert code == 2, err
        assert "Traceback" not in err
        assert not (tmp_path / "tailkeep-store").exists(), "refused before any compute"
        return " ".join(err.split())

    return plan


def test_weights_that_fit_run_as_an_imported_parent(command: Any, state: Any, tmp_path: Path) -> None:
    save_file({f"module.{name}": value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY.replace("WEIGHTS", "w.safetensors"), encoding="utf-8")
    code, out, err = command("run", "study.yaml", "--model-code", "net.py:Net", "--workers", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["steps_done"] == 4
    assert not list((tmp_path / "tailkeep-store").glob("train/*")), "imported, not trained"


def test_16_a_pickled_whole_model(refused: Refusal, state: Any, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    words = refused("whole.pt")
    assert "holds pickled Python objects" in words
    assert "save_file(" in words, "the conversion is shown"


def test_17_files_that_are_no_checkpoints(refused: Refusal, state: Any, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused("cut.safetensors")
    (tmp_path / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "Git LFS pointer" in refused("lfs.pt")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>")
    assert "web page (HTML)" in refused("page.safetensors")
    assert "there is no such file" in refused("absent.safetensors")


def test_18_names_and_shapes_that_do_not_fit(refused: Refusal, state: Any, tmp_path: Path) -> None:
    save_file({**{n: v for n, v in state.items() if n != "conv.bias"}, "extra": torch.zeros(1)}, "odd.safetensors")
    words = refused("odd.safetensors")
    assert "missing (1): conv.bias" in words
    assert "unexpected (1): extra" in words
    save_file({**state, "fc.weight": torch.zeros(7, 4), "fc.bias": torch.zeros(7)}, tmp_path / "seven.safetensors")
    assert "for 7 classes, and the data has 10" in refused("seven.safetensors")


def test_19_weights_that_are_not_finite(refused: Refusal, state: Any, tmp_path: Path) -> None:
    state["fc.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    words = refused("nan.safetensors")
    assert "tensor fc.weight holds 1 values that are NaN or infinite" in words


def test_20_outputs_that_are_no_logits(refused: Refusal, state: Any, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert "returns probabilities" in refused("w.safetensors", NET.replace("self.fc(x)", "self.fc(x).softmax(1)"))
    assert "returns a tuple" in refused("w.safetensors", NET.replace("self.fc(x)", "(self.fc(x), x)"))
    assert "returns 4 values an image" in refused("w.safetensors", NET.replace("return self.fc(x)", "return x"))


def test_21_evaluation_that_is_not_a_function_of_the_image(refused: Refusal, state: Any, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    noisy = NET.replace("self.fc(x)", "self.fc(nn.functional.dropout(x))")
    assert "not deterministic" in refused("w.safetensors", noisy)
    moving = NET.replace("        x = torch.relu", "        self.bn.train()\n        x = torch.relu")
    assert "batch" in refused("w.safetensors", moving)


def test_model_code_that_breaks_while_it_trains_fails_its_cells_alone(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks = NET.replace("        x = torch.relu", "        self.calls += 1\n        assert self.calls < 30, 'tired'\n"
                                                   "        x = torch.relu")  # fmt: skip
    (tmp_path / "breaks.py").write_text(breaks, encoding="utf-8")
    study = STUDY.replace("    weights: WEIGHTS\n", "  - model: {kind: digits_net}\n")
    (tmp_path / "study.yaml").write_text(study, encoding="utf-8")
    code, out, err = command("run", "study.yaml", "--model-code", "breaks.py:Net", "--workers", "1")
    assert code == 3, err
    assert "model_code: breaks.py:Net: AssertionError: tired" in " ".join(out.split())
    assert "Traceback" not in err
    verdict = json.loads((tmp_path / "tailkeep-results" / "mine" / "verdict.json").read_text())
    assert verdict["failures"] == 2, "its dense and its A8 cell; digits_net's are there"
