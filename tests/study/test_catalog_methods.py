"""The checks that every compression method of the catalog passes: saved, rebuilt, a function of its seed, its identity.

A newcomer says in ``IDENTITY`` with what settings it leaves its parent as it is.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from catalog_examples import COUNTS, CPU, SHAPE, each, example, kind_of, state
from tailkeep.compression.base import Context
from tailkeep.data.batches import Augment, TrainingBatches, normalize
from tailkeep.data.calibration import calibration_batches
from tailkeep.data.dataset import Split
from tailkeep.data.digits import Digits
from tailkeep.evaluation.predict import predict
from tailkeep.study import catalog
from tailkeep.study.rebuild import build_model, rebuild
from tailkeep.training.loop import Training, fit
from tailkeep.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

IDENTITY: dict[str, dict[str, Any] | None] = {
    "filter_pruning": {"ratio": 0},
    "weight_pruning": {"ratio": 0},
    "class_aware_pruning": {"ratio": 0},
    "performance_weighted": {},  # as the distillations below
    "qat": {"weight_bits": 32, "activation_bits": 32},
    "qat_distillation": {"weight_bits": 32, "activation_bits": 32},
    "ptq": {"weight_bits": 32, "activation_bits": 32},
    "tail_aware_bits": {"weight_bits": 32, "activation_bits": 32},
    "distillation": {},  # with no training, a copy of the parent
    "dkd": {},
    "feature_distillation": {},
    "self_distillation": None,  # a fresh network
    "balanced_distillation": {},
    "long_tail_distillation": {},
    "adjusted_distillation": {},
    "classifier_retraining": {"redraw": False},
    "weight_scaling": {},
    "tau_normalisation": {"tau": 0, "keep_bias": True},
    "logit_adjustment_post_hoc": {"tau": 0},
    "continue": {},
}
"""Settings with which a method without training gives its parent's logits; None where it has none."""
STUDENT = {"kind": "digits_net", "width": 0.5}
PARENT = {"kind": "digits_net", "width": 1.0}


@cache
def digits() -> Split:
    return Digits().load().train


@dataclass
class Finished:
    """What a run of a method left behind."""

    parent: nn.Module
    model: nn.Module
    architecture: dict[str, Any]
    weights: Path
    facts: dict[str, Any]


def new_parent(seed: int = 0) -> nn.Module:
    """A network whose norms have statistics of their own."""
    model = build_model(PARENT, None, 10, SHAPE, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def run(method: Any, folder: Path, seed: int = 0, steps: int = 4, student: bool = False) -> Finished:
    """A method from its parent to its files, as a step of a study takes it there."""
    folder.mkdir(exist_ok=True)
    images, labels = digits().images[:300], digits().labels[:300]
    parent = new_parent()
    seen: list[tuple[Tensor, Tensor]] = []

    def labelled(count: int, draw: Any) -> list[tuple[Tensor, Tensor]]:
        batches = list(calibration_batches(images, labels, 64 * count, 64, seed, CPU, draw))
        seen.extend((batch, batch.clone()) for batch, _ in batches)
        return batches

    context = Context(COUNTS, SHAPE, seed, CPU, labelled)
    if student:
        context.build_student = lambda: build_model(STUDENT, None, 10, SHAPE, seed)
    states = [torch.get_rng_state()]
    model = method.prepare(parent, context)
    batches = TrainingBatches(images, labels, 32, Augment(crop_padding=1, flip=False), seed, CPU)
    loss = method.loss(lambda logits, y, progress: F.cross_entropy(logits, y), context)
    groups = method.param_groups(model)
    method.on_step(model, 0.0, context)
    states.append(torch.get_rng_state())
    recipe = Recipe(steps=steps, batch_size=32, lr=0.02, precision="float32")
    hooks = {"on_step": lambda m, p: method.on_step(m, p, context), "param_groups": groups, "seed": seed}
    fit(model, Training(batches=batches, loss=loss, recipe=recipe, precision="float32", **hooks))
    states.append(torch.get_rng_state())
    model, change = method.finish(model.eval(), context)
    states += [torch.get_rng_state()]
    assert torch.equal(states[0], states[1]), "prepare, loss, param_groups or on_step drew from the global generator"
    assert torch.equal(states[2], states[3]), "finish drew from the global generator"
    assert all(torch.equal(batch, kept) for batch, kept in seen), "the calibration images were written to"
    changes = [change] if change else []
    architecture = {
        "model": STUDENT if student else PARENT,
        "num_classes": 10,
        "image_shape": list(SHAPE),
        "changes": changes,
    }
    weights = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return Finished(parent, model, architecture, weights, context.facts)


def logits(model: nn.Module) -> NDArray[np.float32]:
    # a stored model is channels last; another memory format sums in another order
    return predict(model.to(memory_format=torch.channels_last), digits().images[:200], 64, CPU, normalize)


def with_and_without_student() -> list[Any]:
    """Every method; one with a teacher also with a fresh student."""
    pairs = [(cls, student) for cls in catalog.METHODS for student in (False, example(cls).needs_teacher)]
    return [pytest.param(*pair, id=f"{pair[0].__name__}{'-student' * pair[1]}") for pair in dict.fromkeys(pairs)]


@pytest.mark.parametrize(("cls", "student"), with_and_without_student())
def test_a_method_comes_back_from_its_files_bit_for_bit(cls: Any, student: bool, tmp_path: Path) -> None:
    done = run(example(cls), tmp_path, student=student)
    architecture = json.loads(json.dumps(done.architecture))
    assert architecture == done.architecture, "changes are plain values"
    assert json.loads(json.dumps(done.facts)) == done.facts, "facts are plain values"
    assert all(change["kind"] == kind_of(cls) for change in architecture["changes"])
    expected = logits(copy.deepcopy(done.model))
    assert np.isfinite(expected).all()
    assert logits(rebuild(architecture, done.weights, None)).tobytes() == expected.tobytes()
    assert expected.tobytes() != logits(new_parent()).tobytes(), "it was trained"
    if example(cls).needs_teacher:
        assert state(done.parent) == state(new_parent()), "a parent that teaches stays as it is"
        assert not {id(p) for p in done.parent.parameters()} & {id(p) for p in done.model.parameters()}


@pytest.mark.parametrize(("cls", "student"), with_and_without_student())
def test_a_method_is_a_function_of_its_seed(cls: Any, student: bool, tmp_path: Path) -> None:
    method, found = example(cls), []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(100 + number)  # the state of the global generator must not matter
        found.append(run(method, tmp_path / str(number), seed, student=student).weights.read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


@each(catalog.METHODS)
def test_a_methods_identity_setting_gives_the_parents_logits(cls: Any, tmp_path: Path) -> None:
    assert kind_of(cls) in IDENTITY, "say with what settings this method leaves its parent as it is, or None"
    settings = IDENTITY[kind_of(cls)]
    if settings is None:
        pytest.skip("no setting of it is the identity")
    done = run(example(cls, **settings), tmp_path, steps=0)
    rebuilt = rebuild(done.architecture, done.weights, None)
    assert logits(rebuilt).tobytes() == logits(new_parent()).tobytes()
    assert state(rebuilt) == state(new_parent())
