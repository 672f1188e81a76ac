"""Models as ONNX files: what is in the file, and that it computes what torch computes."""

import copy
import gzip
import sys
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.quantization.layers import IntegerLayer
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.compression.quantization.reference import QuantDequant
from tailkeep.data.batches import normalize
from tailkeep.data.digits import Digits
from tailkeep.errors import MissingExtra, StepFailed
from tailkeep.evaluation.metrics import agreement
from tailkeep.export.onnx import export_form, export_onnx, packed_file_bytes
from tailkeep.export.placement import fused_layers
from tailkeep.export.runtime import OnnxSession
from tailkeep.models.digits import DigitsNet
from tailkeep.models.resnet import ResNet

DIGITS, COLOUR = (1, 8, 8), (3, 16, 16)
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@cache
def digits():
    split = Digits().load().train
    return normalize(torch.from_numpy(split.images)), torch.from_numpy(split.labels)


def context():
    images, labels = digits()
    return Context((100,) * 10, DIGITS, 0, CPU, lambda count, draw: [(images[:512], labels[:512])])


def train(model, method, given, steps, lr):
    images, labels = digits()
    optimizer = torch.optim.SGD(method.param_groups(model) or model.parameters(), lr, momentum=0.9)
    model.train()
    for step in range(steps):
        method.on_step(model, step / steps, given)
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:64]
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model.eval()


@cache
def dense():
    torch.manual_seed(0)
    return train(DigitsNet().build(10, DIGITS), FilterPruning(), context(), 60, 0.1)


def quantized(**settings):
    method, given = QuantizationAwareTraining(**settings), context()
    model = train(method.prepare(copy.deepcopy(dense()), given), method, given, 10, 0.02)
    return method.finish(model, given)[0].eval()


@torch.no_grad()
def logits_of(model, images):
    return model(images).numpy()


def integer_initializers(path):
    return {t.name: t for t in onnx.load(str(path)).graph.initializer if t.data_type == onnx.TensorProto.INT8}


class Exported:
    def __init__(self, model, shape, path):
        self.model, self.path = model, path
        self.facts = export_onnx(model, shape, path)
        self.session = OnnxSession(path)


@pytest.fixture(scope="module")
def floating(folder):
    return Exported(dense(), DIGITS, folder / "float.onnx")


@pytest.fixture(scope="module")
def w8a8(folder):
    return Exported(quantized(), DIGITS, folder / "w8a8.onnx")


@pytest.fixture(scope="module")
def w8a4(folder):
    model = quantized(activation_bits=4, activations="pact", pact_start=None)
    return Exported(model, DIGITS, folder / "w8a4.onnx")


def test_a_float_model_computes_the_same(floating):
    images = digits()[0]
    found = floating.session.predict(images.numpy())
    np.testing.assert_allclose(found, logits_of(floating.model, images), atol=1e-4, rtol=0)
    assert floating.facts["classes"] == 10
    assert floating.facts["int8_weights"] == 0


def test_batch_norms_are_folded(floating):
    assert "BatchNormalization" not in floating.facts["operators"]
    placed = fused_layers(floating.path)
    assert "BatchNormalization" not in placed.operators
    assert (placed.integer, placed.floating) == (0, 7)


def test_names_opset_and_dynamic_batch(floating):
    model = onnx.load(str(floating.path))
    assert [entry.name for entry in model.graph.input] == ["images"]
    assert [entry.name for entry in model.graph.output] == ["logits"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 10
    images = digits()[0].numpy()
    one, many = floating.session.run(images[:1]), floating.session.run(images[:64])
    assert (one.shape, many.shape) == ((1, 10), (64, 10))
    np.testing.assert_allclose(one[0], many[0], atol=1e-5, rtol=0)


def test_the_file_tells_nothing_of_the_machine(floating, w8a8):
    for exported in (floating, w8a8):
        data = exported.path.read_bytes()
        assert b".py" not in data
        assert b"stack_trace" not in data
        assert sorted(path.name for path in exported.path.parent.glob(f"{exported.path.name}*")) == [exported.path.name]


def test_file_bytes(floating):
    data = floating.path.read_bytes()
    sizes = packed_file_bytes(floating.path)
    assert sizes == {"raw": len(data), "gzip": len(gzip.compress(data, 9, mtime=0))}
    assert (floating.facts["bytes"], floating.facts["gzip_bytes"]) == (sizes["raw"], sizes["gzip"])


def test_a_pruned_model_computes_the_same(folder):
    torch.manual_seed(0)
    images = torch.randn(64, *COLOUR)
    given = Context((100,) * 10, COLOUR, 0, CPU)
    model = FilterPruning(ratio=0.5).prepare(ResNet(depth=8).build(10, COLOUR), given)
    with torch.no_grad():
        model.train()(images)  # batch norms with statistics of their own, so that folding has something to fold
    exported = Exported(model.eval(), COLOUR, folder / "pruned.onnx")
    np.testing.assert_allclose(exported.session.predict(images.numpy()), logits_of(model, images), atol=1e-4, rtol=0)


def compare(exported):
    images, labels = digits()
    simulated = logits_of(exported.model, images)
    found = agreement(simulated, exported.session.predict(images.numpy()), labels.numpy(), 10)
    return found, float(simulated.max() - simulated.min())


def test_w8a8_agrees_with_its_simulation(w8a8):
    found, width = compare(w8a8)
    assert found.share >= 0.995
    assert found.largest_difference < width / 100, "more than a rounding step here and there"


def test_w8a8_is_int8_in_the_file(floating, w8a8):
    found = integer_initializers(w8a8.path)
    for name, module in w8a8.model.named_modules():
        if isinstance(module, IntegerLayer):
            stored = onnx.numpy_helper.to_array(found[f"{name}.weight"])
            np.testing.assert_array_equal(stored, module.weight.numpy())
    assert w8a8.facts["int8_weights"] == sum(
        module.weight.numel() for module in w8a8.model.modules() if isinstance(module, IntegerLayer)
    )
    assert w8a8.facts["bytes"] < 0.5 * floating.facts["bytes"]


def test_w8a8_runs_in_integers_where_the_output_is_quantized_too(w8a8):
    """The first convolution of each block: its output goes to a quantized layer and nowhere else."""
    placed = fused_layers(w8a8.path)
    assert placed.integer >= 2
    assert placed.integer + placed.floating == 7


def test_w8a4_keeps_its_narrow_range(w8a4):
    """Without the clip a runtime would let 4-bit activations use all 256 steps of their type."""
    images = digits()[0] * 3
    simulated = logits_of(w8a4.model, images)
    found = w8a4.session.predict(images.numpy())
    assert (simulated.argmax(1) == found.argmax(1)).mean() >= 0.99
    assert w8a4.facts["operators"]["Clip"] == 5
    assert compare(w8a4)[0].share >= 0.99


HOW = {"op": "conv2d", "groups": 1, "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}


def integer_layer(how, shape, weight_bits=8):
    layer = IntegerLayer(how, shape, weight_bits, 8)
    layer.weight.copy_(torch.randint(-127, 128, shape))
    layer.weight_scale.fill_(1e-3)
    layer.bias.copy_(torch.randn(shape[0]) / 10)
    layer.activation_scale.fill_(0.02)
    return layer


def small_integer_model():
    """Convolutions of which the first has dead channels and the third float weights, and a linear layer."""
    torch.manual_seed(0)
    first = integer_layer(HOW, (8, 3, 3, 3))
    first.activation_zero_point.fill_(100.0)
    first.weight_scale[:3] = torch.tensor([1e-12, 0.0, 1e-9])
    first.bias[:3] = 3.0
    second, fourth = integer_layer(HOW, (8, 8, 3, 3)), integer_layer(HOW, (8, 8, 3, 3))
    kept = integer_layer(HOW, (8, 8, 3, 3), weight_bits=32)
    layers = [first, nn.ReLU(), second, nn.ReLU(), kept, nn.ReLU(), fourth, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    last = integer_layer({"op": "linear"}, (5, 8))
    last.activation_scale.fill_(0.01)
    last.activation_zero_point.fill_(128.0)
    return nn.Sequential(*layers, last).eval()


@pytest.fixture(scope="module")
def small(folder):
    return Exported(small_integer_model(), COLOUR, folder / "small.onnx")


def test_the_bias_of_a_dead_channel_does_not_overflow(small):
    """A runtime stores a bias in int32 at the scale of input times weights: 3 / (0.02 * 1e-12) does not fit."""
    torch.manual_seed(1)
    images = torch.randn(64, *COLOUR)
    simulated = logits_of(small.model, images)
    assert fused_layers(small.path).integer == 1, "the first; else this tests nothing"
    width = simulated.max() - simulated.min()
    assert np.abs(small.session.predict(images.numpy()) - simulated).max() < 0.01 * width
    with torch.no_grad():
        layer = small.model[0]
        assert (layer.export_form()(images) - layer(images)).abs().max() < 1e-4


def test_weights_with_zero_points(folder):
    """Asymmetric weights: the zero points are int8 in the file, and a dead channel keeps its own."""
    torch.manual_seed(0)
    layer = IntegerLayer(HOW, (8, 3, 3, 3), 8, 8, shifted=True)
    layer.weight.copy_(torch.randint(-128, 128, (8, 3, 3, 3)))
    layer.weight_scale.fill_(1e-3)
    layer.weight_scale[0] = 1e-12
    layer.weight_zero_point.copy_(torch.arange(-60, 60, 15))
    layer.bias.fill_(0.5)
    layer.activation_scale.fill_(0.02)
    layer.activation_zero_point.fill_(100.0)
    model, images = nn.Sequential(layer, nn.Flatten()).eval(), torch.randn(16, *COLOUR)
    exported = Exported(model, COLOUR, folder / "shifted.onnx")
    simulated = logits_of(model, images)
    np.testing.assert_allclose(logits_of(export_form(model), images), simulated, atol=1e-4)
    np.testing.assert_allclose(exported.session.predict(images.numpy()), simulated, atol=1e-4)
    stored = [onnx.numpy_helper.to_array(t) for t in integer_initializers(exported.path).values()]
    assert any(np.array_equal(values, np.arange(-60, 60, 15)) for values in stored)


def test_float_weights_stay_float(small):
    """onnxruntime would quantize the weights of a float layer between two quantized tensors unasked."""
    kept = small.model[4]
    stored = [name for name in integer_initializers(small.path) if name.endswith("weight")]
    assert sorted(stored) == ["0.weight", "2.weight", "6.weight", "9.weight"]
    assert fused_layers(small.path).integer == 1, "the first alone"
    images = torch.randn(4, 8, 16, 16)
    with torch.no_grad():
        assert (kept.export_form()(images) - kept(images)).abs().max() < 1e-5


def test_equal_models_give_equal_bytes(small, folder):
    again = export_onnx(small_integer_model(), COLOUR, folder / "again.onnx")
    assert again == small.facts
    assert (folder / "again.onnx").read_bytes() == small.path.read_bytes()


def test_the_model_is_left_as_it_was(small):
    assert not isinstance(export_form(small.model)[0], IntegerLayer)
    assert isinstance(small.model[0], IntegerLayer)


def test_a_layer_under_two_names_stays_one():
    shared = integer_layer({"op": "linear"}, (4, 4))
    form = export_form(nn.ModuleDict({"one": shared, "two": shared}))
    assert form["one"] is form["two"]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quant_dequant_is_the_grid(bits):
    levels = 2**bits - 1
    module = QuantDequant(0.25, 1, bits)
    x = torch.linspace(-100, 100, 4001)
    expected = (torch.clamp(torch.round(x / 0.25) + 1, 0, levels) - 1) * 0.25
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    "grid", [(0.0, 0, 8), (0.1, 16, 4), (0.1, -1, 8), (0.1, 0, 16), (float("nan"), 0, 8), (float("inf"), 0, 8)]
)
def test_quant_dequant_refuses_what_is_no_uint8(grid):
    with pytest.raises(ValueError, match="no grid of uint8"):
        QuantDequant(*grid)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


def test_an_operation_without_onnx_form_is_named(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Spectrum(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(StepFailed, match=r"aten.special_airy_ai at layer 1") as caught:
        export_onnx(model, DIGITS, tmp_path / "model.onnx")
    assert caught.value.reason == "export"
    assert list(tmp_path.iterdir()) == []


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_fixes_its_batch_is_refused(tmp_path):
    model = nn.Sequential(FixedBatch(), nn.Linear(64, 3))
    with pytest.raises(StepFailed, match="number of images"):
        export_onnx(model, DIGITS, tmp_path / "model.onnx")


def test_a_layer_that_cannot_be_traced_is_named(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Sequential(Branches()), nn.Linear(64, 3))
    with pytest.raises(StepFailed, match=r"cannot trace the model at layer 1\.0"):
        export_onnx(model, DIGITS, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Linear(7, 3), "does not run"),
        (nn.Conv2d(1, 4, 3), r"expected logits \(2, classes\), got a tensor \(2, 4, 6, 6\)"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(model, text, tmp_path):
    with pytest.raises(StepFailed, match=text):
        export_onnx(model, DIGITS, tmp_path / "model.onnx")


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_a_missing_library_says_how_to_install_it(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[onnx\]'"):
        export_onnx(dense(), DIGITS, tmp_path / "model.onnx")
