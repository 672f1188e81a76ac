"""The models page says what the code does."""

import re
import sys
from pathlib import Path

import torch
from torch import nn

from tailkeep.compression.pruning.removal import prunable
from tailkeep.export.cost import cost
from tailkeep.models.digits import DigitsNet
from tailkeep.models.probe import probe
from tailkeep.models.resnet import ResNet
from tailkeep.models.user import build_user, load_factory

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_example_model_is_built_probed_and_prunable(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if block.startswith("# my_net.py"))
    (tmp_path / "my_net.py").write_text(code)
    model = build_user(load_factory(f"{tmp_path / 'my_net.py'}:make"), 10, (3, 32, 32))
    probe(model, 10, (3, 32, 32))
    assert prunable(model, (3, 32, 32)) == ["0", "3"]


def test_the_conversion_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(2, 2), "whole_model.pt")
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "save_file" in block)
    exec(code, {})
    assert (tmp_path / "my_net.safetensors").stat().st_size > 24


def test_the_counts_on_the_page():
    shape = (3, 32, 32)
    for depth in (20, 32, 56):
        counts = [cost(ResNet(depth=depth, shortcut=form).build(10, shape), shape) for form in ("conv", "identity_pad")]
        cells = " | ".join(f"{count.weights:,} | {count.macs:,}" for count in counts)
        assert f"| ResNet-{depth} | {cells} |" in PAGE
    assert f"{cost(DigitsNet().build(10, (1, 8, 8)), (1, 8, 8)).parameters:,} parameters" in PAGE
