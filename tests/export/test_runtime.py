"""The runtime's side: sessions that refuse what they cannot use, and the agreement of two predictions."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tailkeep.errors import BadInput, MissingExtra, StepFailed
from tailkeep.evaluation.metrics import agreement
from tailkeep.export.placement import fused_layers
from tailkeep.export.runtime import OnnxSession

SHAPE = (1, 2, 2)
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((3, 4), dtype=np.float32)
IMAGES = RNG.standard_normal((10, *SHAPE), dtype=np.float32)


def linear_model(batch="batch", kind=TensorProto.FLOAT, extra=(), output=("batch", 3)):
    """Flatten and multiply: the least that is a classifier."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("images", kind, [batch, *SHAPE])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, output)],
        [numpy_helper.from_array(WEIGHT if kind == TensorProto.FLOAT else WEIGHT.astype(np.float64), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def path(tmp_path):
    onnx.save(linear_model(), str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("batch_size", [1, 3, 10, 256])
def test_predicts_the_whole_set_in_order(path, batch_size):
    found = OnnxSession(path).predict(IMAGES, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, IMAGES.reshape(10, 4) @ WEIGHT.T, atol=1e-5)


def test_images_that_are_no_block_of_memory(path):
    np.testing.assert_array_equal(OnnxSession(path).predict(IMAGES[::2]), OnnxSession(path).predict(IMAGES)[::2])


def test_threads_change_no_class(path):
    one, two = (OnnxSession(path, threads).predict(IMAGES) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float64), IMAGES[:, :, :1], IMAGES[0], np.repeat(IMAGES, 3, 1), (IMAGES * 255).astype(np.uint8)],
    ids=["float64", "lower", "one image", "three channels", "bytes"],
)
def test_images_that_do_not_fit_are_refused(path, images):
    with pytest.raises(BadInput, match="its input is"):
        OnnxSession(path).predict(images)


def test_nothing_to_predict(path):
    with pytest.raises(ValueError, match="nothing to predict"):
        OnnxSession(path).predict(IMAGES[:0])
    with pytest.raises(ValueError, match="nothing to predict"):
        OnnxSession(path).predict(IMAGES, 0)


def test_logits_that_are_not_finite_are_refused(path):
    images = IMAGES.copy()
    images[4, 0, 0, 0] = np.inf
    with pytest.raises(StepFailed, match="1 of 10 images have logits that are not finite, first 4") as caught:
        OnnxSession(path).predict(images)
    assert caught.value.reason == "nan"


def test_a_file_for_one_image_alone_fails_clearly(tmp_path):
    onnx.save(linear_model(batch=1, output=(1, 3)), str(tmp_path / "model.onnx"))
    session = OnnxSession(tmp_path / "model.onnx")
    assert session.predict(IMAGES, 1).shape == (10, 3)
    with pytest.raises(StepFailed, match="onnxruntime failed"):
        session.predict(IMAGES, 5)


def test_an_output_that_is_no_logits_is_refused(tmp_path):
    flat = helper.make_node("Squeeze", ["logits"], ["flat_logits"])
    onnx.save(linear_model(extra=[flat], output=None), str(tmp_path / "model.onnx"))
    with pytest.raises(StepFailed, match="expected logits") as caught:
        OnnxSession(tmp_path / "model.onnx").predict(IMAGES, 1)
    assert caught.value.reason == "output"


def damaged(data):
    middle = len(data) // 2
    return {
        "empty": b"",
        "cut short": data[:middle],
        "text": b"this is no model\n" * 20,
        "zeros": b"\0" * len(data),
        "operator overwritten": data.replace(b"Gemm", b"Gxmm"),
        "edge overwritten": data.replace(b"flat", b"flut", 1),
    }


@pytest.mark.parametrize("kind", damaged(b""))
@pytest.mark.parametrize("use", [OnnxSession, fused_layers])
def test_a_damaged_file_is_refused(kind, use, path):
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(BadInput, match=str(path)):
        use(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"model.onnx: cannot be read \(No such file"):
        OnnxSession(tmp_path / "model.onnx")


def outside(tensor):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")


def test_data_in_another_file_is_refused(tmp_path):
    model = linear_model()
    outside(model.graph.initializer[0])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="the data of weight lies in another file"):
        OnnxSession(tmp_path / "model.onnx")


def test_data_in_another_file_is_found_in_a_subgraph(tmp_path):
    hidden = numpy_helper.from_array(WEIGHT, "hidden")
    outside(hidden)
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("hidden", 1, [3, 4])], [hidden])
    choice = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    (tmp_path / "model.onnx").write_bytes(linear_model(extra=[choice]).SerializeToString())
    with pytest.raises(BadInput, match="the data of hidden lies in another file"):
        OnnxSession(tmp_path / "model.onnx")


def test_another_input_type_is_refused(tmp_path):
    model = linear_model(kind=TensorProto.DOUBLE)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(BadInput, match=r"expected one input \(N, C, H, W\) of float32, found images tensor\(double\)"):
        OnnxSession(tmp_path / "model.onnx")


def test_counts_kernels(path):
    placed = fused_layers(path)
    assert (placed.integer, placed.floating) == (0, 1)
    assert placed.operators["Gemm"] == 1


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("use", [OnnxSession, fused_layers])
def test_a_missing_library_says_how_to_install_it(library, use, path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[onnx\]'"):
        use(path)


LOGITS = np.eye(4, dtype=np.float32)[[0, 1, 2, 2, 0]]
LABELS = np.array([0, 1, 2, 2, 1])


def test_agreement_is_by_true_class():
    runtime = LOGITS.copy()
    runtime[4] = [0.5, 1.5, 0, 0]  # the image of class 1 that the simulation takes for class 0
    found = agreement(LOGITS, runtime, LABELS, 4)
    assert found.images_by_class == (1, 2, 2, 0)
    assert found.same_by_class == (1, 1, 2, 0)
    assert found.share == 0.8
    assert found.share_by_class == (1.0, 0.5, 1.0, None)
    assert found.largest_difference == 1.5


def test_equal_logits_agree_wholly_whether_right_or_wrong():
    found = agreement(LOGITS, LOGITS, LABELS, 4)
    assert (found.share, found.largest_difference) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("simulated", "labels", "text"),
    [
        (LOGITS[:4], LABELS, "expected two arrays"),
        (LOGITS[:, :3], LABELS, "expected two arrays"),
        (LOGITS, LABELS - 1, "labels run from -1 to 1"),
        (LOGITS, LABELS + 2, "labels run from 2 to 4"),
        (LOGITS[:0], LABELS[:0], "expected two arrays"),
    ],
)
def test_agreement_of_what_does_not_fit(simulated, labels, text):
    with pytest.raises(ValueError, match=text):
        agreement(simulated, LOGITS[: len(simulated)] if len(simulated) == len(labels) else LOGITS, labels, 4)
