"""Losses with a head of their own, samplers, mixing and repairs through whole small studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tailkeep.data.digits import Digits
from tailkeep.errors import BadInput
from tailkeep.models.heads import NormalizedLinear, UnitLength
from tailkeep.study import steps
from tailkeep.study.rebuild import rebuild
from tailkeep.study.results import predictions
from tailkeep.study.runner import Study

SHORT = {"epochs": 1, "batch_size": 32, "lr": 0.02, "precision": "float32"}
LONG = {"epochs": 3, "batch_size": 32, "lr": 0.1, "precision": "float32"}
PARTIAL = {"epochs": 2.5, "batch_size": 32, "lr": 0.1, "precision": "float32"}
LDAM = {"kind": "ldam", "drw": 0.8}


def dense(small: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A study of the dense model alone."""
    return {**small, "methods": [], "balanced": "none", **changes}


def record(study: Study, method: str = "dense") -> dict[str, Any]:
    """What is stored of a method's step."""
    (cell,) = [cell for cell in study.plan.cells if cell.labels["method"] == method]
    found: dict[str, Any] = study.store.step(study.plan.steps[cell.model_key].kind, cell.model_key)
    return found


def logits(study: Study, method: str = "dense") -> Any:
    (cell,) = [cell for cell in study.plan.cells if cell.labels["method"] == method]
    return predictions(study.store, cell.predict_key)["logits"]


def model_of(study: Study, method: str = "dense") -> torch.nn.Module:
    (cell,) = [cell for cell in study.plan.cells if cell.labels["method"] == method]
    kind = study.plan.steps[cell.model_key].kind
    return rebuild(
        record(study, method)["architecture"], study.store.file(kind, cell.model_key, "model.safetensors"), None
    )


# --- samplers --------------------------------------------------------------------------------------------------------

EXPECTED: dict[str, Callable[[Any, Any], Any]] = {
    "uniform": lambda counts, share: counts,
    "class_balanced": lambda counts, share: np.full(10, counts.sum() / 10),
    "square_root": lambda counts, share: counts.sum() * np.sqrt(counts) / np.sqrt(counts).sum(),
    "progressively_balanced": lambda counts, share: (1 - share) * counts + share * counts.sum() / 10,
    "effective_number": lambda counts, share: (
        counts.sum() * (counts / (1 - 0.9999**counts)) / (counts / (1 - 0.9999**counts)).sum()
    ),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_a_sampler_draws_is_what_the_loop_trains_on_and_what_is_stored(
    small: dict[str, Any], opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen = np.zeros(10, np.int64)
    original = steps.fit

    def fit(model: torch.nn.Module, training: Any) -> Any:
        loss = training.loss

        def counted(model: torch.nn.Module, images: Any, labels: Any, progress: float) -> Any:
            np.add.at(seen, labels.numpy(), 1)
            return loss(model, images, labels, progress)

        training.loss = counted
        return original(model, training)

    monkeypatch.setattr(steps, "fit", fit)
    study = opened(dense(small, sampler={"kind": kind}, recipe=PARTIAL))
    assert not study.run().failed
    stored = np.array(record(study)["facts"]["draws_per_class"])
    assert stored.tolist() == seen.tolist(), "stored is what the optimizer saw"

    counts = np.array(study.plan.cells[0].counts)
    per_epoch = counts.sum() // 32
    steps_done = round(2.5 * per_epoch)
    assert stored.sum() == 32 * steps_done
    shares = [epoch * per_epoch / steps_done for epoch in range(3)]
    parts = [min(per_epoch, steps_done - epoch * per_epoch) * 32 / counts.sum() for epoch in range(3)]
    expected = sum(part * EXPECTED[kind](counts, share) for part, share in zip(parts, shares, strict=True))
    # An epoch's draws lie less than one from the promise; which of them its last, half-filled batch leaves out, and
    # what the half epoch holds, is chance.
    assert (np.abs(stored - expected) < 3 + 4 * np.sqrt(expected / 5)).all(), (stored, expected)


# --- the normalised head ---------------------------------------------------------------------------------------------


@pytest.fixture
def margins(small: dict[str, Any]) -> dict[str, Any]:
    """LDAM-DRW dense, and every way in which a method can meet its head."""
    entries: list[dict[str, Any]] = [
        {"name": "pruned", "method": {"kind": "filter_pruning", "ratio": 0.5}, "recipe": SHORT, "loss": LDAM},
        {"name": "A8", "parent": "pruned", "method": {"kind": "qat", "keep_first_last": False}, "recipe": SHORT},
        {"name": "sparse", "method": {"kind": "weight_pruning", "ratio": 0.5}, "recipe": SHORT, "loss": LDAM},
        {"name": "again", "method": {"kind": "self_distillation"}, "recipe": LONG},
        {
            "name": "student A8",
            "method": {"kind": "qat_distillation", "keep_first_last": False},
            "student": {"kind": "digits_net", "width": 0.5},
            "recipe": LONG,
            "loss": LDAM,
        },
        {"name": "adjusted", "method": {"kind": "logit_adjustment_post_hoc"}},
        {
            "name": "runtime",
            "parent": "adjusted",
            "method": {"kind": "ptq", "placement": "runtime", "keep_first_last": False},
        },
    ]
    return dense(small, methods=entries, loss=LDAM, controls={"continued": False}, recipe={**LONG, "epochs": 15})


def test_the_head_of_a_loss_goes_through_every_method(margins: dict[str, Any], opened: Callable[..., Study]) -> None:
    seen: dict[str, bool] = {}
    study = opened(margins)
    assert not study.run().failed
    for cell in study.plan.cells:
        name = cell.labels["method"]
        model = model_of(study, name)
        seen[name] = any(isinstance(module, UnitLength) for module in model.modules())
        assert not any(isinstance(module, NormalizedLinear) for module in model.modules()), "folded when it is stored"
        assert record(study, name)["architecture"]["model"]["head"] == {"scale": 30.0}
        assert np.abs(logits(study, name)).max() < 40
    assert [name for name, has in seen.items() if not has] == ["runtime"], "which is a graph of single operations"
    assert len(seen) == 9
    counts = np.array(study.plan.cells[0].counts)
    shift = logits(study, "adjusted") - logits(study)
    assert np.allclose(shift, -np.log(counts / counts.sum()), atol=1e-4)
    right = [(logits(study, n).argmax(1) == Digits().load().test.labels).mean() for n in ("dense", "A8", "runtime")]
    assert min(right) > 0.7, right


def test_a_linear_parent_under_such_a_loss_is_refused_before_any_compute(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    entry = {"name": "late", "method": {"kind": "filter_pruning"}, "recipe": SHORT, "loss": LDAM}
    with pytest.raises(BadInput, match="train the dense model by this loss"):
        opened(dense(small, methods=[entry], recipe=SHORT, controls={"continued": False}))


# --- mixing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [{"kind": "mixup"}, {"kind": "cutmix"}, {"kind": "remix", "images": "cutmix"}])
def test_mixing_is_a_recipes_own_and_moves_no_other_key(
    small: dict[str, Any], opened: Callable[..., Study], mix: dict[str, Any]
) -> None:
    plain = opened(dense(small, recipe=PARTIAL))
    assert "mix" not in plain.plan.steps[plain.plan.cells[0].model_key].spec["recipe"]
    nothing = opened(dense(small, recipe={**PARTIAL, "mix": None}))
    assert set(nothing.plan.steps) == set(plain.plan.steps)
    mixed = opened(dense(small, recipe={**PARTIAL, "mix": mix}, loss=LDAM, sampler={"kind": "class_balanced"}))
    assert set(mixed.plan.steps).isdisjoint(plain.plan.steps)
    assert not mixed.run().failed
    assert np.isfinite(logits(mixed)).all()


# --- repairs of the classifier ---------------------------------------------------------------------------------------


def test_repairs_touch_the_classifier_alone(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    balanced = {"kind": "class_balanced"}
    entries = [
        {"name": "cRT", "method": {"kind": "classifier_retraining"}, "recipe": SHORT, "sampler": balanced},
        {"name": "LWS", "method": {"kind": "weight_scaling"}, "recipe": SHORT, "sampler": balanced},
        {"name": "tau", "method": {"kind": "tau_normalisation"}},
        {"name": "post hoc", "method": {"kind": "logit_adjustment_post_hoc", "tau": 1.5}},
    ]
    study = opened(dense(small, methods=entries, controls={"continued": False}))
    assert not study.run().failed
    before = model_of(study).state_dict()
    for entry in entries:
        after = model_of(study, str(entry["name"])).state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert changed <= {"fc.weight", "fc.bias"}, "no weight and no statistic of the body has moved"
    counts = np.array(study.plan.cells[0].counts)
    drawn = record(study, "cRT")["facts"]["draws_per_class"]
    assert max(drawn) - min(drawn) < 0.2 * max(drawn), "the sampler of the entry drew"
    shift = logits(study, "post hoc") - logits(study)
    assert np.allclose(shift, -1.5 * np.log(counts / counts.sum()), atol=1e-4)


def test_a_repair_that_does_not_train_may_follow_quantization_and_what_trains_may_not(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    methods = [
        {"name": "int8", "method": {"kind": "ptq"}},
        {"name": "int8 adjusted", "parent": "int8", "method": {"kind": "logit_adjustment_post_hoc"}},
    ]
    study = opened(dense(small, methods=methods, controls={"continued": False}))
    assert not study.run().failed
    counts = np.array(record(study)["spec"]["data"]["counts"], dtype=np.float64)
    moved = logits(study, "int8 adjusted") - logits(study, "int8")
    np.testing.assert_allclose(moved, np.broadcast_to(-np.log(counts / counts.sum()), moved.shape), atol=1e-4)
    methods[1] = {**methods[1], "method": {"kind": "tau_normalisation"}}
    with pytest.raises(BadInput, match="quantization comes last"):
        opened(dense(small, methods=methods))


def test_a_classifier_trained_alone_on_imbalanced_draws_is_warned_of(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    again = {"name": "again", "method": {"kind": "classifier_retraining"}, "recipe": SHORT}
    balanced = {**again, "name": "balanced", "sampler": {"kind": "class_balanced"}}
    warnings = opened(dense(small, methods=[again, balanced])).resolved.warnings
    assert [w for w in warnings if "sampler: {kind: class_balanced}" in w and w.startswith("again")]
    assert not [w for w in warnings if w.startswith("balanced")]
