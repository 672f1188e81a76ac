"""What a filter is worth, which go first, and how many must go: against formulas written out a second time."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.criteria import filter_scores, loss_gradients, taylor_scores
from tailkeep.compression.pruning.filter_rank import FilterPruning, removed_count
from tailkeep.compression.pruning.removal import remove_filters
from tailkeep.compression.pruning.selection import comparable, removal_order
from tailkeep.errors import StepFailed
from tailkeep.export.cost import cost
from tailkeep.models.resnet import ResNet

SHAPE = (2, 8, 8)
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    """Two prunable convolutions, the second alone without a norm of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4),
    )  # fmt: skip
    model[1].running_mean.normal_(0, 0.3)
    model[1].running_var.uniform_(0.5, 2)
    model[1].weight.data.copy_(torch.tensor([0.5, -0.1, 0.9, 0.2, -0.8, 0.3]))
    return model.double()


def batches(sizes=(5, 3)):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sum(sizes), *SHAPE, dtype=torch.float64, generator=generator)
    return list(zip(images.split(sizes), (torch.arange(sum(sizes)) % 4).split(sizes), strict=True))


def context(asked=None, given=None, shape=SHAPE):
    def labelled(count, draw="random"):
        if asked is not None:
            asked.append((count, draw))
        return batches() if given is None else given

    return Context((10,) * 4, shape, 0, CPU, labelled)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_fpgm_is_the_sum_of_distances_to_the_others():
    weight = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    flat = weight.double().numpy().reshape(7, -1)
    naive = [sum(np.sqrt(((a - b) ** 2).sum()) for b in flat) for a in flat]
    assert filter_scores(weight, "fpgm").numpy() == pytest.approx(np.array(naive), rel=1e-12)
    alive = torch.tensor([True, True, False, True, False, True, True])
    naive = [sum(np.sqrt(((a - b) ** 2).sum()) for b, there in zip(flat, alive, strict=True) if there) for a in flat]
    assert filter_scores(weight, "fpgm", alive=alive).numpy() == pytest.approx(np.array(naive), rel=1e-12)


def test_fpgm_tells_near_twins_apart():
    base = torch.full((1, 50, 3, 3), 1000.0, dtype=torch.float64)
    weight = torch.cat([base, base + 1e-6, base + 3e-6])
    step = np.sqrt(450) * 1e-6
    assert filter_scores(weight, "fpgm").numpy() == pytest.approx(np.array([4, 3, 5]) * step, rel=1e-3)


@pytest.mark.parametrize("name", ["0", "3"])
def test_taylor_is_the_slope_of_the_loss_along_a_gate_on_the_filter(name):
    """By central differences, without a gradient: d loss / d a of a filter a * w, at a = 1."""
    model = network().eval()
    (images,), (labels,) = ([torch.cat(part)] for part in zip(*batches(), strict=True))
    layer = model.get_submodule(name)
    gradient = loss_gradients(model, ["0", "3"], batches())[name]

    def loss(filter_index, gate):
        gated = copy.deepcopy(model)
        gated.get_submodule(name).weight.data[filter_index] *= gate
        with torch.no_grad():
            return float(F.cross_entropy(gated(images), labels))

    slopes = [(loss(i, 1 + 1e-4) - loss(i, 1 - 1e-4)) / 2e-4 for i in range(layer.out_channels)]
    assert taylor_scores(layer.weight, gradient, "taylor").numpy() == pytest.approx(np.abs(slopes), abs=1e-6)
    parts = layer.weight.detach().numpy() * gradient.numpy()
    expected = np.abs(parts).reshape(len(parts), -1).sum(1)
    assert taylor_scores(layer.weight, gradient, "taylor_abs").numpy() == pytest.approx(expected, rel=1e-12)
    assert (expected > np.abs(slopes) + 1e-6).all()


def test_gradients_are_autograds_whatever_the_batches():
    model = network().eval()
    images, labels = (torch.cat(part) for part in zip(*batches(), strict=True))
    F.cross_entropy(model(images), labels).backward()
    for sizes in ((8,), (5, 3), (1, 7)):
        for name, gradient in loss_gradients(model, ["0", "3"], batches(sizes)).items():
            assert torch.allclose(gradient, model.get_submodule(name).weight.grad, rtol=1e-6, atol=1e-9)


def test_gradients_leave_the_model_as_it_was():
    model = network().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    with torch.no_grad():
        found = loss_gradients(model, ["0"], batches())
    assert [module.training for module in model] == [True, True, True, False, True, True, True]
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    # in evaluation mode: under batch statistics the sum of w * g of a filter before a norm would be zero
    assert (taylor_scores(model[0].weight, found["0"], "taylor") > 1e-5).all()


@pytest.mark.parametrize("criterion", ["taylor", "taylor_abs"])
def test_the_taylor_criteria_prune_by_their_score(criterion):
    model = network()
    gradient = loss_gradients(model, ["3"], batches())["3"]
    parts = (model[3].weight.detach() * gradient).numpy().reshape(8, -1)
    worth = np.abs(parts.sum(1)) if criterion == "taylor" else np.abs(parts).sum(1)
    kept = model[3].bias.detach()[sorted(np.argsort(worth)[4:].tolist())]
    asked = []
    method = FilterPruning(criterion=criterion, ratio=0.5, calibration_batches=3, calibration_draw="tail")
    assert torch.equal(method.prepare(model, context(asked)).get_submodule("3").bias, kept)
    assert asked == [(3, "tail")]


def test_a_taylor_criterion_without_images_or_with_nan_fails_in_words():
    with pytest.raises(StepFailed, match="needs training images"):
        FilterPruning(criterion="taylor").prepare(network(), context(given=[]))
    broken = [(images * float("nan"), labels) for images, labels in batches()]
    with pytest.raises(StepFailed, match="gradient of 0 is not finite"):
        FilterPruning(criterion="taylor").prepare(network(), context(given=broken))


def test_the_weights_alone_ask_for_no_images():
    asked = []
    for criterion in ("l1", "l2", "fpgm", "random"):
        FilterPruning(criterion=criterion).prepare(network(), context(asked))
    assert asked == []


def test_bn_scale_takes_the_smallest_scales():
    torch.manual_seed(0)
    model = ResNet(depth=8, width=0.5).build(10, (3, 8, 8))
    scales = torch.tensor([0.5, -0.1, 0.9, 0.2, -0.8, 0.3, -0.6, 0.4])
    model.layer1[0].bn1.weight.data.copy_(scales)
    FilterPruning(criterion="bn_scale", ratio=0.5).prepare(model, context(shape=(3, 8, 8)))
    assert torch.equal(model.layer1[0].bn1.weight, scales[[0, 2, 4, 6]])


def test_bn_scale_without_a_scale_fails_in_words():
    with pytest.raises(StepFailed, match="no batch norm with a scale follows 3"):
        FilterPruning(criterion="bn_scale").prepare(network(), context())
    model = network()
    model[1] = nn.BatchNorm2d(6, affine=False).double()
    with pytest.raises(StepFailed, match="no batch norm with a scale follows 0"):
        FilterPruning(criterion="bn_scale").prepare(model, context())


# --- one ranking over all layers -------------------------------------------------------------------------------------


def test_a_global_ranking_compares_scores_by_their_layers_mean():
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]).double(), "b": torch.tensor([100.0, 300.0, 50.0, 350.0]).double()}
    # a / 2: 0.5, 1, 1.5; b / 200: 0.5, 1.5, 0.25, 1.75
    nobody = {"a": [], "b": []}
    assert removal_order(scores, nobody, "global", 1) == [("b", 2), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert removal_order(scores, nobody, "global", 3) == [("b", 2)]
    assert removal_order(scores, {"a": [2], "b": []}, "global", 2)[:2] == [("a", 2), ("b", 2)]
    assert comparable(scores["a"], [2]).tolist() == pytest.approx([1 / 1.5, 2 / 1.5, 2])
    assert comparable(torch.zeros(3), []).tolist() == [0, 0, 0]


def test_a_layer_by_layer_order_takes_the_same_share_everywhere():
    scores = {"a": torch.tensor([1.0, 3.0, 2.0]), "b": torch.arange(6.0)}
    order = removal_order(scores, {"a": [], "b": []}, "layer", 1)
    # shares 1/6, 1/3 of both, 1/2, 2/3 of both, 5/6
    assert order == [("b", 0), ("a", 0), ("b", 1), ("b", 2), ("a", 2), ("b", 3), ("b", 4)]


def test_a_global_ranking_prunes_as_many_and_never_empties_a_layer():
    given = context()
    model = network()
    model[0].weight.data[:3] *= 1e-3
    expected = model[0].bias.detach()[3:].clone()
    FilterPruning(scope="global", ratio=0.3, criterion="l1").prepare(model, given)
    assert given.facts["filters_removed"] == removed_count(0.3, 14) == 4
    assert torch.equal(model[0].bias[-3:], expected)
    assert given.facts["layers"]["0"]["after"] <= 3
    model = network()
    model[0].weight.data *= torch.linspace(1e-6, 2e-6, 6).view(-1, 1, 1, 1)
    FilterPruning(scope="global", ratio=0.7, min_filters=2).prepare(model, context())
    assert min(model[0].out_channels, model[3].out_channels) == 2
    assert model[0].out_channels + model[3].out_channels == 14 - removed_count(0.7, 14)
    with pytest.raises(
        StepFailed, match="12 of 14 filters cannot go: with min_filters 2 in each of 2 layers at most 10"
    ):
        FilterPruning(scope="global", ratio=0.9, min_filters=2).prepare(network(), context())


def test_min_filters_bounds_every_layer():
    model = FilterPruning(ratio=0.9, min_filters=4).prepare(network(), context())
    assert [model[0].out_channels, model[3].out_channels] == [4, 4]
    model = FilterPruning(ratio=0.9, min_filters=7).prepare(network(), context())
    assert [model[0].out_channels, model[3].out_channels] == [6, 7]


# --- a share of the whole model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(("target", "counted"), [("macs", "macs"), ("bytes", "weights")])
@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.8])
def test_a_target_is_met_by_as_few_filters_as_can_be(scope, target, counted, ratio):
    """Brute force: remove one more filter of the order at a time and measure, until it is enough."""
    scores = {name: filter_scores(network().get_submodule(name).weight, "l1") for name in ("0", "3")}
    order = removal_order(scores, {"0": [], "3": []}, scope, 1)
    before = getattr(cost(network(), SHAPE), counted)
    for count in range(len(order) + 1):
        model = network()
        remove_filters(model, {name: [i for n, i in order[:count] if n == name] for name in scores}, SHAPE)
        left = getattr(cost(model, SHAPE), counted)
        if (before - left) / before >= ratio:
            break
    given = context()
    pruned = FilterPruning(ratio=ratio, target=target, scope=scope).prepare(network(), given)
    assert getattr(cost(pruned, SHAPE), counted) == left
    assert [pruned[0].out_channels, pruned[3].out_channels] == [model[0].out_channels, model[3].out_channels]
    assert given.facts["filters_removed"] == count > 0
    facts = given.facts["target"]
    assert facts == {"what": target, "wanted": ratio, "before": before, "after": left, "achieved": 1 - left / before}


@pytest.mark.parametrize("target", ["macs", "bytes"])
def test_a_target_of_nothing_removes_nothing(target):
    model = network()
    before = copy.deepcopy(model.state_dict())
    FilterPruning(ratio=0, target=target).prepare(model, context())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_target_is_met_exactly_at_its_edge():
    """A ratio that is a whole number of filters takes these and no more."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Flatten(), nn.Linear(256, 1, bias=False))
    given = Context((10,), (1, 8, 8), 0, CPU)
    FilterPruning(ratio=0.25, target="bytes").prepare(model, given)
    assert given.facts["target"] == {"what": "bytes", "wanted": 0.25, "before": 260, "after": 195, "achieved": 0.25}


@pytest.mark.parametrize("when", ["one_shot", "gradual"])
def test_a_target_out_of_reach_fails_in_words_before_the_training(when):
    torch.manual_seed(0)
    model = ResNet(depth=8, width=0.5).build(10, (3, 8, 8))
    given = Context((10,) * 10, (3, 8, 8), 0, CPU)
    words = (
        r"the ratio 0\.95 of the model's macs cannot be reached: with min_filters 1 in each of 3 .* at most 0\.\d+ can"
    )
    with pytest.raises(StepFailed, match=words):
        FilterPruning(ratio=0.95, target="macs", when=when).prepare(model, given)


def test_the_published_resnet56_counts():
    torch.manual_seed(0)
    given = Context((10,) * 10, (3, 32, 32), 0, CPU)
    model = FilterPruning(schedule="resnet56_filter_rank").prepare(ResNet(depth=56).build(10, (3, 32, 32)), given)
    found = cost(model, (3, 32, 32))
    assert (found.weights, found.macs) == (634_640, 78_856_832)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scope": "global", "ratios": {"0": 0.5}}, "need one ratio"),
        ({"target": "macs", "schedule": "resnet56_filter_rank"}, "need one ratio"),
        ({"criterion": "l3"}, "criterion"),
        ({"min_filters": 0}, "min_filters"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        FilterPruning(**settings)
