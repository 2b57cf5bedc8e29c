"""PARSeq's image encoder: timm's VisionTransformer (Dosovitskiy et al., 2021) without CLS token, for crops of one
height and several widths. Masks are boolean and say what is visible. Letters in comments as in models/parseq.py."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) -> (B, heads, L, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class EncoderAttention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=visible)))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """A pre-norm transformer block as in timm's VisionTransformer."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = EncoderAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), visible)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: tuple[int, int]):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, images: Tensor, columns: Tensor | None) -> Tensor:
        return self.proj(images)


class ConvStem(nn.Module):
    """Five 3 x 3 convolutions with the stride of a patch in all, in place of the patch embedding."""

    patches = ((4, 8), (8, 8))  # (height, width) in pixels that it can stand for

    def __init__(self, dim: int, patch: tuple[int, int]):
        super().__init__()
        self.stride = patch
        self.strides = ((2, 2), (2, 2), (patch[0] // 4, 2), (1, 1), (1, 1))
        channels = (3, dim // 8, dim // 4, dim // 2, dim, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.GELU())
            for a, b, stride in zip(channels, channels[1:], self.strides))

    def forward(self, images: Tensor, columns: Tensor | None) -> Tensor:
        x = images
        for layer in self.layers:
            x = layer(x)
            x = hide(x, seen_columns(columns, self.stride[1], images, x))
        return x


class ResidualPair(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (conv_norm(channels, channels, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        y = hide(F.relu(self.first(x)), seen)
        return hide(F.relu(x + self.second(y)), seen)


class ResidualStem(nn.Module):
    """Convolutions over the whole height, as in CRNN (Shi et al., 2017): one token for every 4 columns of pixels. A line
    costs a quarter of what patches of 8 x 4 do, and convolutions learn from few lines what attention needs many for."""

    patch_width = 4

    def __init__(self, dim: int, height: int):
        super().__init__()
        widths = (dim // 4, dim // 2, dim, dim)
        strides = ((2, 2), (2, 2), (2, 1), (2, 1))
        self.down = nn.ModuleList(conv_norm(a, b, 3, stride, 1) for a, b, stride in zip((3, *widths), widths, strides))
        self.pairs = nn.ModuleList(ResidualPair(width) for width in widths[1:])
        self.collapse = conv_norm(dim, dim, (height // 16, 1), 1, 0)

    def forward(self, images: Tensor, columns: Tensor | None) -> Tensor:
        x = images
        for stage, down in enumerate(self.down):
            x = F.relu(down(x))
            seen = seen_columns(columns, self.patch_width, images, x)
            x = hide(x, seen)
            if stage:
                x = self.pairs[stage - 1](x, seen)
        return hide(self.collapse(x), seen)


def conv_norm(inputs: int, outputs: int, kernel, stride, padding) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs))


def seen_columns(columns: Tensor | None, patch_width: int, images: Tensor, x: Tensor) -> Tensor | None:
    """(B, 1, 1, W) bool: which columns of the feature maps `x` belong to the crops, of `columns` patches each."""
    if columns is None:
        return None
    used = columns * patch_width * x.shape[3] // images.shape[3]
    return (torch.arange(x.shape[3], device=x.device) < used[:, None])[:, None, None]


def hide(x: Tensor, seen: Tensor | None) -> Tensor:
    """Zeros in the padding, as at the edge of a narrower image."""
    return x if seen is None else x * seen


class TextEncoder(nn.Module):
    """Images to memory tokens. Position embeddings are a grid, of which a narrow image uses the left part.

    stem: 'patch', the published patch embedding, 'conv' or 'resnet'; image and patch are (height, width) in pixels, the
    image that of the widest bucket.
    """

    def __init__(self, stem: str, image: tuple[int, int], patch: tuple[int, int], dim: int, depth: int, heads: int,
                 mlp_ratio: int):
        super().__init__()
        self.patch_width = patch[1]
        self.grid = (image[0] // patch[0], image[1] // patch[1])
        if stem == "resnet":
            self.patch_embed = ResidualStem(dim, image[0])
        else:
            self.patch_embed = (ConvStem if stem == "conv" else PatchEmbed)(dim, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.blocks = nn.ModuleList(EncoderBlock(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def columns(self, widths: Tensor) -> Tensor:
        """How many columns of patches hold the images of these widths in pixels."""
        return (widths + self.patch_width - 1) // self.patch_width

    def forward(self, images: Tensor, widths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """images (B, 3, H, W), W a multiple of the patch width and at most that of the widest bucket; widths (B,)
        pixels without padding, None where no image is padded. Returns memory (B, S, D), row by row, and which of it is
        seen (B, 1, 1, S): columns of padding are not, so that no image's text depends on its neighbours in the batch.
        """
        columns = None if widths is None else self.columns(widths)
        grid = self.patch_embed(images, columns).permute(0, 2, 3, 1)  # (B, rows, columns, D)
        positions = self.pos_embed.unflatten(1, self.grid)[:, :, : grid.shape[2]]
        x = (grid + positions).flatten(1, 2)
        visible = None
        if columns is not None:
            used = torch.arange(grid.shape[2], device=images.device) < columns[:, None]
            visible = used.repeat(1, self.grid[0])[:, None, None]
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x), visible
