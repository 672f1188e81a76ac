"""Which range and which grid: observers and weight quantizers against torch's own and against brute force."""

import pytest
import torch
from torch import nn
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from tailkeep.compression.quantization import activations as act
from tailkeep.compression.quantization.layers import IntegerLayer, QuantizedLayer
from tailkeep.compression.quantization.observers import affine, batch_range, least_error_range
from tailkeep.compression.quantization.weights import asymmetric, learned, symmetric, symmetric_mse


def draws(*shape, seed=0, scale=1.0, shift=0.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + shift


def observed(batches, **settings):
    quantizer = act.RangeLinear(**{"bits": 8, **settings})
    quantizer.mode = act.OBSERVE
    for batch in batches:
        quantizer(batch)
    quantizer.settle()
    quantizer.mode = act.QUANTIZE
    return quantizer


BATCHES = [draws(16, 3, 4, 4, seed=seed, scale=1 + seed, shift=0.7) for seed in range(4)]


@pytest.mark.parametrize("symmetric", [False, True])
def test_minmax_is_torchs_observer(symmetric):
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    reference = MinMaxObserver(dtype=torch.quint8, qscheme=scheme)
    for batch in BATCHES:
        reference(batch)
    scale, zero = reference.calculate_qparams()
    quantizer = observed(BATCHES, observer="minmax", symmetric=symmetric)
    assert quantizer.scale.item() == pytest.approx(scale.item(), rel=1e-6)
    assert quantizer.zero_point.item() == zero.item()
    x = draws(4000, seed=9, scale=6.0)
    grid, _ = quantizer.eval()(x)
    expected = torch.fake_quantize_per_tensor_affine(x, scale.item(), int(zero), 0, 255)
    assert (grid * quantizer.scale - expected).abs().max() <= 1.001 * scale.item(), "but for ties the same integers"
    assert ((grid * quantizer.scale - expected).abs() < 1e-5).float().mean() > 0.999


def test_ema_is_the_moving_average_and_percentile_the_quantile():
    quantizer = observed(BATCHES, observer="ema")
    low = high = None
    for batch in BATCHES:
        low = batch.min() if low is None else 0.95 * low + 0.05 * batch.min()
        high = batch.max() if high is None else 0.95 * high + 0.05 * batch.max()
    assert quantizer.low.item() == pytest.approx(float(low), rel=1e-5)
    assert quantizer.high.item() == pytest.approx(float(high), rel=1e-5)
    x = draws(10_000, seed=3)
    low, high = batch_range(x, "percentile", 99.0, 8, False)
    ordered = x.sort().values
    assert [low.item(), high.item()] == [ordered[99].item(), ordered[-100].item()]
    assert batch_range(x, "percentile", 100.0, 8, False) == batch_range(x, "minmax", 50.0, 8, False)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_finds_a_range_of_less_error_than_the_extremes(bits, symmetric):
    x = draws(20_000, seed=5)
    x[:20] *= 8  # outliers that would stretch the grid of all

    def error(low, high):
        scale, zero = affine(low, high, bits, symmetric)
        grid = (torch.round(x / scale) + zero).clamp(0, 2**bits - 1) - zero
        return float((grid * scale - x).square().mean())

    extremes = batch_range(x, "minmax", 99.9, bits, symmetric)
    found = least_error_range(x, bits, symmetric)
    whole = [extremes[0] * share for share in (1.0, 0.8, 0.6, 0.4, 0.3)]
    tried = [error(low, extremes[1] * share) for low, share in zip(whole, (1.0, 0.8, 0.6, 0.4, 0.3), strict=True)]
    assert error(*found) <= min(tried) * 1.02
    assert bits == 8 or error(*found) < 0.8 * error(*extremes)


def test_mse_ranges_come_from_the_calibration_alone():
    quantizer = observed(BATCHES, observer="mse").train()
    before = quantizer.scale.clone()
    quantizer(draws(16, 3, 4, 4, scale=50.0))
    assert torch.equal(quantizer.scale, before)
    moving = observed(BATCHES, observer="minmax").train()
    moving(draws(16, 3, 4, 4, scale=50.0))
    assert moving.scale > before


def test_an_activation_that_is_always_zero_keeps_a_grid():
    for observer in ("ema", "minmax", "percentile", "mse"):
        for middle in (False, True):
            quantizer = observed([torch.zeros(8, 4)], observer=observer, symmetric=middle)
            assert quantizer.eval()(torch.zeros(8, 4))[0].abs().max() == 0
            assert quantizer.scale > 0


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_asymmetric_weights_are_torchs_per_channel_grid(bits):
    weight = draws(6, 4, 3, 3, scale=0.3, shift=0.1)
    reference = PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.quint8, qscheme=torch.per_channel_affine, quant_min=0, quant_max=2**bits - 1
    )
    reference(weight)
    scale, zero = reference.calculate_qparams()
    integers, got = asymmetric(weight, bits)
    assert torch.allclose(got, scale, rtol=1e-6)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zero.int(), 0, 0, 2**bits - 1)
    assert torch.allclose(integers * got.view(-1, 1, 1, 1), expected, atol=1e-6)
    assert all(len(set(row.tolist())) <= 2**bits for row in integers.flatten(1))


def test_one_scale_for_the_layer():
    weight = draws(6, 4, 3, 3, scale=0.3)
    integers, scale = symmetric(weight, 4, per_tensor=True)
    assert scale.tolist() == pytest.approx([float(weight.abs().max()) / 7])
    assert integers.abs().max() == 7
    assert symmetric(weight, 4)[1].shape == (6,)


def test_least_error_weights_beat_min_max_below_eight_bits():
    weight = draws(5, 200, seed=2)
    weight[:, 0] = 12.0

    def error(quantizer):
        integers, scale = quantizer(weight, 4)
        return (integers * scale[:, None] - weight).square().sum(1)

    assert (error(symmetric_mse) < 0.8 * error(symmetric)).all()
    assert symmetric_mse(weight, 4)[0].abs().max() == 7


@pytest.mark.parametrize("kind", ["symmetric", "symmetric_mse", "asymmetric", "lsq"])
@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("bits", [3, 8])
def test_the_finished_layer_computes_what_the_trained_one_did_with_its_norm_folded(kind, per_tensor, bits):
    """Also with negative, tiny and zero factors of the norm, which turn a channel's sign or silence it."""
    norm = nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.5, 2.0, 0.3, -1.5, 0.0]))
        norm.bias.copy_(draws(6))
        norm.running_mean.copy_(draws(6, seed=1))
        norm.running_var.copy_(draws(6, seed=2).abs() + 0.2)
    quantizer = observed([draws(8, 4, 5, 5, shift=0.5)])
    layer = QuantizedLayer(nn.Conv2d(4, 6, 3, padding=1), bits, kind, quantizer, per_tensor, norm).eval()
    shifted = kind == "asymmetric"
    finished = IntegerLayer(layer.how, (6, 4, 3, 3), bits, 8, per_tensor, shifted)
    finished.fill(layer, norm)
    x = draws(8, 4, 5, 5, seed=7, shift=0.5)
    with torch.no_grad():
        expected, got = norm(layer(x)), finished(x)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    assert finished.weight.dtype == torch.int8
    assert finished.weight_scale.shape == ((1,) if per_tensor else (6,))
    assert (finished.weight_scale >= 0).all()
    if per_tensor:  # the grid lies on the folded weights, as the runtime sees them
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        folded = layer.weight * factor.view(-1, 1, 1, 1)
        off = finished.signed_integers() * finished.weight_scale - folded
        assert kind == "lsq" or off.abs().max() <= finished.weight_scale * (0.5001 if kind != "symmetric_mse" else 40)


# --- learned steps ---------------------------------------------------------------------------------------------------


def lsq(x, step, low, high, gradient_scale):
    """The paper's pseudo-code: gradients scaled and rounding passed straight through."""
    scaled_step = (step - step * gradient_scale).detach() + step * gradient_scale
    v = torch.clamp(x / scaled_step, low, high)
    return ((torch.round(v) - v).detach() + v) * scaled_step


@pytest.mark.parametrize("shape", [(), (5, 1)])
def test_the_gradients_of_a_learned_step_are_those_of_the_paper(shape):
    from tailkeep.compression.quantization.grid import LearnedRound

    x = draws(5, 400, scale=2.0).double()
    step = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.1).double()
    low, high = torch.tensor(-7.0).double(), torch.tensor(7.0).double()
    upstream = draws(5, 400, seed=4).double()
    features = x.numel() // max(step.numel(), 1)
    ours_x, ours_step = x.clone().requires_grad_(), step.clone().requires_grad_()
    y = LearnedRound.apply(ours_x, ours_step, low, high, features) * ours_step.detach()
    y.backward(upstream)
    paper_x, paper_step = x.clone().requires_grad_(), step.clone().requires_grad_()
    expected = lsq(paper_x, paper_step, -7, 7, (features * 7) ** -0.5)
    expected.backward(upstream)
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours_step.grad, paper_step.grad, rtol=1e-9, atol=1e-9)
    assert torch.allclose(ours_x.grad, paper_x.grad, rtol=1e-9)
    assert 0 < int((ours_x.grad == 0).sum()) < x.numel() / 2


def test_a_learned_activation_is_signed_where_the_calibration_saw_a_sign():
    for shift, signed in ((0.0, True), (9.0, False)):
        quantizer = act.LearnedStep(4)
        quantizer.mode = act.OBSERVE
        x = draws(8, 50, shift=shift)
        quantizer(x)
        quantizer.settle()
        quantizer.mode = act.QUANTIZE
        top = 7 if signed else 15
        assert quantizer.zero_point.item() == (8 if signed else 0)
        assert quantizer.step.item() == pytest.approx(2 * x.abs().mean().item() / top**0.5, rel=1e-5)
        grid, scale = quantizer(x)
        assert grid.min() >= (-8 if signed else 0)
        assert grid.max() <= top
        grid.sum().backward()
        assert quantizer.step.grad.abs() > 0
        assert not scale.requires_grad


def test_a_learned_weight_step_falls_towards_less_error():
    weight = draws(4, 300, scale=0.2)
    step = torch.full((4,), 0.3, requires_grad=True)
    optimizer = torch.optim.SGD([step], lr=0.05)

    def error():
        integers, scale = learned(weight, 4, step)
        scale = step.detach()
        return (integers * scale[:, None] - weight).square().sum()

    first = error().item()
    for _ in range(200):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert error().item() < 0.5 * first
