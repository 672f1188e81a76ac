"""Models as ExecuTorch files: what XNNPACK runs in integers, what is refused, and that it computes what torch computes.

What rewrites and refuses a model needs torch alone; where executorch is not installed, the rest is skipped.
"""

import importlib.util
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.quantization.layers import IntegerLayer
from tailkeep.compression.quantization.placement import FinishedPoint
from tailkeep.compression.quantization.reference import QuantDequant
from tailkeep.errors import BadInput, MissingExtra, StepFailed
from tailkeep.export.executorch import ExecutorchProgram, export_executorch
from tailkeep.export.onnx import export_form
from tailkeep.export.xnnpack import check_quantization, integer_form
from tailkeep.models.resnet import ResNet

SHAPE = (3, 16, 16)
HOW = {"op": "conv2d", "groups": 1, "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}

pytestmark = pytest.mark.usefixtures("one_thread")
installed = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="needs tailkeep[executorch]")


def layer(channels_in, how=HOW, activation_bits=8, channels_out=8, scale=0.04, zero_point=100.0, shifted=False):
    """A layer of random int8 weights; its output has about the scale of its input."""
    shape = (channels_out, channels_in) + ((3, 3) if how["op"] == "conv2d" else ())
    made = IntegerLayer(how, shape, 8, activation_bits, shifted=shifted)
    made.weight.copy_(torch.randint(-127, 128, shape))
    made.weight_scale.copy_(torch.linspace(1e-3, 3e-3, channels_out))
    made.bias.copy_(torch.randn(channels_out) / 10)
    made.activation_scale.fill_(scale)
    made.activation_zero_point.fill_(zero_point)
    return made


def point(scale, zero_point):
    made = FinishedPoint(8)
    made.scale.fill_(scale)
    made.zero_point.fill_(zero_point)
    return made


class Block(nn.Module):
    """What ``placement: runtime`` makes of a residual block: points around the addition, one of them a layer's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = layer(3, zero_point=128.0)
        self.entry = point(0.03, 0.0)
        self.inner = layer(8, scale=0.03, zero_point=0.0)
        self.outer = layer(8, scale=0.05, zero_point=0.0)
        self.branch, self.sum = point(0.06, 128.0), point(0.05, 0.0)
        self.fc = layer(8, {"op": "linear"}, channels_out=5, scale=0.02, zero_point=0.0)

    def forward(self, x):
        x = self.entry(F.relu(self.first(x)))
        y = self.branch(self.outer(F.relu(self.inner(x))))
        return self.fc(self.sum(F.relu(x + y)).mean((2, 3), keepdim=True).flatten(1))


def images(count=32):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def traced(model, count=32):
    example = torch.zeros(count, *SHAPE)
    return torch.export.export(export_form(model.eval()), (example,), strict=False).module()


def nodes_of(graph, name):
    return [node for node in graph.graph.nodes if str(node.target).startswith(f"quantized_decomposed.{name}")]


@torch.no_grad()
def test_the_integer_form_computes_the_same():
    model, x = Block().eval(), images()
    graph = traced(model)
    kept = integer_form(graph)
    convolutions = sum(part.weight.numel() for part in (model.first, model.inner, model.outer))
    assert kept == convolutions, "the logits are not quantized, so the last layer is float"
    simulated = model(x)
    assert (graph(x) - simulated).abs().max() < 0.01 * (simulated.max() - simulated.min())


def test_activations_are_signed_and_quantized_once_to_a_grid():
    graph = traced(Block())
    before = len(nodes_of(graph, "quantize_per_tensor"))
    integer_form(graph)
    nodes = nodes_of(graph, "quantize_per_tensor") + nodes_of(graph, "dequantize_per_tensor")
    assert {node.args[3:] for node in nodes} == {(-128, 127, torch.int8)}
    assert {node.args[2] for node in nodes} == {0, -128}
    assert len(nodes_of(graph, "quantize_per_tensor")) == before - 1, "the point's grid is the inner layer's too"


class Shared(nn.Module):
    """A point that an addition in integers and a sigmoid in float read."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.sum = point(0.03, 100.0), point(0.04, 90.0), point(0.05, 110.0)

    def forward(self, x):
        shared = self.one(x)
        return torch.cat([torch.sigmoid(shared), self.sum(shared + self.other(x * x))]).reshape(len(x), -1)


def test_every_user_has_a_dequantize_of_its_own():
    graph = traced(Shared())
    assert max(len(node.users) for node in nodes_of(graph, "dequantize_per_tensor")) == 2
    integer_form(graph)
    assert [len(node.users) for node in nodes_of(graph, "dequantize_per_tensor")] == [1] * 4


def test_without_a_quantized_output_the_weights_are_float():
    model = nn.Sequential(layer(3), nn.ReLU(), layer(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = traced(model)
    assert integer_form(graph) == model[0].weight.numel()
    assert len(nodes_of(graph, "dequantize_per_channel")) == 1
    with torch.no_grad():
        torch.testing.assert_close(graph(images()), model(images()), atol=1e-3, rtol=0)


def test_values_are_moved_on_one_grid():
    """XNNPACK refuses a pooling between two grids."""
    model = nn.Sequential(QuantDequant(0.04, 100, 8), nn.MaxPool2d(2), layer(3, scale=0.05), nn.Flatten())
    graph = traced(model)
    with torch.no_grad():
        before = graph(images())
        integer_form(graph)
        torch.testing.assert_close(graph(images()), before)
    pool = next(node for node in graph.graph.nodes if "max_pool" in str(node.target))
    (after,) = pool.users
    assert after.args[1:] == pool.args[0].args[1:]


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_narrow_activations_are_refused(bits, tmp_path):
    model = nn.Sequential(layer(3), nn.ReLU(), layer(8, activation_bits=bits), nn.Flatten())
    words = rf"1 layer has activations of {bits} bits \(2\)\. .*ONNX \(--format onnx\).*activation_bits: 8"
    with pytest.raises(StepFailed, match=words) as caught:
        export_executorch(model, SHAPE, tmp_path / "model.pte")
    assert caught.value.reason == "export"
    assert not list(tmp_path.iterdir())


def test_asymmetric_weights_are_refused():
    model = nn.Sequential(layer(3, shifted=True), nn.Flatten())
    check_quantization(model)  # zero points that are all 0 are none
    model[0].weight_zero_point[3] = 5
    with pytest.raises(StepFailed, match=r"1 layer has asymmetric weights \(0\).*--format onnx.*weights: symmetric"):
        check_quantization(model)


def test_a_missing_library_says_how_to_install_it(monkeypatch, tmp_path):
    for name in ("executorch", "executorch.exir", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[executorch\]'"):
        export_executorch(Block(), SHAPE, tmp_path / "model.pte")
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[executorch\]'"):
        ExecutorchProgram(tmp_path / "model.pte")


class Exported:
    def __init__(self, model, path, batch):
        self.model, self.path = model.eval(), path
        self.facts = export_executorch(model, SHAPE, path, batch)
        self.program = ExecutorchProgram(path)

    @torch.no_grad()
    def both(self, x):
        return self.model(x).numpy(), self.program.predict(x.numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def block(folder):
    return Exported(Block(), folder / "block.pte", 8)


@pytest.fixture(scope="module")
def pruned(folder):
    from tailkeep.compression.base import Context

    torch.manual_seed(0)
    given = Context((100,) * 10, SHAPE, 0, torch.device("cpu"))
    model = FilterPruning(ratio=0.5).prepare(ResNet(depth=8).build(10, SHAPE), given)
    with torch.no_grad():
        model.train()(images())  # batch norms with statistics of their own, so that folding has something to fold
    return Exported(model.to(memory_format=torch.channels_last), folder / "pruned.pte", 1)


@installed
def test_a_pruned_model_computes_the_same(pruned):
    simulated, found = pruned.both(images())
    np.testing.assert_allclose(found, simulated, atol=1e-4, rtol=0)
    facts = pruned.facts
    assert (facts["classes"], facts["batch"], facts["int8_weights"]) == (10, 1, 0)
    assert (facts["parts"], facts["operators"]) == (1, {}), "XNNPACK runs all of it"
    assert facts["bytes"] == pruned.path.stat().st_size


@installed
def test_an_integer_model_computes_the_same(block):
    simulated, found = block.both(images(200))
    step = float(block.model.fc.activation_scale * 127 * block.model.fc.weight_scale.max())
    difference = np.abs(found - simulated).max(axis=1)
    assert difference.max() <= 1.01 * step, "more than one rounding step of the last layer's input"
    assert (difference > 1e-5).mean() <= 0.1, "and that only here and there"
    assert (block.facts["parts"], block.facts["operators"]) == (1, {})
    assert block.facts["int8_weights"] == 8 * 3 * 9 + 2 * 8 * 8 * 9


@installed
def test_a_grid_that_integers_and_floats_read(folder):
    simulated, found = Exported(Shared(), folder / "shared.pte", 4).both(images(4))
    np.testing.assert_allclose(found, simulated, atol=1e-5, rtol=0)


@installed
def test_the_last_batch_is_filled_up(block):
    assert block.program.input_shape == (8, *SHAPE)
    whole, part = (block.program.predict(images(24).numpy()[:count]) for count in (24, 19))
    np.testing.assert_array_equal(whole[:19], part)


@installed
def test_equal_models_give_equal_bytes_that_tell_nothing_of_the_machine(block, folder):
    assert export_executorch(Block(), SHAPE, folder / "again.pte", 8) == block.facts
    data = block.path.read_bytes()
    assert (folder / "again.pte").read_bytes() == data
    assert b".py" not in data


class Errors(nn.Module):
    def forward(self, x):
        return torch.erf(x)


@installed
def test_what_xnnpack_lacks_runs_in_executorch(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), Errors(), nn.Flatten(), nn.Linear(64, 3))
    exported = Exported(model, folder / "left.pte", 2)
    simulated, found = exported.both(images(4))
    np.testing.assert_allclose(found, simulated, atol=1e-5, rtol=0)
    assert exported.facts["operators"] == {"aten.erf.default": 1}
    assert exported.facts["parts"] == 2


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@installed
@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Spectrum(), "ExecuTorch cannot write it .*airy_ai.*--format onnx"),
        (Branches(), "cannot trace the model"),
        (nn.Unflatten(1, (3, 64)), r"expected logits \(1, classes\), got \(1, 3, 64\)"),
    ],
)
def test_what_cannot_be_written_is_refused(part, words, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 192), part)
    with pytest.raises(StepFailed, match=words) as caught:
        export_executorch(model, SHAPE, tmp_path / "model.pte")
    assert caught.value.reason == "export"
    assert not list(tmp_path.iterdir())


@installed
def test_files_and_images_that_do_not_fit_are_refused(block, tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        ExecutorchProgram(tmp_path / "none.pte")
    for data in (b"", b"garbage" * 100, block.path.read_bytes()[:3000]):
        (tmp_path / "bad.pte").write_bytes(data)
        with pytest.raises(BadInput, match="ExecuTorch cannot load it"):
            ExecutorchProgram(tmp_path / "bad.pte")
    for wrong in (images(8)[:, :2], images(8).double()):
        with pytest.raises(BadInput, match="its input is"):
            block.program.predict(wrong.numpy())


@installed
def test_logits_that_are_not_finite_are_named(pruned):
    bad = images(8).numpy()
    bad[3] = np.nan
    with pytest.raises(StepFailed, match="1 of 8 images have logits that are not finite, first 3"):
        pruned.program.predict(bad)
