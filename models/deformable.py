"""Deformable convolutions in the last stages of a ResNet, as in DBNet (Zhu et al., CVPR 2019, arXiv 1811.11168)."""

import torch
from torch import nn
from torchvision.ops import deform_conv2d

STAGES = ("layer2", "layer3", "layer4")


class DeformableConv(nn.Module):
    """A convolution whose taps move and are weighted by what it sees; it starts as the plain one it is made from.

    Offsets and weights come from a convolution that starts at zero: no offset, and a weight of 2 sigmoid(0) = 1, so
    that pretrained weights go on meaning what they did.
    """

    def __init__(self, plain: nn.Conv2d):
        super().__init__()
        taps = plain.kernel_size[0] * plain.kernel_size[1]
        self.weight, self.bias = plain.weight, plain.bias
        self.shape = {"stride": plain.stride, "padding": plain.padding, "dilation": plain.dilation}
        self.taps = taps
        self.offset = nn.Conv2d(plain.in_channels, 3 * taps, plain.kernel_size, **self.shape)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # torchvision has no bfloat16 kernel for the CPU, and offsets want the digits.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            offset, weight = self.offset(x).split([2 * self.taps, self.taps], dim=1)
            return deform_conv2d(x, offset, self.weight, self.bias, mask=2 * weight.sigmoid(), **self.shape)


def can_deform(encoder: str) -> bool:
    """Whether an smp name is a ResNet's: they have plain 3 x 3 convolutions in blocks of stages layer2 to layer4."""
    return encoder.startswith("resnet")


def deform(encoder: nn.Module) -> None:
    """Replace, in place, the last 3 x 3 convolution of each block of the stages. The weights stay."""
    for stage in STAGES:
        for block in getattr(encoder, stage):
            block.conv2 = DeformableConv(block.conv2)
