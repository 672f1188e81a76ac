"""Random pipelines: whatever follows whatever, a new process makes the same model again, to the last bit."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

from tailkeep.compression.base import Context, Method
from tailkeep.data.batches import normalize
from tailkeep.evaluation.predict import predict
from tailkeep.models.digits import DigitsNet
from tailkeep.study.catalog import AnyMethod
from tailkeep.study.rebuild import build_model

SHAPE = (1, 8, 8)
PLAIN = DigitsNet().plain()
CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (64, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 10
LEVELS = [
    {"kind": "filter_pruning", "ratio": 0.3},
    {"kind": "filter_pruning", "ratio": 0.25, "scope": "global", "criterion": "fpgm"},
    {"kind": "filter_pruning", "ratio": 0.4, "criterion": "taylor", "when": "gradual", "rounds": 3},
    {"kind": "weight_pruning", "ratio": 0.5},
    {"kind": "weight_pruning", "pattern": "2:4", "ratio": 0.5},
    {"kind": "class_aware_pruning", "ratio": 0.3, "scope": "global", "when": "gradual", "rounds": 2},
    {"kind": "class_aware_pruning", "ratio": 0.25, "criterion": "group_share", "groups": "thirds"},
    {"kind": "performance_weighted", "pruning": {"kind": "filter_pruning", "ratio": 0.25}},
    {"kind": "distillation"},
    {"kind": "dkd"},
    {"kind": "long_tail_distillation"},
    {"kind": "feature_distillation", "form": "attention"},
    {"kind": "continue"},
]
ENDS = [
    {"kind": "qat"},
    {"kind": "qat", "weight_bits": 4, "weights": "lsq", "activation_bits": 4, "activations": "lsq"},
    {
        "kind": "qat",
        "weight_bits": 5,
        "weights": "asymmetric",
        "weight_granularity": "tensor",
        "observer": "percentile",
    },
    {"kind": "qat", "placement": "runtime", "keep_first_last": False},
    {"kind": "qat_distillation", "weight_bits": 3, "weights": "dorefa", "activations": "clip"},
    {"kind": "tail_aware_bits", "average_bits": 3},
    {"kind": "tail_aware_bits", "times_smaller": 4, "weights": "symmetric_mse", "placement": "runtime"},
    {"kind": "ptq", "weights": "symmetric_mse", "weight_bits": 4},
    {"kind": "ptq", "placement": "runtime", "activation_symmetric": True},
]


def pipelines(count: int) -> list[list[dict[str, object]]]:
    """Seeded chains of up to three levels, most with a quantization last; every level and end is in some."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        levels = [LEVELS[number % len(LEVELS)], *draw.choices(LEVELS, k=draw.randrange(3))]
        draw.shuffle(levels)
        found.append(levels + ([ENDS[number % len(ENDS)]] if number % 5 else []))
    return found


def level(model: nn.Module, method: Method, seed: int) -> tuple[nn.Module, dict[str, object] | None]:
    def labelled(count: int, draw: str):
        return [(normalize(IMAGES), LABELS)]

    context = Context((6,) * 10, SHAPE, seed, CPU, labelled)
    model = method.prepare(model, context)
    loss = method.loss(lambda logits, y, progress: F.cross_entropy(logits, y), context)
    optimizer = torch.optim.SGD(method.param_groups(model) or model.parameters(), 0.01)
    model.train()
    for step in range(3 if method.trains else 0):
        method.on_step(model, step / 3, context)
        value, _ = loss(model, normalize(IMAGES), LABELS, step / 3)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return method.finish(model.eval(), context)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_random_pipelines_come_back_in_a_new_process_bit_for_bit(tmp_path, predict_in_a_new_process):
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    expected = []
    chosen = pipelines(18)
    assert {json.dumps(step) for chain in chosen for step in chain} == {json.dumps(step) for step in LEVELS + ENDS}
    for number, chain in enumerate(chosen):
        model, changes = build_model(PLAIN, None, 10, SHAPE, number).eval(), []
        for depth, settings in enumerate(chain):
            model, change = level(model, TypeAdapter(AnyMethod).validate_python(settings), depth)
            changes += [change] if change else []
        place = tmp_path / f"model{number:02}"
        place.mkdir()
        architecture = {"model": PLAIN, "num_classes": 10, "image_shape": list(SHAPE), "changes": changes}
        (place / "architecture.json").write_text(json.dumps(architecture))
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors")
        model.to(memory_format=torch.channels_last)
        expected.append(predict(model, IMAGES.numpy(), 64, CPU, normalize))
    predict_in_a_new_process(tmp_path)
    for number, logits in enumerate(expected):
        again = np.load(tmp_path / f"model{number:02}" / "logits.npy")
        assert again.tobytes() == logits.tobytes(), chosen[number]
    assert len({logits.tobytes() for logits in expected}) == len(expected)
