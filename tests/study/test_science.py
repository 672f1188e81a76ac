"""The controls that a study's validity rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tailkeep.data.dataset import Dataset, Split, split_digest
from tailkeep.data.digits import Digits
from tailkeep.study import steps
from tailkeep.study.results import predictions
from tailkeep.study.runner import Study

NOTHING = {"epochs": 0, "batch_size": 32, "precision": "float32"}


def test_identity_compression_shows_zero_drop_on_every_class(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    small["methods"] = [
        {"name": "ratio 0", "method": {"kind": "filter_pruning", "ratio": 0}, "recipe": NOTHING},
        {"name": "32 bits", "method": {"kind": "qat", "weight_bits": 32, "activation_bits": 32}, "recipe": NOTHING},
        {"name": "copy of the parent", "method": {"kind": "distillation"}, "recipe": NOTHING},
    ]
    small["seeds"] = [0, 1]
    study = opened(small)
    assert not study.run().failed
    frame, analysis = study.analyse()
    blocks = frame[(frame.role == "technique") & (frame.reference == "dense")]
    assert set(blocks.method) == {"ratio 0", "32 bits", "copy of the parent"}
    assert (blocks[["n10", "n01", "changed"]] == 0).all().all()
    techniques = analysis.recall[(analysis.recall.role == "technique") & (analysis.recall.reference == "dense")]
    assert len(techniques) == 3 * 2 * 10
    assert (techniques.change == 0).all()
    assert [v.excess_gap for v in analysis.verdicts] == [0, 0, 0]
    logits = [predictions(study.store, c.predict_key)["logits"] for c in study.plan.cells if c.labels["seed"] == 0]
    half = len(logits) // 2
    for other in logits[1:half]:
        assert np.array_equal(logits[0], other), "not only the labels: every logit is the same"


def _digits_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[Dataset], Dataset]) -> None:
    original = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, root=None, cache=None: change(original(self, root, cache)))
    steps._dataset.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_data() -> Any:
    steps._dataset.cache_clear()
    yield
    steps._dataset.cache_clear()


def _models(study: Study) -> dict[str, str]:
    kinds = {key: step.kind for key, step in study.plan.steps.items() if step.kind != "predict"}
    return {key: study.store.file_hash(kind, key, "model.safetensors") for key, kind in kinds.items()}


def test_permuted_test_labels_leave_every_model_byte_identical(
    small: dict[str, Any], opened: Callable[..., Study], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(small, store=tmp_path / "a")
    first.run()

    def permute(dataset: Dataset) -> Dataset:
        test = dataset.test
        labels = np.random.default_rng(0).permutation(test.labels)
        digest = split_digest(test.images, labels, dataset.class_names)
        return replace(dataset, test=replace(test, labels=labels, digest=digest))

    _digits_with(monkeypatch, permute)
    second = opened(small, store=tmp_path / "b")
    second.run()
    models = _models(first)
    assert len(models) >= 7 * 2
    assert models == _models(second), "keys and bytes of every model"
    assert {c.predict_key for c in first.plan.cells}.isdisjoint(c.predict_key for c in second.plan.cells)


def test_random_labels_give_chance(
    small: dict[str, Any], opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(split: Split, seed: int) -> Split:
        labels = np.random.default_rng(seed).permutation(split.labels)
        return replace(split, labels=labels, digest=split_digest(split.images, labels, ("random",)))

    def shuffle(dataset: Dataset) -> Dataset:
        # the test labels too: a model gives images that look alike one label, and chance over ten such groups is wide
        return replace(dataset, train=shuffled(dataset.train, 1), test=shuffled(dataset.test, 2))

    _digits_with(monkeypatch, shuffle)
    small["imbalance"] = [{"kind": "natural"}]
    small["balanced"] = "none"
    study = opened(small)
    study.run()
    _, analysis = study.analyse()
    # 500 test images, 10 classes: chance is 10 % with a standard error of 1.3 points
    assert ((analysis.accuracy.accuracy - 10).abs() < 5).all(), analysis.accuracy[["method", "accuracy"]]


def test_a_planted_leak_is_caught(
    small: dict[str, Any], opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(dataset: Dataset) -> Dataset:
        images = dataset.train.images.copy()
        images[:3] = dataset.test.images[:3]
        digest = split_digest(images, dataset.train.labels, dataset.class_names)
        return replace(dataset, train=replace(dataset.train, images=images, digest=digest))

    _digits_with(monkeypatch, leak)
    study = opened(small)
    assert any("3 test images stand in the training set" in note for note in study.resolved.notes)


def test_no_test_image_reaches_training(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    """Training and compression steps carry the training split's hash alone."""
    study = opened(small)
    test = study.resolved.datasets["digits"]["test"]
    for step in study.plan.steps.values():
        assert (test in str(step.spec)) == (step.kind == "predict")
