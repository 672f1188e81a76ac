import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context, Method
from tailkeep.errors import StepFailed
from tailkeep.randomness import stream_seed
from tailkeep.training.loop import CHECK_EVERY, Training, fit, optimizer_for
from tailkeep.training.recipe import Constant, Recipe


class Numbered:
    """Batches that say which step they were asked for."""

    steps_per_epoch = 5

    def __init__(self, size=6):
        self.size = size
        self.asked = []

    def batch(self, step):
        self.asked.append(step)
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(self.size, 1, 4, 4, generator=generator)
        return images, torch.randint(0, 3, (self.size,), generator=generator)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3)
    )


def step_loss(model, images, labels, progress):
    logits = model(images).float()
    return F.cross_entropy(logits, labels), logits


def training(batches=None, **changes):
    settings = {"loss": step_loss, "recipe": Recipe(steps=12, lr=0.1), "seed": 3, "precision": "float32"}
    return Training(batches or Numbered(), **{**settings, **changes})


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("recipe", [Recipe(epochs=0), Recipe(steps=0)])
def test_a_length_of_0_trains_nothing(recipe):
    model = network().eval()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    batches = Numbered()
    assert fit(model, training(batches, recipe=recipe)) == []
    assert batches.asked == []
    assert same(model, before)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_equals_the_loop_written_by_hand():
    recipe = Recipe(epochs=2.4, lr=0.2, warmup=0.5, weight_decay=1e-3)
    batches = Numbered()
    model, expected = network(), network()
    fit(model, training(batches, recipe=recipe))
    assert batches.asked == list(range(12))

    optimizer = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-3)
    expected.train()
    for step in range(12):
        optimizer.param_groups[0]["lr"] = recipe.lr_at(step, 5)
        torch.manual_seed(stream_seed(3, "step", step))
        images, labels = Numbered().batch(step)
        optimizer.zero_grad()
        F.cross_entropy(expected(images), labels).backward()
        optimizer.step()
    assert same(model, expected)


def test_a_training_depends_on_its_seed_and_not_on_the_global_generator():
    first, second, third = network(), network(), network()
    fit(first, training())
    torch.manual_seed(999)
    fit(second, training())
    fit(third, training(seed=4))  # other dropout masks
    assert same(first, second)
    assert not same(first, third)


def test_hooks_hear_of_every_step():
    heard = []
    fit(network(), training(on_step=lambda model, progress: heard.append((progress, model.training))))
    assert heard == [(step / 12, True) for step in range(12)]


def test_progress_reaches_the_loss():
    heard = []

    def loss(model, images, labels, progress):
        heard.append(progress)
        return step_loss(model, images, labels, progress)

    fit(network(), training(loss=loss))
    assert heard == [step / 12 for step in range(12)]


def test_a_group_gets_its_own_multiple_of_the_learning_rate():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = copy.deepcopy(model)
    layer = model[1]
    recipe = Recipe(steps=1, lr=0.5, momentum=0, nesterov=False, weight_decay=0, schedule=Constant())
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr_scale": 0.1}]
    fit(model, training(recipe=recipe, param_groups=groups))
    images, labels = Numbered().batch(0)
    F.cross_entropy(before(images), labels).backward()
    assert torch.allclose(layer.weight, before[1].weight - 0.5 * before[1].weight.grad, atol=1e-7)
    assert torch.allclose(layer.bias, before[1].bias - 0.05 * before[1].bias.grad, atol=1e-7)


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].weight.requires_grad_(False)
    assert not any(p is model[0].weight for p in optimizer_for(model, Recipe(steps=1), None).param_groups[0]["params"])
    before = model[0].weight.clone()
    fit(model, training())
    assert torch.equal(model[0].weight, before)


def test_the_log_has_a_row_an_epoch_with_mean_loss_and_accuracy():
    seen = []

    def loss(model, images, labels, progress):
        value, logits = step_loss(model, images, labels, progress)
        seen.append((value.item(), (logits.argmax(1) == labels).double().mean().item()))
        return value, logits

    rows = fit(network(), training(loss=loss))
    assert [row["step"] for row in rows] == [5, 10, 12]
    assert [row["epoch"] for row in rows] == [1, 2, 2.4]
    recipe = Recipe(steps=12, lr=0.1)
    for row, part in zip(rows, (seen[:5], seen[5:10], seen[10:]), strict=True):
        assert row["lr"] == recipe.lr_at(row["step"] - 1, 5)
        assert row["loss"] == pytest.approx(sum(loss for loss, _ in part) / len(part))
        assert row["accuracy"] == pytest.approx(sum(right for _, right in part) / len(part))


def test_the_display_is_told_now_and_then():
    told = []
    recipe = Recipe(steps=2 * CHECK_EVERY + 3, lr=0.01)
    fit(network(), training(recipe=recipe, report=told.append))
    assert [word.step for word in told] == [CHECK_EVERY, 2 * CHECK_EVERY, 2 * CHECK_EVERY + 3]
    assert all(word.steps == 2 * CHECK_EVERY + 3 for word in told)
    assert all(math.isfinite(word.loss) and word.images_per_second > 0 for word in told)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("when", [0, 4, 11])
def test_a_loss_that_is_not_finite_fails_the_step(bad, when):
    def loss(model, images, labels, progress):
        value, logits = step_loss(model, images, labels, progress)
        return (value * bad if round(progress * 12) == when else value), logits

    with pytest.raises(StepFailed) as failure:
        fit(network(), training(loss=loss))
    assert failure.value.reason == "nan"


def test_a_learning_rate_that_is_far_too_high_fails_the_step():
    with pytest.raises(StepFailed, match=r"nan: .*not finite|nan: .*no longer finite"):
        fit(network(), training(recipe=Recipe(steps=60, lr=1e30)))


def test_weights_broken_by_the_last_step_fail_the_step():
    def loss(model, images, labels, progress):
        value, logits = step_loss(model, images, labels, progress)
        if progress > 0.9:  # a finite loss with a gradient that is not
            value = value + (0 * model[0].weight.sum()).sqrt()
        return value, logits

    with pytest.raises(StepFailed, match="not finite after the last step") as failure:
        fit(network(), training(loss=loss))
    assert failure.value.reason == "nan"


def test_in_bf16_the_model_runs_in_bf16_and_the_loss_in_float32():
    kinds = []
    model = network()
    model[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))

    def base(logits, labels, progress):
        value = F.cross_entropy(logits, labels)
        kinds.extend((logits.dtype, value.dtype))
        return value

    context = Context((1, 1, 1), (1, 4, 4), 0, torch.device("cpu"))
    fit(model, training(loss=Method().loss(base, context), recipe=Recipe(steps=1), precision="bf16"))
    assert kinds == [torch.bfloat16, torch.float32, torch.float32]
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_both_precisions_learn_the_same_thing():
    class Stripes(Numbered):
        def batch(self, step):
            images, labels = super().batch(step)
            return images + 3 * F.one_hot(labels, 4).float()[:, None, None, :], labels

    for precision in ("float32", "bf16"):
        rows = fit(network(), training(Stripes(32), recipe=Recipe(steps=60, lr=0.05), precision=precision))
        assert rows[-1]["accuracy"] > 0.9
