"""Pruning by what a filter is worth to each class: the scores against formulas, and what goes by them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.class_aware import ClassAwarePruning
from tailkeep.compression.pruning.class_scores import (
    consistency_scores,
    group_importance,
    share_scores,
    single_group_batches,
)
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.errors import StepFailed

SHAPE = (2, 8, 8)
CPU = torch.device("cpu")
CLASSES = [(0,), (1,), (2,), (3,)]

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4),
    )  # fmt: skip
    model[1].running_mean.normal_(0, 0.3)
    model[1].running_var.uniform_(0.5, 2)
    return model.double().eval()


def batches(sizes=(7, 5), classes=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sum(sizes), *SHAPE, dtype=torch.float64, generator=generator)
    return list(zip(images.split(sizes), (torch.arange(sum(sizes)) % classes).split(sizes), strict=True))


def context(asked=None, given=None, counts=(40, 20, 10, 5)):
    def labelled(count, draw="random"):
        if asked is not None:
            asked.append((count, draw))
        return batches() if given is None else given

    return Context(counts, SHAPE, 0, CPU, labelled)


def by_autograd(name, form, groups=CLASSES):
    """Worth of each filter to each group: one backward pass over the group's own images."""
    images, labels = (torch.cat(part) for part in zip(*batches(), strict=True))
    rows = []
    for group in groups:
        model = network()
        own = torch.isin(labels, torch.tensor(group))
        F.cross_entropy(model(images[own]), labels[own]).backward()
        weight = model.get_submodule(name).weight
        parts = (weight.detach() * weight.grad).numpy().reshape(len(weight), -1)
        rows.append(np.abs(parts.sum(1)) if form == "gate" else (parts**2).sum(1))
    return np.stack(rows)


@pytest.mark.parametrize("form", ["gate", "squares"])
@pytest.mark.parametrize("groups", [CLASSES, [(0, 3), (1,), (2,)]])
def test_the_importance_is_that_of_single_class_batches(form, groups):
    found = group_importance(network(), ["0", "3"], batches(), groups, form)
    for name, values in found.items():
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), by_autograd(name, form, groups), rtol=1e-5, atol=1e-12)


def test_how_the_images_come_in_batches_changes_nothing():
    one = group_importance(network(), ["3"], batches((12,)), CLASSES, "gate")["3"]
    other = group_importance(network(), ["3"], batches((1, 2, 9)), CLASSES, "gate")["3"]
    assert torch.allclose(one, other, rtol=1e-6, atol=1e-12)
    for group, own in zip(CLASSES, single_group_batches(batches((7, 5)), CLASSES), strict=True):
        assert {label for _, labels in own for label in labels.tolist()} == set(group)
        assert max(len(labels) for _, labels in own) <= 7
    assert sum(len(y) for own in single_group_batches(batches((2, 2, 8)), CLASSES) for _, y in own) == 12


def test_consistency_is_the_mean_less_the_spread():
    values = np.random.default_rng(0).uniform(0, 1, (4, 9))
    for alpha in (0.0, 1.0, 2.5):
        spread = np.sqrt(((values - values.mean(0)) ** 2).mean(0))
        found = consistency_scores(torch.tensor(values), alpha)
        np.testing.assert_allclose(found.numpy(), values.mean(0) - alpha * spread, rtol=1e-12)
    even, uneven = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.1], [2.1]])
    assert consistency_scores(even, 1) > consistency_scores(uneven, 1), "what serves all alike is kept"
    assert consistency_scores(even, 0) < consistency_scores(uneven, 0)


def naive_order(values):
    """The greedy selection, by going through all filters every time."""
    target, kept, order = values.sum(1) / values.sum(), np.zeros(len(values)), []
    while len(order) < values.shape[1]:
        share = kept / kept.sum() if kept.sum() else np.full(len(values), 1 / len(values))
        group = int(np.argmin(share - target))
        left = [index for index in range(values.shape[1]) if index not in order]
        order.append(max(left, key=lambda index: (values[group, index], -index)))
        kept += values[:, order[-1]]
    return order


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_kept_greedily(seed):
    values = np.random.default_rng(seed).gamma(0.5, 1, (4, 12)) * np.array([[8.0], [3.0], [1.0], [0.3]])
    scores = share_scores(torch.tensor(values))
    assert np.argsort(-scores.numpy()).tolist() == naive_order(values)
    assert sorted(scores.tolist()) == list(range(1, 13))


def test_shares_protect_the_filter_that_a_small_class_lives_on():
    """Class 1 has a tenth of the importance, nearly all in filter 3: the sum forgets it, the shares do not."""
    values = torch.tensor([[5.0, 4.0, 3.0, 0.0, 2.0], [0.05, 0.05, 0.05, 1.2, 0.05]], dtype=torch.float64)
    assert int(values.sum(0).argmin()) == 3
    assert 3 in share_scores(values).argsort(descending=True)[:2].tolist()


def test_no_importance_at_all_is_the_order_of_the_filters():
    assert share_scores(torch.zeros(3, 4)).tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("settings", "form"), [({}, "gate"), ({"alpha": 0.3}, "gate"), ({"criterion": "group_share"}, "squares")]
)
def test_the_filters_of_smallest_score_go(settings, form):
    values = by_autograd("3", form)
    if form == "gate":
        worth = values.mean(0) - settings.get("alpha", 1.0) * values.std(0)
        kept = np.argsort(worth)[4:]
    else:
        kept = naive_order(values)[:4]
    model, asked = network(), []
    bias = model[3].bias.detach()[sorted(kept)]
    method = ClassAwarePruning(**settings)
    assert torch.equal(method.prepare(model, context(asked)).get_submodule("3").bias, bias)
    assert asked == [(8, "balanced")]


def test_the_criteria_choose_otherwise_than_one_gradient_of_all_images():
    kept = set()
    for method in (
        FilterPruning(criterion="taylor"),
        ClassAwarePruning(),
        ClassAwarePruning(criterion="group_share"),
        ClassAwarePruning(alpha=0),
    ):
        pruned = method.prepare(network(), context())
        kept.add((*pruned[0].bias.tolist(), *pruned[3].bias.tolist()))
    assert len(kept) > 2


def test_thirds_take_groups_of_classes():
    values = by_autograd("3", "gate", [(0,), (1, 2), (3,)])
    bias = network()[3].bias.detach()[sorted(np.argsort(values.mean(0) - values.std(0))[4:])]
    found = ClassAwarePruning(groups="thirds").prepare(network(), context())
    assert torch.equal(found.get_submodule("3").bias, bias)


def test_a_class_without_an_image_fails_in_words():
    with pytest.raises(StepFailed, match="no calibration image of class 3; draw them balanced"):
        ClassAwarePruning().prepare(network(), context(given=batches(classes=3)))
    with pytest.raises(StepFailed, match="no calibration image of class 0"):
        ClassAwarePruning().prepare(network(), context(given=[]))
    pruned = ClassAwarePruning().prepare(network(), context(given=batches(classes=3), counts=(9, 5, 2, 0)))
    assert pruned[3].out_channels == 4, "a class that the training set does not have is not asked for"


@pytest.mark.parametrize(
    "settings",
    [
        {"scope": "global", "ratio": 0.5},
        {"scope": "global", "target": "macs", "ratio": 0.4},
        {"criterion": "group_share", "target": "bytes", "ratio": 0.4},
        {"criterion": "group_share", "when": "gradual", "rounds": 3},
        {"when": "iterative", "rounds": 2, "scope": "global"},
    ],
)
def test_all_of_filter_prunings_settings_hold(settings):
    method, model, given = ClassAwarePruning(**settings), network(), context()
    model = method.prepare(model, given)
    for step in range(4):
        method.on_step(model, step / 4, given)
    model, change = method.finish(model, given)
    assert change["kind"] == "class_aware_pruning"
    assert change["values"]["widths"] == {"0": model[0].out_channels, "3": model[3].out_channels}
    assert min(model[0].out_channels, model[3].out_channels) >= 1
    again = method.rebuild(network(), change["values"], SHAPE)
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in model.parameters()]
    if settings.get("target", "filters") == "filters":
        assert given.facts["filters_removed"] == 7
    else:
        assert given.facts["target"]["achieved"] >= settings["ratio"]


def test_the_model_is_left_as_it_was_but_for_the_filters():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    ClassAwarePruning(ratio=0).prepare(model, context())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"criterion": "group_share", "alpha": 2}, "alpha belongs to criterion cic"),
        ({"criterion": "group_share", "scope": "global"}, "keeps the shares of each layer"),
        ({"criterion": "taylor"}, "criterion"),
        ({"alpha": -1}, "alpha"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ClassAwarePruning(**settings)
