"""A small residual network for 8x8 grey images: trains in seconds on one processor core."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tailkeep.models.blocks import BasicBlock, first_convolutions, initialise
from tailkeep.spec import Spec


class DigitsModule(nn.Module):
    """A 3x3 convolution, two residual blocks (the second halves the image), the mean over positions, a linear head."""

    def __init__(self, narrow: int, wide: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.layer1 = nn.Sequential(BasicBlock(narrow, narrow), BasicBlock(narrow, wide, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to logits (N, num_classes)."""
        x = self.layer1(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits

    def first_convolutions(self) -> list[str]:
        """Return the names of the first convolution of every block, in order."""
        return first_convolutions(self)


class DigitsNet(Spec):
    """The small network for scikit-learn's digits; 16 and 32 channels, each times ``width`` and rounded."""

    kind: Literal["digits_net"] = "digits_net"
    # Below 8 channels the weight gradient of a strided 1x1 convolution corrupts memory (torch 2.13, CPU).
    width: float = Field(1.0, ge=0.5, le=64)

    @property
    def label(self) -> str:
        """Name for tables: "digits_net", "digits_net-w0.5"."""
        return "digits_net" if self.width == 1 else f"digits_net-w{self.width:g}"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return a freshly initialised model for images (C, H, W), drawn from torch's current generator."""
        narrow, wide = (max(1, int(base * self.width + 0.5)) for base in (16, 32))
        return DigitsModule(narrow, wide, num_classes, image_shape[0])
