import numpy as np
import pytest
import torch

from tailkeep.data.batches import (
    Augment,
    DeviceImages,
    TrainingBatches,
    as_tensor,
    augment_batch,
    epoch_order,
    evaluation_batches,
    normalize,
)
from tailkeep.errors import BadInput

NONE = Augment(crop_padding=0, flip=False)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (50, 3, 10, 8), dtype=np.uint8)


@pytest.fixture
def labels(rng):
    return rng.permutation(50).astype(np.int64)  # each its own, so that a label tells its image


def plain(image, padding, top, left, flip):
    """One image, the slow way: pad with zeros, cut, turn."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), dtype=np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    crop = padded[:, top : top + height, left : left + width]
    return crop[:, :, ::-1] if flip else crop


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_gather_equals_one_image_at_a_time(images, labels, padding, channels):
    images = images[:, :channels]
    every = [(t, x, f) for t in range(2 * padding + 1) for x in range(2 * padding + 1) for f in (False, True)]
    index = torch.arange(len(every)) * 7 % 50
    top, left, flip = (torch.tensor(column) for column in zip(*every, strict=True))
    found = DeviceImages(images, labels, padding, "cpu").gather(index, top, left, flip)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for row, (t, x, f) in enumerate(every):
        assert np.array_equal(found[row].numpy(), plain(images[index[row]], padding, t, x, f))


def test_an_augmented_batch_is_made_of_such_crops(images, labels):
    held = DeviceImages(images, labels, 2, "cpu")
    index = torch.arange(50).repeat(20)
    found = augment_batch(held, index, Augment(crop_padding=2), torch.Generator().manual_seed(0))
    seen = set()
    for row, image in enumerate(found):
        crops = {
            (t, x, f): plain(images[index[row]], 2, t, x, f) for t in range(5) for x in range(5) for f in (False, True)
        }
        pixels = ((image + 1) * 127.5).round().to(torch.uint8).numpy()
        (corner,) = [place for place, crop in crops.items() if np.array_equal(crop, pixels)]
        seen.add(corner)
    assert len(seen) == 50  # a thousand draws reach every corner, upright and turned


def test_no_flip_where_a_flip_changes_the_class(images, labels):
    held = DeviceImages(images, labels, 0, "cpu")
    found = augment_batch(held, torch.arange(50), NONE, torch.Generator().manual_seed(0))
    assert torch.equal(found, normalize(torch.from_numpy(images)))


def test_normalize():
    batch = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    found = normalize(batch)
    assert found.dtype == torch.float32
    assert torch.allclose(found.flatten(), torch.tensor([-1.0, -0.6, 1.0]), atol=1e-7)
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert normalize(every).is_contiguous(memory_format=torch.channels_last)
    # The arithmetic is float32 and rounded once: in bf16 itself 127 and 128 would be alike.
    low = normalize(every, torch.bfloat16)
    assert torch.equal(low, normalize(every).to(torch.bfloat16))
    assert len(torch.unique(low)) > 200


def batches(images, labels, **settings):
    return TrainingBatches(
        images, labels, **{"batch_size": 16, "augment": Augment(), "seed": 5, "device": "cpu", **settings}
    )


def test_a_batch_depends_on_seed_and_step_alone(images, labels):
    first = [batches(images, labels).batch(step) for step in range(8)]
    torch.manual_seed(123)  # nothing global has a say
    again = batches(images, labels)
    for step in (7, 0, 3, 4, 1, 6, 2, 5):
        for a, b in zip(first[step], again.batch(step), strict=True):
            assert torch.equal(a, b)
    other = batches(images, labels, seed=6).batch(0)
    assert not torch.equal(first[0][1], other[1])
    assert not torch.equal(first[0][1], first[3][1])  # the next epoch has another order


def test_an_epoch_sees_each_image_once(images, labels):
    held = batches(images, labels, drop_last=False)
    assert held.steps_per_epoch == 4
    for epoch in range(2):
        seen = torch.cat([held.batch(4 * epoch + step)[1] for step in range(4)])
        assert sorted(seen.tolist()) == list(range(50))
    assert batches(images, labels).steps_per_epoch == 3
    assert {len(batches(images, labels).batch(step)[1]) for step in range(6)} == {16}


def test_labels_stay_with_their_images(images, labels):
    held = batches(images, labels, augment=NONE)
    pixels, seen = held.batch(1)
    row = {int(label): index for index, label in enumerate(labels)}
    assert torch.equal(pixels, normalize(torch.from_numpy(images[[row[int(label)] for label in seen]])))
    assert held.labels.tolist() == labels.tolist()


def test_fewer_images_than_a_batch(images, labels):
    held = batches(images[:5], labels[:5])
    assert (held.batch_size, held.steps_per_epoch) == (5, 1)
    assert sorted(held.batch(3)[1].tolist()) == sorted(labels[:5].tolist())


def test_a_sampler_takes_the_place_of_the_permutation(images, labels):
    asked = []

    def draw(epoch):
        asked.append(epoch)
        return None if epoch == 2 else torch.full((50,), epoch, dtype=torch.int64)

    held = batches(images, labels, sampler_draw=draw)
    assert set(held.batch(0)[1].tolist()) == {int(labels[0])}
    assert set(held.batch(4)[1].tolist()) == {int(labels[1])}
    assert torch.equal(held.batch(6)[1], batches(images, labels).batch(6)[1])
    assert asked == [0, 1, 2]
    with pytest.raises(ValueError, match="the sampler drew 3 indices for 50 images"):
        batches(images, labels, sampler_draw=lambda epoch: torch.zeros(3, dtype=torch.int64)).batch(0)


def test_every_step_draws_its_own_crops(images, labels):
    # One image again and again: what differs between two steps is the augmentation alone.
    held = batches(images, labels, sampler_draw=lambda epoch: torch.zeros(50, dtype=torch.int64))
    crops = [held.batch(step)[0] for step in range(2 * held.steps_per_epoch)]
    for step, crop in enumerate(crops):
        assert not any(torch.equal(crop, other) for other in crops[:step])


def test_what_cannot_be_batched(images, labels):
    with pytest.raises(BadInput, match="the training set is empty"):
        batches(images[:0], labels[:0])
    with pytest.raises(ValueError, match="batch_size 0 must be positive"):
        batches(images, labels, batch_size=0)
    with pytest.raises(ValueError, match="50 images with 49 labels"):
        batches(images, labels[:49])
    with pytest.raises(ValueError, match="expected uint8 images"):
        batches(images.astype(np.float32), labels)
    with pytest.raises(ValueError, match="images are padded by 2, the augmentation crops from 4"):
        augment_batch(DeviceImages(images, labels, 2, "cpu"), torch.arange(2), Augment(), torch.Generator())


def test_a_memory_mapped_array_is_not_written_to(images, tmp_path):
    np.save(tmp_path / "x.npy", images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tensor = as_tensor(mapped)
    tensor.fill_(0)
    assert np.array_equal(np.load(tmp_path / "x.npy"), images)


def test_epoch_order():
    assert sorted(epoch_order(20, 0, 0).tolist()) == list(range(20))
    orders = {tuple(epoch_order(20, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert torch.equal(epoch_order(20, 1, 1), epoch_order(20, 1, 1))


def test_evaluation_keeps_the_order_and_the_pixels(images):
    found = list(evaluation_batches(images, 16, "cpu"))
    assert [len(batch) for batch in found] == [16, 16, 16, 2]
    assert torch.equal(torch.cat(found), normalize(torch.from_numpy(images)))


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 8, 11])
@pytest.mark.parametrize("drop_last", [True, False])
def test_drawn_counts_the_labels_of_the_batches(images, rng, steps, drop_last):
    labels = rng.integers(0, 3, 50).astype(np.int64)
    draw = lambda epoch: None if epoch == 1 else torch.full((50,), epoch)  # noqa: E731
    batches = TrainingBatches(images, labels, 12, NONE, 0, "cpu", sampler_draw=draw, drop_last=drop_last)
    seen = [label for step in range(steps) for label in batches.batch(step)[1].tolist()]
    assert batches.drawn(steps, 4) == [seen.count(label) for label in range(4)]
