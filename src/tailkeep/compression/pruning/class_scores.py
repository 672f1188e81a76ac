"""What a filter is worth to each class, and two ways to rank filters by it so that no class is forgotten.

"cic": class importance consistency ("Class Importance Consistency Matters: Efficient Model Pruning for Long-tailed
Recognition Models"). "group_share": the greedy selection of FairGRAPE (Lin, Kim and Joo 2022), for filters in place of
single weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from tailkeep.compression.pruning.criteria import Batches, loss_gradients, taylor_scores
from tailkeep.compression.pruning.removal import plain_layer
from tailkeep.errors import StepFailed


def single_group_batches(batches: Batches, groups: Sequence[Sequence[int]]) -> list[list[tuple[Tensor, Tensor]]]:
    """Return the images and labels of ``batches`` by group of classes, in batches no larger than the largest given.

    Raises ``StepFailed`` with reason ``pruning`` where there is no image of a group.
    """
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in groups]
    size = 1
    for images, labels in batches:
        size = max(size, len(labels))
        for found, group in zip(parts, groups, strict=True):
            members = torch.isin(labels, torch.tensor(group, device=labels.device))
            found.append((images[members], labels[members]))
    together: list[list[tuple[Tensor, Tensor]]] = []
    for group, found in zip(groups, parts, strict=True):
        images, labels = (torch.cat(part) for part in zip(*found, strict=True)) if found else (torch.empty(0),) * 2
        if len(labels) == 0:
            what = f"class {group[0]}" if len(group) == 1 else f"the classes {list(group)}"
            raise StepFailed(
                "pruning", f"there is no calibration image of {what}; draw them balanced, or raise calibration_batches"
            )
        together.append(list(zip(torch.split(images, size), torch.split(labels, size), strict=True)))
    return together


def group_importance(
    model: nn.Module, names: Iterable[str], batches: Batches, groups: Sequence[Sequence[int]], form: str
) -> dict[str, Tensor]:
    """Return the worth (groups, C_out), float64 on the CPU, of each named layer's filters to each group of classes.

    g is the gradient of the mean cross-entropy over the group's own images. ``form`` "gate": |sum of w * g| as in
    criterion "taylor"; "squares": the sum of (w * g)^2, which adds up over filters. Raises ``StepFailed`` with reason
    ``pruning`` as ``single_group_batches`` and ``loss_gradients`` do.
    """
    layers = list(names)
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    for own in single_group_batches(batches, groups):
        for name, gradient in loss_gradients(model, layers, own).items():
            weight = plain_layer(model, name).weight
            if form == "gate":
                rows[name].append(taylor_scores(weight, gradient, "taylor"))
            else:
                parts = weight.detach().to("cpu", torch.float64) * gradient
                rows[name].append(parts.square().flatten(1).sum(1))
    return {name: torch.stack(found) for name, found in rows.items()}


def consistency_scores(importance: Tensor, alpha: float) -> Tensor:
    """Return mean - ``alpha`` * standard deviation (of the population) over the groups: (G, filters) -> (filters,)."""
    return importance.mean(0) - alpha * importance.std(0, correction=0)


def share_scores(importance: Tensor) -> Tensor:
    """Return how early each filter is kept, (G, filters) -> float64 (filters,): as many as there are for the first.

    Filters are kept one by one: the group whose share of what is kept lies furthest below its share of the whole
    layer's importance takes the filter that is worth most to it, until none is left. Of equals the first goes first.
    The filters kept when any number is reached are the first so many of that order.
    """
    worth = importance.tolist()
    whole = [sum(row) for row in worth]
    total = sum(whole)
    groups, filters = range(len(worth)), importance.shape[1]
    target = [value / total if total else 1 / len(worth) for value in whole]
    ranked = [iter(torch.argsort(row, descending=True, stable=True).tolist()) for row in importance]
    kept, left = [0.0] * len(worth), set(range(filters))
    scores = torch.zeros(filters, dtype=torch.float64)
    for score in range(filters, 0, -1):
        so_far = sum(kept)
        lack = [(kept[g] / so_far if so_far else 1 / len(worth)) - target[g] for g in groups]
        chosen = next(index for index in ranked[lack.index(min(lack))] if index in left)
        left.remove(chosen)
        scores[chosen] = score
        kept = [kept[g] + worth[g][chosen] for g in groups]
    return scores
