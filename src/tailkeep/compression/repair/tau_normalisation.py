"""tau-normalisation: a classifier whose rows differ less in length (Kang et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from tailkeep.classifier import find_classifier
from tailkeep.compression.base import Change, Context, Method
from tailkeep.compression.repair.classifier import float_classifier


class TauNormalisation(Method):
    """w_c / |w_c|^``tau``: 0 leaves the lengths as they are, 1 makes them equal; the bias goes unless ``keep_bias``.

    Frequent classes have longer rows, and longer rows larger logits. All rows are multiplied by the geometric mean of
    the lengths to the power ``tau``, which changes no class that is predicted (without a bias) and keeps the logits at
    the scale that a softmax, a teacher's temperature or a grid was chosen for. The paper chooses ``tau`` on validation
    images.
    """

    kind: Literal["tau_normalisation"] = "tau_normalisation"
    tau: float = Field(1.0, ge=0)
    keep_bias: bool = False

    @property
    def answers_imbalance(self) -> bool:
        """Long rows of frequent classes are shortened."""
        return self.tau > 0

    @property
    def compresses(self) -> bool:
        """The classifier keeps its size."""
        return False

    @property
    def trains(self) -> bool:
        """No gradient is taken."""
        return False

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
