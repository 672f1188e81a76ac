import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.pruning.filter_rank import SCHEDULES, FilterPruning, filter_scores, lowest, removed_count
from tailkeep.compression.pruning.removal import remove_filters
from tailkeep.errors import StepFailed
from tailkeep.models.digits import DigitsNet
from tailkeep.models.resnet import ResNet

SHAPE = (3, 32, 32)


def context(shape=SHAPE, seed=0):
    return Context((10,) * 10, shape, seed, torch.device("cpu"))


def lively(model, seed=0):
    """Give the batch normalisations statistics and weights that are not their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return model


def resnet(**settings):
    torch.manual_seed(0)
    return lively(ResNet(**settings).build(10, SHAPE))


def widths_of(model):
    return [model.get_submodule(name).out_channels for name in model.first_convolutions()]


@pytest.mark.parametrize(
    ("method", "depth", "weights"),
    [
        (FilterPruning(schedule="resnet56_filter_rank"), 56, 634_640),
        (FilterPruning(schedule="resnet56_filter_rank_v2"), 56, 570_704),
        (FilterPruning(ratio=0.5), 20, 137_264),
        (FilterPruning(ratio=0.3), 20, 192_992),
    ],
)
def test_published_weights(method, depth, weights):
    given = context()
    model = method.prepare(resnet(depth=depth), given)
    assert given.facts["weights_after"] == weights
    assert sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1) == weights


def test_published_schedule_by_layer():
    schedule = SCHEDULES["resnet56_filter_rank"]
    model = FilterPruning(schedule="resnet56_filter_rank").prepare(resnet(depth=56), context())
    kept = [16 - 9] * 9 + [32, 16, 16, 16, 16, 32, 16, 16, 32] + [64, 58, 45, 45, 64, 45, 45, 45, 45]
    assert widths_of(model) == kept
    assert len(schedule) == 22


@pytest.mark.parametrize(("ratio", "kept"), [(0.2, 13), (0.5, 8), (0.0, 16), (0.06, 16), (0.0625, 15), (0.99, 1)])
def test_floor_of_the_ratio_goes(ratio, kept):
    model = FilterPruning(ratio=ratio).prepare(resnet(depth=8), context())
    assert model.layer1[0].conv1.out_channels == kept
    assert model.layer1[0].bn1.num_features == kept
    assert model.layer1[0].bn1.running_var.shape == (kept,)
    assert model.layer1[0].conv2.in_channels == kept


def test_a_ratio_is_the_decimal_that_it_is_written_as():
    assert removed_count(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996
    assert removed_count(0.57, 100) == 57
    assert removed_count(0.2, 16) == 3


@given(st.decimals(0, "0.999", places=3), st.integers(1, 4096))
def test_removed_count_is_the_exact_floor_and_never_everything(ratio, filters):
    assert removed_count(float(ratio), filters) == int(ratio * filters) < filters


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_lowest_takes_the_smallest_and_ties_by_index(values, data):
    count = data.draw(st.integers(0, len(values) - 1))
    expected = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:count])
    assert lowest(torch.tensor(values, dtype=torch.float64), count) == expected


def test_scores():
    weight = torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.0, 5.0]]).reshape(3, 2, 1, 1)
    assert filter_scores(weight, "l1").tolist() == [3.5, 1.0, 2.5]
    assert filter_scores(weight, "l2").tolist() == pytest.approx([2.5, 2**0.5 / 2, 2.5])
    draws = [filter_scores(weight, "random", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_filters_of_smallest_l1_norm_go():
    model = resnet(depth=8)
    convolution = model.layer2[0].conv1
    norms = convolution.weight.detach().abs().sum((1, 2, 3))
    keep = sorted(torch.argsort(norms)[16:].tolist())
    expected = convolution.weight.detach()[keep].clone()
    reader = model.layer2[0].conv2.weight.detach()[:, keep].clone()
    statistics = model.layer2[0].bn1.running_mean[keep].clone()
    FilterPruning(ratio=0.5).prepare(model, context())
    assert torch.equal(model.layer2[0].conv1.weight, expected)
    assert torch.equal(model.layer2[0].conv2.weight, reader)
    assert torch.equal(model.layer2[0].bn1.running_mean, statistics)


@pytest.mark.parametrize("shortcut", ["conv", "identity_pad"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
def test_removed_equals_masked(shortcut, criterion):
    model = resnet(depth=20, shortcut=shortcut).double().eval()
    method = FilterPruning(ratio=0.4, criterion=criterion)
    masked = copy.deepcopy(model)
    pruned = method.prepare(copy.deepcopy(model), context())
    for name in model.first_convolutions():
        block = masked.get_submodule(name.removesuffix(".conv1"))
        survivors = pruned.get_submodule(name.removesuffix(".conv1")).bn1.running_mean
        gone = ~torch.isin(block.bn1.running_mean, survivors)
        assert int(gone.sum()) == removed_count(0.4, block.conv1.out_channels)
        block.bn1.weight.data[gone] = 0
        block.bn1.bias.data[gone] = 0
    x = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(pruned(x), masked(x), rtol=1e-10, atol=1e-10)
        assert not torch.allclose(pruned(x), model(x), rtol=1e-3)


def test_ratio_zero_is_bit_identical():
    model = resnet(depth=20)
    model.layer1.eval()
    before = copy.deepcopy(model)
    parameters = list(model.parameters())
    method = FilterPruning(ratio=0)
    given = context()
    assert method.prepare(model, given) is model
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert given.facts["filters_removed"] == 0
    assert given.facts["achieved_ratio"] == 0


def test_training_flags_and_frozen_parameters_come_back():
    model = resnet(depth=8)
    model.layer2.eval()
    model.layer1[0].conv1.weight.requires_grad_(False)
    model.fc.bias.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    buffers = model.layer3[0].bn2.running_mean.clone()
    with torch.no_grad():
        FilterPruning().prepare(model, context())
    assert [module.training for module in model.modules()] == flags
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["layer1.0.conv1.weight", "fc.bias"]
    assert torch.equal(model.layer3[0].bn2.running_mean, buffers)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_facts():
    given = context()
    FilterPruning(ratio=0.5, ratios={"layer3.0.conv1": 0.25}).prepare(resnet(depth=8), given)
    assert given.facts["filters_before"] == 112
    assert given.facts["filters_removed"] == 8 + 16 + 16
    assert given.facts["achieved_ratio"] == 40 / 112
    assert given.facts["layers"]["layer3.0.conv1"] == {"before": 64, "after": 48}
    assert given.facts["weights_after"] < given.facts["weights_before"]
    assert json.loads(json.dumps(given.facts)) == given.facts


def test_random_pruning_follows_the_seed():
    models = [FilterPruning(criterion="random").prepare(resnet(depth=8), context(seed=s)) for s in (1, 1, 2)]
    weights = [model.layer3[0].conv1.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_pruning_uses_no_global_generator():
    model = resnet(depth=8)
    state = torch.get_rng_state()
    FilterPruning(criterion="random").prepare(model, context())
    assert torch.equal(state, torch.get_rng_state())


def test_prune_twice_and_rebuild_step_by_step():
    method = FilterPruning(ratio=0.5)
    model = method.prepare(resnet(depth=8), context())
    first = method.finish(model, context())[1]
    model = method.prepare(model, context())
    second = method.finish(model, context())[1]
    assert widths_of(model) == [4, 8, 16]
    again = ResNet(depth=8).build(10, SHAPE)
    for change in (first, second):
        assert change["kind"] == "filter_pruning"
        again = method.rebuild(again, change["values"], SHAPE)
    again.load_state_dict(model.state_dict())


REBUILD = """
import json, sys
import numpy as np, torch
from safetensors.torch import load_file
from tailkeep.compression.pruning.filter_rank import FilterPruning
from tailkeep.evaluation.predict import predict
from tailkeep.models.resnet import ResNet
folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
model = ResNet(depth=20).build(10, (3, 32, 32))
change = json.load(open(folder + "/change.json"))
model = FilterPruning().rebuild(model, change["values"], (3, 32, 32))
model.load_state_dict(load_file(folder + "/model.safetensors"))
images = np.load(folder + "/images.npy")
np.save(folder + "/logits.npy", predict(model, images, 16, torch.device("cpu"), lambda x: x / 127.5 - 1))
"""


def test_rebuild_in_a_new_process_predicts_bit_for_bit(tmp_path):
    from tailkeep.evaluation.predict import predict

    method = FilterPruning(ratio=0.5, ratios={"layer1.1.conv1": 0.2, "layer2.2.conv1": 0})
    model = method.prepare(resnet(depth=20), context())
    model, change = method.finish(model, context())
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
    logits = predict(model, images, 16, torch.device("cpu"), lambda x: x / 127.5 - 1)
    (tmp_path / "change.json").write_text(json.dumps(change))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [sys.executable, "-c", REBUILD, str(tmp_path), str(torch.get_num_threads())], check=True, timeout=120
    )
    assert np.load(tmp_path / "logits.npy").tobytes() == logits.tobytes()


def test_rebuild_refuses_widths_that_do_not_fit():
    for width in (0, 17):
        with pytest.raises(StepFailed, match=f"stored width {width} of layer1.0.conv1"):
            FilterPruning().rebuild(resnet(depth=8), {"widths": {"layer1.0.conv1": width}}, SHAPE)
    with pytest.raises(StepFailed, match="the model has no layer layer9"):
        FilterPruning().rebuild(resnet(depth=8), {"widths": {"layer9": 3}}, SHAPE)


def test_a_pruned_model_trains():
    torch.manual_seed(0)
    model = FilterPruning().prepare(DigitsNet().build(10, (1, 8, 8)), context((1, 8, 8)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("settings", [{"ratio": 1.0}, {"ratio": -0.1}, {"ratios": {"a": 1.0}}, {"criterion": "linf"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="for FilterPruning"):
        FilterPruning(**settings)


def test_a_schedule_excludes_other_ratios():
    for extra in ({"ratio": 0.3}, {"ratios": {}}):
        with pytest.raises(ValueError, match="leave ratio and ratios out"):
            FilterPruning(schedule="resnet56_filter_rank", **extra)
    spec = FilterPruning(schedule="resnet56_filter_rank")
    assert FilterPruning(**spec.plain()) == spec


@pytest.mark.parametrize("settings", [{"depth": 20}, {"depth": 56, "width": 0.5}, {"depth": 50}])
def test_a_schedule_for_another_network_fails_in_words(settings):
    with pytest.raises(StepFailed, match="resnet56_filter_rank is for a full-width, unpruned ResNet-56"):
        FilterPruning(schedule="resnet56_filter_rank").prepare(resnet(**settings), context())


def test_an_unknown_layer_gets_a_suggestion():
    with pytest.raises(StepFailed, match=r"did you mean layer1\.0\.conv1\?"):
        FilterPruning(ratios={"layer1.0.conv": 0.5}).prepare(resnet(depth=8), context())
    with pytest.raises(StepFailed, match=r"it has layer1\.0\.conv1"):
        FilterPruning(ratios={"xyzzy": 0.5}).prepare(resnet(depth=8), context())


def test_a_quantized_layer_is_not_pruned():
    model = resnet(depth=8)
    model.layer1[0].conv1.weight_bits = 8
    with pytest.raises(StepFailed, match="prune before quantizing"):
        FilterPruning().prepare(model, context())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_same_filters_go():
    method = FilterPruning(ratio=0.5)
    on_cpu = method.prepare(resnet(depth=20), context())
    on_cuda = method.prepare(resnet(depth=20).cuda(), context())
    assert all(tensor.is_cuda for tensor in on_cuda.state_dict().values())
    pairs = zip(on_cpu.state_dict().values(), on_cuda.state_dict().values(), strict=True)
    assert all(torch.equal(a, b.cpu()) for a, b in pairs)


def test_removing_every_filter_is_refused():
    with pytest.raises(StepFailed, match="would lose all 16 filters"):
        remove_filters(resnet(depth=8), {"layer1.0.conv1": list(range(16))}, SHAPE)
