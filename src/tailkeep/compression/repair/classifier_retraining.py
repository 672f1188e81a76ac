"""Classifier re-training, cRT: the second of two stages, on features that the first has learnt (Kang et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tailkeep.compression.base import Context
from tailkeep.compression.repair.classifier import ClassifierOnly
from tailkeep.randomness import stream_seed


class ClassifierRetraining(ClassifierOnly):
    """Draw the classifier anew and train it alone, all else frozen.

    As published under ``sampler: {kind: class_balanced}``, which the study's entry names; a loss for imbalanced data
    does instead. ``redraw``: false trains on from the parent's classifier. The new weights have the mean length of the
    parent's rows, so that they suit the scale of its features also where those have length 1; the new bias is 0.
    """

    kind: Literal["classifier_retraining"] = "classifier_retraining"
    redraw: bool = True

    def free(self, model: nn.Module, name: str, layer: nn.Linear, context: Context) -> None:
        """Redraw the layer, from a stream of its own, and let it train."""
        if self.redraw:
            generator = torch.Generator().manual_seed(stream_seed(context.seed, self.kind))
            drawn = torch.randn(layer.weight.shape, generator=generator).to(layer.weight)
            with torch.no_grad():
                length = layer.weight.norm(dim=1).mean()
                layer.weight.copy_(drawn / drawn.norm(dim=1, keepdim=True) * length)
                if layer.bias is not None:
                    layer.bias.zero_()
        layer.requires_grad_(True)
