"""tau-normalisation: a classifier whose rows differ less in length (Kang et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tailkeep.classifier import find_classifier
from tailkeep.compression.base import Change, Context
from tailkeep.compression.repair.classifier import Folded, float_classifier


class TauNormalisation(Folded):
    """w_c / |w_c|^``tau``: 0 leaves the lengths as they are, 1 makes them equal; the bias goes unless ``keep_bias``.

    Frequent classes have longer rows, and longer rows larger logits. All rows are multiplied by the geometric mean of
    the lengths to the power ``tau``, which changes no class that is predicted (without a bias) and keeps the logits at
    the scale that a softmax, a teacher's temperature or a grid was chosen for. The paper chooses ``tau`` on validation
    images.
    """

    kind: Literal["tau_normalisation"] = "tau_normalisation"
    keep_bias: bool = False

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Normalise the classifier in place.

        Raises ``StepFailed`` with reason ``classifier`` where it is quantized, or no linear layer.
        """
        layer = float_classifier(model, find_classifier(model, context.image_shape))
        with torch.no_grad():
            lengths = layer.weight.norm(dim=1)
            context.facts["row_lengths"] = lengths.tolist()
            if self.tau:
                lengths = lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
                mean = lengths.log().mean().exp()
                layer.weight *= ((mean / lengths) ** self.tau)[:, None]
            if layer.bias is not None and not self.keep_bias:
                layer.bias.zero_()
        return model, None
