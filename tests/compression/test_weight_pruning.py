"""Zeros among the weights: the right ones, as many as asked for, and still zero after the training."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.weight_magnitude import KEEP, WeightPruning, grouped, ungrouped
from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.errors import StepFailed
from tailkeep.training.loop import Training, fit
from tailkeep.training.recipe import Recipe

SHAPE = (3, 8, 8)
PRUNED = ("2", "3", "6")


pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 6, 1), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


def context(seed=0):
    return Context((8,) * 4, SHAPE, seed, torch.device("cpu"))


def pruned(method, model=None, here=None):
    here = here or context()
    model, change = method.finish(method.prepare(model or network(), here), here)
    assert change is None
    return model, here.facts


def weights(model, names=PRUNED):
    return {name: model.get_submodule(name).weight.detach().numpy() for name in names}


@pytest.mark.parametrize("ratio", [0.29, 0.5, 0.97])
def test_the_smallest_of_each_layer_go(ratio):
    model, facts = pruned(WeightPruning(ratio=ratio))
    for name, before in weights(network()).items():
        count = math.floor(round(ratio * 100) * before.size / 100)
        cut = np.sort(np.abs(before).ravel())[count]
        expected = np.where(np.abs(before) >= cut, before, 0)
        assert (expected == 0).sum() == count
        assert np.array_equal(weights(model)[name], expected)
        assert facts["layers"][name] == {
            "weights": before.size, "nonzero": before.size - count, "sparsity": 1 - (before.size - count) / before.size,
        }  # fmt: skip


def test_the_smallest_of_all_go():
    model, facts = pruned(WeightPruning(ratio=0.6, scope="global"))
    before = weights(network())
    together = np.sort(np.abs(np.concatenate([value.ravel() for value in before.values()])))
    cut = together[math.floor(0.6 * len(together))]
    for name, value in before.items():
        assert np.array_equal(weights(model)[name], np.where(np.abs(value) >= cut, value, 0))
    assert facts["achieved_sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert len({round(layer["sparsity"], 2) for layer in facts["layers"].values()}) == 3


def test_the_first_and_the_last_layer_stay_dense_unless_told():
    model, facts = pruned(WeightPruning(ratio=0.9))
    for name in ("0", "8"):
        assert torch.equal(model.get_submodule(name).weight, network().get_submodule(name).weight)
    assert list(facts["layers"]) == list(PRUNED)
    _, facts = pruned(WeightPruning(ratio=0.9, keep_first_last=False))
    assert list(facts["layers"]) == ["0", *PRUNED, "8"]


def naive_pattern(weight, keep, size, along):
    """Walk over every group and leave its largest."""
    out = np.zeros_like(weight)
    if along == "row":
        for o in range(len(weight)):
            row, new = weight[o].ravel(), out[o].reshape(-1)
            for start in range(0, len(row), size):
                best = sorted(range(start, start + size), key=lambda i: -abs(row[i]))[:keep]
                new[best] = row[best]
        return out
    places = [(y, x) for y in range(weight.shape[2]) for x in range(weight.shape[3])] if weight.ndim == 4 else [()]
    for o in range(len(weight)):
        for place in places:
            for start in range(0, weight.shape[1], size):
                where = [(o, i, *place) for i in range(start, start + size)]
                for best in sorted(where, key=lambda at: -abs(weight[at]))[:keep]:
                    out[best] = weight[best]
    return out


@pytest.mark.parametrize("along", ["channels", "row"])
@pytest.mark.parametrize(("pattern", "keep", "size"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:4", 3, 4), ("1:2", 1, 2)])
def test_a_pattern_leaves_the_largest_of_every_group(pattern, keep, size, along):
    model, facts = pruned(WeightPruning(pattern=pattern, along=along))
    for name, before in weights(network()).items():
        assert np.array_equal(weights(model)[name], naive_pattern(before, keep, size, along)), name
    assert facts["achieved_sparsity"] == 1 - keep / size
    assert "layers_that_do_not_fit" not in facts


@pytest.mark.parametrize("along", ["channels", "row"])
@pytest.mark.parametrize("shape", [(6, 8, 3, 3), (6, 8)])
def test_grouping_there_and_back(along, shape):
    weight = torch.arange(math.prod(shape)).reshape(shape)
    rows = grouped(weight, 4, along)
    assert torch.equal(ungrouped(rows, weight, along), weight)
    first = weight[0, :4, 0, 0] if along == "channels" and len(shape) == 4 else weight[0].reshape(-1)[:4]
    assert torch.equal(rows[0], first)


def test_a_layer_that_the_pattern_does_not_fit_stays_dense_and_is_named():
    model, facts = pruned(WeightPruning(pattern="4:8"))
    assert facts["layers_that_do_not_fit"] == ["3"]
    assert list(facts["layers"]) == ["2", "6"]
    assert torch.equal(model[3].weight, network()[3].weight)
    with pytest.raises(StepFailed, match="whose input is a multiple of 5"):
        WeightPruning(pattern="2:5").prepare(network(), context())


def test_a_layer_is_never_emptied():
    model = network()
    model[3].weight.data *= 1e-6
    with pytest.raises(StepFailed, match="leaves no weight of 3"):
        WeightPruning(ratio=0.5, scope="global").prepare(model, context())


def test_what_is_quantized_or_has_no_layers_is_refused():
    model = network()
    model[2].weight_bits = 8
    with pytest.raises(StepFailed, match="prune before quantizing"):
        WeightPruning().prepare(model, context())
    with pytest.raises(StepFailed, match="no convolution or linear layer left"):
        WeightPruning().prepare(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), context())


def test_facts_state_the_honest_size():
    _, facts = pruned(WeightPruning(ratio=0.5))
    dense, sizes = 3 * 8 * 9 + 64, (864, 72, 384)
    left = sum(sizes) // 2
    assert facts["weights"] == dense + sum(sizes)
    assert facts["nonzero_weights"] == dense + left
    assert facts["model_sparsity"] == 1 - (dense + left) / (dense + sum(sizes))
    assert facts["dense_bytes"] == 4 * (dense + sum(sizes))
    assert facts["bitmask_bytes"] == 4 * (dense + left) + 108 + 9 + 48
    assert "pattern_bytes" not in facts
    _, facts = pruned(WeightPruning(pattern="1:4"))
    assert facts["pattern_bytes"] == 4 * dense + sum(size // 4 * 4 + size // 4 * 2 // 8 for size in sizes[::2]) + 72 + 5


@pytest.mark.parametrize("settings", [{"ratio": 0.7}, {"pattern": "2:4"}, {"ratio": 0.7, "when": "gradual"}])
def test_what_is_zero_stays_zero_through_the_training(settings):
    images = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    method, here, seen = WeightPruning(**settings), context(), []
    model = method.prepare(network(), here)

    def on_step(model, progress):
        method.on_step(model, progress, here)
        keep = torch.cat([model.get_submodule(name).get_buffer(KEEP).reshape(-1) for name in PRUNED])
        now = torch.cat([model.get_submodule(name).weight.reshape(-1) for name in PRUNED])
        assert not now[~keep].any()
        seen.append(~keep)

    fit(model, Training(
        TrainingBatches(images, torch.arange(32) % 4, 8, Augment(crop_padding=1), 5, "cpu"),
        lambda m, x, y, p: (F.cross_entropy(m(x), y), m(x).detach()),
        Recipe(steps=10, batch_size=8, lr=0.05, precision="float32"), 5, "float32", on_step,
    ))  # fmt: skip
    assert all(bool((early & ~late).sum() == 0) for early, late in itertools.pairwise(seen))
    method.finish(model, here)
    wanted = 0.5 if "pattern" in settings else 0.7
    assert here.facts["achieved_sparsity"] == pytest.approx(wanted, abs=0.01)
    assert sum(int((value == 0).sum()) for value in weights(model).values()) == int(seen[-1].sum())
    assert not torch.equal(model[2].weight, network()[2].weight)
    network().load_state_dict(model.state_dict())  # strict: nothing of the masks is left


@pytest.mark.parametrize("settings", [{}, {"scope": "global"}, {"pattern": "1:4"}, {"criterion": "random"}])
def test_what_the_optimizer_moved_far_does_not_come_back(settings):
    method, here = WeightPruning(when="iterative", rounds=3, **settings), context()
    model = method.prepare(network(), here)
    method.on_step(model, 0.0, here)
    gone = model[2].weight == 0
    assert gone.any()
    model[2].weight.data[gone] = 100.0
    method.on_step(model, 0.9, here)
    assert not model[2].weight[gone].any()
    assert (model[2].weight == 0).sum() > gone.sum()


def test_a_pattern_grows_one_zero_at_a_time():
    method, here = WeightPruning(pattern="1:4", when="gradual", rounds=10, span=1.0), context()
    model = method.prepare(network(), here)
    zeros = []
    for progress in (0.0, 0.1, 0.2, 0.4, 0.9):
        method.on_step(model, progress, here)
        rows = grouped(model[2].weight.detach(), 4, "channels")
        zeros.append(set((rows == 0).sum(1).tolist()))
    # the cubic's share of 3 zeros: 0, 0.81, 1.46, 2.35, 2.997
    assert zeros == [{0}, {0}, {1}, {2}, {2}]
    method.finish(model, here)
    assert here.facts["achieved_sparsity"] == 0.75


@pytest.mark.parametrize("settings", [{"ratio": 0.6}, {"ratio": 0.6, "scope": "global"}, {"pattern": "2:4"}])
def test_without_training_every_schedule_is_one_shot(settings):
    expected = weights(pruned(WeightPruning(**settings))[0])
    for when in ("iterative", "gradual"):
        found = weights(pruned(WeightPruning(when=when, **settings))[0])
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_the_random_control_follows_the_seed():
    found = [weights(pruned(WeightPruning(criterion="random"), here=context(s))[0])["2"] for s in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert (found[0] == 0).sum() == found[0].size // 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": "4:4"}, "N is below M"),
        ({"pattern": "4:2"}, "N is below M"),
        ({"pattern": "0:4"}, "pattern"),
        ({"pattern": "sparse"}, "pattern"),
        ({"pattern": 124}, "in quotes"),
        ({"pattern": "2:4", "ratio": 0.6}, "leave ratio and scope out"),
        ({"pattern": "2:4", "scope": "global"}, "leave ratio and scope out"),
        ({"along": "row"}, "belongs to a pattern"),
        ({"ratio": 1.0}, "ratio"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        WeightPruning(**settings)
