import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tailkeep.models.blocks import BasicBlock, IdentityPad
from tailkeep.models.resnet import ResNet
from tailkeep.spec import canonical_json

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (ResNet(), "resnet20"),
        (ResNet(depth=56), "resnet56"),
        (ResNet(width=0.5), "resnet20-w0.5"),
        (ResNet(depth=32, shortcut="identity_pad"), "resnet32-pad"),
        (ResNet(width=2, shortcut="identity_pad"), "resnet20-w2-pad"),
    ],
)
def test_label(spec, label):
    assert spec.label == label


@pytest.mark.parametrize("depth", [19, 18, 21, 2, 0, -4])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValidationError):
        ResNet(depth=depth)


def test_the_error_of_a_wrong_depth_names_its_neighbours():
    with pytest.raises(ValidationError, match="20 and 26"):
        ResNet(depth=21)


def test_width_is_rounded_and_keeps_eight_channels():
    model = ResNet(depth=8, width=0.55).build(10, SHAPE)
    assert [model.conv1.out_channels, model.layer2[0].conv1.out_channels, model.fc.in_features] == [9, 18, 35]
    assert ResNet(depth=8, width=0.5).build(10, SHAPE).conv1.out_channels == 8
    with pytest.raises(ValueError, match="greater than or equal to"):
        ResNet(depth=8, width=0.45)


def test_coerced_settings_are_one_spec():
    assert canonical_json(ResNet(width=1).plain()) == canonical_json(ResNet(width=1.0).plain())


@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
def test_structure(shortcut):
    model = ResNet(depth=20, shortcut=shortcut).build(10, SHAPE)
    assert [len(layer) for layer in (model.layer1, model.layer2, model.layer3)] == [3, 3, 3]
    kinds = [
        type(layer[i].shortcut[0] if len(list(layer[i].shortcut.children())) else layer[i].shortcut)
        for layer in (model.layer1, model.layer2, model.layer3)
        for i in range(3)
    ]
    change = nn.Conv2d if shortcut == "conv" else IdentityPad
    same = nn.Sequential
    assert kinds == [same, same, same, change, same, same, change, same, same]
    assert [name for name, p in model.named_parameters() if name.endswith("bias") and "bn" not in name] == (
        ["layer2.0.shortcut.1.bias", "layer3.0.shortcut.1.bias", "fc.bias"] if shortcut == "conv" else ["fc.bias"]
    )


def test_first_convolutions_are_named_in_order():
    names = ResNet(depth=20).build(10, SHAPE).first_convolutions()
    assert names == [f"layer{layer}.{block}.conv1" for layer in (1, 2, 3) for block in (0, 1, 2)]
    assert len(ResNet(depth=56).build(10, SHAPE).first_convolutions()) == 27


@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 47)])
def test_any_image_size_gives_logits(shortcut, shape):
    model = ResNet(depth=8, width=0.5, shortcut=shortcut).build(7, shape)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_identity_pad_is_the_strided_image_between_zero_channels():
    x = torch.randn(2, 3, 5, 4)
    y = IdentityPad(3, 6, 2)(x)
    assert y.shape == (2, 6, 3, 2)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, 0].any()
    assert not y[:, 4:].any()


def test_he_initialisation():
    torch.manual_seed(0)
    model = ResNet(depth=20).build(10, SHAPE)
    weight = model.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert torch.equal(model.layer1[0].bn1.weight, torch.ones(16))


def test_building_is_a_function_of_the_generator():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(ResNet(depth=8).build(10, SHAPE).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
def test_symbolic_tracing_gives_the_same_function(shortcut):
    model = ResNet(depth=8, shortcut=shortcut).build(10, SHAPE).eval()
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(traced(x), model(x))


def test_no_module_is_used_twice_in_a_forward_pass():
    model = ResNet(depth=8).build(10, SHAPE)
    calls = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
    model(torch.zeros(2, *SHAPE))
    assert set(calls.values()) == {1}


def test_block_without_a_change_of_shape_has_a_free_shortcut():
    block = BasicBlock(4, 4)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(block.shortcut(x), x)
