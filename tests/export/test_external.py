"""Bad input 22c: an ONNX model's data in other files, taken in from its own folder and from nowhere else."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tailkeep.errors import BadInput
from tailkeep.export.external import tensors_outside
from tailkeep.export.runtime import FLOATS, OnnxSession, read_files, read_single_file

WEIGHT = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
IMAGES = np.random.default_rng(1).standard_normal((5, 1, 2, 2), dtype=np.float32)


def model(kind=TensorProto.FLOAT):
    weight = WEIGHT.astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("images", kind, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def point(tensor, **entries):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def saved(folder, **entries):
    made = model()
    point(made.graph.initializer[0], **entries)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("start", [0, 64])
def test_data_beside_the_model_is_taken_in(tmp_path, start):
    (tmp_path / "model.onnx.data").write_bytes(b"\xff" * start + WEIGHT.tobytes() + b"more")
    path = saved(tmp_path, location="model.onnx.data", offset=start, length=WEIGHT.nbytes)
    session = OnnxSession(path, external=True)
    np.testing.assert_allclose(session.predict(IMAGES), IMAGES.reshape(5, 4) @ WEIGHT.T, atol=1e-5)
    assert [file.name for file in session.files] == ["model.onnx.data"]
    with pytest.raises(BadInput, match="only files that are whole are read"):
        OnnxSession(path)
    with pytest.raises(BadInput, match="only files that are whole are read"):
        read_single_file(path)


def test_what_onnx_itself_writes_is_read(tmp_path):
    onnx.save(model(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    assert tensors_outside(onnx.load_model_from_string((tmp_path / "m.onnx").read_bytes()))
    found = OnnxSession(tmp_path / "m.onnx", external=True).predict(IMAGES)
    np.testing.assert_allclose(found, IMAGES.reshape(5, 4) @ WEIGHT.T, atol=1e-5)


@pytest.mark.parametrize("where", ["../data.bin", "{above}/data.bin", "link.bin", "linked/data.bin", "a\0b"])
def test_data_outside_the_folder_is_refused(tmp_path, where):
    (tmp_path / "data.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "data.bin")
    (folder / "linked").symlink_to(tmp_path)
    path = saved(folder, location=where.format(above=tmp_path))
    with pytest.raises(BadInput, match=r"the data of w lies in .*, outside the model's folder; refused"):
        read_files(path, external=True)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"location": "absent.bin"}, r"should lie in 'absent\.bin' beside it, which is no file here; copy it along"),
        ({"location": ""}, "which is no file here"),
        ({}, "which is no file here"),
        ({"location": "."}, "which is no file here"),
        ({"location": "data.bin", "offset": 40, "length": 48}, "ends at byte 88 of a file of 48; it is cut short"),
        ({"location": "data.bin", "offset": 99}, "ends at byte 99 of a file of 48"),
        ({"location": "data.bin", "offset": -1}, "has the offset '-1', which is no number"),
        ({"location": "data.bin", "length": "9" * 30}, "has the length '9{30}', which is no number"),
    ],
)
def test_data_that_is_not_there(tmp_path, entries, text):
    (tmp_path / "data.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(BadInput, match=text):
        read_files(saved(tmp_path, **entries), external=True)


def test_data_is_bounded(tmp_path, monkeypatch):
    (tmp_path / "data.bin").write_bytes(WEIGHT.tobytes())
    monkeypatch.setattr("tailkeep.export.external.LARGEST", 100)
    with pytest.raises(BadInput, match="more than 2 GB with its external data"):
        read_files(saved(tmp_path, location="data.bin"), external=True)


def test_data_is_found_wherever_a_tensor_can_stand():
    found = model()
    inside = numpy_helper.from_array(WEIGHT, "hidden")
    point(inside, location="x")
    function = helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(helper.make_attribute("default", inside))
    found.functions.append(function)
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=inside)], "branch", [], [])
    found.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch))
    assert [tensor.name for tensor in tensors_outside(found)] == ["hidden"] * 3


def test_other_float_types_are_run_where_they_are_asked_for(tmp_path):
    for kind, name, wanted in ((TensorProto.FLOAT16, "half", np.float16), (TensorProto.DOUBLE, "double", np.float64)):
        path = tmp_path / f"{name}.onnx"
        onnx.save(model(kind), str(path))
        with pytest.raises(BadInput, match="of float32, found images"):
            OnnxSession(path)
        session = OnnxSession(path, types=tuple(FLOATS))
        assert session.input_type is wanted
        assert [name for name, _, _ in session.outputs] == ["logits"]
        (found,) = session.run_outputs(IMAGES.astype(wanted), ["logits"])
        np.testing.assert_allclose(found, IMAGES.reshape(5, 4) @ WEIGHT.T, atol=0.02)
