"""Stroke masks: which pixels of a page are ink. Network, losses, and prediction at the page's own resolution.

The networks are those of segmentation_models_pytorch. What keeps close strokes apart is the stride they predict at:
bilinear logits fitted straight to the truth reach F1 0.60, 0.74, 0.89 and 0.99 at stride 16, 8, 4 and 2.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

from models.backbones import build_encoder, load_encoder_file
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.errors import DataError
from utils.geometry import letterbox
from utils.images import IMAGENET_MEAN, IMAGENET_STD, to_tensor

TASK = "segmentation"
ARCHITECTURES = tuple(smp.MODEL_ARCHITECTURES_MAPPING)
# Networks that predict on a coarser grid and enlarge the result; all others predict every pixel.
COARSE_STRIDE = {"dpt": 2, "fpn": 4, "segformer": 4, "upernet": 4, "deeplabv3plus": 4, "pan": 4,
                 "deeplabv3": 8, "pspnet": 8}
POOLED_NORM = ("deeplabv3", "deeplabv3plus", "pan", "upernet")  # batch norm behind a pooling to a single pixel
SIZE_STEP = 32  # networks halve their input five times
EDGE_FLOOR = 1e-3  # the least length of an edge loss's gradient vector


@dataclass
class StrokesConfig:
    """height, width: training size in pixels, multiples of 32. resize: 'letterbox' (the whole page scaled to fit) or
    'crop' (pieces at native resolution; pages are then predicted tile by tile). freeze_bn: batch norm keeps its
    statistics, so that micro-batches of one image are seen as those of a hundred."""

    arch: str = "unet"
    encoder: str = "tu-mobilenetv3_large_100"
    height: int = 1536
    width: int = 1536
    resize: str = "letterbox"
    freeze_bn: bool = False


class StrokeNet(nn.Module):
    """An smp network with one output channel; `encoder_source` says what its encoder starts from.

    encoder_weights: as in models.backbones.build_encoder; dpt, which has encoders of its own, takes 'none' or a file.
    Raises DataError where architecture and encoder do not go together, or the weights do not fit.
    """

    def __init__(self, config: StrokesConfig, encoder_weights: str = "none"):
        super().__init__()
        self.config = config
        vit = config.arch == "dpt" and "vit" in config.encoder
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.network = smp.create_model(config.arch, config.encoder, encoder_weights=None, classes=1,
                                                **{"dynamic_img_size": True} if vit else {})
        except Exception as error:  # smp and timm raise KeyError, ValueError, RuntimeError, AssertionError, ...
            reason = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
            raise DataError(f"--arch {config.arch} with --encoder {config.encoder} cannot be built ({reason[:200]}); "
                            "take another encoder") from None
        self.encoder_source = self._load_encoder(encoder_weights)
        # Ink covers a few per cent of a page: start near that, not at one half.
        last = [module for module in self.network.segmentation_head.modules() if isinstance(module, nn.Conv2d)][-1]
        nn.init.constant_(last.bias, -2.0)

    def _load_encoder(self, weights: str) -> str:
        encoder = self.network.encoder
        if weights not in ("auto", "imagenet", "none"):
            return load_encoder_file(encoder, Path(weights))
        if weights == "none" or self.config.arch == "dpt":
            return "random weights"
        pretrained, source = build_encoder(self.config.encoder, weights, depth=encoder._depth)
        encoder.load_state_dict(pretrained.state_dict())
        return source

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (B, 3, H, W) ImageNet-normalised, H and W multiples of 32 -> logits (B, 1, H, W)."""
        return self.network(image)

    def train(self, mode: bool = True) -> "StrokeNet":
        super().train(mode)
        if self.config.freeze_bn:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[StrokeNet, dict]:
    """(model in evaluation mode, its checkpoint); checkpoint["thresholds"]["ink"] is the probability of ink."""
    checkpoint = load_checkpoint(path, TASK)
    model = StrokeNet(StrokesConfig(**checkpoint["config"]))
    load_weights(model, weights_of(checkpoint), path)
    return model.to(device).eval(), checkpoint


def why_not(arch: str, encoder: str, micro_batch: int, encoder_weights: str, freeze_bn: bool) -> str:
    """Why this combination cannot be trained, or an empty string. Other misfits show when the network is built."""
    if arch in ("unetplusplus", "linknet") and encoder.startswith("mit_"):
        return f"--arch {arch} needs an encoder with features at stride 2, which {encoder} does not have"
    if arch in ("deeplabv3", "deeplabv3plus", "pan") and "hrnet" in encoder:
        return f"--arch {arch} dilates its encoder, which {encoder} does not allow"
    if arch in POOLED_NORM and micro_batch == 1 and not freeze_bn:
        return (f"--arch {arch} normalises a single pixel per image and cannot learn from one image at a time; "
                "take --batch-size 2 or more, or --freeze-bn")
    if arch == "dpt" and encoder_weights == "imagenet":
        return "--arch dpt takes its encoder's weights from a file (--encoder-weights PATH), or none"
    return ""


def coarse_warning(arch: str) -> str:
    """A warning for architectures whose grid is too coarse for thin strokes, or an empty string."""
    stride = COARSE_STRIDE.get(arch, 1)
    return "" if stride < 4 else (f"warning: --arch {arch} predicts at stride {stride} and enlarges: strokes closer "
                                  "than that will merge; unet, unetplusplus, manet and linknet predict every pixel")


def dice_loss(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - dice, image by image, then the mean; logits and target (B, 1, H, W), target in [0, 1].

    The overlap is the sum of min(p, t): p * t for hard masks, and 1 at p = t for soft ones, where the product would ask
    for something sharper than the truth (Wang et al., Dice Semimetric Losses, 2023, arXiv 2303.16296). `smooth`, in
    pixels, gives an empty prediction of an empty mask its 0.
    """
    p, t = _probabilities(logits, target)
    overlap = torch.minimum(p, t).sum((1, 2, 3))
    return (1 - (2 * overlap + smooth) / (p.sum((1, 2, 3)) + t.sum((1, 2, 3)) + smooth)).mean()


def focal_loss(logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.75, gamma: float = 2.0) -> torch.Tensor:
    """Mean over pixels of weight * |t - p| ** gamma * cross-entropy (Lin et al., 2017, arXiv 1708.02002; for soft t the
    form of Li et al., 2020, arXiv 2006.04388). alpha is the weight of ink, 1 - alpha that of background. gamma is 0, or
    at least 1: between them the gradient is infinite where p = t.
    """
    p, t = _probabilities(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        entropy = F.binary_cross_entropy_with_logits(logits.float(), t, reduction="none")
    weight = alpha * t + (1 - alpha) * (1 - t)
    return (weight * (t - p).abs() ** gamma * entropy).mean()


def edge_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over pixels of how far the Sobel gradients of probability and truth lie apart; 4 at a missed step of 1.

    The gradients are compared as vectors: by their lengths alone, paper round ink and ink round paper are the same.
    """
    p, t = _probabilities(logits, target)
    return (_sobel_length(p - t) - EDGE_FLOOR).mean()


def continuity_loss(logits: torch.Tensor, target: torch.Tensor, iterations: int = 10) -> torch.Tensor:
    """1 - soft-clDice, image by image, then the mean (Shit et al., 2021, arXiv 2003.07311).

    A gap in a stroke costs its share of the skeleton, however thin the stroke is. `iterations` is the half width, in
    pixels, of the widest stroke that is thinned to its skeleton.
    """
    p, t = _probabilities(logits, target)
    skeleton_p, skeleton_t = soft_skeleton(p, iterations), soft_skeleton(t, iterations)
    precision = ((skeleton_p * t).sum((1, 2, 3)) + 1) / (skeleton_p.sum((1, 2, 3)) + 1)
    recall = ((skeleton_t * p).sum((1, 2, 3)) + 1) / (skeleton_t.sum((1, 2, 3)) + 1)
    return (1 - 2 * precision * recall / (precision + recall)).mean()


def soft_skeleton(image: torch.Tensor, iterations: int) -> torch.Tensor:
    """What opening removes from (B, 1, H, W) in [0, 1], gathered over `iterations` erosions."""
    skeleton = F.relu(image - _open(image))
    for _ in range(iterations):
        image = _erode(image)
        ridge = F.relu(image - _open(image))
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton


@dataclass
class StrokeLoss:
    """The weighted sum of the four losses; a weight of 0 leaves the loss out, and at least one must be above 0."""

    dice: float = 1.0
    focal: float = 1.0
    edge: float = 1.0
    continuity: float = 0.0
    focal_alpha: float = 0.75
    focal_gamma: float = 2.0
    cldice_iters: int = 10

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """logits, target (B, 1, H, W) -> {"loss": the sum, and each loss in it unweighted}, 0-dim float32."""
        parts = {}
        if self.dice:
            parts["dice"] = dice_loss(logits, target)
        if self.focal:
            parts["focal"] = focal_loss(logits, target, self.focal_alpha, self.focal_gamma)
        if self.edge:
            parts["edge"] = edge_loss(logits, target)
        if self.continuity:
            parts["continuity"] = continuity_loss(logits, target, self.cldice_iters)
        return {"loss": sum(getattr(self, name) * value for name, value in parts.items())} | parts


@torch.inference_mode()
def predict_strokes(model: StrokeNet, image: np.ndarray) -> np.ndarray:
    """image (H, W, 3) uint8 RGB -> (H, W) float32 probability of ink in [0, 1], at the image's own resolution.

    A model trained on letterboxed pages sees the page as it did in training, and the probabilities are scaled back; one
    trained on native crops sees the page in tiles. The model must be in evaluation mode.
    """
    return (predict_tiled if model.config.resize == "crop" else predict_whole)(model, image)


class PaintedTruth(nn.Module):
    """Stands in for the network when the truth itself is sent through the pipeline: bright pixels are ink."""

    def __init__(self, config: StrokesConfig):
        super().__init__()
        self.config = config
        self.brightness = nn.Conv2d(3, 1, 1).requires_grad_(False)  # of the red channel, its normalisation undone
        self.brightness.weight.copy_(torch.tensor([IMAGENET_STD[0], 0.0, 0.0]).reshape(1, 3, 1, 1))
        self.brightness.bias.fill_(IMAGENET_MEAN[0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (B, 3, H, W), a mask painted white on black and normalised -> logits (B, 1, H, W)."""
        return torch.logit(self.brightness(image), eps=1e-6)


def predict_whole(model: StrokeNet, image: np.ndarray) -> np.ndarray:
    """predict_strokes() by scaling the page to fit the training size."""
    h, w = image.shape[:2]
    config = model.config
    scale = min(config.height / h, config.width / w)
    # Whatever would only be padding is left out, up to the next multiple of 32; the scale stays what training used.
    fitted_h, fitted_w = (min(max(round(side * scale), 1), limit)
                          for side, limit in ((h, config.height), (w, config.width)))
    padded, _ = letterbox(image, _round_up(fitted_h), _round_up(fitted_w))
    probability = _probability(model, [padded])[0]
    return cv2.resize(probability[:fitted_h, :fitted_w], (w, h), interpolation=cv2.INTER_LINEAR)


def predict_tiled(model: StrokeNet, image: np.ndarray, overlap: float = 0.25, tiles_at_once: int = 1) -> np.ndarray:
    """predict_strokes() at native resolution, in tiles of the training size whose overlaps are blended.

    overlap: least share of a tile's side that it has in common with the next one, in [0, 1).
    """
    h, w = image.shape[:2]
    tile_h, tile_w = min(model.config.height, _round_up(h)), min(model.config.width, _round_up(w))
    canvas = np.pad(image, ((0, max(tile_h - h, 0)), (0, max(tile_w - w, 0)), (0, 0)))
    tops, lefts = tile_starts(canvas.shape[0], tile_h, overlap), tile_starts(canvas.shape[1], tile_w, overlap)
    ramp_y, ramp_x = _ramp(tile_h, overlap), _ramp(tile_w, overlap)
    total = np.zeros(canvas.shape[:2], np.float32)
    corners = [(top, left) for top in tops for left in lefts]
    for begin in range(0, len(corners), tiles_at_once):
        part = corners[begin : begin + tiles_at_once]
        tiles = _probability(model, [canvas[top : top + tile_h, left : left + tile_w] for top, left in part])
        for (top, left), tile in zip(part, tiles):
            total[top : top + tile_h, left : left + tile_w] += tile * ramp_y[:, None] * ramp_x
    # The tiles stand on a grid and their weight is a product, so the sum of weights is a product as well.
    total /= _summed_ramps(tops, ramp_y, canvas.shape[0])[:, None]
    total /= _summed_ramps(lefts, ramp_x, canvas.shape[1])
    return np.clip(total[:h, :w], 0, 1)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of evenly spread tiles that cover `length` (at least `tile`) with at least this overlap."""
    step = max(int(tile * (1 - overlap)), 1)
    gaps = -(-(length - tile) // step)
    return [number * (length - tile) // max(gaps, 1) for number in range(gaps + 1)]


def _ramp(tile: int, overlap: float) -> np.ndarray:
    """(tile,) float32 weights that fall towards both ends over the overlap and are never 0."""
    edge = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    return np.minimum(edge / max(tile * overlap, 0.5), 1).astype(np.float32)


def _summed_ramps(starts: list[int], ramp: np.ndarray, length: int) -> np.ndarray:
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return total


def _probability(model: StrokeNet, images: list[np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8 images of one size -> (N, H, W) float32 on the CPU."""
    batch = torch.stack([to_tensor(image) for image in images]).to(next(model.parameters()).device)
    return model(batch).float().sigmoid()[:, 0].cpu().numpy()


def _round_up(side: int) -> int:
    return -(-side // SIZE_STEP) * SIZE_STEP


def _probabilities(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 whatever came in: sums over a page of 1536 x 1536 pixels overflow float16."""
    return logits.float().sigmoid(), target.float()


def _sobel_length(image: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) -> length of the Sobel gradient, float32, EDGE_FLOOR where flat; the border is repeated."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=image.device)
    with torch.autocast(image.device.type, enabled=False):
        gradient = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), torch.stack([kernel, kernel.T])[:, None])
    return (gradient.square().sum(1, keepdim=True) + EDGE_FLOOR**2).sqrt()  # the root of 0 has no gradient


def _erode(image: torch.Tensor) -> torch.Tensor:
    return -torch.maximum(F.max_pool2d(-image, (3, 1), 1, (1, 0)), F.max_pool2d(-image, (1, 3), 1, (0, 1)))


def _open(image: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(_erode(image), 3, 1, 1)
