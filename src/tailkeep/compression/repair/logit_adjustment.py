"""Post-hoc logit adjustment: a finished model's logits less the log prior, once and for all (Menon et al. 2021)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from tailkeep.classifier import find_classifier
from tailkeep.compression.base import Change, Context
from tailkeep.compression.repair.classifier import Folded, float_classifier
from tailkeep.errors import StepFailed


class PostHocLogitAdjustment(Folded):
    """z_c - ``tau`` * log(pi_c), pi_c the share of class c in this step's training set, folded into the bias.

    For a model that was trained by plain cross-entropy on the images as they are: one that was trained by logit
    adjustment, balanced softmax or a class-balanced sampler has lost its prior already. It costs nothing at inference,
    and works on integer layers as well.
    """

    kind: Literal["logit_adjustment_post_hoc"] = "logit_adjustment_post_hoc"

    @property
    def takes_quantized(self) -> bool:
        """The bias of a quantized classifier is adjusted as well."""
        return True

    def finish(self, model: nn.Module, context: Context) -> tuple[nn.Module, Change | None]:
        """Adjust the classifier's bias in place; a classifier without one gets it.

        Raises ``StepFailed`` with reason ``classifier`` where the logits do not come out of a linear layer, and with
        ``class_counts`` where a class has no training image.
        """
        if self.tau == 0:
            return model, None
        if min(context.class_counts) < 1:
            raise StepFailed("class_counts", "a class without a training image has no prior to adjust its logits by")
        name = find_classifier(model, context.image_shape)
        layer = model.get_submodule(name)
        change: Change | None = None
        if layer.bias is None:
            _add_bias(float_classifier(model, name))
            change = {"kind": self.kind, "values": {"bias": name}}
        total = sum(context.class_counts)
        shift = torch.tensor([-self.tau * math.log(count / total) for count in context.class_counts])
        assert isinstance(layer.bias, torch.Tensor)
        with torch.no_grad():
            layer.bias += shift.to(layer.bias)
        context.facts["logit_shift"] = shift.tolist()
        return model, change

    def rebuild(self, model: nn.Module, values: dict[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
        """Give the classifier the bias that it did not have."""
        _add_bias(float_classifier(model, str(values["bias"])))
        return model


def _add_bias(layer: nn.Linear) -> None:
    layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))
