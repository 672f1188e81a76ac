import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tailkeep.compression.base import Context, Method
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.training.checkpoint import Checkpoint
from tailkeep.training.loop import Training, fit, optimizer_for
from tailkeep.training.recipe import Recipe

SHAPE = (1, 8, 8)
RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, precision="float32")
STEPS = 12
IMAGES = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4
METHODS = {
    "dense": Method(),
    "qat": QuantizationAwareTraining(),
    "pact": QuantizationAwareTraining(activation_bits=4, activations="pact", pact_start=None),
    "dorefa": QuantizationAwareTraining(weight_bits=3, weights="dorefa", activations="clip"),
}


class Power(Exception):
    """The plug was pulled."""


def network():
    """Batch normalisation (buffers), dropout (random numbers) and layers that can be quantized."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def train(name, checkpoint=None, saved=None, killed=None, precision="float32"):
    """Train from the start, or from the checkpoint if it is whole. Save after ``saved`` steps, die after ``killed``."""
    method = METHODS[name]
    calibration = [TrainingBatches(IMAGES, LABELS, 8, Augment(crop_padding=0, flip=False), 0, "cpu").batch(0)]
    context = Context((8,) * 4, SHAPE, 0, torch.device("cpu"), lambda count, draw: calibration)
    model = method.prepare(network(), context)
    begun = []

    def on_step(model, progress):
        step = round(progress * STEPS)
        begun.append(step)
        if killed is not None and step == killed:
            raise Power
        if checkpoint is not None:
            checkpoint.every = 0.0 if saved is not None and step + 1 == saved else 1e9
        method.on_step(model, progress, context)

    training = Training(
        TrainingBatches(IMAGES, LABELS, 8, Augment(crop_padding=1), 5, "cpu"),
        method.loss(lambda logits, labels, progress: F.cross_entropy(logits, labels), context),
        RECIPE, 5, precision, on_step, method.param_groups(model), checkpoint,
    )  # fmt: skip
    log = fit(model, training)
    return model, log, begun


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole():
    """What a run that nobody stopped gives."""
    found = {}
    for name in METHODS:
        model, log, begun = train(name)
        assert begun == list(range(STEPS))
        found[name] = bits(model), log
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_ends_with_the_same_bits(name, whole, tmp_path_factory):
    expected, log = whole[name]

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(1, STEPS - 1).flatmap(lambda saved: st.tuples(st.just(saved), st.integers(saved, STEPS - 1))))
    def at(points):
        saved, killed = points
        path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
        with pytest.raises(Power):
            train(name, Checkpoint(path, "step"), saved, killed)
        model, rows, begun = train(name, Checkpoint(path, "step"))
        assert begun == list(range(saved, STEPS))
        assert same(bits(model), expected)
        places = [(row["step"], row["epoch"], row["lr"]) for row in rows]
        assert places == [(row["step"], row["epoch"], row["lr"]) for row in log]
        if saved % 4 == 0:  # between two epochs the whole log is the same; inside one its row covers what was run again
            assert rows == log

    at()


def test_a_run_can_be_stopped_at_every_step(whole, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    for stop in range(1, STEPS):
        with pytest.raises(Power):
            train("dense", Checkpoint(path, "step"), stop, stop)
    model, _, begun = train("dense", Checkpoint(path, "step"))
    assert begun == [STEPS - 1]
    assert same(bits(model), whole["dense"][0])


def test_resuming_in_bf16_ends_with_the_same_bits(tmp_path):
    expected = bits(train("qat", precision="bf16")[0])
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Power):
        train("qat", Checkpoint(path, "step"), 5, 7, "bf16")
    assert same(bits(train("qat", Checkpoint(path, "step"), precision="bf16")[0]), expected)


def test_an_undisturbed_run_with_checkpoints_is_the_same_as_one_without(whole, tmp_path):
    model, log, _ = train("qat", Checkpoint(tmp_path / "c.safetensors", "step"), 6)
    assert same(bits(model), whole["qat"][0])
    assert log == whole["qat"][1]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Power):
        train("dense", Checkpoint(path, "step"), 6, 6)
    return path


DAMAGE = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:20],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "a flipped bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "another file": lambda data: b"<html>not found</html>" * 40,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_ignored(damage, written, whole):
    written.write_bytes(DAMAGE[damage](written.read_bytes()))
    model = network()
    before = bits(model)
    assert Checkpoint(written, "step").restore(model, optimizer_for(model, RECIPE, None)) == (0, [])
    assert same(bits(model), before)
    model, log, begun = train("dense", Checkpoint(written, "step"))
    assert begun == list(range(STEPS))
    assert same(bits(model), whole["dense"][0])
    assert log == whole["dense"][1]


def test_a_whole_file_that_is_no_checkpoint_is_ignored(tmp_path):
    import hashlib

    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"hello" + hashlib.sha256(b"hello").digest())
    model = network()
    assert Checkpoint(path, "step").restore(model, optimizer_for(model, RECIPE, None)) == (0, [])


def test_the_checkpoint_of_another_step_is_ignored(written, whole):
    model, _, begun = train("dense", Checkpoint(written, "another step"))
    assert begun == list(range(STEPS))
    assert same(bits(model), whole["dense"][0])


def test_without_a_file_training_starts_at_0(tmp_path):
    model = network()
    checkpoint = Checkpoint(tmp_path / "none.safetensors", "step")
    assert checkpoint.restore(model, optimizer_for(model, RECIPE, None)) == (0, [])


def test_nothing_is_left_beside_the_checkpoint(written):
    model = network()
    assert Checkpoint(written, "step").restore(model, optimizer_for(model, RECIPE, None))[0] == 6
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_tied_weights_and_momentum_come_back(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    torch.manual_seed(0)
    model = Tied()
    optimizer = optimizer_for(model, RECIPE, None)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "step")
    checkpoint.save(model, optimizer, 1, [{"step": 1}])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    again = optimizer_for(other, RECIPE, None)
    assert checkpoint.restore(other, again) == (1, [{"step": 1}])
    assert same(bits(other), bits(model))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[mine]["momentum_buffer"], again.state[theirs]["momentum_buffer"])


def test_a_checkpoint_is_due_after_its_interval(tmp_path):
    assert Checkpoint(tmp_path / "c", "step", every=0).due()
    assert not Checkpoint(tmp_path / "c", "step", every=1e6).due()
