import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tailkeep.models.digits import DigitsNet

SHAPE = (1, 8, 8)


def test_labels_and_first_convolutions():
    assert DigitsNet().label == "digits_net"
    assert DigitsNet(width=0.5).label == "digits_net-w0.5"
    assert DigitsNet().build(10, SHAPE).first_convolutions() == ["layer1.0.conv1", "layer1.1.conv1"]


def test_width_scales_the_channels():
    model = DigitsNet(width=0.5).build(10, SHAPE)
    assert (model.conv1.out_channels, model.fc.in_features) == (8, 16)
    assert model(torch.zeros(3, *SHAPE)).shape == (3, 10)


def test_symbolic_tracing():
    model = DigitsNet().build(10, SHAPE).eval()
    x = torch.randn(2, *SHAPE)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_it_learns_the_digits():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[:500], order[-500:]
    torch.manual_seed(0)
    model = DigitsNet().build(10, SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20 * 8)
    for _ in range(20):
        for batch in train[torch.randperm(500)].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    assert accuracy > 0.95


def test_width_is_bounded():
    with pytest.raises(ValueError, match="greater than or equal to"):
        DigitsNet(width=0)
