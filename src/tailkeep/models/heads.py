"""The normalised classifier: logits that are a cosine times a scale (Wang et al. 2017, NormFace), as LDAM needs them.

It trains in one form and is kept in another. A finished one is a layer without parameters and an ordinary linear layer,
so that whatever prunes, quantizes, adjusts or exports a model meets nothing new.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailkeep.classifier import find_classifier
from tailkeep.errors import StepFailed


class NormalizedLinear(nn.Linear):
    """z_c = scale * cos(x, w_c), without a bias: the form in training. The lengths of x and w_c play no part."""

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, C) in -scale..scale; in float32 also within bf16 training."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(unit_rows(x.float()), self.scale * unit_rows(self.weight))


class UnitLength(nn.Module):
    """Divide each image's features by their length; a zero vector stays one."""

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, D) to the same of length 1, float32."""
        return unit_rows(x.float())


def unit_rows(x: Tensor) -> Tensor:
    """Return each row of (N, D) over its length; rows of zeros stay as they are.

    As ``F.normalize``, but for its ``expand``, over which torch-pruning follows no channel.
    """
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / lengths.clamp_min(1e-12)


def normalize_head(model: nn.Module, scale: float, image_shape: tuple[int, int, int]) -> nn.Module:
    """Put a ``NormalizedLinear`` in the place of the model's linear classifier, in place; return the model.

    It starts from the directions that the classifier's weights drew, each of length 1, so no random number is drawn.
    Raises ``StepFailed`` with reason ``classifier`` where the logits do not come out of a linear layer.
    """
    name = find_classifier(model, image_shape)
    linear = model.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise StepFailed("classifier", f"{name} is quantized; a normalised head needs float weights")
    with torch.device("meta"):  # where nothing is drawn
        head = NormalizedLinear(linear.in_features, linear.out_features, scale)
    head.weight = nn.Parameter(unit_rows(linear.weight.detach()))
    _replace(model, name, head)
    return model


def fold_heads(model: nn.Module) -> nn.Module:
    """Put ``UnitLength`` and a linear layer of weights scale * w_c / |w_c| in the place of a head that was trained.

    In place; the logits stay the same, bit for bit. A model without such a head is returned as it is.
    """
    for name, head in list(model.named_modules()):
        if isinstance(head, NormalizedLinear):
            linear = nn.Linear(head.in_features, head.out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(head.scale * unit_rows(head.weight.detach()))
            _replace(model, name, nn.Sequential(UnitLength(), linear).train(head.training))
    return model


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
