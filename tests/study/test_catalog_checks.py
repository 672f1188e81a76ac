"""The checks that every kind of the catalog but the methods passes. They walk its tuples: a newcomer is tested unasked.

A newcomer that has a required setting adds an example of it to ``REQUIRED``; a sampler says in ``PROMISES`` how many
images of each class it draws. The methods' checks are in ``test_catalog_methods``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from catalog_examples import COUNTS, CPU, each, example, kind_of, state
from tailkeep.data.batches import Augment, TrainingBatches
from tailkeep.data.dataset import Dataset, split_digest
from tailkeep.data.profiles import full_twin, matched_twin
from tailkeep.errors import BadInput
from tailkeep.models.probe import probe
from tailkeep.models.user import ModelCode
from tailkeep.spec import content_key
from tailkeep.study import catalog
from tailkeep.study.rebuild import build_model

UNIONS = {
    catalog.AnySource: catalog.SOURCES,
    catalog.AnyProfile: catalog.PROFILES,
    catalog.AnyModel: catalog.MODELS,
    catalog.AnyLoss: catalog.LOSSES,
    catalog.AnySampler: catalog.SAMPLERS,
    catalog.AnyMethod: catalog.METHODS,
}
EVERY = [pytest.param(union, cls, id=cls.__name__) for union, kinds in UNIONS.items() for cls in kinds]


pytestmark = pytest.mark.usefixtures("one_thread")


# --- specs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("union", "cls"), EVERY)
def test_a_kind_is_a_frozen_documented_value_with_one_key(union: Any, cls: Any) -> None:
    spec = example(cls)
    assert len(vars(cls).get("__doc__") or "") > 20, "a docstring of its own"
    with pytest.raises(ValidationError, match="frozen"):
        spec.kind = "other"
    with pytest.raises(ValidationError, match=r"(?i)extra"):
        example(cls, surely_no_setting=1)
    plain = spec.plain()
    assert set(plain) == {field.alias or name for name, field in cls.model_fields.items()}, "defaults are written out"
    again = TypeAdapter(union).validate_python(json.loads(json.dumps(plain)))
    assert type(again) is cls, "the union finds it by its kind"
    assert again == spec
    assert content_key(again.plain()) == content_key(plain)


def test_every_kind_has_a_name_of_its_own() -> None:
    kinds = [kind_of(cls) for members in UNIONS.values() for cls in members]
    assert len(set(kinds)) == len(kinds)
    assert all(kind.isidentifier() and kind == kind.lower() for kind in kinds)


# --- sources and profiles --------------------------------------------------------------------------------------------


def loaded(spec: Any, root: Path) -> Dataset | str:
    """The source's dataset, or why there is none."""
    try:
        dataset: Dataset = spec.load(root, root / "cache")
    except BadInput as error:
        return str(error)
    return dataset


@each(catalog.SOURCES)
def test_a_source_loads_or_says_what_is_missing(cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILKEEP_DATA_ROOT", raising=False)
    draw = np.random.default_rng(0).integers
    arrays = {f"x_{name}": draw(0, 256, (20, 8, 8), dtype=np.uint8) for name in ("train", "test")}
    np.savez(tmp_path / "images.npz", **arrays, y_train=np.arange(20) % 4, y_test=np.arange(20) % 4)
    spec = example(cls)
    assert spec.label
    dataset = loaded(spec, tmp_path)
    if isinstance(dataset, str):
        assert kind_of(cls) not in ("digits", "arrays"), dataset
        assert str(tmp_path) in dataset, "the words name the place"
        return
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), *dataset.image_shape)
        assert split.labels.dtype == np.int64
        assert set(split.labels.tolist()) == set(range(len(dataset.class_names)))
        assert len(set(split.ids.tolist())) == len(split)
        assert split.digest == split_digest(split.images, split.labels, dataset.class_names)
    again = spec.load(tmp_path, tmp_path / "cache")
    assert (again.train.digest, again.test.digest) == (dataset.train.digest, dataset.test.digest)


@each(catalog.PROFILES)
@pytest.mark.parametrize("available", [(130,) * 10, tuple(range(130, 60, -7))])
def test_a_profile_keeps_the_rank_order_within_what_there_is(cls: Any, available: tuple[int, ...]) -> None:
    profile = example(cls)
    counts = profile.counts(available)
    assert len(counts) == len(available)
    assert all(1 <= count <= have for count, have in zip(counts, available, strict=True))
    assert list(counts) == sorted(counts, reverse=True)
    assert profile.counts(available) == counts
    assert profile.label
    full, matched = full_twin(counts), matched_twin(counts)
    assert set(full) == {max(counts)}
    assert len(set(matched)) == 1
    assert len(full) == len(matched) == len(counts)
    assert 0 <= sum(counts) - sum(matched) < len(counts)


@each(catalog.PROFILES)
def test_a_profile_refuses_an_empty_class(cls: Any) -> None:
    with pytest.raises(BadInput, match="class 9"):
        example(cls).counts((130,) * 9 + (0,))


# --- models ----------------------------------------------------------------------------------------------------------


def user_factory(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


CODE = ModelCode(user_factory, "f" * 64, "tests:user_factory")


@each(catalog.MODELS)
@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 10), ((3, 32, 32), 7)])
def test_a_model_keeps_the_contract(cls: Any, shape: tuple[int, int, int], classes: int) -> None:
    spec = example(cls)
    plain = {**spec.plain(), "source_hash": CODE.source_hash}
    generator = torch.get_rng_state()
    model, same, other = (build_model(plain, CODE, classes, shape, seed) for seed in (3, 3, 4))
    assert torch.equal(generator, torch.get_rng_state()), "the global generator is left alone"
    probe(model, classes, shape)
    assert state(model) == state(same), "probe put it back, and equal seeds give equal weights"
    assert state(model) != state(other)
    assert model.eval()(torch.zeros(5, *shape)).shape == (5, classes)
    assert spec.label


# --- losses ----------------------------------------------------------------------------------------------------------


@each(catalog.LOSSES)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_loss_is_a_finite_differentiable_mean_over_the_batch(cls: Any, progress: float) -> None:
    spec = example(cls)
    assert spec.head in ("linear", "normalized")
    loss = spec.build(COUNTS, CPU)
    logits = torch.randn(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = logits.clamp(-1, 1) if spec.head == "normalized" else logits
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0])
    state_before = torch.get_rng_state()
    value = loss(logits, labels, progress)
    assert torch.equal(state_before, torch.get_rng_state())
    assert value.shape == ()
    assert bool(torch.isfinite(value))
    assert value > 0

    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert loss(logits[order], labels[order], progress).item() == pytest.approx(value.item(), rel=1e-12)
    twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels]), progress)
    assert twice.item() == pytest.approx(value.item(), rel=1e-12), "a mean, not a sum"

    given = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, progress), (given,))
    loss(given, labels, progress).backward()
    assert bool((given.grad != 0).any(1).all()), "every image counts"
    good = F.one_hot(labels, 10).double() * (1.0 if spec.head == "normalized" else 20.0)
    assert loss(good, labels, progress) < loss(good, labels.roll(1), progress), "it prefers the right answer"

    single = loss(logits.float(), labels, progress)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value.item(), rel=1e-5)
    if spec.head == "linear":
        assert bool(torch.isfinite(loss(logits.float() * 1e4, labels, progress)))


# --- samplers --------------------------------------------------------------------------------------------------------


def parts(counts: tuple[int, ...], likely: list[float]) -> list[float]:
    return [sum(counts) * value / sum(likely) for value in likely]


PROMISES: dict[str, Callable[[tuple[int, ...], float], list[float]]] = {
    "uniform": lambda counts, share: [float(count) for count in counts],
    "class_balanced": lambda counts, share: [sum(counts) / len(counts)] * len(counts),
    "square_root": lambda counts, share: parts(counts, [count**0.5 for count in counts]),
    "progressively_balanced": lambda counts, share: [
        (1 - share) * count + share * sum(counts) / len(counts) for count in counts
    ],
    "effective_number": lambda counts, share: parts(counts, [count / (1 - 0.9999**count) for count in counts]),
}
"""Draws of every class in an epoch that starts at ``share`` of the training; what is drawn lies less than one image
from it."""


@each(catalog.SAMPLERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_sampler_draws_what_it_promises(cls: Any, share: float) -> None:
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(COUNTS))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images, n = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), len(labels)

    def order(seed: int, epoch: int) -> Tensor:
        """What the training loop sees of the sampler."""
        draw = example(cls).draw
        nothing = Augment(crop_padding=0, flip=False)
        drawn = lambda e: draw(labels, seed, e, share)  # noqa: E731
        return TrainingBatches(images, labels, 32, nothing, seed, CPU, sampler_draw=drawn).order(epoch)

    assert kind_of(cls) in PROMISES, "say how many images of each class this sampler draws"
    promised = torch.tensor(PROMISES[kind_of(cls)](COUNTS, share))
    before = torch.get_rng_state()
    for epoch in range(4):
        drawn = order(5, epoch)
        assert drawn.dtype == torch.int64
        assert drawn.shape == (n,)
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < n
        assert bool(((torch.bincount(labels[drawn], minlength=10) - promised).abs() < 1).all())
    assert torch.equal(order(5, 1), order(5, 1))
    assert not torch.equal(order(5, 1), order(5, 2))
    assert not torch.equal(order(5, 1), order(6, 1))
    assert torch.equal(before, torch.get_rng_state())
