"""Pruning in the course of a training: what is due when, that it stays gone, and that a resumed run ends alike."""

import copy
import itertools
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning import masking
from tailkeep.compression.pruning.filter_rank import FilterPruning, removed_count
from tailkeep.compression.pruning.schedule import share_at
from tailkeep.compression.pruning.weight_magnitude import WeightPruning
from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.errors import StepFailed
from tailkeep.training.checkpoint import Checkpoint
from tailkeep.training.loop import Training, fit
from tailkeep.training.recipe import Recipe

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
STEPS = 12
RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, precision="float32")
IMAGES = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4
CALIBRATION = [TrainingBatches(IMAGES, LABELS, 8, Augment(crop_padding=0, flip=False), 0, "cpu").batch(0)]


pytestmark = pytest.mark.usefixtures("one_thread")


WIDTHS = {"0": 6, "3": 10, "10": 4}
"""The prunable convolutions of the network below."""


class Power(Exception):
    """The plug was pulled."""


def network(double=False):
    """Norms, a sigmoid (which is not zero at zero), a depthwise convolution and dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Sigmoid(),
        nn.Conv2d(6, 10, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 10, 3, stride=2, padding=1, groups=10), nn.BatchNorm2d(10), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(10, 4, 1), nn.Flatten(), nn.Linear(64, 4),
    ).eval()  # fmt: skip
    return model.double() if double else model


def context():
    return Context((8,) * 4, SHAPE, 0, CPU, lambda count, draw="random": CALIBRATION)


def train(method, checkpoint=None, saved=None, killed=None, watch=lambda model, step: None):
    """Train from the start, or from the checkpoint if it is whole. Save after ``saved`` steps, die after ``killed``."""
    here = context()
    model = method.prepare(network(), here)
    begun = []

    def on_step(model, progress):
        step = round(progress * STEPS)
        begun.append(step)
        if step == killed:
            raise Power
        if checkpoint is not None:
            checkpoint.every = 0.0 if saved is not None and step + 1 == saved else 1e9
        method.on_step(model, progress, here)
        watch(model, step)

    training = Training(
        TrainingBatches(IMAGES, LABELS, 8, Augment(crop_padding=1), 5, "cpu"),
        method.loss(lambda logits, labels, progress: F.cross_entropy(logits, labels), here),
        RECIPE, 5, "float32", on_step, method.param_groups(model), checkpoint,
    )  # fmt: skip
    fit(model, training)
    model, change = method.finish(model.eval(), here)
    return model, change, here.facts, begun


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what is due when ------------------------------------------------------------------------------------------------


def test_gradual_is_the_published_cubic():
    for k in range(11):
        t, span, final = k / 10, 0.6, 0.8
        published = final + (0 - final) * (1 - t) ** 3
        assert final * share_at(t * span, "gradual", 10, span) == pytest.approx(published, abs=1e-12)
        assert share_at((t + 0.09) * span, "gradual", 10, span) == share_at(t * span, "gradual", 10, span) or k == 10
    fine = [share_at(x / 1000, "gradual", None, 1.0) - (1 - (1 - x / 1000) ** 3) for x in range(1000)]
    assert -0.03 < min(fine) < -0.02
    assert max(fine) < 1e-9


def test_iterative_is_equal_parts_from_the_start_to_the_span():
    assert [share_at(p, "iterative", 4, 0.6) for p in (0, 0.19, 0.2, 0.39, 0.4, 0.59, 0.6, 1)] == [
        0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1,
    ]  # fmt: skip
    assert share_at(0, "iterative", 1, 0.5) == 1
    assert share_at(0, "iterative", None, 0.5) == 0.25
    assert share_at(0, "one_shot", None, 0.6) == 1


@given(
    st.sampled_from(["iterative", "gradual"]), st.integers(1, 40), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1)
)
def test_a_share_never_falls_and_ends_at_exactly_one(when, rounds, span, first, second):
    early, late = sorted((first, second))
    assert 0 <= share_at(early, when, rounds, span) <= share_at(late, when, rounds, span) <= 1
    assert share_at(span, when, rounds, span) == 1
    assert share_at(1, when, rounds, span) == 1


@pytest.mark.parametrize("cls", [FilterPruning, WeightPruning])
def test_an_idle_schedule_is_refused(cls):
    for settings in ({"rounds": 3}, {"span": 0.5}):
        with pytest.raises(ValueError, match="belong to when: iterative or gradual"):
            cls(**settings)
        assert cls(when="gradual", **settings).when == "gradual"


# --- in the training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"when": "gradual", "rounds": 5},
        {"when": "iterative", "rounds": 3, "scope": "global", "criterion": "taylor"},
        {"when": "gradual", "target": "macs", "ratio": 0.6, "criterion": "fpgm"},
        {"when": "iterative", "criterion": "random", "span": 1.0},
    ],
)
def test_what_is_gone_stays_gone_and_reads_zero(settings):
    method = FilterPruning(**settings)
    seen = []

    def watch(model, step):
        dead = masking.gone(model, WIDTHS)
        if method.target == "filters":
            share = share_at(step / STEPS, method.when, method.rounds, method.span)
            if method.scope == "global":
                assert sum(map(len, dead.values())) == removed_count(0.5 * share, 20)
            else:
                due = {name: removed_count(0.5 * share, width) for name, width in WIDTHS.items()}
                assert {name: len(gone) for name, gone in dead.items()} == due
        assert not model[0].weight[dead["0"]].any()
        assert not model[0].bias[dead["0"]].any()
        assert not model[3].weight[:, dead["0"]].any(), "who reads it reads nothing"
        assert not model[12].weight.view(4, 4, 16)[:, dead["10"]].any(), "16 positions of each channel"
        for module in (model[3], model[4], model[6], model[7]):
            assert not module.weight[dead["3"]].any()
            assert getattr(module, "bias", None) is None or not module.bias[dead["3"]].any()
        assert model[4].weight.count_nonzero() == 10 - len(dead["3"])
        seen.append({(name, index) for name, indices in dead.items() for index in indices})

    model, change, facts, _ = train(method, watch=watch)
    assert len(seen) == STEPS
    assert all(early <= late for early, late in itertools.pairwise(seen))
    assert len(seen[0]) < len(seen[-1])
    assert facts["filters_removed"] >= len(seen[-1])
    widths = {name: model.get_submodule(name).out_channels for name in WIDTHS}
    assert facts["filters_removed"] == 20 - sum(widths.values())
    assert change["values"]["widths"] == widths
    assert facts["removal_largest_difference"] < 1e-5
    if method.target == "macs":
        assert facts["target"]["achieved"] >= 0.6
        assert facts["target"]["wanted"] == 0.6


def test_the_finished_model_has_no_masks_and_rebuilds():
    method = FilterPruning(when="gradual", ratio=0.4)
    model, change, _, _ = train(method)
    again = method.rebuild(network(), change["values"], SHAPE)
    again.load_state_dict(model.state_dict())
    assert not any("pruning" in name for name in model.state_dict())
    assert not any("prun" in name for name in model.__dict__)
    assert torch.equal(again.eval()(CALIBRATION[0][0]), model.eval()(CALIBRATION[0][0]))


@pytest.mark.parametrize("when", ["iterative", "gradual"])
def test_masked_equals_removed_in_double(when):
    method, here = FilterPruning(when=when, ratio=0.5), context()
    model = method.prepare(network(double=True), here)
    x = CALIBRATION[0][0].double()
    dense = model(x).detach()
    method.on_step(model, 0.99, here)
    masked = model(x).detach()
    removed, _ = method.finish(model, here)
    assert removed[0].out_channels == 3
    assert torch.allclose(removed(x), masked, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(dense, masked, rtol=1e-3)


@pytest.mark.parametrize("when", ["iterative", "gradual"])
@pytest.mark.parametrize("settings", [{}, {"scope": "global", "criterion": "taylor_abs"}, {"target": "bytes"}])
def test_without_training_every_schedule_is_one_shot(when, settings):
    found = []
    for way in ("one_shot", when):
        method, here = FilterPruning(when=way, ratio=0.6, **settings), context()
        model = method.prepare(network(), here)
        found.append(method.finish(model.eval(), here)[0])
        assert here.facts["filters_removed"] > 0
    assert same(*found)


@pytest.mark.parametrize("when", ["iterative", "gradual"])
def test_ratio_zero_is_bit_identical(when):
    method, here = FilterPruning(when=when, ratio=0), context()
    model = method.prepare(network(), here)
    method.on_step(model, 0.8, here)
    assert same(method.finish(model, here)[0], network())


def test_one_shot_is_left_alone_by_the_steps():
    method, here = FilterPruning(), context()
    model = method.prepare(network(), here)
    before = copy.deepcopy(model)
    method.on_step(model, 0.5, here)
    assert same(model, before)


def test_a_schedule_fails_in_prepare_where_nothing_can_be_pruned():
    with pytest.raises(StepFailed, match="no convolution of this model"):
        FilterPruning(when="gradual").prepare(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), context())


# --- pulled plugs ----------------------------------------------------------------------------------------------------

RESUMED = {
    "gradual": FilterPruning(when="gradual", rounds=6, span=0.9),
    "iterative": FilterPruning(when="iterative", scope="global", criterion="taylor", span=0.8),
    "macs": FilterPruning(when="gradual", target="macs", criterion="random", ratio=0.4),
    "weights": WeightPruning(when="gradual", ratio=0.8),
    "weights one shot": WeightPruning(scope="global"),
    "pattern": WeightPruning(when="iterative", pattern="1:2", rounds=2),
}


@cache
def whole_run(name):
    """What a run that nobody stopped gives."""
    return train(RESUMED[name])


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize(("saved", "killed"), [(1, 2), (5, 7)])
def test_a_resumed_training_ends_with_the_same_bits(name, saved, killed, tmp_path):
    method = RESUMED[name]
    whole, change, facts, _ = whole_run(name)
    with pytest.raises(Power):
        train(method, Checkpoint(tmp_path / "state", "step"), saved, killed)
    resumed, again, found, begun = train(method, Checkpoint(tmp_path / "state", "step"))
    assert begun == list(range(saved, STEPS))
    assert same(whole, resumed)
    assert (change, facts) == (again, found)


def test_the_masks_come_from_the_model_not_from_what_was_seen_before():
    """A model whose tensors are put back is where it was: nothing outside of its buffers remembers."""
    method, here = FilterPruning(when="gradual", span=1.0), context()
    model = method.prepare(network(), here)
    method.on_step(model, 0.3, here)
    early = copy.deepcopy(model.state_dict())
    few = masking.gone(model, WIDTHS)
    method.on_step(model, 0.9, here)
    many = masking.gone(model, WIDTHS)
    model.load_state_dict(early)
    method.on_step(model, 0.3, here)
    assert masking.gone(model, WIDTHS) == few != many
    method.on_step(model, 0.9, here)
    assert masking.gone(model, WIDTHS) == many
