"""Which training images an epoch sees, and how often.

A draw is a function of the seed, the epoch and the share of the training that is done: n indices for n images, so that
an epoch has its length whatever the sampler. Within a class the draws go through whole permutations of its images, so
that two images of a class differ by at most one draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tailkeep.errors import BadInput
from tailkeep.randomness import stream_seed
from tailkeep.spec import Spec


class Sampler(Spec):
    """The contract. ``share`` is that of the training (0..1) at the start of the epoch."""

    def draw(self, labels: Tensor, seed: int, epoch: int, share: float = 0.0) -> Tensor | None:
        """Return n int64 indices into ``labels`` (n,), on the CPU, in their order; None for the loop's permutation."""
        raise NotImplementedError


class Uniform(Sampler):
    """Every image once an epoch, in a new order."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, labels: Tensor, seed: int, epoch: int, share: float = 0.0) -> Tensor | None:
        """Return None: the loop's own permutation of all the images."""
        return None


class ClassBalanced(Sampler):
    """As many draws of every class (Kang et al. 2020), n in all: rare classes repeat, frequent ones are sampled.

    Draws of two classes differ by at most one.
    """

    kind: Literal["class_balanced"] = "class_balanced"

    def draw(self, labels: Tensor, seed: int, epoch: int, share: float = 0.0) -> Tensor:
        """Return n int64 indices into ``labels`` (n,), on the CPU; the order is part of the draw.

        Only classes that have an image are drawn. Raises ``BadInput`` where there is no image at all.
        """
        labels, generator = _start(self.kind, labels, seed, epoch)
        present = torch.tensor(sorted(set(labels.tolist())))
        classes = present[torch.randperm(len(present), generator=generator)].tolist()
        each, extra = divmod(len(labels), len(classes))
        wanted = [each + (1 if position < extra else 0) for position in range(len(classes))]
        return _by_class(labels, classes, wanted, generator)


class Proportional(Sampler):
    """Base of the samplers that say how likely a class is; the draws of a class lie less than one from n * p_c."""

    def likelihood(self, counts: Tensor, share: float) -> Tensor:
        """Return how likely each class is, up to a factor: float64 (C,), from its images (C,) > 0."""
        raise NotImplementedError

    def draw(self, labels: Tensor, seed: int, epoch: int, share: float = 0.0) -> Tensor:
        """Return n int64 indices into ``labels`` (n,), on the CPU; the order is part of the draw.

        Where n * p_c is no whole number a class gets one more or one less at random, in the mean over epochs exactly
        n * p_c (systematic sampling). Raises ``BadInput`` where there is no image at all.
        """
        kind = str(type(self).model_fields["kind"].default)
        labels, generator = _start(kind, labels, seed, epoch)
        counts = torch.bincount(labels)
        present = counts.nonzero().flatten()
        classes = present[torch.randperm(len(present), generator=generator)]
        likely = self.likelihood(counts[classes].double(), share)
        edges = (likely / likely.sum()).cumsum(0) * len(labels)
        edges = edges.mul(1e6).round().div(1e6)  # what is whole in theory must not fall to the number below
        start = torch.randint(0, 1 << 20, (), generator=generator).double() / (1 << 20)
        passed = (edges + start).floor()
        wanted = passed.diff(prepend=torch.zeros(1, dtype=torch.float64)).long()
        return _by_class(labels, classes.tolist(), wanted.tolist(), generator)


class SquareRoot(Proportional):
    """p_c ~ sqrt(n_c): half-way between the training set as it is and classes drawn alike (Mahajan et al. 2018)."""

    kind: Literal["square_root"] = "square_root"

    def likelihood(self, counts: Tensor, share: float) -> Tensor:
        """Return sqrt(n_c)."""
        return counts.sqrt()


class ProgressivelyBalanced(Proportional):
    """p_c = (1 - t) n_c / n + t / C, t the share of the training that is done (Kang et al. 2020)."""

    kind: Literal["progressively_balanced"] = "progressively_balanced"

    def likelihood(self, counts: Tensor, share: float) -> Tensor:
        """Return the mixture at ``share``."""
        return (1 - share) * counts / counts.sum() + share / len(counts)


class EffectiveNumber(Proportional):
    """An image is as likely as one over its class's effective number, (1 - beta^n_c) / (1 - beta) (Cui et al. 2019).

    Near ``beta`` 1 classes are drawn alike, at 0 images are, as in the training set: to draws what class-balanced
    weights are to a loss, as in the code of Cao et al. 2019.
    """

    kind: Literal["effective_number"] = "effective_number"
    beta: float = Field(0.9999, ge=0, lt=1)

    def likelihood(self, counts: Tensor, share: float) -> Tensor:
        """Return n_c over the effective number of class c."""
        return counts if self.beta == 0 else counts / -torch.expm1(counts * math.log(self.beta))


def _start(kind: str, labels: Tensor, seed: int, epoch: int) -> tuple[Tensor, torch.Generator]:
    """The labels on the CPU, and the generator of an epoch."""
    labels = labels.detach().cpu()
    if labels.numel() == 0:
        raise BadInput(f"sampler {kind}: the training set is empty")
    return labels, torch.Generator().manual_seed(stream_seed(seed, kind, epoch))


def _by_class(labels: Tensor, classes: Sequence[int], wanted: Sequence[int], generator: torch.Generator) -> Tensor:
    """Indices of ``wanted`` images of each class, shuffled."""
    drawn: list[Tensor] = []
    for label, count in zip(classes, wanted, strict=True):
        members = (labels == label).nonzero().flatten()
        rounds = -(-count // len(members))
        orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
        drawn.append(torch.cat(orders)[:count] if orders else members[:0])
    indices = torch.cat(drawn)
    return indices[torch.randperm(len(indices), generator=generator)]
