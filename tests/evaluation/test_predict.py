import numpy as np
import pytest
import torch
from torch import nn

from tailkeep.errors import CELLS_FAILED, StepFailed
from tailkeep.evaluation.predict import predict
from tailkeep.models.digits import DigitsNet

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


def normalize(batch):
    return batch / 127.5 - 1


def images(count=23, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DigitsNet().build(10, SHAPE)


def test_logits_are_float32_in_order(model):
    x = images()
    logits = predict(model, x, 8, CPU, normalize)
    assert logits.dtype == np.float32
    assert logits.shape == (23, 10)
    with torch.no_grad():
        expected = model.eval()(normalize(torch.from_numpy(x)))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_repeated_prediction_is_bit_identical(model):
    assert (
        predict(model, images(), 8, CPU, normalize).tobytes() == predict(model, images(), 8, CPU, normalize).tobytes()
    )


def test_flags_and_buffers_are_as_before(model):
    model.layer1.eval()
    flags = [module.training for module in model.modules()]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    predict(model, images(), 8, CPU, normalize)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_autocast_around_it_changes_nothing(model):
    plain = predict(model, images(), 8, CPU, normalize)
    with torch.autocast("cpu", torch.bfloat16):
        assert predict(model, images(), 8, CPU, normalize).tobytes() == plain.tobytes()


def test_images_may_be_read_only_and_strided(model, tmp_path):
    np.save(tmp_path / "x.npy", images(40))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[::2]
    assert (
        predict(model, mapped, 8, CPU, normalize).tobytes()
        == predict(model, images(40)[::2], 8, CPU, normalize).tobytes()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_22_logits_that_are_not_finite_fail_the_step(model, value):
    model.fc.bias.data[3] = value
    with pytest.raises(StepFailed, match="nan: 23 of 23 images") as caught:
        predict(model, images(), 8, CPU, normalize)
    assert caught.value.reason == "nan"
    assert caught.value.exit_code == CELLS_FAILED


def test_21_buffers_that_move_fail_the_step():
    class Stuck(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(1)

        def forward(self, x):
            self.bn.train()
            return self.bn(x).flatten(1)

    stuck = Stuck().eval()
    with pytest.raises(StepFailed, match=r"buffers: buffer bn\.running_mean changed"):
        predict(stuck, images(), 8, CPU, normalize)
    assert not stuck.training


def test_parameters_of_another_type_fail_the_step(model):
    model.fc.bfloat16()
    with pytest.raises(StepFailed, match=r"precision: parameter fc\.weight is torch\.bfloat16"):
        predict(model, images(), 8, CPU, normalize)


def test_another_output_fails_the_step():
    for module, words in ((nn.Identity(), r"a tensor \(8, 1, 8, 8\)"), (nn.Flatten(0), r"a tensor \(512,\)")):
        with pytest.raises(StepFailed, match=rf"output: expected logits \(8, classes\), got {words}"):
            predict(module, images(), 8, CPU, normalize)


def test_nothing_to_predict(model):
    with pytest.raises(ValueError, match="nothing to predict"):
        predict(model, images(0), 8, CPU, normalize)
    with pytest.raises(ValueError, match="batches of 0"):
        predict(model, images(), 0, CPU, normalize)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_no_tf32(model):
    on_cpu = predict(model, images(200), 64, CPU, normalize)
    on_cuda = predict(model, images(200), 64, torch.device("cuda"), normalize)
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-4, atol=1e-4)
