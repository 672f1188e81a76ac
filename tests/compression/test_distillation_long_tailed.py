"""Distillation that corrects a biased teacher: BKD, LTKD and adjusted logits, each written out a second time."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.adjusted import AdjustedDistillation
from tailkeep.compression.distillation.balanced import BalancedDistillation
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.compression.distillation.long_tail import LongTailDistillation, group_divergences
from tailkeep.compression.distillation.taught import softened_divergence
from tailkeep.compression.groups import frequency_thirds
from tailkeep.errors import StepFailed

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
LOGITS = torch.tensor(REFERENCE["logits"], dtype=torch.float64)
TEACHER = torch.tensor(REFERENCE["teacher_logits"], dtype=torch.float64)
LABELS = torch.tensor(REFERENCE["labels"])
COUNTS = tuple(REFERENCE["class_counts"])
GROUPS = [torch.tensor(group) for group in frequency_thirds(COUNTS)]  # (0,), (1, 2, 3), (4,)
WIDE_GROUPS = [torch.tensor([1, 3]), torch.tensor([0, 2, 4])]


class Fixed(nn.Module):
    """Gives the same logits whatever it sees, through a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.float())

    def forward(self, x):
        return self.logits + 0 * x.sum()


def step(method, counts=COUNTS):
    """The loss of a step, and the gradient of the student's logits."""
    given = Context(counts, (1, 8, 8), 0, torch.device("cpu"), teacher=Fixed(TEACHER))
    student = Fixed(LOGITS)
    loss, logits = method.loss(lambda z, y, progress: F.cross_entropy(z, y), given)(
        student, torch.zeros(1), LABELS, 0.5
    )
    loss.backward()
    assert torch.equal(logits.detach(), LOGITS.float())
    assert given.teacher.logits.grad is None
    return loss.item(), student.logits.grad


def soft(probabilities, temperature):
    """T^2 * KL(probabilities || student), mean over the batch."""
    log_student = F.log_softmax(LOGITS / temperature, 1)
    return temperature**2 * (probabilities * (probabilities.log() - log_student)).sum(1).mean().item()


# --- balanced and adjusted -------------------------------------------------------------------------------------------


def test_balanced_distillation_is_the_reference_in_float64():
    method = BalancedDistillation()
    shift = torch.tensor(method.teacher_shift(COUNTS), dtype=torch.float64)
    total = F.cross_entropy(LOGITS, LABELS) + softened_divergence(LOGITS, TEACHER + shift, 2.0)
    assert total.item() == pytest.approx(REFERENCE["bkd_T2_alpha1_with_cross_entropy"], abs=1e-12)
    assert step(method)[0] == pytest.approx(REFERENCE["bkd_T2_alpha1_with_cross_entropy"], rel=1e-5)
    plain = method.plain()
    assert (plain["temperature"], plain["student_weight"], plain["teacher_weight"]) == (2, 1, 1)
    assert plain["beta"] == 0.9999


@pytest.mark.parametrize(("temperature", "beta"), [(3.0, 0.99), (1.0, 0.9)])
def test_balanced_distillation_reweights_the_softened_probabilities(temperature, beta):
    weights = torch.tensor([(1 - beta) / (1 - beta**n) for n in COUNTS], dtype=torch.float64)
    wanted = F.softmax(TEACHER / temperature, 1) * weights
    wanted = wanted / wanted.sum(1, keepdim=True)
    method = BalancedDistillation(temperature=temperature, beta=beta, student_weight=0, teacher_weight=0.5)
    assert step(method)[0] == pytest.approx(0.5 * soft(wanted, temperature), rel=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_adjusted_distillation_takes_the_prior_out_of_the_teacher(tau):
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    wanted = F.softmax((TEACHER - tau * prior.log()) / 4, 1)
    own = F.cross_entropy(LOGITS, LABELS).item()
    assert step(AdjustedDistillation(tau=tau))[0] == pytest.approx(0.1 * own + 0.9 * soft(wanted, 4.0), rel=1e-5)


def test_without_a_correction_both_are_plain_distillation():
    expected = step(Distillation())[0]
    weights = {"student_weight": 0.1, "teacher_weight": 0.9, "temperature": 4}
    assert step(AdjustedDistillation(tau=0))[0] == expected
    assert step(BalancedDistillation(beta=0, **weights))[0] == pytest.approx(expected, rel=1e-6)
    even = (50,) * 5
    assert step(AdjustedDistillation(), even)[0] == pytest.approx(expected, rel=1e-6)
    assert step(BalancedDistillation(**weights), even)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", [BalancedDistillation(), AdjustedDistillation(student_weight=1, teacher_weight=1)])
def test_the_correction_asks_more_of_the_rare_class(method):
    """Against plain distillation of the same weights the student's rarest logit is pushed up, its commonest down."""
    plain = Distillation(temperature=method.temperature, student_weight=1, teacher_weight=1)
    pushed = step(plain)[1] - step(method)[1]
    assert bool((pushed[:, 4] > 0).all())
    assert bool((pushed[:, 0] < 0).all())


@pytest.mark.parametrize("method", [BalancedDistillation(), AdjustedDistillation()])
def test_a_class_without_images_fails_in_words(method):
    with pytest.raises(StepFailed, match="class 3 has none"):
        step(method, (5, 5, 5, 0, 5))


# --- long-tailed -----------------------------------------------------------------------------------------------------


def reference(groups, temperature, rebalance, reweight):
    """The two terms of each image in numpy, from the definition."""
    cross, within = [], []
    both = [np.exp(z / temperature) for z in (LOGITS.numpy(), TEACHER.numpy())]
    student, teacher = (e / e.sum(1, keepdims=True) for e in both)
    mass_s, mass_t = (np.stack([p[:, g].sum(1) for g in groups], 1) for p in (student, teacher))
    factor = (1 / len(groups)) / mass_t.mean(0) if rebalance else np.ones(len(groups))
    target = mass_t * factor / (mass_t * factor).sum(1, keepdims=True)
    for row in range(len(teacher)):
        cross.append((target[row] * np.log(target[row] / mass_s[row])).sum())
        total = 0.0
        for number, group in enumerate(groups):
            t, s = teacher[row, group] / mass_t[row, number], student[row, group] / mass_s[row, number]
            total += (1 / len(groups) if reweight else mass_t[row, number]) * (t * np.log(t / s)).sum()
        within.append(total)
    return temperature**2 * np.array(cross), temperature**2 * np.array(within)


@pytest.mark.parametrize("groups", [GROUPS, WIDE_GROUPS])
@pytest.mark.parametrize(("rebalance", "reweight"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_divergences_are_the_definition(groups, rebalance, reweight, temperature):
    cross, within = group_divergences(LOGITS, TEACHER, groups, temperature, rebalance, reweight)
    expected = reference([group.numpy() for group in groups], temperature, rebalance, reweight)
    np.testing.assert_allclose(cross.numpy(), expected[0], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(within.numpy(), expected[1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("groups", [GROUPS, WIDE_GROUPS])
def test_uncorrected_they_add_up_to_plain_distillation(groups):
    cross, within = group_divergences(LOGITS, TEACHER, groups, 4.0, False, False)
    assert (cross + within).mean().item() == pytest.approx(softened_divergence(LOGITS, TEACHER, 4.0).item(), abs=1e-14)


def test_a_teacher_whose_groups_are_equally_probable_is_left_alone():
    """Then neither correction changes anything: the two of them only take the bias out."""
    teacher = torch.tensor([[1.0, 0.2, 1.0, 0.2], [0.3, 2.0, 0.3, 2.0]], dtype=torch.float64)
    groups = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    plain = group_divergences(LOGITS[:2, :4], teacher, groups, 2.0, False, False)
    corrected = group_divergences(LOGITS[:2, :4], teacher, groups, 2.0)
    for one, other in zip(plain, corrected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_gradients_and_very_sure_models():
    def loss(logits):
        cross, within = group_divergences(logits, TEACHER, WIDE_GROUPS, 4.0)
        return (cross + 2 * within).mean()

    assert torch.autograd.gradcheck(loss, (LOGITS.clone().requires_grad_(),))
    student = (1e4 * LOGITS).float().requires_grad_()
    cross, within = group_divergences(student, (1e4 * TEACHER).float(), WIDE_GROUPS, 1.0)
    (cross + within).sum().backward()
    assert bool(torch.isfinite(cross).all() & torch.isfinite(within).all() & torch.isfinite(student.grad).all())
    assert group_divergences(LOGITS.bfloat16(), TEACHER.bfloat16(), GROUPS, 4.0)[0].dtype == torch.float32


@pytest.mark.parametrize("settings", [{}, {"alpha": 2, "beta": 0.5, "student_weight": 0.3, "rebalance": False}])
def test_the_loss_of_a_long_tailed_step(settings):
    method = LongTailDistillation(**settings)
    cross, within = group_divergences(LOGITS, TEACHER, GROUPS, method.temperature, method.rebalance, method.reweight)
    own = method.student_weight * F.cross_entropy(LOGITS, LABELS)
    expected = own + (method.alpha * cross + method.beta * within).mean()
    loss, gradient = step(method)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert bool((gradient != 0).any(1).all()), "every image counts"


def test_two_classes_make_two_groups():
    groups = [torch.tensor(group) for group in frequency_thirds((9, 2))]
    cross, within = group_divergences(LOGITS[:, :2], TEACHER[:, :2], groups, 1.0, False, False)
    assert within.abs().max().item() < 1e-15
    assert cross.mean().item() == pytest.approx(softened_divergence(LOGITS[:, :2], TEACHER[:, :2], 1.0).item())
    assert math.isfinite(cross.sum().item())
