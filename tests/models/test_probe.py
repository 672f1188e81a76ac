import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.errors import BadInput
from tailkeep.models.digits import DigitsNet
from tailkeep.models.probe import probe
from tailkeep.models.resnet import ResNet

SHAPE = (1, 8, 8)


class Wrapped(nn.Module):
    """A sound network with something done to its output, or in its forward pass."""

    def __init__(self, change, classes=10):
        super().__init__()
        self.net = DigitsNet().build(classes, SHAPE)
        self.change = change

    def forward(self, x):
        return self.change(self, self.net(x))


def sound(module, logits):
    return logits


@pytest.mark.parametrize(
    "model",
    [
        DigitsNet().build(10, SHAPE),
        ResNet(depth=8).build(10, SHAPE),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(dim=1)),
    ],
    ids=["digits", "resnet", "dropout", "log-softmax"],
)
def test_sound_models_pass(model):
    probe(model, 10, SHAPE)


def test_a_head_that_starts_at_zero_passes():
    model = DigitsNet().build(10, SHAPE)
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    probe(model, 10, SHAPE)


def test_nothing_is_left_changed():
    model = DigitsNet().build(10, SHAPE)
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    probe(model, 10, SHAPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_20_probabilities_are_refused_and_explained():
    with pytest.raises(BadInput, match=r"returns probabilities .* drop its softmax"):
        probe(Wrapped(lambda module, logits: logits.softmax(1)), 10, SHAPE)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda module, logits: (logits, logits), "tuple"),
        (lambda module, logits: {"logits": logits}, "dict"),
        (lambda module, logits: None, "NoneType"),
    ],
)
def test_20_a_tuple_or_a_dict_is_refused(change, kind):
    with pytest.raises(BadInput, match=f"returns a {kind}; return the logits alone"):
        probe(Wrapped(change), 10, SHAPE)


def test_20_a_wrong_width_is_refused():
    with pytest.raises(BadInput, match="returns 1000 values an image, and the data has 10 classes"):
        probe(Wrapped(sound, classes=1000), 10, SHAPE)


def test_20_other_wrong_outputs():
    with pytest.raises(BadInput, match=r"returns shape \(8, 10, 1\)"):
        probe(Wrapped(lambda module, logits: logits[..., None]), 10, SHAPE)
    with pytest.raises(BadInput, match="class numbers"):
        probe(Wrapped(lambda module, logits: (logits * 100).long()), 10, SHAPE)
    with pytest.raises(BadInput, match="not finite"):
        probe(Wrapped(lambda module, logits: logits / 0), 10, SHAPE)


def test_20_a_model_for_other_images_is_refused():
    with pytest.raises(BadInput, match=r"fails in evaluation mode on images of shape \(8, 3, 8, 8\)"):
        probe(DigitsNet().build(10, SHAPE), 10, (3, 8, 8))


def test_20_another_output_in_training_mode_is_refused():
    auxiliary = Wrapped(lambda module, logits: (logits, logits) if module.training else logits)
    with pytest.raises(BadInput, match="in training mode the model returns a tuple"):
        probe(auxiliary, 10, SHAPE)


def test_20_a_model_that_cannot_be_trained_is_refused():
    with pytest.raises(BadInput, match="no gradient reaches"):
        probe(Wrapped(lambda module, logits: logits.detach()), 10, SHAPE)
    with pytest.raises(BadInput, match="no parameters"):
        probe(nn.Flatten(), 10, SHAPE)


def test_21_an_evaluation_that_is_not_deterministic_is_refused():
    with pytest.raises(BadInput, match="evaluation is not deterministic"):
        probe(Wrapped(lambda module, logits: F.dropout(logits)), 10, SHAPE)


def test_21_an_evaluation_that_looks_at_the_batch_is_refused():
    with pytest.raises(BadInput, match="depends on the other images"):
        probe(Wrapped(lambda module, logits: logits - logits.mean(0)), 10, SHAPE)


def test_21_buffers_that_move_in_evaluation_are_refused():
    class Stuck(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            self.register_buffer("images_seen", torch.zeros(()))

        def forward(self, x):
            self.images_seen += len(x)
            return self.net(x)

    with pytest.raises(BadInput, match="changes its buffer images_seen in evaluation mode"):
        probe(Stuck(), 10, SHAPE)


def test_21_a_batch_normalisation_kept_in_training_mode_is_refused():
    class Stuck(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(1)
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            self.bn.train()
            return self.fc(self.bn(x).flatten(1))

    with pytest.raises(BadInput, match="evaluation"):
        probe(Stuck(), 10, SHAPE)


def test_a_model_that_is_not_to_be_trained_may_give_probabilities_and_need_no_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1)).requires_grad_(False)
    with pytest.raises(BadInput, match="returns probabilities"):
        probe(model, 10, SHAPE)
    probe(model, 10, SHAPE, trained=False)
    probe(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10)), 10, SHAPE, trained=False)
    with pytest.raises(BadInput, match="not deterministic"):
        probe(Wrapped(lambda module, x: F.dropout(x)), 10, SHAPE, trained=False)
    with pytest.raises(BadInput, match="the data has 10 classes"):
        probe(Wrapped(sound, classes=7), 10, SHAPE, trained=False)
