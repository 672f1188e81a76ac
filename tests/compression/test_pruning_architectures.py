"""Pruning of the families that users bring: what goes with a filter, what is left, and what that costs."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning import counting
from tailkeep.compression.pruning.coupling import plan_of
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.removal import prunable, remove_filters
from tailkeep.errors import StepFailed
from tailkeep.export.cost import cost
from tailkeep.models.resnet import ResNet

SHAPE = (3, 16, 16)
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, inside, outside, stride, times):
        super().__init__()
        middle = inside * times
        self.residual = stride == 1 and inside == outside
        self.expand = nn.Sequential(nn.Conv2d(inside, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle), nn.BatchNorm2d(middle), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(middle, outside, 1, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(4, 6, 2, 3), Inverted(6, 6, 1, 2))
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    """DenseNet's layer: norm first, a bottleneck, and the new channels joined to all that came before."""

    def __init__(self, inside, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(DenseLayer(6, 4), DenseLayer(10, 4))
        self.transition = nn.Sequential(nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 7, 1, bias=False), nn.AvgPool2d(2))
        self.block2 = nn.Sequential(DenseLayer(7, 4))
        self.norm = nn.BatchNorm2d(11)
        self.head = nn.Linear(11, 10)

    def forward(self, x):
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class Separate(nn.Module):
    """Attention with a linear layer each, and the product written out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = (f(x).view(n, tokens, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    def __init__(self, width, attention):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention(width, 2), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, attention=Attention):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.Sequential(Block(8, attention), Block(8, attention))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Vgg(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.MaxPool2d(4),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 10),
        )  # fmt: skip


class Up(nn.Sequential):
    """A transposed convolution reads a plain one."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, 2), nn.ReLU(), nn.Conv2d(5, 10, 8),
            nn.Flatten(),
        )  # fmt: skip


DENSE = ["stem", *(f"block1.{i}.conv{j}" for i in (0, 1) for j in (1, 2)), "transition.2", "block2.0.conv1"]
FAMILIES = {
    "resnet": (lambda: ResNet(depth=8, width=0.5).build(10, SHAPE), [f"layer{i}.0.conv1" for i in (1, 2, 3)]),
    "vgg": (Vgg, ["0", "4", "8"]),
    "mobilenet": (Mobile, ["stem.0", "blocks.0.expand.0", "blocks.1.expand.0"]),
    "densenet": (Dense, [*DENSE, "block2.0.conv2"]),
    "vit": (Vit, ["blocks.0.mlp.0", "blocks.1.mlp.0"]),
    "vit-separate": (lambda: Vit(Separate), ["blocks.0.mlp.0", "blocks.1.mlp.0"]),
    "transposed": (Up, ["0"]),
}
each = pytest.mark.parametrize("family", FAMILIES)


def built(family):
    """A model of a family, its norms with statistics of their own."""
    torch.manual_seed(0)
    model = FAMILIES[family][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    return model


def images(seed=0):
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def context():
    return Context((10,) * 10, SHAPE, 0, CPU, lambda count, draw="random": [(images(), torch.arange(3))])


@each
def test_what_a_family_can_lose(family):
    model = built(family)
    names = FAMILIES[family][1]
    assert prunable(model, SHAPE, linear_layers=True) == names
    convolutions = [name for name in names if isinstance(model.get_submodule(name), nn.Conv2d)]
    assert prunable(model, SHAPE) == convolutions
    if not convolutions:
        with pytest.raises(StepFailed, match=r"its hidden linear layers can, with linear_layers: true"):
            FilterPruning().prepare(model, context())


def test_the_attention_module_of_torch_stays_whole():
    class Whole(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.inside = nn.MultiheadAttention(width, heads, batch_first=True)

        def forward(self, x):
            return self.inside(x, x, x, need_weights=False)[0]

    assert prunable(Vit(Whole).eval(), SHAPE, linear_layers=True) == ["blocks.0.mlp.0", "blocks.1.mlp.0"]


@each
@pytest.mark.parametrize("when", ["one_shot", "gradual"])
def test_a_pruned_family_runs_costs_less_and_comes_back_bit_for_bit(family, when):
    model = built(family)
    before = cost(model, SHAPE)
    widths = [model.get_submodule(name).weight.shape[0] for name in FAMILIES[family][1]]
    method = FilterPruning(ratio=0.5, linear_layers=True, when=when)
    found = context()
    pruned, change = method.finish(method.prepare(model, found), found)
    after = cost(pruned, SHAPE)
    assert torch.isfinite(pruned(images())).all()
    assert change["values"]["widths"] == {
        name: width - width // 2 for name, width in zip(FAMILIES[family][1], widths, strict=True)
    }
    assert found.facts["achieved_ratio"] == sum(width // 2 for width in widths) / sum(widths)
    assert after.weights < before.weights
    assert after.macs < before.macs
    assert after.packed_bytes < before.packed_bytes
    again = method.rebuild(FAMILIES[family][0](), change["values"], SHAPE)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(again.eval()(images()), pruned(images()))


@each
def test_the_counters_agree_with_the_cost_that_is_reported(family):
    model = built(family)
    names = FAMILIES[family][1]
    plan = plan_of(model, names, SHAPE)
    uses = counting.positions(model, SHAPE)
    books = {what: counting.Ledger.of(model, uses, what) for what in ("macs", "bytes")}
    for removed in (0, 1, 2):
        found = cost(model, SHAPE)
        assert counting.total(model, SHAPE, "macs") == books["macs"].cost == found.macs
        assert counting.total(model, SHAPE, "bytes") == books["bytes"].cost == found.weights
        remove_filters(model, {name: [0] for name in names}, SHAPE)
        for name, ledger in itertools.product(names, books.values()):
            ledger.remove(plan.touches[name], removed)


def test_mobilenets_counts_by_hand():
    model = built("mobilenet")
    FilterPruning(ratio=0.5).prepare(model, context())
    # stem 4 -> 2 filters at 8x8; expand 12 -> 6 and 12 -> 6 with their depthwise convolutions; project keeps its 6
    first = 3 * 2 * 9 * 64 + 2 * 6 * 64 + 6 * 9 * 16 + 6 * 6 * 16
    assert cost(model, SHAPE).macs == first + 6 * 6 * 16 + 6 * 9 * 16 + 6 * 6 * 16 + 60
    assert cost(model, SHAPE).weights == 54 + 12 + 54 + 36 + 36 + 54 + 36 + 60
    assert model.blocks[0].depthwise[0].groups == 6


READERS = {
    "mobilenet": {
        "stem.0": [("blocks.0.expand.0", 0)],
        "blocks.0.expand.0": [("blocks.0.project.0", 0)],
        "blocks.1.expand.0": [("blocks.1.project.0", 0)],
    },
    "densenet": {
        "stem": [("block1.0.conv1", 0), ("block1.1.conv1", 0), ("transition.2", 0)],
        "block1.0.conv2": [("block1.1.conv1", 6), ("transition.2", 6)],
        "block1.1.conv2": [("transition.2", 10)],
        "block1.0.conv1": [("block1.0.conv2", 0)],
        "transition.2": [("block2.0.conv1", 0), ("head", 0)],
        "block2.0.conv2": [("head", 7)],
    },
    "vit": {"blocks.0.mlp.0": [("blocks.0.mlp.2", 0)], "blocks.1.mlp.0": [("blocks.1.mlp.2", 0)]},
    "transposed": {"0": [("2", 0)]},
}
"""Who reads a layer's channels, and at which of its own inputs they begin: read off the code above."""


@pytest.mark.parametrize("family", READERS)
def test_removed_is_no_longer_read(family):
    """A removed filter is one whose channel nobody reads, and nothing else."""
    model = built(family).double()
    unread, removed = copy.deepcopy(model), copy.deepcopy(model)
    filters = {name: [0, 2] for name in READERS[family]}
    for name, readers in READERS[family].items():
        for reader, start in readers:
            weight = unread.get_submodule(reader).weight.data
            for index in filters[name]:
                weight.select(0 if family == "transposed" else 1, start + index).zero_()
    remove_filters(removed, filters, SHAPE)
    x = images().double()
    with torch.no_grad():
        assert torch.allclose(removed(x), unread(x), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(removed(x), model(x), rtol=1e-3)


@each
def test_masked_equals_removed(family):
    """Whatever lies between: the sigmoid, the norm without a scale and the tanh do not map zero to zero."""
    model = built(family).double()
    method = FilterPruning(ratio=0.4, when="iterative", linear_layers=True, scope="global")
    found = context()
    method.prepare(model, found)
    method.on_step(model, 0.99, found)
    masked = model(images().double()).detach()
    removed, _ = method.finish(model, found)
    assert sum(p.numel() for p in removed.parameters()) < sum(p.numel() for p in built(family).parameters())
    assert torch.allclose(removed(images().double()), masked, rtol=1e-10, atol=1e-12)
    assert found.facts["removal_largest_difference"] < 1e-6


def test_a_grouped_reader_and_a_widening_depthwise_convolution_keep_their_inputs():
    class Grouped(nn.Sequential):
        def __init__(self, last):
            super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), last, nn.Flatten(), nn.LazyLinear(10))
            self(torch.zeros(1, *SHAPE))

    for last in (nn.Conv2d(8, 4, 3, groups=2), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(8, 4, 3, groups=4)):
        assert "0" not in prunable(Grouped(last).eval(), SHAPE)
    assert "0" in prunable(Grouped(nn.Conv2d(8, 8, 3, groups=8)).eval(), SHAPE)


def test_channels_that_share_a_softmax_stay():
    """Without one of them the others would be larger."""

    def make(between):
        return nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 10, 14), nn.Flatten()).eval()

    assert prunable(make(nn.Softmax(1)), SHAPE) == []
    assert prunable(make(nn.Sigmoid()), SHAPE) == ["0"]


def test_a_norm_on_one_of_two_ways_is_not_the_layers_own():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
            self.left, self.right = nn.Conv2d(6, 10, 14), nn.Conv2d(6, 10, 14)

        def forward(self, x):
            x = self.stem(x)
            return (self.left(self.norm(x)) + self.right(x)).flatten(1)

    assert prunable(Fork().eval(), SHAPE) == ["stem"]
    assert plan_of(Fork().eval(), ["stem"], SHAPE).norms == {}
    assert plan_of(built("mobilenet"), ["stem.0"], SHAPE).norms == {"stem.0": "stem.1"}


def test_a_layer_that_is_down_to_one_filter_comes_back():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(432, 4)).eval()

    method = FilterPruning(ratio=0.6)
    model, change = method.finish(method.prepare(make(), context()), context())
    assert change["values"]["widths"] == {"0": 1, "2": 2}
    again = method.rebuild(make(), change["values"], SHAPE)
    again.load_state_dict(model.state_dict())
