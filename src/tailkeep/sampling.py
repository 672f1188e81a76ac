"""Which training images an epoch sees, and how often."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tailkeep.errors import BadInput
from tailkeep.randomness import stream_seed
from tailkeep.spec import Spec


class Uniform(Spec):
    """Every image once an epoch, in a new order."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, labels: Tensor, seed: int, epoch: int) -> Tensor | None:
        """Return None: the loop's own permutation of all the images."""
        return None


class ClassBalanced(Spec):
    """As many draws of every class (Kang et al. 2020), n in all: rare classes repeat, frequent ones are sampled.

    Draws of two classes differ by at most one. Within a class the draws go through whole permutations of its images,
    so that two images of a class differ by at most one draw.
    """

    kind: Literal["class_balanced"] = "class_balanced"

    def draw(self, labels: Tensor, seed: int, epoch: int) -> Tensor | None:
        """Return n int64 indices into ``labels`` (n,), on the CPU; the order is part of the draw.

        Only classes that have an image are drawn. Raises ``BadInput`` where there is no image at all.
        """
        labels = labels.detach().cpu()
        if labels.numel() == 0:
            raise BadInput("sampler class_balanced: the training set is empty")
        generator = torch.Generator().manual_seed(stream_seed(seed, "class_balanced", epoch))
        present = torch.tensor(sorted(set(labels.tolist())))
        classes = present[torch.randperm(len(present), generator=generator)]
        share, extra = divmod(len(labels), len(classes))
        drawn: list[Tensor] = []
        for position, label in enumerate(classes.tolist()):
            members = (labels == label).nonzero().flatten()
            wanted = share + (1 if position < extra else 0)
            rounds = -(-wanted // len(members))
            orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
            drawn.append(torch.cat(orders)[:wanted] if orders else members[:0])
        indices = torch.cat(drawn)
        return indices[torch.randperm(len(indices), generator=generator)]
