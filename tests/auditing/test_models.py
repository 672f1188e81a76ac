"""Bad input 22c and more: an ONNX file over labelled images, or the reason why not, whatever the file does."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tailkeep.auditing import images as image_room
from tailkeep.auditing import models as model_room
from tailkeep.auditing.models import input_size, predict_file, preprocessing
from tailkeep.auditing.onnx_child import normalized
from tailkeep.auditing.onnx_model import Facts, fit_input, fit_outputs
from tailkeep.data.batches import normalize
from tailkeep.errors import BadInput, MissingExtra

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)[:, None]
TEST = slice(1000, 1060)


def digits(rows, **changes):
    pixels, labels = PIXELS[rows], DIGITS.target[rows].astype(np.int64)
    ids = np.array([f"test/{row}" for row in range(len(labels))])
    made = image_room.TestImages(
        pixels, labels, tuple("0123456789"), ids, (0.5,), (0.5,), "0" * 64, "digits", "folder"
    )  # fmt: skip
    return replace(made, **changes)


IMAGES = digits(TEST)


@pytest.fixture(scope="module")
def classifier():
    """A real linear classifier of the digits: weights (10, 64) and biases (10,) for pixels from -1 to 1."""
    fitted = LogisticRegression(max_iter=300).fit(PIXELS[:1000].reshape(1000, 64) / 127.5 - 1, DIGITS.target[:1000])
    return fitted.coef_.astype(np.float32), fitted.intercept_.astype(np.float32)


@pytest.fixture
def linear(classifier, tmp_path):
    """Write an ONNX file of the classifier, changed in the ways that real files differ."""
    weight, bias = classifier

    def write(
        sizes=("batch", 1, 8, 8), kind=TensorProto.FLOAT, extra=(), outputs=("logits",), before=(), source="images"
    ):
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        nodes = [
            *before,
            helper.make_node("Flatten", [source], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
            *extra,
        ]
        tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in (("w", weight), ("b", bias))]
        given = [helper.make_tensor_value_info("images", kind, sizes)]
        gives = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(nodes, "model", given, gives, tensors)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(made, str(tmp_path / "model.onnx"))
        return tmp_path / "model.onnx"

    return write


def expected(classifier, images=IMAGES):
    weight, bias = classifier
    return (images.images.reshape(len(images), 64) / 127.5 - 1) @ weight.T + bias


def test_an_onnx_file_of_a_real_classifier(linear, classifier):
    path, seen = linear(), []
    found = predict_file(path, IMAGES, batch_size=25, progress=lambda done, count: seen.append((done, count)))
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)
    assert (found.predicted == IMAGES.labels).mean() > 0.85
    assert (found.name, found.scores_are, found.class_names) == ("model", "logits", IMAGES.class_names)
    assert found.ids.tolist() == IMAGES.ids.tolist()
    assert seen == [(25, 60), (50, 60), (60, 60)]
    assert found.source["form"] == "onnx"
    assert found.source["notes"] == []
    assert found.source["preprocessing"] == (
        "1 x 8 x 8 (channels, height, width), float32, (pixel / 255 - mean) / std with mean 0.5 and std 0.5"
    )
    assert predict_file(path, IMAGES, name="dense").name == "dense"
    assert input_size(path) == (8, 8)


def test_the_default_normalisation_is_that_of_training():
    batch = torch.from_numpy(PIXELS[:16])
    np.testing.assert_array_equal(normalized(PIXELS[:16], [0.5], [0.5]), normalize(batch).numpy())
    found = normalized(np.full((1, 2, 1, 1), 255, dtype=np.uint8), [0.4, 0.0], [0.2, 0.5])
    np.testing.assert_allclose(found.ravel(), [3.0, 2.0], atol=1e-6)
    colour = replace(IMAGES, images=np.repeat(IMAGES.images, 3, 1), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)
    assert preprocessing(colour).endswith("with mean 0.4, 0.5, 0.6 and std 0.2")


def test_another_normalisation_is_the_users(linear, classifier):
    found = predict_file(linear(), replace(IMAGES, mean=(0.0,), std=(0.5,)))
    shifted = IMAGES.images.reshape(60, 64) / 127.5 @ classifier[0].T + classifier[1]
    np.testing.assert_allclose(found.scores, shifted, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 60, 100])
def test_a_fixed_number_of_images(linear, classifier, batch):
    found = predict_file(linear((batch, 1, 8, 8)), IMAGES)
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)


@pytest.mark.parametrize(("kind", "atol"), [(TensorProto.FLOAT16, 0.1), (TensorProto.DOUBLE, 1e-4)])
def test_half_and_double_precision(linear, classifier, kind, atol):
    found = predict_file(linear(kind=kind), IMAGES)
    np.testing.assert_allclose(found.scores, expected(classifier), atol=atol)
    assert found.scores.dtype == np.float32


def test_channels_last_is_taken_only_when_it_is_said(linear, classifier):
    path = linear(
        ("batch", 8, 8, 1), before=[helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2])], source="t"
    )
    with pytest.raises(
        BadInput, match=r"its input is \(\?, 8, 8, 1\), and the images are \(\?, 1, 8, 8\) \(NCHW\); it"
    ):
        predict_file(path, IMAGES)
    found = predict_file(path, IMAGES, layout="nhwc")
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)
    assert found.source["layout"] == "nhwc"
    assert input_size(path, layout="nhwc") == (8, 8)


def test_probabilities_are_told_from_logits(linear, classifier):
    softmax = helper.make_node("Softmax", ["logits"], ["shares"])
    found = predict_file(linear(extra=[softmax], outputs=["shares"]), IMAGES)
    assert found.scores_are == "probabilities"
    assert model_room.are_probabilities(np.eye(3))
    for scores in (np.eye(3) * 0.9, np.eye(3) * 2 - 1 / 3, np.array([[1.5, -0.5]])):
        assert not model_room.are_probabilities(scores)


def test_the_first_output_that_fits_is_taken_or_the_one_that_is_named(linear, classifier):
    extra = [
        helper.make_node("ReduceMax", ["logits"], ["best"], keepdims=1),
        helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    path = linear(extra=extra, outputs=["best", "shares", "logits"])
    assert predict_file(path, IMAGES).scores_are == "probabilities"
    assert predict_file(path, IMAGES, output="logits").scores_are == "logits"
    with pytest.raises(BadInput, match="no output 'x' of float numbers; it has best"):
        predict_file(path, IMAGES, output="x")
    with pytest.raises(BadInput, match=r"no output is .*: best .*a single value an image"):
        predict_file(path, IMAGES, output="best")


def test_an_output_whose_shape_shows_only_when_it_runs(linear):
    extra = [
        helper.make_node("NonZero", ["logits"], ["places"]),
        helper.make_node("Cast", ["places"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(BadInput, match=r"no output is \(8, 10\), one row an image and one number a class: y \(2, 80\)"):
        predict_file(linear(extra=extra, outputs=["y"]), IMAGES)


def facts(sizes=(None, 1, 8, 8), outputs=(("logits", "tensor(float)", (None, 10)),)):
    return Facts("onnxruntime", sizes, "float32", outputs, ())


@pytest.mark.parametrize(
    ("sizes", "layout", "text"),
    [
        (
            (None, 3, 8, 8),
            "auto",
            r"input is \(\?, 3, 8, 8\), .* \(\?, 1, 8, 8\) \(NCHW\); the number of channels differs",
        ),
        ((None, 1, 32, 32), "auto", r"\(\?, 1, 32, 32\).*read the images at the size that the model takes"),
        ((None, 8, 8, 1), "nchw", "it would fit as NHWC: give the layout nhwc"),
        ((None, 1, 8, 8), "nhwc", "it would fit as NCHW: give the layout nchw"),
        ((None, 1, 8, 8), "hwc", "layout 'hwc' is not one of auto, nchw, nhwc"),
        ((0, 1, 8, 8), "auto", "its input is for 0 images at a time"),
        ((10**9, 1, 8, 8), "auto", "its input is for 1000000000 images at a time"),
    ],
)
def test_22c_inputs_that_do_not_fit(tmp_path, sizes, layout, text):
    with pytest.raises(BadInput, match=text):
        fit_input(tmp_path / "m.onnx", facts(sizes), (1, 8, 8), layout)


def test_22c_open_sizes_fit(tmp_path):
    assert fit_input(tmp_path, facts((None,) * 4), (3, 8, 8), "auto") == ("nchw", None)
    assert fit_input(tmp_path, facts((4, 3, None, None)), (3, 8, 8), "nchw") == ("nchw", 4)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (
            [("y", "tensor(float)", (None, 1000))],
            "it tells 1000 classes apart, and the test images have 10: where some",
        ),
        ([("y", "tensor(float)", (None, 1))], "a single value an image"),
        ([("y", "tensor(int64)", (None,))], r"no output is \(N, 10\): y tensor\(int64\) \(\?\); export it so that one"),
        ([("y", "tensor(float)", (None, 10, 1, 1))], r"\(\?, 10, 1, 1\); export it so that one output is logits"),
    ],
)
def test_22c_outputs_that_do_not_fit(tmp_path, outputs, text):
    with pytest.raises(BadInput, match=text):
        fit_outputs(tmp_path / "m.onnx", facts(outputs=tuple(outputs)), 10, None)


def test_22c_outputs_of_classical_converters_are_passed_over():
    outputs = (
        ("label", "tensor(int64)", (None,)),
        ("map", "seq(map(int64,tensor(float)))", ()),
        ("s", *facts().outputs[0][1:]),
    )
    assert fit_outputs("m", facts(outputs=outputs), 10, None) == ["s"]


def test_22c_other_inputs_are_refused(linear):
    path = linear(("batch", 64))
    with pytest.raises(
        BadInput, match=r"expected one input \(N, C, H, W\) of float32 or .*, found images tensor\(float\)"
    ):
        predict_file(path, IMAGES)
    made = onnx.load(str(linear()))
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(made, str(path))
    with pytest.raises(BadInput, match=r"onnxruntime cannot load it|found images"):
        predict_file(path, IMAGES)


def test_22c_data_in_other_files(linear, classifier, tmp_path):
    made = onnx.load(str(linear()))
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "m.onnx"
    onnx.save(made, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    found = predict_file(path, IMAGES)
    np.testing.assert_allclose(found.scores, expected(classifier), atol=1e-4)
    assert list(found.source["external_data"]) == ["m.bin"]
    assert len(found.source["external_data"]["m.bin"]) == 64
    (tmp_path / "models" / "m.bin").rename(tmp_path / "m.bin")
    with pytest.raises(BadInput, match=r"should lie in 'm\.bin' beside it, which is no file here"):
        predict_file(path, IMAGES)
    (tmp_path / "models" / "m.bin").symlink_to(tmp_path / "m.bin")
    with pytest.raises(BadInput, match="outside the model's folder; refused"):
        predict_file(path, IMAGES)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, not a model"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"no model" * 50, "not an ONNX file, or damaged"),
    ],
)
def test_17_files_that_are_no_model(tmp_path, content, text):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadInput, match=text):
        predict_file(tmp_path / "m.onnx", IMAGES)


def test_a_file_exported_in_training_mode_is_refused(linear):
    noise = [
        helper.make_node("RandomNormalLike", ["logits"], ["noise"]),
        helper.make_node("Add", ["logits", "noise"], ["y"]),
    ]
    with pytest.raises(
        BadInput, match=r"the same images give other scores the second time.*export it in evaluation mode"
    ):
        predict_file(linear(extra=noise, outputs=["y"]), IMAGES)


def test_scores_that_depend_on_the_batch_are_noted(linear):
    extra = [
        helper.make_node("ReduceMean", ["logits", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["logits", "m"], ["y"]),
    ]
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[0])
    found = predict_file(linear(before=[axes], extra=extra, outputs=["y"]), IMAGES)
    assert "depend on the other images of its batch" in found.source["notes"][0]


def test_scores_that_are_not_finite_name_the_image(linear):
    extra = [helper.make_node("Log", ["logits"], ["y"])]
    with pytest.raises(BadInput, match=r"of 60 images have scores that are NaN or infinite, first test/0 \(row 0\)"):
        predict_file(linear(extra=extra, outputs=["y"]), IMAGES)


def test_a_model_no_better_than_a_guess_is_noted(linear):
    wrong = replace(IMAGES, labels=(IMAGES.labels + 3) % 10)
    assert (
        "no better than a guess: check the order of the class names" in predict_file(linear(), wrong).source["notes"][0]
    )


def endless(classifier):
    """A sound classifier behind a loop of 2^62 turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("y", 1, None)],
    )
    constants = [
        helper.make_node("Constant", [], ["n"], value_int=2**62),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
    ]
    return [*constants, helper.make_node("Loop", ["n", "yes", "logits"], ["y"], body=body)]


def test_a_file_that_does_not_end_is_stopped(linear, classifier):
    path = linear(extra=endless(classifier), outputs=["y"])
    with pytest.raises(
        BadInput, match=r"no answer within 2 s while running 8 images; where the model is only slow, raise"
    ):
        predict_file(path, IMAGES, limit_s=2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_a_file_that_eats_the_memory_is_stopped(linear):
    before = [helper.make_node("Constant", [], ["much"], value_ints=[1 << 34])]
    extra = [
        helper.make_node("ConstantOfShape", ["much"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["logits", "zero"], ["y"]),
    ]
    with pytest.raises(BadInput, match=r"model.onnx: .*(alloc|memory|Alloc|Memory|crashed)"):
        predict_file(linear(before=before, extra=extra, outputs=["y"]), IMAGES, memory_gb=4)


def test_a_crash_of_the_runtime_is_told(linear, tmp_path, monkeypatch):
    child = "import os, signal, sys\ndef serve(memory):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "crashing_child.py").write_text(child)
    monkeypatch.syspath_prepend(str(tmp_path))
    real = model_room.OnnxModels

    def crashing(*arguments):
        made = real(*arguments)
        made.worker.module = "crashing_child"
        return made

    monkeypatch.setattr(model_room, "OnnxModels", crashing)
    with pytest.raises(BadInput, match=r"model.onnx: the runtime crashed on it while loading it: SIGSEGV"):
        predict_file(linear(), IMAGES)


def test_a_missing_runtime_says_how_to_install_it(linear, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('absent')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install 'tailkeep\[onnx\]'"):
        predict_file(linear(), IMAGES)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"threads": 0}, {"limit_s": 0}])
def test_settings_that_cannot_be(tmp_path, settings):
    with pytest.raises(BadInput, match="must be above 0"):
        predict_file(tmp_path / "m.onnx", IMAGES, **settings)


def test_what_is_no_model_file(tmp_path):
    for name in ("model.tflite", "model.h5", "model.engine", "model"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(BadInput, match="run a model of another framework yourself and audit its predictions"):
            predict_file(tmp_path / name, IMAGES)
    with pytest.raises(BadInput, match="there is no such file"):
        predict_file(tmp_path / "absent.onnx", IMAGES)
    with pytest.raises(BadInput, match="a folder, not a model file"):
        predict_file(tmp_path, IMAGES)


def test_the_onnx_path_needs_no_torch(linear, tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES.images, y=IMAGES.labels)
    code = (
        "import sys; from tailkeep.auditing.images import read_images; "
        "from tailkeep.auditing.models import predict_file; "
        f"predict_file({str(linear())!r}, read_images({str(tmp_path / 'a.npz')!r})); "
        "sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
