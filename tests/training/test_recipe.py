import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tailkeep.training.recipe import Constant, Cosine, Decay, Milestones, OneCycle, Recipe, Schedule

SCHEDULES = [
    Constant(),
    Milestones(at=(2, 3.5), gamma=0.2),
    Decay(start=2, gamma=0.9),
    Cosine(final=0.1),
    OneCycle(peak_at=0.25, start=0.2, final=0.05),
]
PAPER = Recipe(
    epochs=180, batch_size=256, lr=0.3, weight_decay=1e-4, nesterov=False, schedule=Milestones(at=(45, 90, 135))
)


def rates(recipe, per_epoch):
    return [recipe.lr_at(step, per_epoch) for step in range(recipe.total_steps(per_epoch))]


def test_the_length_is_epochs_or_steps_and_not_both():
    assert Recipe(epochs=3).total_steps(7) == 21
    assert Recipe(epochs=2.5).total_steps(10) == 25
    assert Recipe(steps=5).total_steps(7) == 5
    assert Recipe(epochs=0).total_steps(7) == 0
    assert Recipe(steps=0).total_steps(7) == 0
    for settings in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValidationError, match="either 'epochs' or 'steps'"):
            Recipe(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": -1}, {"steps": -1}, {"steps": 1.5}, {"epochs": float("nan")}, {"lr": -0.1}, {"momentum": 1.0},
        {"batch_size": 0}, {"weight_decay": -1}, {"warmup": -1}, {"precision": "fp16"}, {"learning_rate": 0.1},
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(settings):
    length = {} if {"epochs", "steps"} & set(settings) else {"epochs": 1}
    with pytest.raises(ValidationError):
        Recipe(**length, **settings)


def test_nesterov_needs_momentum():
    with pytest.raises(ValidationError, match="momentum above 0"):
        Recipe(epochs=1, momentum=0)
    assert Recipe(epochs=1, momentum=0, nesterov=False).momentum == 0


def test_a_recipe_is_frozen_and_survives_json():
    recipe = Recipe(epochs=2, schedule=Milestones(at=(1,)))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.plain()) == recipe
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lr = 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_a_schedule_survives_json_and_is_told_apart_by_its_kind(schedule):
    adapter = TypeAdapter(Schedule)
    assert adapter.validate_json(schedule.model_dump_json()) == schedule
    with pytest.raises(ValidationError):
        adapter.validate_python({**schedule.plain(), "unknown": 1})
    with pytest.raises(ValidationError):
        adapter.validate_python({key: value for key, value in schedule.plain().items() if key != "kind"})


def test_one_cycle_at_its_start_peak_and_end():
    cycle = OneCycle(peak_at=0.3, start=0.1, final=0.01)
    assert cycle.factor(0, 20) == pytest.approx(0.1)
    assert cycle.factor(6, 20) == pytest.approx(1)
    assert cycle.factor(20, 20) == pytest.approx(0.01)
    assert cycle.factor(25, 20) == pytest.approx(0.01)
    epochs = np.linspace(0, 20, 101)
    expected = np.interp(epochs, [0, 6, 20], [0.1, 1, 0.01])
    assert [cycle.factor(epoch, 20) for epoch in epochs] == pytest.approx(expected)


def test_the_default_schedule_is_one_cycle():
    assert Recipe(epochs=1).schedule == OneCycle(peak_at=0.3, start=0.1, final=0.0)


def test_constant_stays():
    assert set(rates(Recipe(epochs=3, lr=0.05, schedule=Constant()), 7)) == {0.05}


def test_the_papers_recipe_falls_tenfold_at_45_90_and_135():
    per_epoch = 195
    found = rates(PAPER, per_epoch)
    assert len(found) == 180 * per_epoch
    for start, end, lr in ((0, 45, 0.3), (45, 90, 0.03), (90, 135, 0.003), (135, 180, 0.0003)):
        assert found[start * per_epoch] == pytest.approx(lr)
        assert found[end * per_epoch - 1] == pytest.approx(lr)
    assert len(set(found)) == 4


def test_the_pruning_recipe_holds_to_epoch_10_and_then_loses_5_percent_an_epoch():
    per_epoch = 13
    found = rates(Recipe(epochs=70, lr=0.1, nesterov=False, schedule=Decay()), per_epoch)
    assert set(found[: 10 * per_epoch]) == {0.1}
    for epoch in range(10, 70):
        rates_of_epoch = found[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert len(set(rates_of_epoch)) == 1
        assert rates_of_epoch[0] == pytest.approx(0.1 * 0.95 ** (epoch - 9))


def test_the_long_tail_recipe_warms_up_over_5_epochs_and_falls_a_hundredfold_at_160_and_180():
    recipe = Recipe(epochs=200, lr=0.1, warmup=5, schedule=Milestones(at=(160, 180), gamma=0.01))
    per_epoch = 10
    found = rates(recipe, per_epoch)
    assert found[:50] == pytest.approx([0.1 * (step + 1) / 50 for step in range(50)])
    assert found[50] == found[1599] == 0.1
    assert found[1600] == pytest.approx(1e-3)
    assert found[1800] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("schedule", "oracle"),
    [
        (Cosine(), lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)),
        (Cosine(final=0.1), lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, 0.02)),
        (Milestones(at=(2, 3)), lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30], 0.1)),
    ],
)
def test_schedules_equal_those_of_torch(schedule, oracle):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = oracle(optimizer)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(Recipe(epochs=4, lr=0.2, schedule=schedule), 10) == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from(SCHEDULES), st.integers(1, 60), st.integers(1, 50), st.floats(0, 3))
def test_epochs_and_steps_of_the_same_length_have_the_same_rates(schedule, epochs, per_epoch, warmup):
    by_epochs = Recipe(epochs=epochs, lr=0.2, warmup=warmup, schedule=schedule)
    by_steps = Recipe(steps=epochs * per_epoch, lr=0.2, warmup=warmup, schedule=schedule)
    for step in {0, per_epoch // 2, epochs * per_epoch // 2, epochs * per_epoch - 1}:
        lr = by_epochs.lr_at(step, per_epoch)
        assert lr == by_steps.lr_at(step, per_epoch)
        assert math.isfinite(lr)
        assert 0 <= lr <= 0.2 * (1 + 1e-12)
