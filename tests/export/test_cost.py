import pytest
import torch
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.export.cost import cost
from tailkeep.models.resnet import ResNet

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "weights", "macs"),
    [
        (ResNet(depth=20), 270_896, 40_813_184),
        (ResNet(depth=20, shortcut="identity_pad"), 268_336, 40_551_040),
        (ResNet(depth=32), 464_432, 69_124_736),
        (ResNet(depth=32, shortcut="identity_pad"), 461_872, 68_862_592),
        (ResNet(depth=56), 851_504, 125_747_840),
        (ResNet(depth=56, shortcut="identity_pad"), 848_944, 125_485_696),
        (ResNet(depth=20, width=0.5), 67_992, 10_314_048),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_published_counts(spec, weights, macs):
    counted = cost(spec.build(10, SHAPE), SHAPE)
    assert (counted.weights, counted.macs) == (weights, macs)


@pytest.mark.parametrize(
    ("depth", "method", "weights", "macs"),
    [
        (56, FilterPruning(schedule="resnet56_filter_rank"), 634_640, 78_856_832),
        (56, FilterPruning(schedule="resnet56_filter_rank_v2"), 570_704, 67_797_632),
        (20, FilterPruning(ratio=0.5), 137_264, 20_759_168),
        (20, FilterPruning(ratio=0.3), 192_992, 29_772_416),
    ],
)
def test_published_counts_of_pruned_models(depth, method, weights, macs):
    context = Context((1,) * 10, SHAPE, 0, torch.device("cpu"))
    counted = cost(method.prepare(ResNet(depth=depth).build(10, SHAPE), context), SHAPE)
    assert (counted.weights, counted.macs) == (weights, macs)


def test_packed_bytes_of_a_float_model():
    model = ResNet(depth=20).build(10, SHAPE)
    channels = sum(m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    counted = cost(model, SHAPE)
    assert counted.packed_bytes == 4 * 270_896 + 4 * channels
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())


class Quantized(nn.Module):
    """What a quantized convolution looks like from outside."""

    def __init__(self, conv, bits, integer=False):
        super().__init__()
        self.weight_bits = bits
        self.inner = conv
        if integer:
            self.register_buffer("weight_int", conv.weight.detach().to(torch.int8))
            self.inner = None
            self.stride, self.padding = conv.stride, conv.padding
        else:
            self.weight = conv.weight
        self.register_buffer("weight_scale", torch.ones(conv.out_channels))
        self.register_buffer("activation_scale", torch.ones(()))

    def forward(self, x):
        weight = self.weight_int.float() if self.inner is None else self.weight
        return nn.functional.conv2d(x, weight, None, 1, 1)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3])
def test_quantized_layers_are_counted_by_their_bits(bits, integer):
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    head = nn.Conv2d(5, 2, 1)
    model = nn.Sequential(Quantized(conv, bits, integer), head)
    counted = cost(model, (3, 4, 4))
    assert counted.weights == 135 + 10
    assert counted.macs == 16 * (135 + 10)
    assert counted.packed_bytes == -(-bits * 135 // 8) + 4 * 5 + 4 * (5 + 1) + 4 * 10 + 4 * 2
    assert counted.parameters == 135 + 12


def test_a_quantized_layer_at_32_bits_has_no_scales():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert cost(nn.Sequential(Quantized(conv, 32)), (3, 4, 4)).packed_bytes == 4 * 135 + 4 * 5


def test_a_layer_may_say_the_bits_of_its_activations():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    layer = Quantized(conv, 32)
    layer.activation_bits = 8
    assert cost(nn.Sequential(layer), (3, 4, 4)).packed_bytes == 4 * 135 + 4 * 5 + 4
    layer.weight_bits, layer.activation_bits = 8, 32
    assert cost(nn.Sequential(layer), (3, 4, 4)).packed_bytes == 135 + 4 * 5 + 4 * 5


def test_bits_by_name():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(5, 2, 1))
    assert cost(model, (3, 4, 4), {"0": 8}).packed_bytes == 135 + 4 * 5 + 4 * 6 + 40 + 8
    with pytest.raises(ValueError, match="names \\['2'\\]"):
        cost(model, (3, 4, 4), {"2": 8})


def test_eight_bits_make_a_resnet20_almost_four_times_smaller():
    model = ResNet(depth=20).build(10, SHAPE)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and name != "conv1"]
    ratio = cost(model, SHAPE).packed_bytes / cost(model, SHAPE, dict.fromkeys(names, 8)).packed_bytes
    assert 3.7 < ratio < 4


def test_groups_transposed_shared_and_unused_layers():
    grouped = cost(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4)), (4, 5, 5))
    assert (grouped.weights, grouped.macs) == (72, 25 * 72)
    up = cost(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, 2)), (4, 5, 5))
    assert (up.weights, up.macs, up.packed_bytes) == (96, 25 * 96, 4 * 96 + 4 * 6)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.unused = nn.Conv2d(3, 3, 1), nn.Linear(7, 2)
            self.b = nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    shared = cost(Shared(), (3, 2, 2))
    assert (shared.weights, shared.macs) == (9 + 14, 3 * 4 * 9)


def test_linear_layers_on_every_position():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 5)

        def forward(self, x):
            return self.mix(x.flatten(2).transpose(1, 2)).mean(1)

    assert cost(Tokens(), (3, 4, 4)).macs == 16 * 15


def test_the_model_is_left_as_it_was():
    model = ResNet(depth=8).build(10, SHAPE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.layer1.eval()
    flags = [module.training for module in model.modules()]
    cost(model, SHAPE)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
