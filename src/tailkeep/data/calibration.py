"""Which training images a compression method looks at outside of the training loop, by one of three draws.

Who pays for a quantized range may depend on who calibrates it; so the draw is a choice, and seeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailkeep.data.batches import Images, Labels, as_tensor, epoch_order, normalize
from tailkeep.randomness import stream_seed

Draw = Literal["random", "balanced", "tail"]


def calibration_indices(labels: Labels, count: int, seed: int, draw: Draw = "random") -> NDArray[np.int64]:
    """Return the int64 indices of the images drawn by ``seed``.

    "random": uniform over the images without repetition (all where there are fewer than ``count``), but beginning with
    one image of every class, so that a rare class is never absent. "balanced": as many of every class as of any other.
    "tail": of each class in inverse proportion to its number of images. The last two repeat the images of a class that
    has too few, and fall back to no others.
    """
    targets = as_tensor(labels)
    order = epoch_order(len(targets), stream_seed(seed, "calibration"), 0)
    drawn = targets[order]
    by_class = [order[drawn == label] for label in torch.unique(drawn).tolist()]
    if draw == "random":
        first = torch.stack([members[0] for members in by_class])
        lead = torch.isin(order, first)
        return np.asarray(torch.cat([order[lead], order[~lead]])[:count].numpy())
    sizes = np.array([len(members) for members in by_class], dtype=np.float64)
    shares = np.ones_like(sizes) if draw == "balanced" else 1 / sizes
    chosen = [
        members.repeat(-(-want // len(members)))[:want]
        for members, want in zip(by_class, _apportion(shares, count), strict=True)
    ]
    together = torch.cat(chosen)
    return np.asarray(together[epoch_order(len(together), stream_seed(seed, "calibration", draw), 0)].numpy())


def _apportion(shares: NDArray[np.float64], count: int) -> list[int]:
    """Whole numbers in proportion to ``shares`` that add up to ``count``, by the largest remainders."""
    exact = shares / shares.sum() * count
    whole = np.floor(exact).astype(np.int64)
    for index in np.argsort(-(exact - whole), kind="stable")[: count - int(whole.sum())]:
        whole[index] += 1
    return [int(number) for number in whole]


def calibration_batches(
    images: Images, labels: Labels, count: int, batch_size: int, seed: int, device: torch.device | str,
    draw: Draw = "random",
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Yield ``count`` training images by ``calibration_indices``, without augmentation, with their labels.

    Images are normalised float32 (B, C, H, W), channels last; labels int64 (B,).
    """
    chosen = calibration_indices(labels, count, seed, draw)
    targets = as_tensor(labels, device).to(torch.int64)
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        yield normalize(as_tensor(images[part], device)), targets[torch.from_numpy(part)]
