"""Post-training quantization: grids from the weights and from calibration images alone, and no training."""

from __future__ import annotations

from typing import Literal

from tailkeep.compression.quantization.method import Quantization
from tailkeep.compression.quantization.observers import Observer


class PostTrainingQuantization(Quantization):
    """Integer weights and activations without training: the recipe is left out.

    ``weights``: "symmetric" or "asymmetric" (min-max), or "symmetric_mse" (the clip of least squared error, which
    matters below 8 bits). ``observer`` defaults to the range of least error over the calibration images.
    """

    kind: Literal["ptq"] = "ptq"
    weights: Literal["symmetric", "symmetric_mse", "asymmetric"] = "symmetric"
    observer: Observer = "mse"

    @property
    def trains(self) -> bool:
        """It does not."""
        return False

    @property
    def weight_kind(self) -> str:
        """As the setting says."""
        return self.weights
