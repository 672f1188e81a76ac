"""What a filter is worth: one score a filter, of which the smallest go first.

"l1", "l2": Li et al. 2017. "fpgm": He et al. 2019, "Filter Pruning via Geometric Median". "taylor": Molchanov et al.
2019, "Importance Estimation for Neural Network Pruning" (a gate on the filter, first order); "taylor_abs" sums the
parts' absolute values, as SNIP does for single weights (Lee et al. 2019). "bn_scale": Liu et al. 2017, "Network
Slimming", without its penalty during training. "random" is the control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.compression.pruning.coupling import Plan
from tailkeep.compression.pruning.removal import plain_layer
from tailkeep.errors import StepFailed

Criterion = Literal["l1", "l2", "random", "taylor", "taylor_abs", "fpgm", "bn_scale"]
Batches = Iterable[tuple[Tensor, Tensor]]


def filter_scores(
    weight: Tensor, criterion: str, generator: torch.Generator | None = None, alive: Tensor | None = None
) -> Tensor:
    """Return a float64 score a filter (C_out,) on the CPU by the criteria that look at the weights alone.

    ``weight`` is (C_out, C_in, H, W) or (C_out, C_in). "l1" and "l2": the norm divided by the number of the filter's
    weights; "fpgm": the sum of the Euclidean distances to the other filters, of those that are ``alive`` (bool
    (C_out,), all by default); "random": uniform draws from ``generator``.
    """
    flat = weight.detach().to("cpu", torch.float64).flatten(1)
    if criterion == "random":
        return torch.rand(len(flat), generator=generator, dtype=torch.float64)
    if criterion == "fpgm":
        others = flat if alive is None else flat[alive]
        # by differences: the matrix product's cancellation would blur filters that nearly agree
        return torch.cdist(flat, others, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    norms = flat.abs().sum(1) if criterion == "l1" else flat.square().sum(1).sqrt()
    return norms / flat.shape[1]


def loss_gradients(model: nn.Module, names: Iterable[str], batches: Batches) -> dict[str, Tensor]:
    """Return the gradient of the mean cross-entropy over all images of ``batches`` for each named layer's weight.

    Float64 on the CPU, in the weight's shape. The model runs in evaluation mode: under batch statistics a filter's
    scale has no effect, so its gradient is orthogonal to it and w * g would sum to zero in every filter. Training
    flags, buffers and ``grad`` are left as they were. Raises ``StepFailed`` with reason ``pruning`` where there is no
    image or the gradient is not finite.
    """
    layers = {name: plain_layer(model, name) for name in names}
    weights = [layer.weight for layer in layers.values()]
    flags = [(module, module.training) for module in model.modules()]
    trained = [weight.requires_grad for weight in weights]
    sums = [torch.zeros(weight.shape, dtype=torch.float64) for weight in weights]
    images_seen = 0
    try:
        model.eval()
        for weight in weights:
            weight.requires_grad_(True)
        for images, labels in batches:
            with torch.enable_grad():
                logits = model(images.to(weights[0].dtype)).float()
                loss = F.cross_entropy(logits, labels, reduction="sum")
                gradients = torch.autograd.grad(loss, weights)
            for summed, gradient in zip(sums, gradients, strict=True):
                summed += gradient.to("cpu", torch.float64)
            images_seen += len(labels)
    finally:
        for weight, flag in zip(weights, trained, strict=True):
            weight.requires_grad_(flag)
        for module, flag in flags:
            module.training = flag
    if images_seen == 0:
        raise StepFailed("pruning", "a Taylor criterion needs training images to look at, and there are none")
    means = {name: summed / images_seen for name, summed in zip(layers, sums, strict=True)}
    for name, mean in means.items():
        if not bool(torch.isfinite(mean).all()):
            raise StepFailed("pruning", f"the gradient of {name} is not finite, so its filters cannot be ranked")
    return means


def taylor_scores(weight: Tensor, gradient: Tensor, criterion: str) -> Tensor:
    """Return a float64 score a filter (C_out,): |sum of w * g| ("taylor") or the sum of |w * g| ("taylor_abs")."""
    parts = (weight.detach().to("cpu", torch.float64) * gradient).flatten(1)
    return parts.sum(1).abs() if criterion == "taylor" else parts.abs().sum(1)


def norm_scales(model: nn.Module, name: str, plan: Plan) -> Tensor:
    """Return |scale| (C_out,), float64 on the CPU, of the batch norm that reads the named layer and nothing else does.

    Raises ``StepFailed`` with reason ``pruning`` where there is no such norm, or it has no scale.
    """
    norm = model.get_submodule(plan.norms[name]) if name in plan.norms else None
    if norm is None or not isinstance(norm.weight, Tensor):
        raise StepFailed("pruning", f"criterion bn_scale: no batch norm with a scale follows {name}; take another one")
    return norm.weight.detach().to("cpu", torch.float64).abs()


def score_layers(
    model: nn.Module,
    plan: Callable[[], Plan],
    criterion: Criterion,
    dead: Mapping[str, list[int]],
    batches: Callable[[], Batches],
    generator: Callable[[str], torch.Generator],
) -> dict[str, Tensor]:
    """Return the scores of every layer in ``dead`` (its filters that are masked already), each as above.

    ``plan`` and ``batches`` are called by the criteria that need them alone; ``generator`` gives a layer's own, in the
    same state every time, so that a later look at the same layer draws the same.
    """
    weights = {name: plain_layer(model, name).weight for name in dead}
    if criterion in ("taylor", "taylor_abs"):
        gradients = loss_gradients(model, dead, batches())
        return {name: taylor_scores(weight, gradients[name], criterion) for name, weight in weights.items()}
    if criterion == "bn_scale":
        found = plan()
        return {name: norm_scales(model, name, found) for name in dead}
    scores = {}
    for name, weight in weights.items():
        alive = torch.ones(len(weight), dtype=torch.bool)
        alive[dead[name]] = False
        scores[name] = filter_scores(weight, criterion, generator(name), alive)
    return scores
