"""Images mixed in pairs: mixup, CutMix and Remix, a batch at a time on the device, each a function of (seed, step).

A mixed image has two labels. The loss of a batch is weight * f(z, first) + (1 - weight) * f(z, second) with one weight
a batch, so that every loss mixes without knowing of it. ``weight`` is 0.5 or more: the first label is the larger
part's. (Beta(alpha, alpha) is symmetric, and to exchange the two images changes nothing.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tailkeep.randomness import stream_seed
from tailkeep.spec import Spec

if TYPE_CHECKING:
    from tailkeep.training.loop import Batches

BaseLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(logits (N, C), labels (N,), progress 0..1) -> scalar mean over the batch."""


@dataclass(frozen=True)
class Mixed:
    """A batch in pairs: images (N, C, H, W), both label vectors (N,), and the weight (0.5..1) of the first."""

    images: Tensor
    first: Tensor
    second: Tensor
    weight: float


class Mix(Spec):
    """The contract: the mixing weight of a batch is drawn from Beta(``alpha``, ``alpha``)."""

    alpha: float = Field(1.0, gt=0)

    def mix(self, images: Tensor, labels: Tensor, class_counts: Tensor, draw: np.random.Generator) -> Mixed:
        """Return the batch mixed with a permutation of itself; ``class_counts`` (C,) are the training set's."""
        raise NotImplementedError

    def _pair(self, labels: Tensor, draw: np.random.Generator) -> tuple[Tensor, float]:
        """The partner (index into the batch) of every image, and the larger part's share."""
        share = float(draw.beta(self.alpha, self.alpha))
        return torch.from_numpy(draw.permutation(len(labels))).to(labels.device), max(share, 1 - share)


class Mixup(Mix):
    """The pixels of two images in a weighted sum (Zhang et al. 2018)."""

    kind: Literal["mixup"] = "mixup"

    def mix(self, images: Tensor, labels: Tensor, class_counts: Tensor, draw: np.random.Generator) -> Mixed:
        """Return weight * image + (1 - weight) * partner."""
        partner, share = self._pair(labels, draw)
        return Mixed(blended(images, partner, share), labels, labels[partner], share)


class CutMix(Mix):
    """A rectangle of one image pasted into another (Yun et al. 2019); the weight is the share of pixels that stay."""

    kind: Literal["cutmix"] = "cutmix"

    def mix(self, images: Tensor, labels: Tensor, class_counts: Tensor, draw: np.random.Generator) -> Mixed:
        """Return the images, each with the same rectangle of its partner's."""
        partner, share = self._pair(labels, draw)
        images, share = pasted(images, partner, share, draw)
        return Mixed(images, labels, labels[partner], share)


class Remix(Mix):
    """Mixed images whose label is the rarer class's alone where it is much rarer and its part is not small.

    Chou et al. 2020: of two classes whose counts differ by a factor of ``kappa`` or more, the rarer is the whole label
    if the other's part is below ``tau``. ``images``: mixed as by "mixup" or by "cutmix".
    """

    kind: Literal["remix"] = "remix"
    images: Literal["mixup", "cutmix"] = "mixup"
    kappa: float = Field(3.0, ge=1)
    tau: float = Field(0.5, ge=0, le=1)

    def mix(self, images: Tensor, labels: Tensor, class_counts: Tensor, draw: np.random.Generator) -> Mixed:
        """Return the images as by ``images``, both labels the rarer class's where it takes the whole."""
        kind = Mixup if self.images == "mixup" else CutMix
        made = kind(alpha=self.alpha).mix(images, labels, class_counts, draw)
        first, second = made.first, made.second
        ratio = class_counts[first] / class_counts[second]
        to_second = (ratio >= self.kappa) & (made.weight < self.tau)
        to_first = (ratio <= 1 / self.kappa) & (1 - made.weight < self.tau)
        return Mixed(
            made.images, torch.where(to_second, second, first), torch.where(to_first, first, second), made.weight
        )


AnyMix = Annotated[Mixup | CutMix | Remix, Field(discriminator="kind")]


def blended(images: Tensor, partner: Tensor, share: float) -> Tensor:
    """Return share * images + (1 - share) * images[partner], channels last, in their type."""
    return torch.lerp(images[partner], images, share).contiguous(memory_format=torch.channels_last)


def pasted(images: Tensor, partner: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, float]:
    """Return the images with a rectangle of their partners', and the share of pixels that stayed.

    The rectangle has the image's proportions and 1 - ``share`` of its area before it is cut at the borders; its centre
    is anywhere.
    """
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    y, x = int(draw.integers(height)), int(draw.integers(width))
    half_y, half_x = int(height * side) // 2, int(width * side) // 2
    rows = slice(max(0, y - half_y), min(height, y + half_y))
    columns = slice(max(0, x - half_x), min(width, x + half_x))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (height * width)


class MixedBatches:
    """Training batches whose images are mixed. ``blend`` makes of a loss the loss of the batch that was given last.

    What looks at the labels itself (the target class of a teacher, the accuracy in the log) sees the first ones.
    """

    def __init__(self, batches: Batches, mix: Mix, seed: int, class_counts: tuple[int, ...]) -> None:
        self.batches, self.mix, self.seed = batches, mix, seed
        self.steps_per_epoch = batches.steps_per_epoch
        self.counts = torch.tensor(class_counts, dtype=torch.float32)
        self._last: Mixed | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return mixed images (N, C, H, W) and the first labels (N,) of a step."""
        images, labels = self.batches.batch(step)
        self.counts = self.counts.to(labels.device)
        draw = np.random.default_rng(stream_seed(self.seed, "mix", step))
        self._last = self.mix.mix(images, labels, self.counts, draw)
        return self._last.images, self._last.first

    def blend(self, loss: BaseLoss) -> BaseLoss:
        """Return weight * loss of the given labels + (1 - weight) * loss of the batch's second ones."""

        def both(logits: Tensor, labels: Tensor, progress: float) -> Tensor:
            mixed = self._last
            assert mixed is not None
            first, second = loss(logits, labels, progress), loss(logits, mixed.second, progress)
            return mixed.weight * first + (1 - mixed.weight) * second

        return both
