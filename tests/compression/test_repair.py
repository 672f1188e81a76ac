"""Repairs of a finished model's classifier, against their formulas."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context, Method
from tailkeep.compression.quantization.ptq import PostTrainingQuantization
from tailkeep.compression.repair.classifier_retraining import ClassifierRetraining
from tailkeep.compression.repair.logit_adjustment import PostHocLogitAdjustment
from tailkeep.compression.repair.tau_normalisation import TauNormalisation
from tailkeep.compression.repair.weight_scaling import WeightScaling
from tailkeep.errors import StepFailed
from tailkeep.training.loop import Training, fit
from tailkeep.training.recipe import Recipe

SHAPE = (1, 4, 4)
COUNTS = (1000, 400, 120, 50, 8)
LOGITS = [
    [2.0, -1.0, 0.5, 0.3, -0.7], [0.1, 1.5, -0.4, 0.9, 0.2], [-1.2, 0.4, 0.8, 2.2, -0.3],
    [0.6, 0.5, 0.4, 0.3, 0.2], [1.1, -2.0, 0.0, 0.7, 1.3], [-0.5, 0.25, 1.75, -1.0, 0.1],
]  # fmt: skip


class Batches:
    steps_per_epoch = 5

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 5, (12,), generator=generator)
        return torch.randn(12, *SHAPE, generator=generator) + labels[:, None, None, None], labels


def network(bias=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(24, 5, bias=bias),
    )  # fmt: skip
    return model.eval()


def context(seed=0):
    batch = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(9))
    return Context(COUNTS, SHAPE, seed, torch.device("cpu"), lambda count, draw="random": [(batch, None)])


def trained(method, model, steps=8, seed=0, **settings):
    """The method's whole way: prepare, train, finish."""
    given = context(seed)
    model = method.prepare(model, given)
    loss = method.loss(lambda logits, labels, progress: F.cross_entropy(logits, labels), given)
    recipe = Recipe(steps=steps, lr=0.1, **settings)
    hooks = {"on_step": lambda m, p: method.on_step(m, p, given), "param_groups": method.param_groups(model)}
    fit(model, Training(Batches(), loss, recipe, seed, "float32", **hooks))
    model, change = method.finish(model.eval(), given)
    return model, change, given


# --- post-hoc logit adjustment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tau", [1.0, 1.5])
def test_post_hoc_adjustment_takes_the_log_prior_off_every_logit(bias, tau):
    model, images = network(bias), torch.randn(7, *SHAPE)
    prior = torch.tensor(COUNTS) / sum(COUNTS)
    expected = model(images) - tau * prior.log()
    method = PostHocLogitAdjustment(tau=tau)
    given = context()
    adjusted, change = method.finish(method.prepare(model, given), given)
    assert torch.allclose(adjusted(images), expected, atol=1e-5)
    assert given.facts["logit_shift"] == pytest.approx((-tau * prior.log()).tolist(), rel=1e-6)
    if bias:
        assert change is None
    else:
        again = method.rebuild(network(bias), change["values"], SHAPE)
        again.load_state_dict(adjusted.state_dict())
        assert torch.equal(again(images), adjusted(images))


def test_post_hoc_predictions_are_the_reference():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        model[1].weight.copy_(F.pad(torch.tensor(LOGITS).T, (0, 10)))
        model[1].bias.zero_()
    images = F.pad(torch.eye(6), (0, 10)).view(6, *SHAPE)
    adjusted, _ = PostHocLogitAdjustment().finish(model, context())
    assert adjusted(images).argmax(1).tolist() == [4, 4, 3, 4, 4, 4]


def test_post_hoc_adjustment_works_on_integer_layers():
    given, images = context(), torch.randn(7, *SHAPE)
    quantization = PostTrainingQuantization(keep_first_last=False)
    model, _ = quantization.finish(quantization.prepare(network(), given).eval(), given)
    before = model(images)
    adjusted, change = PostHocLogitAdjustment().finish(model, given)
    assert change is None
    shift = -(torch.tensor(COUNTS) / sum(COUNTS)).log()
    assert torch.allclose(adjusted(images) - before, shift.expand(7, 5), atol=1e-5)


# --- tau-normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_tau_normalisation_predicts_what_the_papers_does(tau):
    model, images = network(), torch.randn(200, *SHAPE)
    with torch.no_grad():
        model[5].weight *= torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2])[:, None]
    lengths = model[5].weight.norm(dim=1)
    papers = model[:5](images) @ (model[5].weight / lengths[:, None] ** tau).T
    given = context()
    normalised, change = TauNormalisation(tau=tau).finish(copy.deepcopy(model), given)
    assert change is None
    assert torch.equal(normalised(images).argmax(1), papers.argmax(1))
    ratio = normalised(images) / papers
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3), "one factor for all"
    after = normalised[5].weight.norm(dim=1)
    assert after.log().mean().item() == pytest.approx(lengths.log().mean().item(), abs=1e-5), "the scale is kept"
    assert torch.allclose(after, after.mean().expand(5)) == (tau == 1)
    assert given.facts["row_lengths"] == pytest.approx(lengths.tolist(), rel=1e-6)


def test_the_bias_goes_unless_it_is_kept():
    model = network()
    kept, _ = TauNormalisation(keep_bias=True).finish(copy.deepcopy(model), context())
    gone, _ = TauNormalisation().finish(copy.deepcopy(model), context())
    assert torch.equal(kept[5].bias, model[5].bias)
    assert gone[5].bias.abs().max() == 0


def test_a_row_of_zeros_stays_finite():
    model = network()
    with torch.no_grad():
        model[5].weight[2] = 0
    assert bool(torch.isfinite(TauNormalisation().finish(model, context())[0](torch.randn(3, *SHAPE))).all())


# --- training the classifier alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ClassifierRetraining(), ClassifierRetraining(redraw=False), WeightScaling()])
def test_the_body_stays_bit_for_bit_with_its_statistics(method):
    parent = network()
    model, change, given = trained(method, copy.deepcopy(parent))
    assert change is None
    before, after = parent.state_dict(), model.state_dict()
    assert list(before) == list(after)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("5.")), name
    assert all(parameter.requires_grad for parameter in model.parameters()), "what comes next trains on"
    assert given.facts["classifier"] == "5"


def test_re_training_starts_from_rows_drawn_anew_and_as_long_as_the_parents():
    parent = network()
    drawn = [ClassifierRetraining().prepare(copy.deepcopy(parent), context(seed))[5] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].weight, drawn[1].weight)
    assert not torch.equal(drawn[0].weight, drawn[2].weight)
    assert torch.allclose(drawn[0].weight.norm(dim=1), parent[5].weight.norm(dim=1).mean().expand(5))
    assert F.cosine_similarity(drawn[0].weight, parent[5].weight).abs().max() < 0.8
    assert drawn[0].bias.abs().max() == 0
    kept = ClassifierRetraining(redraw=False).prepare(copy.deepcopy(parent), context())
    assert torch.equal(kept[5].weight, parent[5].weight)


def test_re_training_equals_a_linear_model_on_the_frozen_features():
    parent = network()
    model, _, _ = trained(ClassifierRetraining(redraw=False), copy.deepcopy(parent), weight_decay=0.01)
    linear = copy.deepcopy(parent[5])
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step in range(8):
        optimizer.param_groups[0]["lr"] = Recipe(steps=8, lr=0.1).lr_at(step, 5)
        images, labels = Batches().batch(step)
        with torch.no_grad():
            features = parent[:5](images)
        optimizer.zero_grad()
        F.cross_entropy(linear(features), labels).backward()
        optimizer.step()
    assert torch.allclose(model[5].weight, linear.weight, atol=1e-6)
    assert torch.allclose(model[5].bias, linear.bias, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_weight_scaling_multiplies_every_row_by_one_factor(bias):
    parent = network(bias)
    model, _, given = trained(WeightScaling(), copy.deepcopy(parent), weight_decay=0.5)
    factors = torch.tensor(given.facts["factors"])
    assert torch.allclose(model[5].weight, parent[5].weight * factors[:, None], atol=1e-6)
    if bias:
        assert torch.allclose(model[5].bias, parent[5].bias * factors, atol=1e-6)
    assert type(model[5]) is nn.Linear
    assert factors.std() > 0.005
    still, _, _ = trained(WeightScaling(), copy.deepcopy(parent), steps=0)
    assert torch.equal(still[5].weight, parent[5].weight)


def test_the_factors_have_no_weight_decay():
    method = WeightScaling()
    model = method.prepare(network(), context())
    (group,) = method.param_groups(model)
    assert group["weight_decay"] == 0
    assert [tuple(parameter.shape) for parameter in group["params"]] == [(5,)]


@pytest.mark.parametrize("method", [ClassifierRetraining(), WeightScaling(), TauNormalisation()])
def test_a_quantized_classifier_is_refused(method):
    given = context()
    quantization = PostTrainingQuantization(keep_first_last=False)
    model, _ = quantization.finish(quantization.prepare(network(), given).eval(), given)
    with pytest.raises(StepFailed, match="5 is quantized; repair the classifier first, and quantize then"):
        method.finish(method.prepare(model, given), given)


@pytest.mark.parametrize(
    "method", [PostHocLogitAdjustment(), TauNormalisation(), ClassifierRetraining(), WeightScaling()]
)
def test_a_model_without_a_linear_classifier_is_refused(method: Method):
    model = nn.Sequential(nn.Conv2d(1, 5, 4), nn.Flatten())
    with pytest.raises(StepFailed, match="do not come out of a linear layer"):
        method.finish(method.prepare(model, context()), context())


def test_repairs_raise_the_recall_of_rare_classes():
    """Where classes overlap, a classifier of imbalanced data gives the rare ones away; each repair takes them back."""
    draw = np.random.default_rng(0)
    counts = (1000, 30)

    def data(sizes):
        labels = torch.from_numpy(np.repeat([0, 1], sizes))
        noise = torch.from_numpy(draw.normal(0, 1, (sum(sizes), *SHAPE))).float()
        return noise + 0.35 * labels[:, None, None, None], labels

    class Drawn:
        steps_per_epoch = 1

        def __init__(self, sizes):
            self.data = data(sizes)

        def batch(self, step):
            return self.data

    def recall(model):
        return [float((model(test[0]).argmax(1) == test[1])[test[1] == c].float().mean()) for c in (0, 1)]

    test, imbalanced, balanced = data((2000, 2000)), Drawn(counts), Drawn((515, 515))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    base = lambda m, x, y, p: (F.cross_entropy(m(x), y), m(x))  # noqa: E731
    recipe = Recipe(steps=200, lr=0.2, weight_decay=0)
    fit(model, Training(imbalanced, base, recipe, 0, "float32"))
    before = recall(model)
    assert before[1] < 0.35
    for method in (PostHocLogitAdjustment(), ClassifierRetraining()):
        given = Context(counts, SHAPE, 0, torch.device("cpu"))
        repaired = method.prepare(copy.deepcopy(model), given)
        if method.trains:
            fit(repaired, Training(balanced, base, recipe, 0, "float32"))
        repaired, _ = method.finish(repaired, given)
        after = recall(repaired)
        assert after[1] > before[1] + 0.3, method.kind
        assert sum(after) > sum(before) + 0.2, method.kind
