"""How images reach the model: uint8 on the device, cropped, flipped and normalised in one batched gather.

Every batch is a pure function of (seed, step), so training resumes at any step without a generator's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tailkeep.errors import BadInput
from tailkeep.randomness import stream_seed
from tailkeep.spec import Spec

Images = NDArray[np.uint8] | Tensor
Labels = NDArray[np.int64] | Tensor
SamplerDraw = Callable[[int], Tensor | None]
"""epoch -> int64 indices into the training images, or None for the loop's own permutation."""


class Augment(Spec):
    """Random crop after zero padding by ``crop_padding`` pixels a side, and a random horizontal flip."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 4
    flip: bool = True


def normalize(batch: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 (N, C, H, W) from 0..255 to -1..1, channels last. The arithmetic is float32, whatever ``dtype`` is."""
    scaled = batch.to(torch.float32, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)
    return scaled.to(dtype)


def as_tensor(values: NDArray[np.generic] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return an array as a tensor on ``device``; a read-only (memory-mapped) array is copied."""
    if isinstance(values, Tensor):
        return values.to(device)
    array = np.ascontiguousarray(values)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


class DeviceImages:
    """Training images on the device, zero-padded and channels last, so that a crop with a flip is one gather.

    ``pixels`` is uint8 of shape (N * padded height * padded width, channels); ``labels`` int64 (N,).
    """

    def __init__(self, images: Images, labels: Labels, padding: int, device: torch.device | str) -> None:
        tensor = as_tensor(images)
        if tensor.dtype != torch.uint8 or tensor.ndim != 4:
            raise ValueError(f"expected uint8 images (N, C, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
        self.count, self.channels, self.height, self.width = tensor.shape
        if len(labels) != self.count:
            raise ValueError(f"{self.count} images with {len(labels)} labels")
        self.padding = padding
        padded = torch.zeros(
            (self.count, self.height + 2 * padding, self.width + 2 * padding, self.channels), dtype=torch.uint8
        )
        padded[:, padding : padding + self.height, padding : padding + self.width] = tensor.permute(0, 2, 3, 1)
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.pixels = padded.view(-1, self.channels).to(device)
        self.labels = as_tensor(labels, device).to(torch.int64)
        self.device = self.pixels.device
        self._rows = torch.arange(self.height, device=self.device)
        self._columns = torch.arange(self.width, device=self.device)

    def gather(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """Return uint8 crops (B, C, H, W) in channels-last memory.

        ``index``, ``top``, ``left`` int64 (B,) on the device, the crop's corner in the padded image; ``flip``
        bool (B,).
        """
        rows = top[:, None] + self._rows
        columns = torch.where(flip[:, None], self.width - 1 - self._columns, self._columns) + left[:, None]
        start = index[:, None] * self.padded_height + rows
        flat = (start[:, :, None] * self.padded_width + columns[:, None, :]).reshape(-1)
        crops = self.pixels.index_select(0, flat).view(len(index), self.height, self.width, self.channels)
        return crops.permute(0, 3, 1, 2)


def augment_batch(
    images: DeviceImages,
    index: Tensor,
    augment: Augment,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the augmented, normalised images (B, C, H, W) at ``index`` (int64 on the device), channels last.

    Draws come from ``generator``, a CPU generator, so that CPU and CUDA see the same crops. Raises ``ValueError`` where
    ``images`` were not padded by ``augment.crop_padding``.
    """
    if images.padding != augment.crop_padding:
        raise ValueError(f"images are padded by {images.padding}, the augmentation crops from {augment.crop_padding}")
    draws = torch.empty((3, len(index)), dtype=torch.int64)
    draws[:2] = torch.randint(0, 2 * augment.crop_padding + 1, (2, len(index)), generator=generator)
    draws[2] = torch.randint(0, 2, (len(index),), generator=generator)
    if not augment.flip:
        draws[2] = 0
    top, left, flip = draws.to(images.device)
    return normalize(images.gather(index, top, left, flip.bool()), dtype)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the permutation (int64, CPU) of 0..n-1 in which an epoch sees its images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(seed, "order", epoch)))


class TrainingBatches:
    """Batches of a training split on the device; ``batch(step)`` depends on the seed and the step alone.

    ``sampler_draw(epoch)`` replaces the permutation of an epoch by its own int64 indices (as many as there are images).
    With ``drop_last`` the rest of an epoch that fills no batch is left out; fewer images than ``batch_size`` make one
    batch of them all.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        sampler_draw: SamplerDraw | None = None,
        drop_last: bool = True,
    ) -> None:
        if len(images) == 0:
            raise BadInput("the training set is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be positive")
        self.images = DeviceImages(images, labels, augment.crop_padding, device)
        self.batch_size = min(batch_size, self.images.count)
        self.augment, self.seed, self.dtype = augment, seed, dtype
        full, rest = divmod(self.images.count, self.batch_size)
        self.steps_per_epoch = full if drop_last or rest == 0 else full + 1
        self._draw = sampler_draw
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def labels(self) -> Tensor:
        """The labels of all training images, int64 (N,), on the device."""
        return self.images.labels

    def order(self, epoch: int) -> Tensor:
        """Return the indices of an epoch (int64, on the device), kept until another epoch is asked for."""
        if epoch != self._epoch:
            drawn = None if self._draw is None else self._draw(epoch)
            order = epoch_order(self.images.count, self.seed, epoch) if drawn is None else drawn
            if len(order) != self.images.count:
                raise ValueError(f"the sampler drew {len(order)} indices for {self.images.count} images")
            self._order, self._epoch = order.to(self.images.device, torch.int64), epoch
        return self._order

    def drawn(self, steps: int, classes: int) -> list[int]:
        """Return how many images of each of ``classes`` classes the first ``steps`` batches hold in all."""
        total = torch.zeros(classes, dtype=torch.int64)
        for epoch in range(-(-steps // self.steps_per_epoch)):
            batches = min(self.steps_per_epoch, steps - epoch * self.steps_per_epoch)
            seen = self.order(epoch)[: batches * self.batch_size]
            total += torch.bincount(self.labels[seen], minlength=classes).cpu()
        return [int(count) for count in total]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return (images (B, C, H, W) channels last, labels (B,)) of a step counted from 0 over the whole training."""
        epoch, position = divmod(step, self.steps_per_epoch)
        index = self.order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "augment", step))
        return augment_batch(self.images, index, self.augment, generator, self.dtype), self.labels[index]


def evaluation_batches(images: Images, batch_size: int, device: torch.device | str) -> Iterator[Tensor]:
    """Yield the images in their order, normalised float32 (B, C, H, W), channels last, without augmentation."""
    for start in range(0, len(images), batch_size):
        yield normalize(as_tensor(images[start : start + batch_size], device))
