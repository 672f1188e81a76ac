"""The residual block that the small networks share.

Pruning may narrow ``conv1`` alone: nothing outside of the block reads its channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class IdentityPad(nn.Module):
    """The parameter-free shortcut ("option A" of He et al. 2016): a strided slice and zero channels on both sides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.after = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, ceil(H/stride), ceil(W/stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut (He et al. 2016).

    ``shortcut`` is an empty ``nn.Sequential`` where the shape stays; else, by ``form``, a 1x1 convolution with batch
    normalisation ("conv") or an ``IdentityPad`` ("identity_pad").
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, form: str = "conv") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            if form == "conv":
                convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
                self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
            else:
                self.shortcut = IdentityPad(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, ceil(H/stride), ceil(W/stride))."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def initialise(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out) (He et al. 2015) with torch's current generator."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def first_convolutions(model: nn.Module) -> list[str]:
    """Return the names of the first convolution of every ``BasicBlock``, in the order of the forward pass."""
    return [f"{name}.conv1" for name, module in model.named_modules() if isinstance(module, BasicBlock)]
