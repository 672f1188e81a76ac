"""The normalised classifier: in training, folded, and through everything that compresses a model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.classifier import find_classifier
from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.compression.quantization.ptq import PostTrainingQuantization
from tailkeep.errors import StepFailed
from tailkeep.export.onnx import export_onnx
from tailkeep.export.runtime import OnnxSession
from tailkeep.losses import CrossEntropy, Ldam
from tailkeep.models.digits import DigitsNet
from tailkeep.models.heads import NormalizedLinear, UnitLength, fold_heads, normalize_head
from tailkeep.models.probe import probe
from tailkeep.models.user import ModelCode
from tailkeep.study.rebuild import build_model, check_head, rebuild, with_head

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
LDAM = with_head(DigitsNet().plain(), Ldam())


def images(count=6, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def plain_cnn(num_classes, in_channels):
    """A model of a user's whose last convolution, which the classifier reads, can lose filters."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )  # fmt: skip


CODE = ModelCode(plain_cnn, "f" * 64, "tests:plain_cnn")
USER = with_head({"kind": "user", "name": "user", "source_hash": CODE.source_hash}, Ldam(scale=10))


def test_logits_are_a_cosine_times_the_scale():
    head = NormalizedLinear(4, 3, 30.0)
    x = torch.randn(5, 4)
    for row in range(5):
        for label in range(3):
            cosine = F.cosine_similarity(x[row], head.weight[label], dim=0)
            assert head(x)[row, label].item() == pytest.approx(30 * cosine.item(), abs=1e-4)
    with torch.no_grad():
        head.weight *= torch.tensor([[1.0], [5.0], [0.1]])
    assert torch.allclose(head(x), head(7 * x), atol=1e-4)
    assert torch.equal(head(torch.zeros(2, 4)), torch.zeros(2, 3))


def test_in_bf16_training_the_head_stays_in_float32():
    head = NormalizedLinear(4, 3, 30.0)
    x = torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(x).dtype == torch.float32
        assert torch.equal(head(x), head(x.clone()))
    assert torch.equal(head(x), F.linear(F.normalize(x), 30 * F.normalize(head.weight)))


@pytest.mark.parametrize("plain", [LDAM, USER, with_head({"kind": "resnet", "depth": 8, "width": 0.5}, Ldam())])
def test_a_loss_gets_its_head_and_all_else_stays_as_it_was_drawn(plain):
    generator = torch.get_rng_state()
    with_it = build_model(plain, CODE, 10, SHAPE, 3)
    linear = build_model({k: v for k, v in plain.items() if k != "head"}, CODE, 10, SHAPE, 3)
    assert torch.equal(generator, torch.get_rng_state())
    name = find_classifier(linear, SHAPE)
    head, original = with_it.get_submodule(name), linear.get_submodule(name)
    assert isinstance(head, NormalizedLinear)
    assert head.scale == plain["head"]["scale"]
    assert torch.equal(head.weight, F.normalize(original.weight))
    for key, value in linear.state_dict().items():
        if not key.startswith(name):
            assert torch.equal(value, with_it.state_dict()[key])
    probe(with_it, 10, SHAPE)
    probe(fold_heads(with_it), 10, SHAPE)


def test_folding_keeps_every_bit_and_leaves_an_ordinary_layer():
    model = build_model(LDAM, None, 10, SHAPE, 0).eval()
    with torch.no_grad():
        model.fc.weight *= torch.rand(10, 1) + 0.5
    before, generator = model(images()), torch.get_rng_state()
    folded = fold_heads(copy.deepcopy(model))
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.equal(folded(images()), before)
    assert isinstance(folded.fc[0], UnitLength)
    assert type(folded.fc[1]) is nn.Linear
    assert torch.allclose(folded.fc[1].weight.norm(dim=1), torch.full((10,), 30.0))
    assert find_classifier(folded, SHAPE) == "fc.1"
    assert fold_heads(folded) is folded
    plain = build_model(DigitsNet().plain(), None, 10, SHAPE, 0)
    assert fold_heads(plain) is plain


def architecture(plain, changes=()):
    return {"model": plain, "num_classes": 10, "image_shape": list(SHAPE), "changes": list(changes)}


@pytest.mark.parametrize("plain", [LDAM, USER], ids=["digits_net", "user"])
@pytest.mark.parametrize("keep", [True, False])
def test_it_is_pruned_quantized_exported_and_rebuilt(plain, keep, tmp_path):
    from safetensors.torch import save_file

    context = Context(tuple(range(60, 0, -6)), SHAPE, 0, CPU, lambda count, draw="random": [(images(64), None)])
    model, changes = fold_heads(build_model(plain, CODE, 10, SHAPE, 0)).eval(), []
    for method in (FilterPruning(ratio=0.5), PostTrainingQuantization(keep_first_last=keep)):
        model, change = method.finish(method.prepare(model, context).eval(), context)
        changes.append(change)
        save_file({n: v.contiguous() for n, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        again = rebuild(architecture(plain, changes), tmp_path / "model.safetensors", CODE)
        logits = again(images(200))
        assert torch.equal(logits, model.to(memory_format=torch.channels_last)(images(200)))
        limit = plain["head"]["scale"] * 1.01
        assert 0.01 * limit < logits.abs().max() <= limit
    if plain is USER:  # its classifier lost inputs
        assert model.get_submodule("6.1").weight.shape == (10, 4)
    export_onnx(again, SHAPE, tmp_path / "model.onnx")
    found = torch.from_numpy(OnnxSession(tmp_path / "model.onnx").run(images(200).numpy()))
    assert (found.argmax(1) == logits.argmax(1)).float().mean() > 0.98


def test_masked_filters_count_for_nothing_in_the_length_of_the_features():
    """What a schedule over the training masks, the end of it removes: the logits stay what they were."""
    context = Context((6,) * 10, SHAPE, 0, CPU, lambda count, draw="random": [(images(8), None)])
    model = fold_heads(build_model(USER, CODE, 10, SHAPE, 0)).eval()
    method = FilterPruning(ratio=0.5, when="gradual")
    model = method.prepare(model, context)
    for progress in (0.0, 0.5, 1.0):
        method.on_step(model, progress, context)
    method.finish(model.eval(), context)
    assert context.facts["removal_largest_difference"] < 1e-5


def test_a_parent_without_the_head_is_refused_with_the_way_out():
    check_head(LDAM, Ldam())
    check_head(LDAM, CrossEntropy())
    check_head(DigitsNet().plain(), CrossEntropy())
    with pytest.raises(StepFailed, match=r"loss ldam needs a normalised head of scale 30.*parent has a linear one"):
        check_head(DigitsNet().plain(), Ldam())
    with pytest.raises(StepFailed, match=r"of scale 20.*one of scale 30; train the dense model by this loss"):
        check_head(LDAM, Ldam(scale=20))


def test_a_model_without_a_linear_classifier_is_refused():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(x.flatten(1)) + 1

    model = Shifted().train()
    with pytest.raises(StepFailed, match="do not come out of a linear layer"):
        normalize_head(model, 30.0, SHAPE)
    assert model.training
    assert model.fc.training
