import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.compression.distillation.taught import softened_divergence
from tailkeep.errors import StepFailed
from tailkeep.models.digits import DigitsNet

SHAPE = (1, 8, 8)
LOGITS = torch.tensor(
    [
        [2.0, -1.0, 0.5, 0.3, -0.7],
        [0.1, 1.5, -0.4, 0.9, 0.2],
        [-1.2, 0.4, 0.8, 2.2, -0.3],
        [0.6, 0.5, 0.4, 0.3, 0.2],
        [1.1, -2.0, 0.0, 0.7, 1.3],
        [-0.5, 0.25, 1.75, -1.0, 0.1],
    ],
    dtype=torch.float64,
)
TEACHER = torch.tensor(
    [
        [3.0, -0.5, 0.2, -0.3, -1.1],
        [0.0, 0.7, -0.9, 1.4, 0.6],
        [-0.8, 0.1, 1.0, 2.9, -0.6],
        [1.0, 0.2, 0.1, 0.9, -0.4],
        [0.4, -1.5, 0.3, 0.2, 2.0],
        [-0.2, 0.3, 0.9, -0.6, 1.2],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([0, 1, 3, 4, 4, 2])


def cross_entropy(logits, labels, progress):
    return F.cross_entropy(logits, labels)


class Fixed(nn.Module):
    """Gives the same logits whatever it sees, through a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.float())

    def forward(self, x):
        return self.logits + 0 * x.sum()


def context(**extra):
    return Context((10,) * 10, SHAPE, 0, torch.device("cpu"), **extra)


REFERENCE = [
    (Distillation(), 0.22391767263150766),
    (Distillation(temperature=5, student_weight=0.3, teacher_weight=0.7), 0.35377564650973387),
]


@pytest.mark.parametrize(("method", "value"), REFERENCE)
def test_reference_values_in_float64(method, value):
    soft = softened_divergence(LOGITS, TEACHER, method.temperature)
    total = method.student_weight * cross_entropy(LOGITS, LABELS, 0) + method.teacher_weight * soft
    assert total.item() == pytest.approx(value, abs=1e-13)


@pytest.mark.parametrize(("method", "value"), REFERENCE)
def test_the_loss_of_a_step(method, value):
    given = context(teacher=Fixed(TEACHER))
    student = Fixed(LOGITS)
    step = method.loss(cross_entropy, given)
    loss, logits = step(student, torch.zeros(1), LABELS, 0.0)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert logits.dtype == torch.float32
    assert torch.equal(logits.detach(), LOGITS.float())
    loss.backward()
    assert student.logits.grad is not None
    assert given.teacher.logits.grad is None


def test_divergence_is_from_the_teacher_summed_over_classes():
    t, s = (TEACHER / 3).softmax(1), (LOGITS / 3).softmax(1)
    expected = 9 * (t * (t / s).log()).sum(1).mean().item()
    assert softened_divergence(LOGITS, TEACHER, 3.0).item() == pytest.approx(expected, abs=1e-13)
    assert softened_divergence(LOGITS, LOGITS, 3.0).item() == pytest.approx(0, abs=1e-13)


def test_half_precision_is_computed_in_float32():
    assert softened_divergence(LOGITS.bfloat16(), TEACHER.bfloat16(), 4.0).dtype == torch.float32


def test_without_a_student_a_copy_of_the_parent_is_trained_and_the_parent_teaches():
    parent = DigitsNet().build(10, SHAPE)
    given = context()
    student = Distillation().prepare(parent, given)
    assert student is not parent
    assert given.teacher is parent
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), parent.state_dict().values(), strict=True)
    )
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    assert student.training
    assert not parent.training


def test_a_student_is_built_and_a_named_teacher_teaches():
    parent, teacher = DigitsNet().build(10, SHAPE), DigitsNet().build(10, SHAPE)
    given = context(teacher=teacher, build_student=lambda: DigitsNet(width=0.5).build(10, SHAPE))
    student = Distillation().prepare(parent, given)
    assert student.conv1.out_channels == 8
    assert given.teacher is teacher
    assert all(parameter.requires_grad for parameter in parent.parameters())


def test_the_teacher_stays_as_it_is():
    torch.manual_seed(0)
    parent = DigitsNet().build(10, SHAPE)
    given = context()
    method = Distillation()
    student = method.prepare(parent, given)
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    given.teacher.train()
    step = method.loss(cross_entropy, given)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(3):
        loss, _ = step(student, torch.randn(8, *SHAPE), torch.arange(8), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.state_dict().items())
    assert not torch.equal(student.fc.weight, parent.fc.weight)


def test_no_teacher_is_a_failure_in_words():
    with pytest.raises(StepFailed, match="teacher: distillation has no teacher"):
        Distillation().loss(cross_entropy, context())


def test_facts_of_the_method():
    assert Distillation().needs_teacher
    assert Distillation().finish(nn.Identity(), context())[1] is None
    with pytest.raises(ValueError, match="greater than 0"):
        Distillation(temperature=0)
