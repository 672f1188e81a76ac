"""The performance-weighted loss against its reference, and how it composes with pruning."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.performance_weighted import (
    PerformanceWeighted,
    corrected_targets,
    performance_weighted_loss,
    performance_weights,
)
from tailkeep.models.digits import DigitsNet
from tailkeep.study.catalog import AnyMethod
from tailkeep.study.rebuild import build_model, method_of

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
LOGITS = torch.tensor(REFERENCE["logits"], dtype=torch.float64)
TEACHER = torch.tensor(REFERENCE["teacher_logits"], dtype=torch.float64)
LABELS = torch.tensor(REFERENCE["labels"])
WANTED = REFERENCE["performance_weighted"]
SHAPE = (1, 8, 8)
IMAGES = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(0))
DIGITS = torch.arange(32) % 10

pytestmark = pytest.mark.usefixtures("one_thread")


class Fixed(nn.Module):
    """Gives the same logits whatever it sees, through a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.float())

    def forward(self, x):
        return self.logits + 0 * x.sum()


def cross_entropy(logits, labels, progress):
    return F.cross_entropy(logits, labels)


def model(seed=0, width=1.0):
    return build_model(DigitsNet(width=width).plain(), None, 10, SHAPE, seed).eval()


def context(**extra):
    return Context((40,) + (10,) * 9, SHAPE, 0, torch.device("cpu"), lambda count, draw="": [(IMAGES, DIGITS)], **extra)


def test_weights_and_loss_are_the_reference_in_float64():
    weights = performance_weights(TEACHER, LABELS, WANTED["theta"], WANTED["gamma"])
    assert weights.tolist() == pytest.approx(WANTED["weights"], abs=1e-14)
    loss = performance_weighted_loss(LOGITS, TEACHER, LABELS, WANTED["theta"], WANTED["gamma"])
    assert loss.item() == pytest.approx(WANTED["value"], abs=1e-14)
    plain = PerformanceWeighted().plain()
    assert (plain["theta"], plain["gamma"], plain["student_weight"], plain["pruning"]) == (0.75, 5, 0, None)


def test_targets_are_the_teachers_only_where_it_is_right():
    targets = corrected_targets(TEACHER, LABELS)
    for row, (logits, label) in enumerate(zip(TEACHER, LABELS, strict=True)):
        right = int(logits.argmax()) == int(label)
        expected = logits.softmax(0) if right else F.one_hot(label, 5).double()
        assert torch.allclose(targets[row], expected, atol=1e-15)
    assert {bool(t.max() == 1) for t in targets} == {True, False}, "both occur"


def test_theta_one_weighs_all_images_alike():
    flat = performance_weighted_loss(LOGITS, TEACHER, LABELS, 1.0, 5.0)
    losses = -(corrected_targets(TEACHER, LABELS) * LOGITS.log_softmax(1)).sum(1)
    assert flat.item() == pytest.approx(losses.mean().item(), rel=1e-14)
    assert performance_weights(TEACHER, LABELS, 0.0, 1.0).tolist() == pytest.approx(
        [1 - float(p[y]) for p, y in zip(TEACHER.softmax(1), LABELS, strict=True)]
    )


def test_gradients_and_very_sure_models():
    def loss(logits):
        return performance_weighted_loss(logits, TEACHER, LABELS, 0.75, 5.0)

    assert torch.autograd.gradcheck(loss, (LOGITS.clone().requires_grad_(),))
    assert bool(torch.isfinite(performance_weighted_loss((1e4 * LOGITS).float(), 1e4 * TEACHER, LABELS, 0.75, 5.0)))
    assert performance_weighted_loss(LOGITS.bfloat16(), TEACHER.bfloat16(), LABELS, 0.75, 5.0).dtype == torch.float32


@pytest.mark.parametrize("student_weight", [0.0, 0.5])
def test_the_loss_of_a_step(student_weight):
    given = Context((10,) * 5, SHAPE, 0, torch.device("cpu"), teacher=Fixed(TEACHER))
    method = PerformanceWeighted(student_weight=student_weight)
    student = Fixed(LOGITS)
    loss, logits = method.loss(cross_entropy, given)(student, torch.zeros(1), LABELS, 0.0)
    own = F.cross_entropy(LOGITS, LABELS).item()
    assert loss.item() == pytest.approx(WANTED["value"] + student_weight * own, rel=1e-5)
    assert torch.equal(logits.detach(), LOGITS.float())
    loss.backward()
    assert student.logits.grad is not None
    assert given.teacher.logits.grad is None


@pytest.mark.parametrize(
    "pruning",
    [
        {"kind": "filter_pruning", "ratio": 0.5},
        {"kind": "filter_pruning", "ratio": 0.5, "when": "gradual", "rounds": 2},
        {"kind": "class_aware_pruning", "ratio": 0.25, "criterion": "group_share"},
        {"kind": "weight_pruning", "ratio": 0.6},
    ],
)
def test_it_prunes_a_copy_and_the_unpruned_parent_teaches(pruning):
    method = TypeAdapter(AnyMethod).validate_python({"kind": "performance_weighted", "pruning": pruning})
    assert method.needs_teacher
    parent, given = model(), context()
    before = copy.deepcopy(parent.state_dict())
    student = method.prepare(parent, given)
    assert given.teacher is parent
    loss = method.loss(cross_entropy, given)
    optimizer = torch.optim.SGD(student.parameters(), 0.05)
    for step in range(3):
        method.on_step(student, step / 3, given)
        value, _ = loss(student, IMAGES, DIGITS, step / 3)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    student, change = method.finish(student.eval(), given)
    assert all(torch.equal(before[name], value) for name, value in parent.state_dict().items()), (
        "a teacher never changes"
    )
    if pruning["kind"] == "weight_pruning":
        assert change is None
        assert given.facts["achieved_sparsity"] == pytest.approx(0.6, abs=0.01)
        return
    assert change["kind"] == pruning["kind"], "it is stored, and rebuilt, as that method's change"
    assert given.facts["achieved_ratio"] == pytest.approx(pruning["ratio"], abs=0.05)
    again = method_of(change["kind"]).model_construct().rebuild(model(7), change["values"], SHAPE)
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(IMAGES), student(IMAGES))


def test_a_pruned_parent_and_the_dense_model_as_the_named_teacher():
    dense, pruned = model(), model(1, 0.5)
    given = context(teacher=dense)
    method = PerformanceWeighted()
    student = method.prepare(pruned, given)
    value, _ = method.loss(cross_entropy, given)(student.eval(), IMAGES, DIGITS, 0.0)
    with torch.no_grad():
        expected = performance_weighted_loss(pruned(IMAGES), dense(IMAGES), DIGITS, 0.75, 5.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert method.finish(student, given) == (student, None)


def test_settings():
    with pytest.raises(ValueError, match="theta"):
        PerformanceWeighted(theta=1.5)
    with pytest.raises(ValueError, match="pruning"):
        PerformanceWeighted(pruning={"kind": "qat"})
    with pytest.raises(ValueError, match="ratio"):
        PerformanceWeighted(pruning={"kind": "filter_pruning", "ratio": 1})
