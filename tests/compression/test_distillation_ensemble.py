import pytest
import torch
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.ensemble import Ensemble
from tailkeep.compression.distillation.feature import FeatureDistillation
from tailkeep.compression.distillation.hinton import Distillation
from tailkeep.models.digits import DigitsNet

IMAGES = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """A linear map with dropout, which evaluation mode must switch off."""

    def __init__(self, seed, classes=4, scale=1.0):
        super().__init__()
        draw = torch.randn(3, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(scale * draw)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x @ self.weight)


def teachers():
    return [Classifier(1), Classifier(2, scale=4), Classifier(3)]


def test_its_softmax_is_the_mean_of_the_teachers_probabilities():
    members = teachers()
    expected = sum((IMAGES @ member.weight).softmax(1) for member in members) / 3
    output = Ensemble(members).eval()(IMAGES)
    assert torch.allclose(output.softmax(1), expected, rtol=1e-12)
    assert torch.allclose(output, expected.log(), rtol=1e-12), "a log-probability, not any logits"


def test_the_mean_of_the_logits():
    members = teachers()
    expected = sum(IMAGES @ member.weight for member in members) / 3
    output = Ensemble(members, "logits").eval()(IMAGES)
    assert torch.allclose(output, expected, rtol=1e-12)
    assert not torch.allclose(output.softmax(1), Ensemble(members).eval()(IMAGES).softmax(1), rtol=1e-2)


def test_alone_a_teacher_keeps_its_probabilities():
    single = Ensemble([Classifier(1)]).eval()(IMAGES)
    assert torch.allclose(single, (IMAGES @ Classifier(1).weight).log_softmax(1), rtol=1e-12)


def test_classes_that_all_rule_out_stay_finite_and_in_order():
    sure = Ensemble([Classifier(1, scale=1e4), Classifier(1, scale=2e4)]).eval()(IMAGES)
    assert bool(torch.isfinite(sure).all())
    assert torch.equal(sure.argsort(1), (IMAGES @ Classifier(1).weight).argsort(1))


def test_half_precision_is_averaged_in_float32():
    members = [member.bfloat16() for member in teachers()]
    assert Ensemble(members).eval()(IMAGES.bfloat16()).dtype == torch.float32


def test_gradients():
    ensemble = Ensemble(teachers()).eval()
    assert torch.autograd.gradcheck(lambda x: ensemble(x).logsumexp(1) + ensemble(x)[:, 0], (IMAGES.requires_grad_(),))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
    with pytest.raises(ValueError, match="average: choose"):
        Ensemble(teachers(), "median")
    with pytest.raises(ValueError, match="different shapes"):
        Ensemble([Classifier(1), Classifier(2, classes=5)])(IMAGES)


@pytest.mark.parametrize("method", [Distillation(), FeatureDistillation(form="attention")])
def test_it_teaches_and_is_frozen_whole(method):
    torch.manual_seed(0)
    ensemble = Ensemble([DigitsNet().build(10, (1, 8, 8)) for _ in range(2)])
    before = {name: value.clone() for name, value in ensemble.state_dict().items()}
    given = Context((10,) * 10, (1, 8, 8), 0, torch.device("cpu"), teacher=ensemble)
    model = method.prepare(DigitsNet(width=0.5).build(10, (1, 8, 8)), given)
    images = torch.randn(8, 1, 8, 8)
    step = method.loss(lambda logits, labels, progress: logits.sum() * 0, given)
    loss, _ = step(model, images, torch.arange(8), 0.5)
    loss.backward()
    assert loss > 0
    assert not any(module.training for module in ensemble.modules())
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())
    assert all(torch.equal(before[name], value) for name, value in ensemble.state_dict().items())
