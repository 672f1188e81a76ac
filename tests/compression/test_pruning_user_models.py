"""Pruning networks that are not ours: which filters may go, and that nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.pruning.removal import prunable, remove_filters
from tailkeep.errors import StepFailed

SHAPE = (3, 32, 32)


def context(shape=SHAPE, seed=0):
    return Context((10,) * 10, shape, seed, torch.device("cpu"))


def lively(model, seed=0):
    """Give the batch normalisations statistics and weights that are not their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return model


def test_a_user_model_without_removable_filters_fails_in_words():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(StepFailed, match="no convolution of this model"):
        FilterPruning().prepare(model, context())


class Vgg(nn.Module):
    """Convolutions in a row, then flattened positions and two linear layers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(4),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(12 * 16, 20), nn.ReLU(), nn.Linear(20, 10))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Mixed(nn.Module):
    """A residual stream, a depthwise convolution, a concatenation, group normalisation, a convolution as the head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.back = nn.Conv2d(6, 8, 3, padding=1)
        self.before_depthwise = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)
        self.join = nn.Conv2d(10, 8, 1)
        self.norm = nn.GroupNorm(4, 8)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.back(torch.relu(self.inner(x))))
        x = self.depthwise(self.before_depthwise(x))
        x = self.join(torch.cat([self.left(x), torch.relu(self.right(x))], 1))
        return self.head(torch.relu(self.norm(x))).mean((2, 3))


def test_what_a_plain_network_can_lose():
    assert prunable(Vgg(), SHAPE) == ["features.0", "features.4"]


def test_a_residual_stream_a_normalised_group_and_the_head_stay():
    assert prunable(Mixed(), SHAPE) == ["inner", "before_depthwise", "left", "right"]


@pytest.mark.parametrize("factory", [Vgg, Mixed])
def test_user_models_removed_equals_masked(factory):
    torch.manual_seed(0)
    model = lively(factory()).double().eval()
    names = prunable(model, SHAPE)
    filters = {name: [0, 3] for name in names}
    masked, pruned = copy.deepcopy(model), copy.deepcopy(model)
    remove_filters(pruned, filters, SHAPE)
    for name in names:
        convolution = masked.get_submodule(name)
        convolution.weight.data[[0, 3]] = 0
        convolution.bias.data[[0, 3]] = 0
    behind = masked.features[1] if factory is Vgg else masked.depthwise
    behind.weight.data[[0, 3]] = 0
    behind.bias.data[[0, 3]] = 0
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(pruned(x), masked(x), rtol=1e-10, atol=1e-10)
    for name in names:
        assert pruned.get_submodule(name).out_channels == model.get_submodule(name).out_channels - 2


@pytest.mark.parametrize("factory", [Vgg, Mixed])
def test_user_models_rebuild(factory):
    method = FilterPruning(ratio=0.4)
    model = method.prepare(factory(), context())
    change = method.finish(model, context())[1]
    again = method.rebuild(factory(), change["values"], SHAPE)
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_batch_of_one_image_is_traced_as_a_batch():
    """A network without batch normalisation would also run on a single image without its batch dimension."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    assert prunable(model, SHAPE) == ["0", "2"]
    FilterPruning().prepare(model, context())
    assert model(torch.zeros(2, *SHAPE)).shape == (2, 4)
    assert model[6].in_features == 3


def test_a_layer_that_reaches_the_output_is_refused():
    class Declares(nn.Sequential):
        def first_convolutions(self):
            return ["0"]

    model = Declares(nn.Conv2d(3, 10, 32), nn.Flatten())
    with pytest.raises(StepFailed, match="output changed"):
        FilterPruning().prepare(model, context())


def test_a_model_that_cannot_be_traced_fails_in_words():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)

        def forward(self, x):
            return self.b(self.a(x))

    with pytest.raises(StepFailed, match="could not be traced"):
        FilterPruning().prepare(Broken(), context())
