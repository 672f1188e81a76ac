"""Bits by layer: the search on tables whose answer is known, and the method on real layers."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tailkeep.compression.base import Context
from tailkeep.compression.quantization import tail_bits
from tailkeep.compression.quantization.bit_search import allocate, weight_bytes
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.compression.quantization.tail_bits import Damages, TailAwareBits, class_losses
from tailkeep.errors import StepFailed
from tailkeep.export.cost import cost
from tailkeep.models.resnet import ResNet
from tailkeep.study.rebuild import build_model

SHAPE = (3, 8, 8)
COUNTS = (60, 40, 25, 15, 9, 5)
IMAGES = torch.randn(48, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 6

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed=0, **settings):
    return build_model(ResNet(depth=8, width=0.5, **settings).plain(), None, 6, SHAPE, seed).eval()


def context(asked=None):
    def labelled(count, draw="random"):
        if asked is not None:
            asked.append((count, draw))
        return [(IMAGES[:24], LABELS[:24]), (IMAGES[24:], LABELS[24:])][:count]

    return Context(COUNTS, SHAPE, 0, torch.device("cpu"), labelled)


# --- the search ------------------------------------------------------------------------------------------------------


def greedy(sizes, most, least, budget, measure):
    """The plain greedy search: every layer is measured every time."""
    bits = dict.fromkeys(sizes, most)
    while weight_bytes(sizes, bits) > budget:
        current, offers = measure(bits), []
        for number, (name, size) in enumerate(sizes.items()):
            if bits[name] > least:
                saved = math.ceil(bits[name] * size / 8) - math.ceil((bits[name] - 1) * size / 8)
                damage = measure({**bits, name: bits[name] - 1})
                prices = tuple(max(new - old, 0) / saved for new, old in zip(damage, current, strict=True))
                offers.append((prices, -saved, number, name))
        bits[min(offers)[-1]] -= 1
    return bits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("average", [2.2, 4, 6.5])
def test_the_lazy_search_is_the_greedy_one_where_layers_add_up(seed, average):
    generator = torch.Generator().manual_seed(seed)
    sizes = {f"layer{i}": int(n) for i, n in enumerate(torch.randint(80, 1200, (6,), generator=generator))}
    budget = weight_bytes(sizes, dict.fromkeys(sizes, average))
    slopes = (torch.rand(6, 2, generator=generator, dtype=torch.float64) * 3).tolist()

    def measure(bits):
        # the damage of a layer doubles and more with every bit, as squared rounding errors do
        return tuple(sum(slopes[i][k] * 4.0 ** -bits[name] for i, name in enumerate(sizes)) for k in (0, 1))

    found = allocate(sizes, 8, 2, budget, measure)
    assert found.bits == greedy(sizes, 8, 2, budget, measure)
    assert found.bytes == weight_bytes(sizes, found.bits) <= budget
    assert found.damage == pytest.approx(measure(found.bits))
    assert found.measurements <= 1 + 6 + 2 * sum(8 - bits for bits in found.bits.values()) + 6
    assert len(set(found.bits.values())) > 1


def test_the_best_of_all_allocations_is_not_far():
    sizes = {"a": 400, "b": 160, "c": 800}
    slope = {"a": 5.0, "b": 1.0, "c": 2.0}

    def measure(bits):
        return (sum(slope[name] * 4.0 ** -bits[name] for name in bits),)

    found = allocate(sizes, 8, 2, 600, measure)
    every = (dict(zip(sizes, bits, strict=True)) for bits in itertools.product(range(2, 9), repeat=3))
    best = min(measure(bits)[0] for bits in every if weight_bytes(sizes, bits) <= 600)
    assert best <= found.damage[0] <= 2 * best


def test_the_second_number_decides_where_the_first_does_not_rise():
    sizes = {"a": 80, "b": 80}

    def measure(bits):  # nobody is hurt more than before; on average b costs
        return 1.0, float(8 - bits["b"])

    assert allocate(sizes, 8, 4, 120, measure).bits == {"a": 4, "b": 8}
    assert allocate(sizes, 8, 4, 120, lambda bits: (0.0,)).bits == {"a": 4, "b": 8}, "then the order of the layers"


def test_what_is_not_finite_is_taken_last():
    sizes = {"a": 80, "b": 80}

    def measure(bits):
        return (math.nan if bits["a"] < 8 else 8.0 - bits["b"],)

    assert allocate(sizes, 8, 2, 100, measure).bits == {"a": 8, "b": 2}
    assert weight_bytes(sizes, allocate(sizes, 8, 2, 40, measure).bits) == 40, "but taken where it must be"


def test_a_budget_that_holds_all_or_nothing():
    sizes = {"a": 80, "b": 81}
    whole = allocate(sizes, 8, 2, 161, lambda bits: (0.0,))
    assert (whole.bits, whole.measurements) == ({"a": 8, "b": 8}, 1)
    assert allocate(sizes, 8, 2, 41, lambda bits: (0.0,)).bits == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="2 bits everywhere take more than 40 bytes"):
        allocate(sizes, 8, 2, 40, lambda bits: (0.0,))


# --- the damage ------------------------------------------------------------------------------------------------------


def test_class_losses_are_the_mean_cross_entropies():
    model = network().train()
    found = class_losses(model, [(IMAGES[:20], LABELS[:20]), (IMAGES[20:], LABELS[20:])], 7)
    assert model.training
    with torch.no_grad():
        losses = F.cross_entropy(model.eval()(IMAGES), LABELS, reduction="none").double()
    for label in range(6):
        assert found[label].item() == pytest.approx(losses[label == LABELS].mean().item(), rel=1e-5)
    assert math.isnan(found[6])


def test_the_three_objectives():
    added = torch.tensor([0.1, -0.2, 0.4, 0.0, 0.3, math.nan], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4])
    found = Damages.of(added, [(torch.zeros(8), labels)], COUNTS)
    assert found.worst_class == 0.4
    assert found.tail == pytest.approx(0.3), "classes 4 and 5 are the tail; of 5 there is no image"
    assert found.mean == pytest.approx((3 * 0.1 - 0.2 + 0.4 + 0.0 + 2 * 0.3) / 8)
    assert found.plain()["by_class"][5] is None


# --- the method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"weight_granularity": "tensor"}, {"keep_first_last": False}])
@pytest.mark.parametrize("budget", [{"average_bits": 3.5}, {"times_smaller": 6.0}])
def test_the_packed_bytes_are_those_of_the_finished_model(settings, budget):
    method, model, given = TailAwareBits(**settings, **budget), network(), context()
    before = cost(model, SHAPE).packed_bytes
    finished, change = method.finish(method.prepare(model, given).eval(), given)
    search = given.facts["bit_search"]
    assert search["parent_packed_bytes"] == before
    assert search["packed_bytes"] == cost(finished, SHAPE).packed_bytes
    layers = {name: m for name, m in finished.named_modules() if isinstance(m, IntegerLayer)}
    bits = {name: layer.weight_bits for name, layer in layers.items()}
    assert bits == given.facts["weight_bits_by_layer"]
    assert bits == {name: facts["weight_bits"] for name, facts in change["values"]["layers"].items()}
    if "times_smaller" in budget:
        assert before / search["packed_bytes"] >= 6
    else:
        sizes = {name: layer.weight.numel() for name, layer in layers.items()}
        assert search["weight_bytes"] == weight_bytes(sizes, bits) <= weight_bytes(sizes, dict.fromkeys(sizes, 3.5))
    for layer in layers.values():
        assert layer.weight.abs().max() <= 2 ** (layer.weight_bits - 1) - 1


def test_a_whole_number_of_bits_is_the_budget_of_the_uniform_model():
    given, uniform = context(), context()
    finished, _ = (m := TailAwareBits(average_bits=4)).finish(m.prepare(network(), given).eval(), given)
    same, _ = (m := QuantizationAwareTraining(weight_bits=4)).finish(m.prepare(network(), uniform).eval(), uniform)
    assert cost(finished, SHAPE).packed_bytes <= cost(same, SHAPE).packed_bytes


def by_layer(table):
    """A stand-in for ``class_losses``: each class's loss is a sum over layers of table[layer][class] * 4^-bits."""

    def losses(model, batches, classes):
        total = torch.zeros(classes, dtype=torch.float64)
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLayer):
                hurt = torch.tensor(table.get(name, [0.0] * classes), dtype=torch.float64)
                total += hurt * 4.0**-module.weight_bits
        return total

    return losses


def test_worst_class_and_mean_spare_different_layers(monkeypatch):
    """One layer hurts the two rarest classes alone, and does the others good; another hurts all of them alike."""
    rare = {"layer2.0.conv1": [-2.0, -2.0, -2.0, -2.0, 8.0, 8.0], "layer2.0.conv2": [1.0] * 6}
    monkeypatch.setattr(tail_bits, "class_losses", by_layer(rare))
    bits = {}
    for objective in ("worst_class", "tail", "mean"):
        given = context()
        TailAwareBits(objective=objective, average_bits=2.4).prepare(network(), given)
        bits[objective] = given.facts["weight_bits_by_layer"]
    sizes = {"layer2.0.conv1": 1152, "layer2.0.conv2": 2304}
    assert bits["worst_class"]["layer2.0.conv1"] > bits["mean"]["layer2.0.conv1"]
    assert bits["worst_class"]["layer2.0.conv2"] <= bits["mean"]["layer2.0.conv2"]
    assert bits["tail"]["layer2.0.conv1"] > bits["mean"]["layer2.0.conv1"]
    assert all(network().get_submodule(name).weight.numel() == size for name, size in sizes.items())


def test_the_search_looks_at_its_own_number_of_balanced_training_images():
    asked = []
    TailAwareBits(search_batches=1, calibration_batches=2).prepare(network(), context(asked))
    assert asked == [(1, "balanced"), (2, "balanced")]
    asked.clear()
    TailAwareBits(calibration_draw="random").prepare(network(), context(asked))
    assert {draw for _, draw in asked} == {"random"}


def test_the_measured_damage_is_that_of_the_chosen_bits():
    given, model = context(), network()
    before = class_losses(model, [(IMAGES, LABELS)], 6)
    model = TailAwareBits(average_bits=3).prepare(model, given)
    added = (class_losses(model, [(IMAGES, LABELS)], 6) - before).tolist()
    assert given.facts["bit_search"]["added_loss"]["by_class"] == pytest.approx(added, abs=1e-6)
    assert given.facts["bit_search"]["added_loss"]["worst_class"] == pytest.approx(max(added), abs=1e-6)
    assert given.facts["bit_search"]["objective"] == "worst_class"


def test_a_learned_step_fits_its_bits():
    model = TailAwareBits(average_bits=3).prepare(network(), context())
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer):
            flat = network().get_submodule(name).weight.detach().flatten(1)
            expected = 2 * flat.abs().mean(1) / math.sqrt(2 ** (layer.weight_bits - 1) - 1)
            assert torch.allclose(layer.weight_step, expected)


def test_it_trains_on_as_qat_does():
    method, given = TailAwareBits(average_bits=3, activation_bits=4, activations="pact", pact_start=None), context()
    model = method.prepare(network(), given).train()
    loss = method.loss(lambda logits, labels, progress: F.cross_entropy(logits, labels), given)
    optimizer = torch.optim.SGD(method.param_groups(model), 0.05)
    first = None
    for step in range(8):
        method.on_step(model, step / 8, given)
        value, _ = loss(model, IMAGES, LABELS, step / 8)
        first = value.item() if first is None else first
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < first
    bits = [m.weight_bits for m in model.modules() if isinstance(m, QuantizedLayer)]
    assert bits == list(given.facts["weight_bits_by_layer"].values()), "training moves no bits"


def test_a_budget_out_of_reach_fails_in_words():
    with pytest.raises(StepFailed, match="2 bits everywhere take more than"):
        TailAwareBits(times_smaller=40).prepare(network(), context())
    method, given = TailAwareBits(), context()
    finished, _ = method.finish(method.prepare(network(), given).eval(), given)
    with pytest.raises(StepFailed, match="quantization must come last"):
        method.prepare(finished, given)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"average_bits": 4, "times_smaller": 8}, "give one budget"),
        ({"average_bits": None}, "give one budget"),
        ({"least_bits": 5, "average_bits": 4}, "fewer than least_bits"),
        ({"least_bits": 6, "weight_bits": 5, "average_bits": 8}, "more than weight_bits"),
        ({"weights": "dorefa"}, "weights 'dorefa' take 2 to 7"),
        ({"objective": "best"}, "objective"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TailAwareBits(**settings)


def test_a_budget_in_times_smaller_is_written_out_whole():
    plain = TailAwareBits(times_smaller=8).plain()
    assert plain["average_bits"] is None
    assert TailAwareBits(**plain).plain() == plain
