"""Bad inputs 16 to 21 as an audit meets them: weights with the user's code over images, or the reason why not."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from tailkeep.auditing import images as image_room
from tailkeep.auditing.models import predict_file
from tailkeep.data.batches import normalize
from tailkeep.errors import BadInput
from tailkeep.export.onnx import export_onnx
from tailkeep.models.digits import DigitsNet

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)[:, None]
TEST = slice(1000, 1060)


def digits(rows):
    pixels, labels = PIXELS[rows], DIGITS.target[rows].astype(np.int64)
    ids = np.array([f"test/{row}" for row in range(len(labels))])
    return image_room.TestImages(
        pixels, labels, tuple("0123456789"), ids, (0.5,), (0.5,), "0" * 64, "digits", "folder"
    )  # fmt: skip


IMAGES = digits(TEST)


@pytest.fixture(scope="module")
def classifier():
    """A real linear classifier of the digits: weights (10, 64) and biases (10,) for pixels from -1 to 1."""
    fitted = LogisticRegression(max_iter=300).fit(PIXELS[:1000].reshape(1000, 64) / 127.5 - 1, DIGITS.target[:1000])
    return fitted.coef_.astype(np.float32), fitted.intercept_.astype(np.float32)


def expected(classifier, images=IMAGES):
    weight, bias = classifier
    return (images.images.reshape(len(images), 64) / 127.5 - 1) @ weight.T + bias


CODE = """
import torch
import torch.nn.functional as F
from torch import nn
from tailkeep.models.digits import DigitsNet

def make(num_classes, image_shape):
    return DigitsNet().build(num_classes, image_shape)

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        return self.fc(x.flatten(1))

class Noisy(Net):
    def forward(self, x):
        return F.dropout(super().forward(x))

class Moving(Net):
    def forward(self, x):
        self.seen += 1
        return super().forward(x)

class Shares(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Fails(Net):
    def forward(self, x):
        if len(x) == 13:
            raise IndexError("thirteen")
        return super().forward(x)
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "user_net.py").write_text(CODE)
    return f"{tmp_path / 'user_net.py'}:"


@pytest.fixture
def weights(classifier, tmp_path):
    """The real classifier's weights under the names of ``Net``, changed by the test."""

    def write(suffix=".safetensors", **changes):
        state = {
            "fc.weight": torch.from_numpy(classifier[0].copy(order="C")),
            "fc.bias": torch.from_numpy(classifier[1].copy()),
        }
        state = {**state, "seen": torch.zeros(()), **changes}
        path = tmp_path / f"net{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        return path

    return write


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_pytorch_model_of_a_real_classifier(weights, classifier, code, suffix):
    threads, seen = torch.get_num_threads(), []
    path = weights(suffix)
    found = predict_file(
        path, IMAGES, model_code=f"{code}Net", batch_size=5, progress=lambda *at: seen.append(at)
    )  # fmt: skip
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)
    assert (found.name, found.scores_are, found.source["form"]) == ("net", "logits", "pytorch")
    assert found.source["model_code"] == f"{code}Net"
    assert len(found.source["code_sha256"]) == 64
    assert seen == [(40, 60), (60, 60)]
    assert torch.get_num_threads() == threads


def test_both_forms_of_one_network_agree(tmp_path, code):
    torch.manual_seed(0)
    model = DigitsNet().build(10, (1, 8, 8)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(model, (1, 8, 8), tmp_path / "net.onnx")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "net.safetensors")
    runtime = predict_file(tmp_path / "net.onnx", IMAGES)
    eager = predict_file(tmp_path / "net.safetensors", IMAGES, model_code=f"{code}make")
    np.testing.assert_allclose(runtime.scores, eager.scores, atol=1e-5)
    with torch.inference_mode():
        plain = model(normalize(torch.from_numpy(IMAGES.images))).numpy()
    np.testing.assert_allclose(eager.scores, plain, atol=1e-5)


def test_pytorch_probabilities_are_marked(weights, code):
    assert predict_file(weights(), IMAGES, model_code=f"{code}Shares").scores_are == "probabilities"


def test_16_a_pickled_model_is_refused_with_the_conversion(tmp_path, code):
    torch.save(nn.Linear(64, 10), tmp_path / "whole.pt")
    with pytest.raises(BadInput, match=r"holds pickled Python objects.*(?s:.*)save_file"):
        predict_file(tmp_path / "whole.pt", IMAGES, model_code=f"{code}Net")


def test_17_weights_that_are_none(tmp_path, code):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for model_code in (f"{code}Net", None):
        with pytest.raises(BadInput, match="Git LFS pointer"):
            predict_file(path, IMAGES, model_code=model_code)


def test_18_names_and_heads(weights, classifier, code, tmp_path):
    plain = weights()
    with pytest.raises(BadInput, match="name the code that builds the model with --model-code module:factory"):
        predict_file(plain, IMAGES)
    state = {f"module.{name}": value for name, value in torch.load(weights(".pt")).items()}
    torch.save(state, tmp_path / "wrapped.pt")
    found = predict_file(tmp_path / "wrapped.pt", IMAGES, model_code=f"{code}Net")
    assert "dropped the prefix 'module.' of every name" in found.source["notes"][0]
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)
    seven = weights(**{"fc.weight": torch.zeros(7, 64), "fc.bias": torch.zeros(7)})
    with pytest.raises(BadInput, match=r"the head fc.weight is for 7 classes, and the data has 10"):
        predict_file(seven, IMAGES, model_code=f"{code}Net")
    with pytest.raises(BadInput, match=r"unexpected \(1\): more"):
        predict_file(weights(more=torch.zeros(1)), IMAGES, model_code=f"{code}Net")


def test_19_weights_that_are_not_finite(weights, code):
    with pytest.raises(BadInput, match=r"tensor fc.bias holds 1 values that are NaN or infinite"):
        predict_file(weights(**{"fc.bias": torch.tensor([0.0] * 9 + [float("nan")])}), IMAGES, model_code=f"{code}Net")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Pair", "the model returns a tuple; return the logits alone"),
        ("Noisy", "evaluation is not deterministic"),
        ("Moving", "changes its buffer seen in evaluation mode"),
        ("Absent", "has no Absent"),
        ("Fails", "the model fails on images 0 to 59: IndexError: thirteen"),
    ],
)
def test_20_21_code_that_breaks_the_contract(weights, code, name, text):
    with pytest.raises(BadInput, match=text):
        predict_file(weights(), IMAGES, model_code=f"{code}{name}", batch_size=5 if name != "Fails" else 47)
