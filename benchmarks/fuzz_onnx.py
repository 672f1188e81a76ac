"""Mutated ONNX files through the audit's own path: no crash of the caller, no hang, no answer from what does not parse.

    python benchmarks/fuzz_onnx.py [--files 5000] [--seed 0] [--limit 10] [--keep FOLDER]

Half of the files are damaged in their bytes, half in their graph (sizes, types, operators, edges, places of data).
Each is opened and run in the child process that `tailkeep audit` uses, and counted: answered, refused in words, or
refused because the runtime crashed on it or did not end. Exit code 1 where anything else happened.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailkeep.auditing.images import TestImages
from tailkeep.auditing.onnx_model import OnnxModels, onnx_scores
from tailkeep.auditing.worker import WorkerDied
from tailkeep.errors import BadInput

SHAPE, CLASSES = (1, 6, 6), 4
MEMORY = 4 << 30
OPERATORS = """
Relu Softmax MaxPool AveragePool GlobalAveragePool Conv ConvTranspose Gemm MatMul Reshape Resize Gather
Scatter Tile Pad Expand ConstantOfShape Range TopK Slice Split Concat Transpose LSTM GRU Loop Scan If OneHot
CumSum Einsum QLinearConv QuantizeLinear DequantizeLinear BatchNormalization InstanceNormalization LRN NonZero
Where Upsample NonMaxSuppression RoiAlign GridSample Trilu Det MaxUnpool Unique Compress ReverseSequence
StringNormalizer
""".split()  # noqa: SIM905 (a list of fifty quoted names is harder to read)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    -128,
    255,
    4096,
    65535,
    1 << 20,
    1 << 31,
    -(1 << 31),
    (1 << 62),
    -(1 << 62),
    (1 << 63) - 1,
)
PLACES = ("/etc/passwd", "../../secret.bin", "model.bin", "", "*/_ORT_MEM_ADDR_/*", "a\0b", "x" * 5000)


def random_images(count: int) -> TestImages:
    """Random images; what they show does not matter here."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    names = tuple("abcd")
    return TestImages(pixels, labels, names, np.arange(count).astype(str), (0.5,), (0.5,), "0" * 64, "random", "arrays")


def seeds() -> dict[str, bytes]:
    """Sound models with what real files have: weights, int8, a subgraph, a loop, a function, several outputs."""
    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)

    flat = helper.make_node("Flatten", ["images"], ["flat"])
    head = helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1)
    plain = ([flat, head], [weight("w", CLASSES, 36)])

    scale, zero = (numpy_helper.from_array(np.array(v), n) for v, n in ((np.float32(0.05), "s"), (np.int8(0), "z")))
    int8 = numpy_helper.from_array(rng.integers(-127, 127, (8, 1, 3, 3), dtype=np.int8), "q")
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "w8"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    shape = numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "shape")
    quantized = (nodes, [scale, zero, int8, shape, weight("w8", CLASSES, 8)])

    def branch(name: str, factor: float) -> Any:
        constant = helper.make_node("Constant", [], [f"{name}k"], value=numpy_helper.from_array(np.float32(factor)))
        times = helper.make_node("Mul", ["scores", f"{name}k"], [name])
        return helper.make_graph([constant, times], name, [], [helper.make_tensor_value_info(name, 1, None)])

    first = helper.make_node("Gemm", ["flat", "w"], ["scores"], transB=1)
    choice = helper.make_node("If", ["yes"], ["logits"], then_branch=branch("t", 2.0), else_branch=branch("e", 1.0))
    yes = numpy_helper.from_array(np.array(True), "yes")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["state", "state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info(name, kind, size)
            for name, kind, size in (("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("state", 1, None))
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, None)],
    )
    times = numpy_helper.from_array(np.array(3, dtype=np.int64), "times")
    loop = helper.make_node("Loop", ["times", "yes", "scores"], ["logits"], body=body)
    return {
        "plain": _model(*plain),
        "quantized": _model(*quantized, outputs=("shares", "logits")),
        "branches": _model([flat, first, choice], [weight("w", CLASSES, 36), yes]),
        "loop": _model([flat, first, loop], [weight("w", CLASSES, 36), yes, times]),
        "function": _with_function(weight("w", CLASSES, 36)),
    }


def _model(nodes: list[Any], tensors: list[Any], outputs: tuple[str, ...] = ("logits",), **more: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CLASSES]) for name in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10, **more).SerializeToString()
    return data


def _with_function(tensor: Any) -> bytes:
    inside = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    function = helper.make_function("own", "Head", ["x", "w"], ["y"], inside, [helper.make_opsetid("", 18)])
    return _model([helper.make_node("Head", ["images", "w"], ["logits"], domain="own")], [tensor], functions=[function])


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, the file), the same for one seed; even ones in their bytes, odd ones in their graph."""
    draw = random.Random(seed)
    sound = seeds()
    for index in range(count):
        name = draw.choice(sorted(sound))
        if index % 2:
            model = onnx.load_model_from_string(sound[name])
            done = [draw.choice(GRAPH_CHANGES)(model, draw) for _ in range(draw.choice((1, 1, 1, 2, 4)))]
            yield f"{name}: {', '.join(done)}", model.SerializeToString()
        else:
            done, data = _bytes_changed(sound[name], draw)
            yield f"{name}: {done}", data


def _bytes_changed(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    kind = draw.choice(("flip", "flip", "flip", "cut", "splice", "repeat", "number"))
    raw = bytearray(data)
    if kind == "cut":
        return kind, bytes(raw[: draw.randrange(len(raw))])
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(len(raw))
        if kind == "flip":
            raw[at] ^= 1 << draw.randrange(8)
        elif kind == "splice":
            start = draw.randrange(len(raw))
            raw[at:at] = raw[start : start + draw.randrange(1, 64)]
        elif kind == "repeat":
            raw[at : at + 1] = raw[at : at + 1] * draw.randrange(2, 200)
        else:
            raw[at : at + 1] = draw.choice((b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x00", b"\x80"))
    return kind, bytes(raw[: 1 << 20])


def _tensor(model: Any, draw: random.Random) -> str:
    tensor = draw.choice(model.graph.initializer)
    kind = draw.choice(("dims", "dims", "type", "data", "values", "outside", "both"))
    if kind == "dims" and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
    elif kind == "type":
        tensor.data_type = draw.randrange(0, 30)
    elif kind == "data":
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif kind == "values":
        tensor.raw_data = bytes(draw.randrange(256) for _ in range(len(tensor.raw_data)))
    elif kind == "both":
        tensor.float_data.extend([1.0, 2.0])
        tensor.dims.append(draw.choice(NUMBERS))
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw.choice(PLACES).encode("utf-8", "replace").decode())
        tensor.external_data.add(key=draw.choice(("offset", "length")), value=str(draw.choice(NUMBERS)))
    return f"tensor {kind}"


def _operator(model: Any, draw: random.Random) -> str:
    if not model.graph.node:
        return "nothing"
    node = draw.choice(model.graph.node)
    node.op_type = draw.choice(OPERATORS)
    if draw.random() < 0.2:
        node.domain = draw.choice(("com.microsoft", "ai.onnx.ml", "own", "com.microsoft.nchwc"))
    if draw.random() < 0.3:
        del node.attribute[:]
    return f"operator {node.op_type}"


def _attribute(model: Any, draw: random.Random) -> str:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return "nothing"
    attribute = draw.choice(draw.choice(nodes).attribute)
    if draw.random() < 0.2:
        attribute.type = draw.randrange(0, 15)
    attribute.i = draw.choice(NUMBERS)
    attribute.f = draw.choice((0.0, float("nan"), float("inf"), -1e30))
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(NUMBERS)
    return f"attribute {attribute.name}"


def _edge(model: Any, draw: random.Random) -> str:
    if not model.graph.node:
        return "nothing"
    node = draw.choice(model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)] + ["", "nowhere"]
    side = draw.choice((node.input, node.output))
    if side and draw.random() < 0.7:
        side[draw.randrange(len(side))] = draw.choice(names)
    else:
        side.append(draw.choice(names))
    return "edge"


def _nodes(model: Any, draw: random.Random) -> str:
    nodes = list(model.graph.node)
    kind = draw.choice(("drop", "drop", "twice", "twice", "shuffle", "shuffle", "many"))
    if not nodes or not nodes[-1].output:
        return "nothing"
    if kind == "drop":
        nodes.pop(draw.randrange(len(nodes)))
    elif kind == "twice":
        nodes.append(draw.choice(nodes))
    elif kind == "shuffle":
        draw.shuffle(nodes)
    else:
        last = nodes[-1].output[0]
        nodes += [
            helper.make_node("Concat", [last, last], [last := f"{last}_"], axis=0) for _ in range(draw.randrange(5, 40))
        ]
        model.graph.output[0].name = nodes[-1].output[0]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return f"nodes {kind}"


def _outside(model: Any, draw: random.Random) -> str:
    """Change what the file says of itself: sizes and types of inputs and outputs, versions."""
    kind = draw.choice(("size", "size", "type", "opset", "version", "name"))
    entry = draw.choice((*model.graph.input, *model.graph.output))
    if kind == "size":
        sizes = entry.type.tensor_type.shape.dim
        if draw.random() < 0.3:
            sizes.add().dim_value = draw.choice(NUMBERS)
        elif sizes:
            draw.choice(sizes).dim_value = draw.choice(NUMBERS)
    elif kind == "type":
        entry.type.tensor_type.elem_type = draw.randrange(0, 30)
    elif kind == "opset":
        model.opset_import[0].version = draw.choice((*NUMBERS, 7, 11, 13, 17, 21, 23))
    elif kind == "version":
        model.ir_version = draw.choice(NUMBERS)
    else:
        entry.name = draw.choice(("", "images", "logits", "\u202e\x1b[2J", "n" * 100_000))
    return f"face {kind}"


GRAPH_CHANGES = (_tensor, _tensor, _operator, _attribute, _attribute, _edge, _nodes, _outside)


def judge(models: OnnxModels, path: Path, images: TestImages) -> tuple[str, str]:
    """Run one file; return ("answered", "refused", "crash" or "hang", the words). Anything else is raised."""
    try:
        scores, _, _ = onnx_scores(path, images, models)
    except BadInput as error:
        if not str(error).startswith(str(path)):
            raise AssertionError(f"a refusal that does not name the file: {error}") from error
        cause = error.__cause__
        return cause.reason if isinstance(cause, WorkerDied) else "refused", str(error)
    if scores.shape != (len(images), CLASSES) or scores.dtype != np.float32:
        raise AssertionError(f"scores {scores.shape} of {scores.dtype}")
    return "answered", ""


def parses(data: bytes) -> bool:
    try:
        return bool(onnx.load_model_from_string(data).graph.node)
    except Exception:
        return False


def fuzz(files: int, seed: int, limit_s: float, keep: Path | None = None, show: bool = False) -> dict[str, Any]:
    """Return {"outcomes": counts, "starts": processes, "longest_s", "wrong": [...], "died": [...]}."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    died: list[str] = []
    longest = 0.0
    images = random_images(5)
    # A file is asked three or four times: it is opened, tried twice, and run.
    with tempfile.TemporaryDirectory() as folder, OnnxModels(1, limit_s / 3, MEMORY) as models:
        path = Path(folder) / "model.onnx"
        for index, (done, data) in enumerate(mutants(files, seed)):
            path.write_bytes(data)
            start = time.perf_counter()
            outcome, words = judge(models, path, images)
            longest = max(longest, time.perf_counter() - start)
            outcomes[outcome] += 1
            if outcome == "answered" and not parses(data):
                wrong.append(f"{index} ({done}): answered, and it does not parse")
            if outcome in ("crash", "hang"):
                died.append(f"{index} ({done}): {words.removeprefix(str(path))}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{index}-{outcome}.onnx").write_bytes(data)
            if show and (index + 1) % 250 == 0:
                print(f"{index + 1} files, {dict(outcomes)}", file=sys.stderr, flush=True)
        starts = models.worker.starts
    return {"outcomes": dict(outcomes), "starts": starts, "longest_s": longest, "wrong": wrong, "died": died}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for a file")
    parser.add_argument("--keep", type=Path, help="where to keep the files that the runtime crashed or hung on")
    options = parser.parse_args()
    start = time.perf_counter()
    found = fuzz(options.files, options.seed, options.limit, options.keep, show=True)
    for line in found["died"]:
        print(line)
    outcomes = ", ".join(f"{count} {what}" for what, count in sorted(found["outcomes"].items()))
    print(f"{options.files} files in {time.perf_counter() - start:.0f} s: {outcomes}")
    print(f"longest {found['longest_s']:.1f} s; {found['starts']} processes started; the caller lived through all")
    for line in found["wrong"]:
        print(f"WRONG: {line}")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
