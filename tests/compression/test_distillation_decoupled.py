import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.decoupled import DecoupledDistillation, decoupled_divergences
from tailkeep.compression.distillation.taught import softened_divergence
from tailkeep.errors import StepFailed

CLASSES = 5
LABELS = torch.tensor([0, 1, 3, 4, 4, 2, 0])


def draw(seed, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(len(LABELS), classes, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(0), draw(1)


def cross_entropy(logits, labels, progress):
    return F.cross_entropy(logits, labels)


def reference(student, teacher, labels, temperature):
    """TCKD and NCKD of each image, in numpy, straight from the paper's equations 2 to 6."""
    target, other = [], []
    for z_s, z_t, y in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        e_s, e_t = np.exp(z_s / temperature), np.exp(z_t / temperature)
        b_s = np.array([e_s[y], e_s.sum() - e_s[y]]) / e_s.sum()
        b_t = np.array([e_t[y], e_t.sum() - e_t[y]]) / e_t.sum()
        target.append(temperature**2 * (b_t * np.log(b_t / b_s)).sum())
        rest_s, rest_t = np.delete(e_s, y), np.delete(e_t, y)
        p_s, p_t = rest_s / rest_s.sum(), rest_t / rest_t.sum()
        other.append(temperature**2 * (p_t * np.log(p_t / p_s)).sum())
    return np.array(target), np.array(other)


class Fixed(nn.Module):
    """Gives the same logits whatever it sees, through a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.float())

    def forward(self, x):
        return self.logits + 0 * x.sum()


def step_loss(method, progress, student=None, teacher=None):
    given = Context((10,) * CLASSES, (1, 8, 8), 0, torch.device("cpu"), teacher=teacher or Fixed(TEACHER))
    return method.loss(cross_entropy, given)(student or Fixed(STUDENT), torch.zeros(1), LABELS, progress)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_terms_are_the_papers(temperature):
    target, other, share = decoupled_divergences(STUDENT, TEACHER, LABELS, temperature)
    expected_target, expected_other = reference(STUDENT, TEACHER, LABELS, temperature)
    np.testing.assert_allclose(target.numpy(), expected_target, rtol=1e-12)
    np.testing.assert_allclose(other.numpy(), expected_other, rtol=1e-12)
    probabilities = (TEACHER / temperature).softmax(1)
    np.testing.assert_allclose(share.numpy(), [p[y] for p, y in zip(probabilities, LABELS, strict=True)], rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_with_the_teachers_doubt_as_beta_it_is_plain_distillation(temperature):
    target, other, share = decoupled_divergences(STUDENT, TEACHER, LABELS, temperature)
    plain = softened_divergence(STUDENT, TEACHER, temperature)
    assert (target + (1 - share) * other).mean().item() == pytest.approx(plain.item(), rel=1e-12)
    assert (target + other).mean().item() != pytest.approx(plain.item(), rel=0.1)


def test_gradients():
    def loss(logits):
        target, other, _ = decoupled_divergences(logits, TEACHER, LABELS, 4.0)
        return (target + 2 * other).mean()

    assert torch.autograd.gradcheck(loss, (STUDENT.clone().requires_grad_(),))


def test_two_classes_have_no_others_to_tell_apart():
    student, teacher = draw(2, 2), draw(3, 2)
    labels = LABELS % 2
    target, other, _ = decoupled_divergences(student, teacher, labels, 2.0)
    assert other.abs().max() == 0
    assert target.mean().item() == pytest.approx(softened_divergence(student, teacher, 2.0).item(), rel=1e-12)


def test_a_teacher_and_a_student_that_are_very_sure_give_finite_numbers():
    student = (1e4 * STUDENT).float().requires_grad_()
    target, other, _ = decoupled_divergences(student, (1e4 * TEACHER).float(), LABELS, 1.0)
    (target + other).sum().backward()
    assert bool(torch.isfinite(target).all() & torch.isfinite(other).all() & torch.isfinite(student.grad).all())


def test_half_precision_is_computed_in_float32():
    target, other, _ = decoupled_divergences(STUDENT.bfloat16(), TEACHER.bfloat16(), LABELS, 4.0)
    assert (target.dtype, other.dtype) == (torch.float32, torch.float32)


METHODS = [
    DecoupledDistillation(),
    DecoupledDistillation(alpha=0.5, beta=8, temperature=2, student_weight=0.3, warmup=0.4),
    DecoupledDistillation(alpha=3, beta=0, warmup=0),
    DecoupledDistillation(student_weight=0, warmup=1),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("progress", [0.0, 0.05, 0.3, 1.0])
def test_the_loss_of_a_step_and_its_warm_up(method, progress):
    target, other = reference(STUDENT, TEACHER, LABELS, method.temperature)
    ramp = 1.0 if method.warmup == 0 else min(progress / method.warmup, 1.0)
    own = F.cross_entropy(STUDENT, LABELS).item()
    soft = method.alpha * target.mean() + method.beta * other.mean()
    loss, logits = step_loss(method, progress)
    assert loss.item() == pytest.approx(method.student_weight * own + ramp * soft, rel=1e-5)
    assert torch.equal(logits.detach(), STUDENT.float())


def test_only_the_student_learns():
    student, teacher = Fixed(STUDENT), Fixed(TEACHER)
    step_loss(DecoupledDistillation(), 0.5, student, teacher)[0].backward()
    assert bool((student.logits.grad != 0).any(1).all()), "every image counts"
    assert teacher.logits.grad is None
    assert not teacher.training


def test_settings():
    plain = DecoupledDistillation().plain()
    assert (plain["alpha"], plain["beta"], plain["temperature"], plain["student_weight"]) == (1, 2, 4, 1)
    assert plain["warmup"] == pytest.approx(20 / 240, abs=1e-3)
    assert DecoupledDistillation().needs_teacher
    for wrong in ({"warmup": 1.5}, {"beta": -1}, {"temperature": 0}):
        with pytest.raises(ValueError, match="should be"):
            DecoupledDistillation(**wrong)
    given = Context((10,) * CLASSES, (1, 8, 8), 0, torch.device("cpu"))
    with pytest.raises(StepFailed, match="teacher"):
        DecoupledDistillation().loss(cross_entropy, given)
