"""Weights of 4 bits, two to a byte: a smaller file of the same numbers, in the same kernels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tailkeep.compression.base import Context
from tailkeep.compression.quantization.layers import IntegerLayer
from tailkeep.compression.quantization.qat import QuantizationAwareTraining
from tailkeep.export import packed
from tailkeep.export.onnx import OPSET, export_onnx
from tailkeep.export.placement import fused_layers
from tailkeep.export.runtime import OnnxSession
from tailkeep.models.digits import DigitsNet

SHAPE = (1, 8, 8)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(0))


def integers(weight_bits: int, images: torch.Tensor) -> torch.nn.Module:
    """A quantized model, its weights as they fell; every layer quantized, and 16 * 1 * 3 * 3 weights in the first."""
    torch.manual_seed(0)
    method = QuantizationAwareTraining(weight_bits=weight_bits, keep_first_last=False)
    given = Context((100,) * 10, SHAPE, 0, torch.device("cpu"), lambda count, draw: [(images, torch.zeros(256).long())])
    model = method.prepare(copy.deepcopy(DigitsNet().build(10, SHAPE)), given)
    return method.finish(model, given)[0].eval()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_same_numbers_in_the_same_kernels_in_half_the_bytes(
    bits: int, images: torch.Tensor, tmp_path: Path
) -> None:
    model = integers(bits, images)
    plain = export_onnx(model, SHAPE, tmp_path / "plain.onnx")
    small = export_onnx(model, SHAPE, tmp_path / "small.onnx", pack_weights=True)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, IntegerLayer))
    assert (plain["opset"], plain["int8_weights"], plain["int4_weights"]) == (OPSET, weights, 0)
    assert (small["opset"], small["int8_weights"], small["int4_weights"]) == (packed.OPSET, 0, weights)
    saved = plain["bytes"] - small["bytes"]
    assert 0.9 * weights / 2 < saved <= weights / 2, "the casts take some of it"
    assert fused_layers(tmp_path / "small.onnx") == fused_layers(tmp_path / "plain.onnx")
    runs = [OnnxSession(tmp_path / f"{name}.onnx").predict(images.numpy()) for name in ("plain", "small")]
    assert np.array_equal(*runs), "bit for bit"


def test_what_is_stored_is_read_back_by_another_decoder(images: torch.Tensor, tmp_path: Path) -> None:
    model = integers(4, images)
    export_onnx(model, SHAPE, tmp_path / "small.onnx", pack_weights=True)
    stored = {tensor.name: tensor for tensor in onnx.load(str(tmp_path / "small.onnx")).graph.initializer}
    for name, module in model.named_modules():
        if isinstance(module, IntegerLayer):
            tensor = stored[f"{name}.weight.int4"]
            assert tensor.data_type == onnx.TensorProto.INT4
            found = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            assert np.array_equal(found, module.weight.numpy())


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 4), (7, 1, 3, 3)])
def test_every_value_and_an_odd_number_of_them(shape: tuple[int, ...]) -> None:
    values = np.resize(np.arange(-8, 8, dtype=np.int8), shape)
    proto = _constant(values)
    assert packed.pack(proto) == values.size
    (tensor,) = proto.graph.initializer
    assert len(tensor.raw_data) == (values.size + 1) // 2
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), values)
    onnx.checker.check_model(proto)
    assert next((node.op_type, list(node.output)) for node in proto.graph.node) == ("Cast", ["w"])


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1, 8]], dtype=np.int8),
        np.array([[-9, 0]], dtype=np.int8),
        np.array([1, 2], dtype=np.int8),
        np.array([[1, 2]], dtype=np.uint8),
        np.zeros((0, 3), dtype=np.int8),
    ],
)
def test_what_does_not_fit_stays(values: np.ndarray) -> None:
    proto = _constant(values)
    before = proto.SerializeToString()
    assert packed.pack(proto) == 0
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("bits", [None, 8])
def test_a_model_without_such_weights_gives_the_same_file(
    bits: int | None, images: torch.Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = DigitsNet().build(10, SHAPE).eval() if bits is None else integers(bits, images)
    facts: list[dict[str, Any]] = [
        export_onnx(model, SHAPE, tmp_path / f"{pack}.onnx", pack_weights=pack) for pack in (False, True)
    ]
    assert facts[0] == facts[1]
    assert facts[0]["opset"] == OPSET


def _constant(values: np.ndarray) -> Any:
    """A model that gives a constant back as float."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Cast", ["w"], ["out"], to=types.FLOAT)]
    out = helper.make_tensor_value_info("out", types.FLOAT, values.shape)
    graph = helper.make_graph(nodes, "g", [], [out], [onnx.numpy_helper.from_array(values, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", packed.OPSET)], ir_version=10)
