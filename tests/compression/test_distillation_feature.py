import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.feature import FeatureDistillation, StudentWithRegressors
from tailkeep.compression.distillation.features import (
    attention,
    attention_distance,
    map_shapes,
    outputs_of,
    pair_layers,
    same_size,
    stages,
)
from tailkeep.compression.distillation.taught import softened_divergence
from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.errors import StepFailed
from tailkeep.models.digits import DigitsNet
from tailkeep.models.resnet import ResNet
from tailkeep.training.checkpoint import Checkpoint
from tailkeep.training.loop import Training, fit
from tailkeep.training.recipe import Recipe

SHAPE = (1, 8, 8)
IMAGES = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 10
BATCH = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))
FORMS = ("fitnet", "attention")


def cross_entropy(logits, labels, progress):
    return F.cross_entropy(logits, labels)


def nothing(logits, labels, progress):
    return logits.sum() * 0


def context(**extra):
    return Context((10,) * 10, SHAPE, 7, torch.device("cpu"), **extra)


def network(seed, width=1.0):
    torch.manual_seed(seed)
    return DigitsNet(width=width).build(10, SHAPE)


def maps(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class PreActivation(nn.Module):
    """A block whose first layer works at the size of its input."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, 2, 1)

    def forward(self, x):
        return self.convolution(F.relu(self.norm(x)))


# --- which layers ----------------------------------------------------------------------------------------------------

SEQUENCE = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
)  # fmt: skip
BLOCKS = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), PreActivation(8, 8), PreActivation(8, 12), nn.Flatten(), nn.Linear(48, 10)
)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (ResNet(depth=14).build(10, (3, 16, 16)), (3, 16, 16), ["layer1", "layer2", "layer3"]),
        (DigitsNet().build(10, SHAPE), SHAPE, ["layer1.0", "layer1"]),
        (SEQUENCE, SHAPE, ["1", "3"]),
        (BLOCKS, SHAPE, ["0", "1", "2"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SHAPE, []),
    ],
)
def test_the_stages_are_the_last_maps_of_each_size(model, shape, expected):
    assert stages(model, map_shapes(model, shape)) == expected


def test_looking_for_the_stages_changes_nothing():
    model = network(0).train()
    model.bn1.eval()
    before, flags = state(model), [module.training for module in model.modules()]
    map_shapes(model, SHAPE)
    assert same(before, state(model))
    assert flags == [module.training for module in model.modules()]
    assert hooks(model) == 0


def test_layers_pair_by_size_or_by_name():
    small, digits, resnet = network(0, 0.5), network(1), ResNet(depth=8).build(10, SHAPE)
    expected = [("layer1.0", "layer1.0", 8, 16), ("layer1", "layer1", 16, 32)]
    assert pair_layers(small, digits, SHAPE, None) == expected
    expected = [("layer1.0", "layer1", 8, 16), ("layer1", "layer2", 16, 32)]
    assert pair_layers(small, resnet, SHAPE, None) == expected, "the teacher's third stage has no partner"
    expected = [("layer1", "layer1", 16, 32), ("conv1", "layer1.0.conv2", 8, 16)]
    assert pair_layers(small, digits, SHAPE, ("layer1", "conv1:layer1.0.conv2")) == expected
    coarse = nn.Sequential(nn.Conv2d(1, 5, 3, 3), nn.Flatten(), nn.Linear(20, 10))
    assert pair_layers(small, coarse, SHAPE, None) == [("layer1", "0", 16, 5)], "the last, where no size is shared"


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (("layr1",), r"the student has no module 'layr1'; did you mean 'layer1'"),
        (("layer1:body",), r"the teacher has no module 'body' \(it has layer1.0, layer1\)"),
        (("fc",), "'fc' of the student gives no maps"),
    ],
)
def test_a_layer_that_cannot_be_compared_fails_in_words(layers, words):
    with pytest.raises(StepFailed, match=words):
        FeatureDistillation(layers=layers).prepare(network(0), context())


def test_models_without_maps_fail_in_words():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(StepFailed, match="layers: the student has no maps"):
        FeatureDistillation().prepare(flat, context(teacher=network(0)))
    with pytest.raises(StepFailed, match="layers: the teacher has no maps"):
        FeatureDistillation().prepare(network(0), context(teacher=flat))


@pytest.mark.parametrize("layers", [[], ["a:b:c"], [":a"], ["a:"], ["a", "a"], [""]])
def test_layers_that_name_nothing_are_refused(layers):
    with pytest.raises(ValueError, match="layers"):
        FeatureDistillation(layers=layers)


def test_each_form_has_its_weight_and_it_is_written_out():
    assert FeatureDistillation().plain()["feature_weight"] == 1
    assert FeatureDistillation(form="attention").plain()["feature_weight"] == 1000
    assert FeatureDistillation(form="attention", feature_weight=3).feature_weight == 3
    with pytest.raises(ValueError, match="form"):
        FeatureDistillation.model_validate({"form": ["fitnet"]})


# --- formulas --------------------------------------------------------------------------------------------------------


def test_attention_is_the_papers():
    student, teacher = maps(0, 3, 4, 5, 6), maps(1, 3, 7, 5, 6)
    found = []
    for value in (student.numpy(), teacher.numpy()):
        energy = (value**2).sum(1).reshape(3, -1)  # the sum over channels; the mean has the same direction
        found.append(energy / np.sqrt((energy**2).sum(1, keepdims=True)))
    np.testing.assert_allclose(attention(student).numpy(), found[0], rtol=1e-12)
    expected = ((found[0] - found[1]) ** 2).mean()
    assert attention_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert attention_distance(student, 5 * student).item() == pytest.approx(0, abs=1e-30), "its scale says nothing"
    assert torch.autograd.gradcheck(lambda x: attention_distance(x, teacher), (student.requires_grad_(),))
    silent = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_distance(silent, torch.ones(1, 2, 3, 3)).backward()
    assert bool(torch.isfinite(silent.grad).all()), "maps of zeros do not break the training"


def test_the_regressors_distance_is_the_mean_square_of_a_linear_fit():
    method = FeatureDistillation(layers=("a:b", "c"))
    regressors = [nn.Conv2d(4, 7, 1).double(), nn.Conv2d(2, 3, 1).double()]
    model = StudentWithRegressors(nn.Identity(), [("a", "b"), ("c", "c")], regressors)
    ours = {"a": maps(0, 3, 4, 5, 5), "c": maps(1, 3, 2, 2, 2)}
    theirs = {"b": maps(2, 3, 7, 5, 5), "c": maps(3, 3, 3, 2, 2)}
    expected = 0.0
    for layer, mine, other in zip(regressors, ours.values(), theirs.values(), strict=True):
        weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
        fitted = np.einsum("oc,nchw->nohw", weight, mine.numpy()) + bias[:, None, None]
        expected += ((fitted - other.numpy()) ** 2).mean()
    assert method.distance(model, ours, theirs).item() == pytest.approx(expected, rel=1e-12)
    given = ours["a"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: method.distance(model, {**ours, "a": x}, theirs), (given,))


def test_maps_of_different_sizes_meet_at_the_smaller_by_means():
    student, teacher = maps(0, 2, 3, 8, 4), maps(1, 2, 5, 4, 4)
    mine, other = same_size(student, teacher)
    assert torch.allclose(mine, student.reshape(2, 3, 4, 2, 4).mean(3), rtol=1e-12)
    assert torch.equal(other, teacher)
    mine, other = same_size(maps(0, 2, 3, 6, 2), maps(1, 2, 5, 3, 4))
    assert mine.shape[2:] == other.shape[2:] == (3, 2)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_of_a_step_is_the_sum_of_its_parts(form):
    method = FeatureDistillation(form=form, student_weight=0.3, feature_weight=7, teacher_weight=0.6, temperature=2)
    teacher = network(1)
    given = context(teacher=teacher, build_student=lambda: network(0, 0.5))
    model = method.prepare(network(2), given)
    labels = torch.arange(16) % 10
    loss, logits = method.loss(cross_entropy, given)(model, BATCH, labels, 0.5)
    student = copy.deepcopy(model.student)  # its statistics moved, its output in training mode does not show them
    with torch.no_grad():
        mine_8 = student.layer1[0](F.relu(student.bn1(student.conv1(BATCH))))
        mine_4 = student.layer1[1](mine_8)
        other_8 = teacher.layer1[0](F.relu(teacher.bn1(teacher.conv1(BATCH))))
        other_4 = teacher.layer1[1](other_8)
        own = F.cross_entropy(student(BATCH), labels)
        soft = softened_divergence(student(BATCH), teacher(BATCH), 2.0)
        if form == "fitnet":
            mine_8, mine_4 = model.regressors[0](mine_8), model.regressors[1](mine_4)
            apart = F.mse_loss(mine_8, other_8) + F.mse_loss(mine_4, other_4)
        else:
            apart = attention_distance(mine_8, other_8) + attention_distance(mine_4, other_4)
    assert loss.item() == pytest.approx((0.3 * own + 7 * apart + 0.6 * soft).item(), rel=1e-4)
    assert torch.allclose(logits, student(BATCH), atol=1e-5)
    assert given.facts["feature_layers"] == ["layer1.0:layer1.0", "layer1:layer1"]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_maps_match_after_training_on_them_and_the_teacher_stays(form):
    teacher = network(1)
    method = FeatureDistillation(form=form, feature_weight=3.0 if form == "fitnet" else 100.0)
    given = context(teacher=teacher, build_student=lambda: network(0, 0.5))
    model = method.prepare(network(2), given)
    before, kept = state(teacher), model.student
    step = method.loss(nothing, given)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9)
    losses = []
    for _ in range(40):
        loss, _ = step(model, BATCH, LABELS[:16], 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], (losses[0], losses[-1])
    assert same(before, state(teacher))
    assert not teacher.training
    student, change = method.finish(model.eval(), given)
    assert change is None
    assert student is kept
    assert hooks(student) == hooks(teacher) == 0
    assert list(student.state_dict()) == list(network(0, 0.5).state_dict()), "no trace of the regressors"
    assert type(student) is type(network(0))


def test_the_hooks_go_even_where_a_step_fails():
    teacher, given = network(1), context()
    given.teacher = teacher
    model = FeatureDistillation().prepare(network(0), given)
    step = FeatureDistillation().loss(cross_entropy, given)
    with pytest.raises(RuntimeError):
        step(model, torch.zeros(2, 3, 8, 8), LABELS[:2], 0.0)
    assert hooks(model) == hooks(teacher) == 0
    step(model, BATCH, LABELS[:16], 0.0)
    assert hooks(model) == hooks(teacher) == 0, "none lives longer than its step"


def test_a_module_that_is_called_twice_gives_its_last_maps():
    relu = nn.ReLU()
    model = nn.Sequential(relu, nn.Conv2d(1, 2, 1), relu)
    with outputs_of(model, ["0"]) as found:
        output = model(BATCH)
    assert found["0"] is output


def test_regressors_are_trained_and_are_a_function_of_the_seed():
    student, teacher, method = network(0, 0.5), network(1), FeatureDistillation()

    def prepared(seed):
        small = partial(copy.deepcopy, student)
        given = Context((10,) * 10, SHAPE, seed, torch.device("cpu"), teacher=teacher, build_student=small)
        generator = torch.get_rng_state()
        model = method.prepare(teacher, given)
        assert torch.equal(generator, torch.get_rng_state()), "the global generator is left alone"
        return given, model

    torch.manual_seed(123)
    _, first = prepared(1)
    torch.manual_seed(321)
    given, model = prepared(1)
    assert same(state(model), state(first))
    assert not same(state(model.regressors), state(prepared(2)[1].regressors))
    assert method.param_groups(model) is None, "the recipe's own group: every parameter of the module"
    loss, _ = method.loss(cross_entropy, given)(model, BATCH, LABELS[:16], 0.5)
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not missing
    assert len(model.regressors) == 2
    assert len(FeatureDistillation(form="attention").prepare(network(0), context()).regressors) == 0


def test_a_step_in_bf16_has_its_loss_in_float32():
    given = context(teacher=network(1))
    method = FeatureDistillation(teacher_weight=0.5)
    model = method.prepare(network(0, 0.5), given)
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = method.loss(cross_entropy, given)(model, BATCH, LABELS[:16], 0.5)
    assert (loss.dtype, logits.dtype) == (torch.float32, torch.float32)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


class Power(Exception):
    """The plug was pulled."""


def train(form, checkpoint=None, killed=None):
    """Eight steps from the start, or from the checkpoint if it is whole; saved after five, dead before ``killed``."""
    method = FeatureDistillation(form=form, teacher_weight=0.5)
    given = context(teacher=network(1), build_student=lambda: network(0, 0.5))
    model = method.prepare(network(2), given)
    begun = []

    def on_step(model, progress):
        step = round(progress * 8)
        begun.append(step)
        if step == killed:
            raise Power
        if checkpoint is not None:
            checkpoint.every = 0.0 if step + 1 == 5 else 1e9

    training = Training(
        TrainingBatches(IMAGES, LABELS, 8, Augment(crop_padding=1), 5, "cpu"), method.loss(cross_entropy, given),
        Recipe(steps=8, batch_size=8, lr=0.05, precision="float32"), 5, "float32", on_step,
        method.param_groups(model), checkpoint,
    )  # fmt: skip
    fit(model, training)
    return model, begun, method.finish(model.eval(), given)[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_training_ends_with_the_same_bits(form, tmp_path):
    whole, _, _ = train(form)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "me", 1e9)
    with pytest.raises(Power):
        train(form, checkpoint, killed=6)
    resumed, begun, student = train(form, Checkpoint(tmp_path / "checkpoint", "me", 1e9))
    assert begun == [5, 6, 7]
    assert same(state(resumed), state(whole))
    assert any(name.startswith("regressors.") for name in state(resumed)) == (form == "fitnet")
    assert same(state(student), {n[8:]: v for n, v in state(whole).items() if n.startswith("student.")})
