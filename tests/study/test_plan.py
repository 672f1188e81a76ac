"""The plan: what is shared, what is a key, and the counts of the published study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.data.cifar import Cifar10
from tailkeep.data.dataset import Dataset, Split
from tailkeep.study import steps
from tailkeep.study.runner import Options, Study, open_study

STUDIES = Path(__file__).parents[2] / "studies"


def _hollow_cifar(per_class: int = 5000) -> Dataset:
    """A dataset of CIFAR-10's shape whose images are one pixel's memory."""

    def split(n: int, digest: str) -> Split:
        images = np.broadcast_to(np.zeros((), np.uint8), (10 * n, 3, 32, 32))
        return Split(images, np.repeat(np.arange(10), n), np.arange(10 * n).astype(str), digest * 64)

    return Dataset("cifar10", tuple("abcdefghij"), split(per_class, "a"), split(1000, "b"))


@pytest.fixture
def hollow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cifar10, "load", lambda self, root=None, cache=None: _hollow_cifar())
    monkeypatch.setattr("tailkeep.study.resolve.overlap", lambda a, b: [])


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("name", ["paper", "paper-w3"])
def test_the_published_study_is_315_trainings_and_140_of_controls(name: str, tmp_path: Path) -> None:
    facts = open_study(STUDIES / f"{name}.yaml", Options(store=tmp_path)).summary()
    assert facts["trainings_without_controls"] == 315
    assert facts["trainings_saved_by_sharing"] == 245
    assert facts["trainings_of_controls"] == 140


@pytest.mark.usefixtures("hollow")
def test_paper_small_is_42_trainings_of_the_published_sizes(tmp_path: Path) -> None:
    study = open_study(STUDIES / "paper-small.yaml", Options(store=tmp_path))
    assert study.summary()["trainings"] == 42
    sums = {cell.labels["twin"]: sum(cell.counts) for cell in study.plan.cells}
    assert sums == {"imbalanced": 12406, "matched": 12400}
    counts = {cell.labels["seed"]: cell.counts for cell in study.plan.cells if cell.labels["twin"] == "imbalanced"}
    assert counts[0] == counts[1] == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert counts[2] == (387, 232, 139, 83, 50, 5000, 2997, 1796, 1077, 645), "seed 2 rotates the class order"


def test_the_demo_shares_its_full_twin(tmp_path: Path) -> None:
    study = open_study(STUDIES / "demo.yaml", Options(store=tmp_path))
    assert study.summary()["trainings"] == 63
    assert len(study.plan.cells) == 84


def test_a_student_alone_that_equals_a_dense_model_is_that_model(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    small["models"] = [
        {"model": {"kind": "digits_net"}},
        {"model": {"kind": "digits_net", "width": 0.5}, "name": "half"},
    ]
    small["methods"] = [{**small["methods"][3], "models": ["digits_net"]}]
    study = opened(small)
    dense = {
        c.labels["twin"]: c.model_key
        for c in study.plan.cells
        if (c.labels["model"], c.labels["method"]) == ("half", "dense")
    }
    alone = {c.labels["twin"]: c.model_key for c in study.plan.cells if c.labels["method"].startswith("student alone")}
    assert alone == dense
    assert study.summary()["trainings_of_controls"] == 0


def test_labels_never_enter_a_key(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    first = set(opened(small).plan.steps)
    small["name"] = "other"
    for method in small["methods"]:
        method["name"] += " renamed"
        if "parent" in method:
            method["parent"] += " renamed"
    assert set(opened(small).plan.steps) == first


def test_equal_subsets_are_one_subset(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    first = opened(small).plan
    small["imbalance"] = [{"kind": "explicit", "counts": list(first.cells[0].counts)}]
    assert set(opened(small).plan.steps) == set(first.steps)


@pytest.mark.parametrize(
    ("one", "other"), [({"lr": 1}, {"lr": 1.0}), ({"lr": "1e-3"}, {"lr": 0.001}), ({}, {"momentum": 0.9, "warmup": 0})]
)
def test_equal_values_have_one_key(
    small: dict[str, Any], opened: Callable[..., Study], one: dict[str, Any], other: dict[str, Any]
) -> None:
    keys = []
    for change in (one, other):
        study = {**small, "recipe": {**small["recipe"], **change}}
        keys.append(set(opened(study).plan.steps))
    assert keys[0] == keys[1]


def test_literal_keys(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    """A key that moves makes every store out there start anew: a new version must say so in the changelog."""
    plan = opened(small).plan
    keys = {cell.labels["method"]: cell.model_key for cell in plan.cells if cell.labels["twin"] == "imbalanced"}
    assert {name: key[:16] for name, key in keys.items()} == LITERAL


LITERAL: dict[str, str] = {
    "dense": "2152a9e15e6b8150",
    "pruned": "cdc73f30fa2fbf60",
    "A8": "48b9e6cf4f4fab7c",
    "pruned A4": "dbac1f10e9e8ccd3",
    "student alone (distilled)": "ae7321ce7dba27a8",
    "distilled": "57a9accab9da5b5a",
    "distilled A8": "48fc482b1995cf42",
    "dense continued (pruned recipe)": "40604d428bce1646",
    "dense continued (A8 recipe)": "6865803d4f8567ef",
}


def test_test_data_cannot_touch_a_models_identity(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    plan = opened(small).plan
    assert all(parent not in plan.goals for step in plan.steps.values() for parent in step.parents)


def test_streams_pair_the_arms(
    small: dict[str, Any], opened: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh student and the same student alone share init and order; fine-tunes at one depth share theirs."""
    study = opened(small)
    seeds: dict[str, list[int]] = {}
    build, batches, work = steps.build_model, steps.TrainingBatches, steps.run_step

    def note(what: int) -> None:
        seeds.setdefault(now[0], []).append(what)

    now = [""]
    monkeypatch.setattr(steps, "build_model", lambda *a: (note(a[4]), build(*a))[1])
    monkeypatch.setattr(steps, "TrainingBatches", lambda *a: (note(a[4]), batches(*a))[1])

    def run(step: Any, runtime: Any) -> str:
        now[0] = step.label.split(":")[0].split(" digits")[0] if "imbalanced" in step.label else "twin"
        return work(step, runtime)

    monkeypatch.setattr(steps, "run_step", run)
    study.run()
    assert seeds["distilled"] == seeds["student alone (distilled)"] == seeds["train"]
    assert len(seeds["train"]) == 2
    assert seeds["pruned"] == seeds["A8"] == seeds["continued (pruned)"]
    assert seeds["pruned A4"] == seeds["distilled A8"] != seeds["pruned"]
    assert seeds["twin"][:2] == seeds["train"]


def test_a_report_of_an_unfinished_study_says_what_has_not_run(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    small["methods"] = small["methods"][:1]
    small["controls"] = {"continued": False}
    half = opened({**small, "methods": []})
    half.run()
    whole = opened(small)
    notes = whole.analyse()[1].notes
    assert any("Not finished: 2 of 4 cells have not run yet (pruned)" in note for note in notes)
    whole.run()
    assert not any("Not finished" in note for note in whole.analyse()[1].notes)
