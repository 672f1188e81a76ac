"""Born-again networks, and every kind of distillation as steps of a study."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.distillation.self_distillation import SelfDistillation, redrawn
from tailkeep.compression.distillation.taught import softened_divergence
from tailkeep.errors import StepFailed
from tailkeep.models.digits import DigitsNet
from tailkeep.study.runner import Options, open_study
from tailkeep.study.spec import check_study
from tailkeep.study.steps import run_step
from tailkeep.yaml_reader import parse_yaml

SHAPE = (1, 8, 8)
BATCH = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 10


def network(seed, width=1.0):
    torch.manual_seed(seed)
    return DigitsNet(width=width).build(10, SHAPE)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def context(seed=3, **extra):
    return Context((10,) * 10, SHAPE, seed, torch.device("cpu"), **extra)


def learnt(model):
    """Move every tensor away from its first value."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data.add_(1.0)
    return model


def test_the_parent_teaches_a_fresh_network_of_its_own_shape():
    parent, fresh = learnt(network(0)), network(5)
    given = context(build_fresh=lambda: fresh)
    before = state(parent)
    student = SelfDistillation().prepare(parent, given)
    assert student is fresh
    assert given.teacher is parent
    method = SelfDistillation(student_weight=0.2, teacher_weight=0.7)
    base = lambda logits, labels, progress: F.cross_entropy(logits, labels)  # noqa: E731
    loss, logits = method.loss(base, given)(student, BATCH, LABELS, 0.5)
    with torch.no_grad():
        expected = 0.2 * F.cross_entropy(logits, LABELS) + 0.7 * softened_divergence(logits, parent(BATCH), 1.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert same(before, state(parent))
    assert not any(parameter.requires_grad for parameter in parent.parameters())


def test_a_student_of_the_study_goes_first():
    small = network(1, 0.5)
    given = context(build_student=lambda: small, build_fresh=lambda: network(5))
    assert SelfDistillation().prepare(network(0), given) is small


def test_without_a_study_every_layer_redraws_itself():
    parent = learnt(network(0))
    before, generator = state(parent), torch.get_rng_state()
    fresh = SelfDistillation().prepare(parent, context())
    assert torch.equal(generator, torch.get_rng_state()), "the global generator is left alone"
    assert same(before, state(parent))
    for name, value in fresh.state_dict().items():
        assert value.shape == before[name].shape
        assert not value.is_floating_point() or not torch.equal(value, before[name]), f"{name} is the parent's"
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    torch.manual_seed(99)
    assert same(state(SelfDistillation().prepare(parent, context())), state(fresh)), "a function of the seed"
    assert not same(state(SelfDistillation().prepare(parent, context(seed=4))), state(fresh))


def test_a_layer_that_cannot_redraw_itself_is_refused():
    class Scale(nn.Module):
        def __init__(self, as_buffer):
            super().__init__()
            value = torch.ones(3)
            self.register_buffer("scale", value) if as_buffer else self.register_parameter("s", nn.Parameter(value))

    for as_buffer in (False, True):
        model = nn.Sequential(nn.Conv2d(1, 3, 1), Scale(as_buffer))
        with pytest.raises(StepFailed, match=r"fresh_model: 1 \(Scale\) has no reset_parameters"):
            redrawn(model, 0)


# --- as steps of a study ---------------------------------------------------------------------------------------------

SHORT = {"steps": 2, "batch_size": 32, "lr": 0.02, "precision": "float32"}
NONE = {**SHORT, "steps": 0}
STUDENT = {"kind": "digits_net", "width": 0.5}
STUDY = {
    "name": "taught",
    "data": {"source": {"kind": "digits"}},
    "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 30}],
    "balanced": "none",
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": NONE,
    "controls": {"continued": False, "student_alone": True, "churn_floor": False},
    "methods": [
        {"name": "pruned", "method": {"kind": "filter_pruning", "ratio": 0.5}, "recipe": SHORT},
        {"name": "born again", "method": {"kind": "self_distillation"}, "recipe": NONE},
        {"name": "again", "parent": "born again", "method": {"kind": "self_distillation"}, "recipe": SHORT},
        {"name": "of pruned", "parent": "pruned", "method": {"kind": "self_distillation"}, "recipe": SHORT},
        {"name": "dkd", "method": {"kind": "dkd"}, "student": STUDENT, "recipe": SHORT},
        {"name": "maps", "method": {"kind": "feature_distillation"}, "student": STUDENT, "recipe": SHORT},
        {
            "name": "repaired",
            "parent": "pruned",
            "teacher": "dense",
            "method": {"kind": "feature_distillation", "form": "attention", "teacher_weight": 0.5},
            "recipe": SHORT,
        },
        {
            "name": "repaired A8",
            "parent": "repaired",
            "method": {"kind": "qat", "calibration_batches": 1},
            "recipe": NONE,
        },
    ],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Every model of the study: {method: (step.json, tensors or None)}."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.yaml"
    path.write_text(json.dumps(STUDY), encoding="utf-8")
    study = open_study(path, Options(store=folder / "store", workers=1, cache=folder / "cache"))
    threads = torch.get_num_threads()
    found = {}
    for step in study.plan.steps.values():
        if step.kind in ("train", "transform"):
            run_step(step, study.runtime())
    torch.set_num_threads(threads)
    for cell in study.plan.cells:
        kind = study.plan.steps[cell.model_key].kind
        place = folder / "store" / kind / cell.model_key
        record = json.loads((place / "step.json").read_text(encoding="utf-8"))
        weights = load_file(place / "model.safetensors") if record["status"] == "done" else None
        found[cell.labels["method"]] = (record, weights)
    return found


def test_born_again_starts_from_the_dense_models_own_initial_weights(stored):
    record, weights = stored["born again"]
    assert record["architecture"]["changes"] == []
    assert same(weights, stored["dense"][1]), "neither was trained"
    assert not same(stored["again"][1], weights)


def test_a_parent_whose_shape_was_changed_has_no_fresh_twin(stored):
    record, _ = stored["of pruned"]
    assert (record["status"], record["reason"]) == ("failed", "fresh_model")
    assert "filter_pruning" in record["detail"]


def test_every_kind_leaves_a_plain_student(stored):
    for name in ("dkd", "maps"):
        record, weights = stored[name]
        assert set(weights) == set(network(0, 0.5).state_dict())
        assert record["architecture"]["model"]["width"] == 0.5
    assert stored["maps"][0]["facts"]["feature_layers"] == ["layer1.0:layer1.0", "layer1:layer1"]


def test_the_dense_model_teaches_the_pruned_one(stored):
    record, weights = stored["repaired"]
    assert [change["kind"] for change in record["architecture"]["changes"]] == ["filter_pruning"]
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in stored["pruned"][1].items()
    }
    assert not same(weights, stored["pruned"][1])
    quantized = stored["repaired A8"][0]["architecture"]["changes"]
    assert [change["kind"] for change in quantized] == ["filter_pruning", "qat"]


def test_a_student_belongs_to_the_methods_with_a_teacher():
    study = copy.deepcopy(STUDY)
    study["methods"][0]["student"] = STUDENT
    with pytest.raises(Exception, match="'student' is for methods with a teacher; filter_pruning works on its parent"):
        check_study(parse_yaml(json.dumps(study), "study.yaml"))


def test_the_studies_of_the_page_are_valid():
    page = (Path(__file__).parents[2] / "docs" / "distillation.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    methods = [block for block in blocks if block.startswith("methods:")]
    assert len(methods) >= 3
    for block in methods:
        study = {**STUDY, "methods": parse_yaml(block, "page").value["methods"]}
        check_study(parse_yaml(json.dumps(study), "page"))
