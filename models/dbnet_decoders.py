"""What lies between DBNet's encoder and heads: four maps at strides 4, 8, 16, 32 -> one of `channels` at stride 4."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_block(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside),
                         nn.ReLU(inplace=True))


def enlarge(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) at the height and width of `like`, by nearest neighbours."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Pyramid(nn.Module):
    """Top-down (feature pyramid), for 'pan' then bottom-up too (path aggregation: Liu et al., CVPR 2018), each level
    reduced to a quarter of the channels and joined; for 'asf' weighted by AdaptiveScaleFusion first."""

    def __init__(self, inside: list[int], channels: int, bottom_up: bool = False, fuse: bool = False):
        super().__init__()
        self.lateral = nn.ModuleList(conv_block(width, channels, kernel=1) for width in inside)
        self.down = nn.ModuleList(conv_block(channels, channels, stride=2) for _ in inside[1:]) if bottom_up else None
        self.reduce = nn.ModuleList(conv_block(channels, channels // 4) for _ in inside)
        self.fusion = AdaptiveScaleFusion(channels, len(inside)) if fuse else None

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        maps = [lateral(m) for lateral, m in zip(self.lateral, maps)]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + enlarge(maps[level + 1], maps[level])
        if self.down is not None:
            for level, down in enumerate(self.down):
                maps[level + 1] = maps[level + 1] + down(maps[level])
        maps = [reduce(m) for reduce, m in zip(self.reduce, maps)]
        maps = [maps[0], *(enlarge(m, maps[0]) for m in maps[1:])]
        return self.fusion(maps) if self.fusion is not None else torch.cat(maps, dim=1)


class AdaptiveScaleFusion(nn.Module):
    """DBNet++'s fusion (Liao et al., TPAMI 2022, arXiv 2202.10304, section 3.3): each pixel weighs the scales.

    `levels` maps (B, channels / levels, h, w) -> (B, channels, h, w): every map times its weight in (0, 1).
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()
        inner = channels // levels
        self.mix = nn.Conv2d(channels, inner, 3, padding=1)
        self.spatial = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(inplace=True),
                                     nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid())
        self.weigh = nn.Sequential(nn.Conv2d(inner, levels, 1, bias=False), nn.Sigmoid())

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        mixed = self.mix(torch.cat(maps, dim=1))
        weights = self.weigh(mixed + self.spatial(mixed.mean(1, keepdim=True)))
        return torch.cat([m * weights[:, level : level + 1] for level, m in enumerate(maps)], dim=1)


class UNetDecoder(nn.Module):
    """From the coarsest map up, joined with each finer one and convolved twice (Ronneberger et al., 2015)."""

    def __init__(self, inside: list[int], channels: int):
        super().__init__()
        *skips, below = inside
        self.blocks = nn.ModuleList()
        for skip in reversed(skips):
            width = channels // 2
            self.blocks.append(nn.Sequential(conv_block(below + skip, width), conv_block(width, width)))
            below = width
        self.out = conv_block(below, channels)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        *skips, x = maps
        for skip, block in zip(reversed(skips), self.blocks):
            x = block(torch.cat([enlarge(x, skip), skip], dim=1))
        return self.out(x)


# name: (widths of the encoder's four maps, channels) -> decoder; channels divisible by 4
DECODERS = {
    "fpn": Pyramid,
    "pan": lambda inside, channels: Pyramid(inside, channels, bottom_up=True),
    "unet": UNetDecoder,
    "asf": lambda inside, channels: Pyramid(inside, channels, fuse=True),
}
