"""Mixed batches against their formulas, image by image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError

from tailkeep.losses import BalancedSoftmax, CrossEntropy, Focal, Ldam
from tailkeep.training.mixing import AnyMix, CutMix, MixedBatches, Mixup, Remix
from tailkeep.training.recipe import Recipe

COUNTS = (900, 300, 100, 10)
KINDS = [Mixup(), CutMix(), Remix(), Remix(images="cutmix"), Mixup(alpha=0.2)]


class Coloured:
    """Batches whose every pixel is the number of its image, so that a mixed pixel tells its parts."""

    steps_per_epoch = 5

    def __init__(self, size=16, dtype=torch.float32):
        self.size, self.dtype = size, dtype

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 4, (self.size,), generator=generator)
        numbers = torch.arange(self.size, dtype=self.dtype)
        images = numbers[:, None, None, None].expand(self.size, 3, 8, 6)
        return images.contiguous(memory_format=torch.channels_last), labels


def batches(mix, seed=0, **settings):
    return MixedBatches(Coloured(**settings), mix, seed, COUNTS)


@pytest.mark.parametrize("mix", KINDS, ids=repr)
def test_a_batch_is_a_function_of_seed_and_step(mix):
    first, again, other = batches(mix), batches(mix), batches(mix, seed=1)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for step in (7, 3, 7):
        images, labels = first.batch(step)
        same, same_labels = again.batch(step)
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
        assert first._last.weight == again._last.weight
        assert images.dtype == torch.float32
        assert images.shape == (16, 3, 8, 6)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(images, other.batch(step)[0])
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == np.random.get_state()[1].tolist()


def test_mixup_is_the_weighted_sum_of_two_images_of_the_batch():
    mixed, shares = batches(Mixup()), []
    for step in range(40):
        plain, labels = Coloured().batch(step)
        images, first = mixed.batch(step)
        last = mixed._last
        assert torch.equal(first, labels)
        assert 0.5 <= last.weight <= 1
        partner = ((images[:, 0, 0, 0] - last.weight * torch.arange(16)) / (1 - last.weight)).round().long()
        assert sorted(partner.tolist()) == list(range(16))
        expected = last.weight * plain + (1 - last.weight) * plain[partner]
        assert torch.allclose(images, expected, atol=1e-4)
        assert torch.equal(last.second, labels[partner])
        shares.append(last.weight)
    assert np.mean(shares) == pytest.approx(0.75, abs=0.06)  # the larger part of Beta(1, 1)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    mixed, shares = batches(CutMix()), []
    for step in range(60):
        plain, labels = Coloured().batch(step)
        images, first = mixed.batch(step)
        last = mixed._last
        assert torch.equal(first, labels)
        changed = (images != plain).any(1)
        where = changed.any(0)
        assert last.weight == pytest.approx(1 - where.double().mean().item())
        rows, columns = where.any(1), where.any(0)
        assert torch.equal(where, rows[:, None] & columns[None, :]), "a rectangle"
        if where.any():
            y, x = (int(v) for v in where.nonzero()[0])
            partner = images[:, 0, y, x].long()
            assert torch.equal(torch.where(where, plain[partner], plain), images)
            assert torch.equal(last.second, labels[partner])
        shares.append(last.weight)
    assert min(shares) >= 0.5
    assert 0.7 < np.mean(shares) < 0.97


def remix_label(share, n_first, n_second, kappa, tau):
    """Chou et al. 2020, equation 4: the weight of the first label of one pair."""
    if n_first / n_second >= kappa and share < tau:
        return 0.0
    if n_first / n_second <= 1 / kappa and 1 - share < tau:
        return 1.0
    return share


@pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (1.0, 0.75), (4.0, 0.9), (3.0, 0.0)])
def test_remix_labels_follow_the_papers_rule_pair_by_pair(kappa, tau):
    remix, mixup = batches(Remix(kappa=kappa, tau=tau)), batches(Mixup())
    seen = set()
    for step in range(60):
        assert torch.equal(remix.batch(step)[0], mixup.batch(step)[0]), "the images are mixup's"
        pair, last = mixup._last, remix._last
        for one, two, first, second in zip(pair.first, pair.second, last.first, last.second, strict=True):
            rule = remix_label(pair.weight, COUNTS[one], COUNTS[two], kappa, tau)
            target = torch.zeros(4, dtype=torch.float64)
            target[one] += rule
            target[two] += 1 - rule
            found = torch.zeros(4, dtype=torch.float64)
            found[first] += last.weight
            found[second] += 1 - last.weight
            assert torch.allclose(found, target)
            seen.add("first" if rule == 1 else "second" if rule == 0 else "both")
    assert seen >= ({"both"} if tau == 0 else {"both", "first"})


@pytest.mark.parametrize("mix", KINDS, ids=repr)
def test_the_blended_loss_is_that_of_soft_labels(mix):
    mixed = batches(mix)
    for step in range(5):
        _, labels = mixed.batch(step)
        last = mixed._last
        logits = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        first, second = (F.one_hot(labels, 4).double() for labels in (last.first, last.second))
        soft = last.weight * first + (1 - last.weight) * second
        blended = mixed.blend(CrossEntropy().build(COUNTS, torch.device("cpu")))(logits, labels, 0.0)
        assert blended.item() == pytest.approx(F.cross_entropy(logits, soft).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [BalancedSoftmax(), Focal(drw=0.8), Ldam(drw=0.8)], ids=lambda loss: loss.kind)
def test_every_loss_hears_both_labels_and_the_progress(loss):
    mixed = batches(Mixup())
    _, labels = mixed.batch(3)
    last, base = mixed._last, loss.build(COUNTS, torch.device("cpu"))
    logits = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for progress in (0.0, 0.9):
        parts = base(logits, last.first, progress), base(logits, last.second, progress)
        expected = last.weight * parts[0] + (1 - last.weight) * parts[1]
        assert mixed.blend(base)(logits, labels, progress).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("mix", KINDS, ids=repr)
def test_mixing_keeps_bf16_and_takes_a_batch_of_one(mix):
    images, _ = batches(mix, dtype=torch.bfloat16).batch(0)
    assert images.dtype == torch.bfloat16
    images, labels = batches(mix, size=1).batch(0)
    assert images.abs().max() == 0
    assert len(labels) == 1


def test_a_recipe_without_mixing_is_written_as_it_always_was():
    recipe = Recipe(epochs=1)
    assert "mix" not in recipe.plain()
    assert "mix" not in recipe.model_dump_json()
    assert recipe.plain() == Recipe(epochs=1, mix=None).plain()
    mixed = Recipe(epochs=1, mix={"kind": "remix"})
    assert mixed.plain()["mix"] == {"kind": "remix", "alpha": 1.0, "images": "mixup", "kappa": 3.0, "tau": 0.5}
    assert Recipe.model_validate_json(mixed.model_dump_json()) == mixed


@pytest.mark.parametrize(
    "settings",
    [{"kind": "mixup", "alpha": 0}, {"kind": "remix", "kappa": 0.5}, {"kind": "remix", "tau": 1.5}, {"kind": "none"}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyMix).validate_python(settings)
