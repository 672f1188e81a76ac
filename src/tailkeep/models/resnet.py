"""ResNets for small images (He et al. 2016, section 4.2), with both shortcut forms and a width factor."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from tailkeep.models.blocks import BasicBlock, first_convolutions, initialise
from tailkeep.spec import Spec


class CifarResNet(nn.Module):
    """Three layers of n basic blocks after a 3x3 convolution, then the mean over positions and a linear head."""

    def __init__(self, blocks: int, widths: tuple[int, int, int], num_classes: int, channels: int, form: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._layer(blocks, widths[0], widths[0], 1, form)
        self.layer2 = self._layer(blocks, widths[0], widths[1], 2, form)
        self.layer3 = self._layer(blocks, widths[1], widths[2], 2, form)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)

    @staticmethod
    def _layer(blocks: int, channels_in: int, channels_out: int, stride: int, form: str) -> nn.Sequential:
        first = BasicBlock(channels_in, channels_out, stride, form)
        return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1, form) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to logits (N, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits

    def first_convolutions(self) -> list[str]:
        """Return the names of the first convolution of every block ("layer1.0.conv1", ...), in order."""
        return first_convolutions(self)


class ResNet(Spec):
    """A ResNet for small images: ``depth`` = 6n + 2 layers; widths 16, 32 and 64, each times ``width`` and rounded.

    ``shortcut`` is the form where the shape changes: a 1x1 convolution with batch normalisation ("conv"), or the
    parameter-free strided slice with zero channels ("identity_pad", "option A").
    """

    kind: Literal["resnet"] = "resnet"
    depth: int = Field(20, ge=8, le=1202)
    # Below 8 channels the weight gradient of a strided 1x1 convolution corrupts memory (torch 2.13, CPU).
    width: float = Field(1.0, ge=0.5, le=64)
    shortcut: Literal["conv", "identity_pad"] = "conv"

    @field_validator("depth")
    @classmethod
    def _depth_is_6n_plus_2(cls, depth: int) -> int:
        if (depth - 2) % 6:
            below = depth - (depth - 2) % 6
            raise ValueError(
                f"depth is 6n + 2 (20, 32, 44, 56, 110); the nearest to {depth} are {below} and {below + 6}"
            )
        return depth

    @property
    def label(self) -> str:
        """Name for tables: "resnet20", "resnet20-w0.5", "resnet32-pad"."""
        width = "" if self.width == 1 else f"-w{self.width:g}"
        return f"resnet{self.depth}{width}{'-pad' if self.shortcut == 'identity_pad' else ''}"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return a freshly initialised model for images (C, H, W), drawn from torch's current generator."""
        widths = (self._channels(16), self._channels(32), self._channels(64))
        return CifarResNet((self.depth - 2) // 6, widths, num_classes, image_shape[0], self.shortcut)

    def _channels(self, base: int) -> int:
        return max(1, int(base * self.width + 0.5))
