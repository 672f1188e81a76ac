"""The integer grid: rounding and its gradients, ranges of activations, grids of weights, a layer in its two lives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.grid import PactRound, RoundClamp, StraightRound
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.weights import dorefa, symmetric


def draws(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


# --- gradients -------------------------------------------------------------------------------------------------------


def test_straight_round_rounds_ties_to_even_and_passes_the_gradient():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 0.49], dtype=torch.float64, requires_grad=True)
    y = StraightRound.apply(x)
    assert y.tolist() == [-2, 0, 0, 2, 2, 0]
    upstream = draws(6, seed=1)
    y.backward(upstream)
    assert torch.equal(x.grad, upstream)


@pytest.mark.parametrize(("low", "high"), [(0.0, 15.0), (-7.0, 8.0), (-100.0, 155.0)])
def test_the_gradient_of_round_clamp_is_that_of_the_clamp(low, high):
    """A value that rounds into the range is inside it, so the clamp without rounding is half a step wider."""
    x, scale = draws(4000, scale=2.0).requires_grad_(), scalar(0.11)
    y = RoundClamp.apply(x, scale, scalar(low), scalar(high))
    assert torch.equal(y, torch.clamp(torch.round(x * (1 / scale)), low, high))
    assert y.min() == max(low, torch.round(x.min() / scale))
    upstream = draws(4000, seed=1)
    y.backward(upstream)
    closed = x.detach().clone().requires_grad_()
    torch.clamp(closed / scale, low - 0.5, high + 0.5).backward(upstream)
    assert torch.allclose(x.grad, closed.grad, rtol=1e-12, atol=0)
    if low > -100:
        assert 0 < int((x.grad == 0).sum()) < 4000, "both sides of the mask were exercised"


def test_round_clamp_has_no_gradient_for_its_range():
    scale, low, high = (scalar(value).requires_grad_() for value in (0.1, 0.0, 15.0))
    x = draws(10).requires_grad_()
    RoundClamp.apply(x, scale, low, high).sum().backward()
    assert scale.grad is None
    assert low.grad is None
    assert high.grad is None


def pact(x, alpha):
    """The clip as its paper writes it, without the rounding."""
    return 0.5 * (x.abs() - (x - alpha).abs() + alpha)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradients_of_pact_are_those_of_its_closed_form(bits):
    levels = 2**bits - 1
    x, alpha = draws(3000, scale=2.0).requires_grad_(), scalar(1.7).requires_grad_()
    upstream = draws(3000, seed=1)
    scale = alpha.detach() / levels  # the layer multiplies the integers by a detached scale
    y = PactRound.apply(x, alpha, levels) * scale
    assert (y - pact(x, alpha)).abs().max() <= scale / 2 + 1e-12
    y.backward(upstream)

    closed_x, closed_alpha = x.detach().clone().requires_grad_(), scalar(1.7).requires_grad_()
    pact(closed_x, closed_alpha).backward(upstream)
    assert torch.allclose(x.grad, closed_x.grad, rtol=1e-12, atol=1e-12)
    assert alpha.grad.item() == pytest.approx(closed_alpha.grad.item(), rel=1e-6)  # it is summed in float32

    step = 1e-6
    ends = [(pact(x.detach(), scalar(1.7 + side)) * upstream).sum() for side in (step, -step)]
    assert alpha.grad.item() == pytest.approx((ends[0] - ends[1]).item() / (2 * step), rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 7])
def test_the_gradient_of_dorefa_weights_is_that_of_the_squashed_weights(bits):
    weight = draws(5, 4, 3, 3).requires_grad_()
    upstream = draws(5, 4, 3, 3, seed=1)
    integers, scale = dorefa(weight, bits)
    (integers * scale.double().view(-1, 1, 1, 1)).backward(upstream)
    closed = weight.detach().clone().requires_grad_()
    squashed = torch.tanh(closed)
    (squashed / squashed.detach().abs().max()).backward(upstream)
    # the scale is stored in float32
    assert torch.allclose(weight.grad, closed.grad, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_symmetric_weights_is_the_identity():
    weight = draws(5, 4, 3, 3).requires_grad_()
    upstream = draws(5, 4, 3, 3, seed=1)
    integers, scale = symmetric(weight, 8)
    (integers * scale.view(-1, 1, 1, 1)).backward(upstream)
    assert torch.allclose(weight.grad, upstream, rtol=1e-12)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_weights_equal_torchs_fake_quantization(bits):
    weight = draws(6, 5, 3, 3, dtype=torch.float32) * torch.logspace(-3, 2, 6).view(-1, 1, 1, 1)
    top = 2 ** (bits - 1) - 1
    integers, scale = symmetric(weight, bits)
    assert torch.equal(scale, weight.abs().amax((1, 2, 3)) / top)
    assert torch.equal(integers.abs().amax((1, 2, 3)), torch.full((6,), float(top))), "every channel uses its range"
    assert torch.equal(integers, integers.round())
    expected = torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(6, dtype=torch.int32), 0, -top, top)
    assert torch.equal(integers * scale.view(-1, 1, 1, 1), expected)


def test_a_channel_of_zeros_stays_zero():
    integers, scale = symmetric(torch.zeros(2, 3, 1, 1), 8)
    assert torch.equal(integers, torch.zeros(2, 3, 1, 1))
    assert torch.equal(scale, torch.ones(2))


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_dorefa_weights_lie_on_all_the_odd_integers(bits):
    levels = 2**bits - 1
    weight = draws(16, 16, 3, 3)
    integers, scale = dorefa(weight, bits)
    assert sorted(set(integers.flatten().tolist())) == list(range(-levels, levels + 1, 2))
    assert torch.equal(scale, torch.full((16,), 1 / levels))
    unit = torch.tanh(weight) / (2 * torch.tanh(weight).abs().max()) + 0.5
    published = 2 * torch.round(unit * levels) / levels - 1
    assert torch.allclose(integers / levels, published, atol=1e-12)


# --- activations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 1.3, 50.0, -50.0])
def test_range_linear_equals_torchs_fake_quantization(bits, shift):
    x = (draws(2000, dtype=torch.float32) + shift).requires_grad_()
    quantizer = act.RangeLinear(bits)
    quantizer.observe(x.detach() * 0.8)  # so that some values lie outside of the range
    quantizer.settle()
    zero_point = int(quantizer.zero_point)
    integers = quantizer.grid(x)
    assert int(integers.min()) >= -zero_point
    assert int(integers.max()) <= quantizer.levels - zero_point
    y = integers * quantizer.scale
    reference = x.detach().clone().requires_grad_()
    expected = torch.fake_quantize_per_tensor_affine(reference, float(quantizer.scale), zero_point, 0, quantizer.levels)
    assert torch.equal(y, expected)
    upstream = draws(2000, seed=1, dtype=torch.float32)
    y.backward(upstream)
    expected.backward(upstream)
    assert torch.allclose(x.grad, reference.grad, rtol=1e-6)
    assert bool((x.grad == 0).any())


@pytest.mark.parametrize(
    ("low", "high"), [(2.0, 5.0), (-5.0, -2.0), (-1.0, 3.0), (-3.0, 0.75), (0.0, 0.0), (1e-6, 1e6)]
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_is_always_an_integer_of_the_range(low, high, bits):
    quantizer = act.RangeLinear(bits)
    quantizer.observe(torch.tensor([low, high]))
    quantizer.settle()
    assert float(quantizer.low) == min(low, 0)
    assert float(quantizer.high) == max(high, 0)
    assert float(quantizer.zero_point) in range(quantizer.levels + 1)
    assert float(quantizer.scale) > 0
    assert quantizer.grid(torch.zeros(3)).tolist() == [0, 0, 0]
    width = max(high, 0) - min(low, 0)
    assert float(quantizer.scale) == pytest.approx(width / quantizer.levels if width else 1.0)


def test_the_range_is_a_moving_average_that_the_first_batch_sets():
    quantizer = act.RangeLinear(8, momentum=0.05).train()
    low = high = None
    for seed in range(6):
        x = draws(500, seed=seed, scale=1.0 + seed, dtype=torch.float32)
        quantizer(x)
        least, most = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        low = least if low is None else 0.95 * low + 0.05 * least
        high = most if high is None else 0.95 * high + 0.05 * most
    assert float(quantizer.low) == pytest.approx(low, rel=1e-5)
    assert float(quantizer.high) == pytest.approx(high, rel=1e-5)
    assert float(quantizer.scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert float(quantizer.zero_point) == round(-low / float(quantizer.scale))


QUANTIZERS = [act.RangeLinear(8), act.Clip(4), act.Pact(4), act.Pact(4, None)]


def calibrated(quantizer):
    quantizer.mode = act.OBSERVE
    x = draws(4096, dtype=torch.float32)
    assert quantizer(x)[0] is x, "calibration sees the float network"
    quantizer.settle()
    quantizer.mode = act.QUANTIZE
    quantizer.settle()
    return quantizer


@pytest.mark.parametrize("how", ["evaluation", "frozen"])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=["range_linear", "clip", "pact", "pact_calibrated"])
def test_nothing_moves_in_evaluation_or_once_frozen(quantizer, how):
    quantizer = calibrated(quantizer)
    quantizer.train(how == "frozen")
    quantizer.frozen = how == "frozen"
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(draws(100, scale=1000.0, dtype=torch.float32))
    after = quantizer.state_dict()
    assert len(before) >= 2
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_range_that_is_not_frozen_does_move():
    quantizer = calibrated(act.RangeLinear(8)).train()
    quantizer.frozen = False
    before = quantizer.scale.clone()
    quantizer(draws(100, scale=1000.0, dtype=torch.float32))
    assert quantizer.scale > 2 * before


def test_clip_is_unsigned_from_zero_to_one():
    integers, scale = act.Clip(4)(torch.tensor([-3.0, 0.0, 0.52, 0.97, 1.0, 9.0]))
    assert integers.tolist() == [0, 0, 8, 15, 15, 15]
    assert float(scale) == pytest.approx(1 / 15)


def test_pact_starts_where_it_is_told_or_at_a_percentile_of_the_calibration():
    assert float(calibrated(act.Pact(4, 5.0)).alpha.detach()) == 5.0
    quantizer = act.Pact(4, None)
    quantizer.mode = act.OBSERVE
    batches = [draws(2000, seed=seed, scale=1.0 + seed, dtype=torch.float32) for seed in range(3)]
    for batch in batches:
        quantizer(batch)
    quantizer.settle()
    expected = sum(float(batch.sort().values[1997]) for batch in batches) / 3
    assert float(quantizer.alpha.detach()) == pytest.approx(expected, rel=1e-6)


def test_pact_follows_its_clip_and_never_divides_by_zero():
    quantizer = act.Pact(4, 3.0).train()
    with torch.no_grad():
        quantizer.alpha.fill_(6.0)
    integers, scale = quantizer(torch.tensor([-1.0, 3.0, 6.0, 7.0]))
    assert integers.tolist() == [0, 8, 15, 15]  # 3 is 7.5 steps, and ties go to the even integer
    assert float(scale) == pytest.approx(6 / 15)
    with torch.no_grad():
        quantizer.alpha.fill_(-2.0)
    integers, scale = quantizer(torch.tensor([-1.0, 3.0]))
    assert integers.tolist() == [0, 15]
    assert float(scale) > 0


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_point", [0, 37, 128, 255])
def test_a_bf16_convolution_of_integers_is_the_rounding_of_the_exact_sum(zero_point):
    generator = torch.Generator().manual_seed(zero_point)
    x = torch.randint(0, 256, (4, 16, 8, 8), generator=generator) - zero_point
    weight = torch.randint(-127, 128, (8, 16, 3, 3), generator=generator)
    for given in (x, weight):
        assert torch.equal(given.bfloat16().long(), given), "integers to 256 are exact in bf16"
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert exact.abs().max() < 2**24, "float32 sums of these are exact too"
    got = F.conv2d(x.bfloat16(), weight.bfloat16(), padding=1)
    assert torch.equal(got, exact.bfloat16())
    assert not torch.equal(got.double(), exact), "the comparison is one of rounded values"


def test_autocast_does_not_move_a_weight_off_its_grid():
    layer = QuantizedLayer(nn.Conv2d(8, 6, 3, padding=1, bias=False), 8, "symmetric", act.RangeLinear(8))
    x = draws(4, 8, 6, 6, dtype=torch.float32)
    layer.train()(x)
    layer.eval()
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    weight, scale = layer.integers()
    integers, scale_x = layer.activation(x)
    exact = F.conv2d(integers.double(), weight.double(), padding=1).bfloat16()
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, exact * (scale * scale_x).view(-1, 1, 1).bfloat16())


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(4, 6, 3, 2, 1, 1, 2), lambda: nn.Linear(5, 6, bias=False)])
@pytest.mark.parametrize("bits", [(8, 8), (4, 32), (32, 4), (3, 4)])
@pytest.mark.parametrize("with_norm", [False, True])
def test_folding_a_norm_changes_nothing_and_keeps_scales_positive(make, bits, with_norm):
    torch.manual_seed(0)
    inner = make()
    convolution = isinstance(inner, nn.Conv2d)
    x = draws(16, 4, 7, 7, seed=2, dtype=torch.float32) if convolution else draws(16, 5, seed=2, dtype=torch.float32)
    activation = None if bits[1] == 32 else act.RangeLinear(bits[1])
    layer = QuantizedLayer(inner, bits[0], "symmetric", activation).train()
    layer(x)
    layer.eval()
    norm = None
    if with_norm:
        norm = (nn.BatchNorm2d if convolution else nn.BatchNorm1d)(6).eval()
        norm.running_mean.copy_(draws(6, seed=3))
        norm.running_var.uniform_(0.2, 3)
        norm.weight.data.copy_(torch.tensor([1.0, -1.5, 0.3, -0.2, 2.0, -0.7]))
        norm.bias.data.copy_(draws(6, seed=4))
    final = IntegerLayer(layer.how, tuple(inner.weight.shape), *bits)
    final.fill(layer, norm)
    with torch.no_grad():
        expected = layer(x) if norm is None else norm(layer(x))
        assert torch.allclose(final(x), expected, rtol=1e-4, atol=1e-5)
    assert bool((final.weight_scale > 0).all())
    if with_norm:
        own = layer.integers()[0].detach()
        signs = norm.weight.detach().sign().view(-1, *(1,) * (own.dim() - 1))
        assert torch.equal(final.weight.float(), own * signs), "the sign of the norm went into the integers"


@pytest.mark.parametrize("bits", [4, 8])
def test_training_in_bf16_finds_the_integers_that_a_float32_prediction_finds(bits):
    x, levels = draws(20_000, dtype=torch.float32).bfloat16(), 2**bits - 1
    scale, low, high = torch.tensor(0.0173), torch.tensor(-levels / 2).round(), torch.tensor(levels / 2).round()
    assert torch.equal(RoundClamp.apply(x, scale, low, high).float(), RoundClamp.apply(x.float(), scale, low, high))
    alpha = torch.tensor(1.37)
    assert torch.equal(PactRound.apply(x, alpha, levels).float(), PactRound.apply(x.float(), alpha, levels))
    assert (torch.round(x * scale.reciprocal().bfloat16()).float() - torch.round(x.float() / scale)).abs().max() > 0
