"""Points around residual additions: where they stand, whose grids they share, and that all of it comes back."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.layers import QuantizedLayer
from tailkeep.compression.quantization.placement import FinishedPoint, find_points, trace
from tailkeep.compression.quantization.ptq import PostTrainingQuantization
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.errors import StepFailed
from tailkeep.models.resnet import ResNet
from tailkeep.study.rebuild import build_model, rebuild

SHAPE = (3, 12, 12)
PLAIN = ResNet(depth=8, width=0.5).plain()
IMAGES = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 4


def context():
    return Context((16,) * 4, SHAPE, 0, torch.device("cpu"), lambda count, draw: [(IMAGES, LABELS)])


def parent(plain=PLAIN):
    model = build_model(plain, None, 4, SHAPE, 0).train()
    for _ in range(3):
        model(IMAGES)  # statistics of its own
    return model.eval()


def train(method, model, given, steps=6):
    optimizer = torch.optim.SGD(method.param_groups(model) or model.parameters(), 0.05)
    model.train()
    for step in range(steps):
        method.on_step(model, step / steps, given)
        loss = F.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
def test_points_stand_where_additions_are_entered_and_left(shortcut):
    names = find_points(trace(parent(ResNet(depth=8, width=0.5, shortcut=shortcut).plain())))
    adds = 3
    shortcuts = 2 if shortcut == "conv" else 0  # a 1x1 convolution's output; a pad hands on what is on a grid already
    assert len(names) == 1 + adds * 2 + shortcuts, names  # the stem's, each block's inner and own output
    assert sum(name.startswith("relu") for name in names) == 1 + adds
    assert all("add" not in name for name in names), "the addition's ReLU carries the point"


METHODS = {
    "ptq": PostTrainingQuantization(placement="runtime", keep_first_last=False),
    "qat": QuantizationAwareTraining(placement="runtime", keep_first_last=False),
    "qat float ends": QuantizationAwareTraining(placement="runtime"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
def test_a_model_with_points_finishes_and_comes_back(method, shortcut, tmp_path):
    plain = ResNet(depth=8, width=0.5, shortcut=shortcut).plain()
    given, original = context(), parent(plain)
    expected = original(IMAGES).detach()
    model = method.prepare(parent(plain), given)
    if method.trains:
        train(method, model, given)
    model.eval()
    with torch.no_grad():
        simulated = model(IMAGES)
        model, change = method.finish(model, given)
        got = model(IMAGES)
    assert (got - simulated).abs().max() < 0.05 * simulated.abs().max(), "but for ties and the rounded biases"
    changed = got.argmax(1) != simulated.argmax(1)
    assert given.facts["converted_agreement"] == 1 - changed.float().mean()
    assert given.facts["converted_agreement"] >= 0.95, "random images lie near ties"
    best = simulated.topk(2).values
    assert ((best[:, 0] - best[:, 1])[changed] < 2 * (got - simulated).abs().max()).all(), (
        "and only ties fall otherwise"
    )
    if not method.trains:
        assert (got - expected).abs().max() < 0.2 * expected.abs().max(), "eight bits are close to the float network"
    assert json.loads(json.dumps(change)) == change
    assert len(change["values"]["points"]["names"]) == given.facts["quantized_points"]
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    architecture = {"model": plain, "num_classes": 4, "image_shape": list(SHAPE), "changes": [change]}
    again = rebuild(architecture, tmp_path / "m.safetensors", None)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), model.to(memory_format=torch.channels_last)(IMAGES))


def test_what_leaves_a_point_lies_on_its_grid_and_its_reader_sees_the_same_integers():
    method, given = METHODS["qat"], context()
    model = method.prepare(parent(), given)
    train(method, model, given).eval()
    shared = [m for m in model.modules() if isinstance(m, QuantizedLayer) and isinstance(m.activation, act.Shared)]
    assert len(shared) == 5, "the first convolution of each block and the two shortcuts; not the head"
    seen = []
    for module in model.modules():
        if isinstance(module, act.Point):
            module.register_forward_hook(lambda m, _, out: seen.append(out / m.quantizer.scale))
    with torch.no_grad():
        model(IMAGES)
    assert len(seen) == given.facts["quantized_points"]
    for grid in seen:
        assert (grid - grid.round()).abs().max() < 1e-3
    sources = {id(m.quantizer) for m in model.modules() if isinstance(m, act.Point)}
    assert all(id(layer.activation._source[0]) in sources for layer in shared)
    model, _ = method.finish(model, given)
    points = [m for m in model.modules() if isinstance(m, FinishedPoint)]
    assert len(points) == given.facts["quantized_points"]


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:  # torch.fx cannot follow a branch on a value
            x = x + 1
        return self.fc(self.conv(x).mean((2, 3)))


def test_a_model_that_cannot_be_traced_fails_in_words():
    with pytest.raises(StepFailed, match=r"placement 'runtime' needs a model that torch\.fx can trace") as caught:
        PostTrainingQuantization(placement="runtime", keep_first_last=False).prepare(Branching(), context())
    assert caught.value.reason == "untraceable"


def test_points_are_for_eight_bits():
    with pytest.raises(ValueError, match="no runtime here has kernels for fewer"):
        QuantizationAwareTraining(placement="runtime", activation_bits=4)


def test_in_bf16_a_point_and_its_reader_agree():
    """The product of integer and scale is rounded to bf16 and must round back to its integer."""
    quantizer = act.RangeLinear(8, symmetric=False)
    x = torch.linspace(0, 5.13, 4001)
    quantizer.mode = act.OBSERVE
    quantizer(x)
    quantizer.settle()
    quantizer.mode = act.QUANTIZE
    point, reader = act.Point(quantizer).eval(), act.Shared(quantizer).eval()
    values = point(x.bfloat16())
    assert values.dtype == torch.bfloat16
    assert torch.equal(reader(values)[0].float(), quantizer(x.bfloat16())[0].float())
    assert len(reader(values)[0].unique()) > 200
