"""Quantization-aware training as a method: from a float parent to integer layers, and back from a file."""

import copy
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.compression.identity import Continue
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.quantization.activations import ActivationQuantizer, Pact
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.qat import QuantizationAwareTraining as Quantization
from tailkeep.data.batches import normalize
from tailkeep.data.digits import Digits
from tailkeep.errors import StepFailed
from tailkeep.evaluation.predict import predict
from tailkeep.export.cost import cost
from tailkeep.models.digits import DigitsNet
from tailkeep.study.rebuild import build_model

SHAPE = (1, 8, 8)
INNER = ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "layer1.1.shortcut.0"]
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def digits():
    split = Digits().load().train
    return normalize(torch.from_numpy(split.images)), torch.from_numpy(split.labels)


def context(**extra):
    images, labels = digits()

    def labelled(count, draw):
        return zip(images[: 64 * count].split(64), labels[: 64 * count].split(64), strict=True)

    return Context((100,) * 10, SHAPE, 0, CPU, labelled, **extra)


def train(model, method, given, steps=15, lr=0.02):
    images, labels = digits()
    optimizer = torch.optim.SGD(method.param_groups(model) or model.parameters(), lr, momentum=0.9)
    step_loss = method.loss(lambda logits, y, progress: F.cross_entropy(logits, y), given)
    model.train()
    for step in range(steps):
        method.on_step(model, step / steps, given)
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:64]
        loss, _ = step_loss(model, images[chosen], labels[chosen], step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@cache
def _trained_parent():
    model = build_model(DigitsNet().plain(), None, 10, SHAPE, 0)
    return train(model, Continue(), context(), steps=60, lr=0.1).eval()


def parent():
    return copy.deepcopy(_trained_parent())


@torch.no_grad()
def logits_of(model):
    return model.eval()(digits()[0])


def tensors_equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


COMBINATIONS = {
    "W8A8": {},
    "W8A4": {"activation_bits": 4, "activations": "pact", "pact_start": None},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W4A4 pact": {"weight_bits": 4, "activation_bits": 4, "activations": "pact"},
    "W3A8": {"weight_bits": 3, "weights": "dorefa", "activations": "clip"},
    "W3A4": {"weight_bits": 3, "weights": "dorefa", "activation_bits": 4, "activations": "pact"},
    "W2A32": {"weight_bits": 2, "activation_bits": 32},
    "W32A8": {"weight_bits": 32},
    "W8A8 all layers": {"keep_first_last": False},
}


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)
def test_the_converted_model_agrees_with_the_simulated_one(settings):
    """Trained at a constant rate, so that the last step still moves weights and clips."""
    method, given = Quantization(**settings, freeze_norms=1.0), context()
    model = train(method.prepare(parent(), given), method, given, steps=40)
    simulated = copy.deepcopy(model)
    for quantizer in simulated.modules():
        if isinstance(quantizer, Pact):
            quantizer.settle()
    expected = logits_of(simulated)
    accuracy = (expected.argmax(1) == digits()[1]).float().mean()
    assert accuracy > 0.5, "a network that predicts noise would agree with anything"
    model, change = method.finish(model.eval(), given)
    got = logits_of(model)
    assert (got.argmax(1) == expected.argmax(1)).float().mean() >= 0.999
    off = (got - expected).abs().amax(1)
    assert off.quantile(0.9) < 1e-4 * expected.abs().max(), "but for rounding ties they are one function"
    assert given.facts["converted_agreement"] == 1.0
    assert given.facts["converted_largest_difference"] < 0.1 * expected.abs().max()
    assert not any(isinstance(module, QuantizedLayer) for module in model.modules())
    assert json.loads(json.dumps(change)) == change


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)
def test_integer_weights_lie_on_the_declared_grid(settings):
    method, given = Quantization(**settings), context()
    model, change = method.finish(method.prepare(parent(), given).eval(), given)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, IntegerLayer)}
    names = INNER if method.keep_first_last else ["conv1", *INNER, "fc"]
    assert sorted(layers) == sorted(names) == sorted(change["values"]["layers"])
    assert given.facts["quantized_layers"] == len(names)
    for name, layer in layers.items():
        assert (layer.weight_bits, layer.activation_bits) == (method.weight_bits, method.activation_bits)
        if method.weight_bits == 32:
            assert layer.weight.dtype == torch.float32
            continue
        assert layer.weight.dtype == torch.int8
        levels = set(layer.weight.flatten().tolist())
        if method.weights == "dorefa":
            top = 2**method.weight_bits - 1
            assert levels <= set(range(-top, top + 1, 2)), name
        else:
            top = 2 ** (method.weight_bits - 1) - 1
            assert levels <= set(range(-top, top + 1)), name
        assert max(map(abs, levels)) == top
        assert len(levels) <= 2**method.weight_bits


def test_an_eight_bit_dorefa_grid_is_refused():
    """Its odd integers from -255 to 255 have no room in int8."""
    with pytest.raises(ValueError, match="weights 'dorefa' take 2 to 7"):
        Quantization(weights="dorefa")
    given = context()
    method = Quantization(weights="dorefa", weight_bits=7)
    method.finish(method.prepare(parent(), given).eval(), given)
    assert given.facts["converted_agreement"] == 1.0


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("bits", [1, 9, 16, 31, 33])
def test_bits_out_of_range_are_refused(name, bits):
    with pytest.raises(ValueError, match=name):
        Quantization(**{name: bits})


def test_finish_takes_the_clip_of_the_last_step():
    method, given = Quantization(activation_bits=4, activations="pact", pact_start=None), context()
    model = train(method.prepare(parent(), given), method, given, steps=3)
    stale = {name: float(model.get_submodule(name).activation.scale) for name in INNER}
    clips = {name: float(model.get_submodule(name).activation.alpha.detach()) for name in INNER}
    model, _ = method.finish(model.eval(), given)
    for name, alpha in clips.items():
        assert stale[name] != pytest.approx(alpha / 15, rel=1e-6), "the last step moved it"
        assert float(model.get_submodule(name).activation_scale) == pytest.approx(alpha / 15, rel=1e-6)


def test_first_and_last_layer_stay_float_unless_told():
    kept = Quantization().prepare(parent(), context())
    assert isinstance(kept.conv1, nn.Conv2d)
    assert isinstance(kept.fc, nn.Linear)
    assert torch.equal(kept.conv1.weight, parent().conv1.weight)
    every = Quantization(keep_first_last=False).prepare(parent(), context())
    assert isinstance(every.conv1, QuantizedLayer)
    assert isinstance(every.fc, QuantizedLayer)


def test_a_model_of_a_first_and_a_last_layer_alone_has_nothing_to_quantize():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(StepFailed, match="nothing_to_quantize"):
        Quantization().prepare(model, context())
    assert isinstance(Quantization(keep_first_last=False).prepare(model, context())[2], QuantizedLayer)


def test_thirty_two_bits_are_the_parent_bit_for_bit():
    method, given = Quantization(weight_bits=32, activation_bits=32), context()
    model = parent()
    assert method.prepare(model, given) is model
    finished, change = method.finish(model, given)
    assert change is None
    assert tensors_equal(finished, parent())
    assert torch.equal(logits_of(finished), logits_of(parent()))


def test_without_training_it_is_post_training_quantization():
    """The ranges are those of the float network's activations on the calibration batches, and the weights its own."""
    method, given = Quantization(calibration_batches=3), context()
    seen = {}
    model = parent()
    for name in INNER:
        hook = lambda module, inputs, output, name=name: seen.setdefault(name, []).append(inputs[0])  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        for batch in given.calibration(3):
            model(batch)
    finished, _ = method.finish(method.prepare(parent(), given).eval(), given)
    for name, batches in seen.items():
        high = low = None
        for batch in batches:
            top, bottom = max(float(batch.max()), 0), min(float(batch.min()), 0)
            high = top if high is None else 0.95 * high + 0.05 * top
            low = bottom if low is None else 0.95 * low + 0.05 * bottom
        layer = finished.get_submodule(name)
        assert float(layer.activation_scale) == pytest.approx((high - low) / 255, rel=1e-5)
        weight = parent().get_submodule(name).weight.detach()
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        assert torch.equal(layer.weight.abs().float(), torch.round(weight / scale).abs())
    got, expected = logits_of(finished), logits_of(parent())
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.98
    assert not torch.equal(got, expected)


def test_ranges_then_norms_freeze_late_in_the_training():
    method, given = Quantization(freeze_observers=0.5, freeze_norms=0.75), context()
    model = method.prepare(parent(), given).train()
    images, _ = digits()

    def moved(progress):
        """Whether ranges and norm statistics move in a step at this progress."""
        ranges = [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        before = [[q.scale.clone() for q in ranges], [n.running_mean.clone() for n in norms]]
        method.on_step(model, progress, given)
        model(images[:64] * (1 + progress))
        after = [[q.scale for q in ranges], [n.running_mean for n in norms]]
        pairs = zip(before, after, strict=True)
        return [{not torch.equal(a, b) for a, b in zip(old, new, strict=True)} for old, new in pairs]

    assert moved(0.0) == [{True}, {True}]
    assert moved(0.49) == [{True}, {True}]
    assert moved(0.5) == [{False}, {True}]
    assert moved(0.74) == [{False}, {True}]
    assert moved(0.75) == [{False}, {False}]
    assert moved(1.0) == [{False}, {False}]


@pytest.mark.parametrize("activations", ["range_linear", "pact", "clip"])
@pytest.mark.parametrize("finished", [False, True])
def test_evaluation_never_moves_a_buffer(activations, finished):
    method, given = Quantization(activation_bits=4, activations=activations), context()
    model = method.prepare(parent(), given)
    if finished:
        model, _ = method.finish(model, given)
    before = copy.deepcopy(model)
    model.eval()(digits()[0] * 100)
    assert len(list(model.buffers())) > 10
    assert tensors_equal(model, before)


def test_pacts_clips_have_their_own_weight_decay():
    method = Quantization(activations="pact", activation_bits=4, pact_decay=0.01)
    model = method.prepare(parent(), context())
    rest, clips = method.param_groups(model)
    assert clips["weight_decay"] == 0.01
    assert "weight_decay" not in rest
    assert {id(p) for p in clips["params"]} == {id(model.get_submodule(n).activation.alpha) for n in INNER}
    assert len(rest["params"]) + len(clips["params"]) == len(list(model.parameters()))
    assert Quantization().param_groups(Quantization().prepare(parent(), context())) is None


def test_packed_bytes_of_a_quantized_model():
    method, given = Quantization(weight_bits=4), context()
    model, _ = method.finish(method.prepare(parent(), given).eval(), given)
    first, last = 16 * 9, 10 * 32
    inner = 2 * 16 * 16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 32 * 16
    channels = 16 + 16 + 32 + 32 + 32
    expected = 4 * (first + 16) + 4 * (last + 10)  # float weights, and a bias an output channel
    expected += inner // 2 + 4 * channels + 4 * channels + 4 * 5  # 4 bits; biases; weight scales; activation scales
    found = cost(model, SHAPE)
    assert found.packed_bytes == expected
    assert found.weights == first + inner + last
    assert found.macs == cost(parent(), SHAPE).macs


def test_a_quantized_parent_is_refused():
    method, given = Quantization(), context()
    model, _ = method.finish(method.prepare(parent(), given).eval(), given)
    with pytest.raises(StepFailed, match="quantization must come last") as caught:
        method.prepare(model, given)
    assert caught.value.reason == "already_quantized"
    with pytest.raises(StepFailed, match="prune before quantizing"):
        FilterPruning().prepare(model, given)


class Reflecting(nn.Module):
    def __init__(self, padding_mode="reflect", padding=1):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=padding, padding_mode=padding_mode)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(F.relu(self.middle(F.relu(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("settings", [{}, {"padding_mode": "zeros", "padding": "same"}])
def test_a_padding_that_the_grid_cannot_have_fails_in_words(settings):
    with pytest.raises(StepFailed, match="middle: only convolutions with explicit zero padding") as caught:
        Quantization().prepare(Reflecting(**settings), context())
    assert caught.value.reason == "unsupported_layer"
    model = Quantization().prepare(Reflecting("zeros"), context())
    assert isinstance(model.middle, QuantizedLayer), "with zero padding it is quantized"


def test_a_norm_that_does_not_follow_its_layer_alone_stays():
    class Forked(Reflecting):
        def __init__(self):
            super().__init__("zeros")
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            inner = self.middle(F.relu(self.first(x)))
            return self.fc((self.norm(inner) + inner).mean((2, 3)))

    method, given = Quantization(), context()
    model = train(method.prepare(Forked(), given), method, given, steps=5)
    expected = logits_of(copy.deepcopy(model))
    model, change = method.finish(model.eval(), given)
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert change["values"]["layers"]["middle"]["norm"] is None
    assert torch.allclose(logits_of(model), expected, atol=1e-5)


def test_stacked_models_come_back_in_a_new_process_bit_for_bit(tmp_path, predict_in_a_new_process):
    """Quantized alone, after pruning, and after distillation into a fresh student."""
    student = {"kind": "digits_net", "width": 0.5}
    stacks: list[tuple[dict[str, Any], list[Any]]] = [
        (DigitsNet().plain(), [Quantization()]),
        (DigitsNet().plain(), [FilterPruning(ratio=0.4), Quantization(activation_bits=4, activations="pact")]),
        (student, [Distillation(), Quantization(weight_bits=3, weights="dorefa", activations="clip")]),
    ]
    images = np.random.default_rng(0).integers(0, 256, (100, *SHAPE), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    expected = []
    for number, (spec, methods) in enumerate(stacks):
        model, changes = parent(), []
        for method in methods:
            given = context()
            if isinstance(method, Distillation):
                given.build_student = lambda: build_model(student, None, 10, SHAPE, 1)
            model = train(method.prepare(model, given), method, given, steps=8)
            model, change = method.finish(model.eval(), given)
            changes += [change] if change else []
        assert [change["kind"] for change in changes][-1] == "qat"
        place = tmp_path / f"model{number}"
        place.mkdir()
        architecture = {"model": spec, "num_classes": 10, "image_shape": list(SHAPE), "changes": changes}
        (place / "architecture.json").write_text(json.dumps(architecture))
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors")
        model.to(memory_format=torch.channels_last)
        expected.append(predict(model, images, 64, CPU, normalize))
    predict_in_a_new_process(tmp_path)
    for number, logits in enumerate(expected):
        assert np.load(tmp_path / f"model{number}" / "logits.npy").tobytes() == logits.tobytes()
    assert not np.array_equal(expected[0], expected[1])
