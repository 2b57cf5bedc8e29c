"""DBNet: real-time scene text detection with differentiable binarization (Liao et al., AAAI 2020, arXiv 1911.08947)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from models.backbones import build_encoder
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.geometry import fit_to_side, min_area_quad
from utils.images import to_tensor

DECODERS = ("fpn", "pan")
STEEPNESS = 50.0  # k of the differentiable binarization
PROB_WEIGHT, THRESH_WEIGHT, BINARY_WEIGHT = 5.0, 10.0, 1.0
HARD_NEGATIVES = 3


@dataclass
class DBNetConfig:
    """encoder: smp's name. decoder: 'fpn' or 'pan'. channels: width of the pyramid, divisible by 4."""

    encoder: str = "resnet18"
    decoder: str = "fpn"
    channels: int = 256


def conv_block(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside),
                         nn.ReLU(inplace=True))


class Pyramid(nn.Module):
    """Four maps at strides 4, 8, 16, 32 to one of `channels` at stride 4: top-down, for 'pan' then bottom-up too
    (path aggregation: Liu et al., CVPR 2018), each reduced to a quarter of the channels and joined."""

    def __init__(self, inside: list[int], channels: int, bottom_up: bool):
        super().__init__()
        self.lateral = nn.ModuleList(conv_block(width, channels, kernel=1) for width in inside)
        self.down = nn.ModuleList(conv_block(channels, channels, stride=2) for _ in inside[1:]) if bottom_up else None
        self.reduce = nn.ModuleList(conv_block(channels, channels // 4) for _ in inside)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        maps = [lateral(m) for lateral, m in zip(self.lateral, maps)]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], size=maps[level].shape[-2:], mode="nearest")
        if self.down is not None:
            for level, down in enumerate(self.down):
                maps[level + 1] = maps[level + 1] + down(maps[level])
        maps = [reduce(m) for reduce, m in zip(self.reduce, maps)]
        size = maps[0].shape[-2:]
        return torch.cat([maps[0], *(F.interpolate(m, size=size, mode="nearest") for m in maps[1:])], dim=1)


def make_head(channels: int) -> nn.Sequential:
    """Logits at stride 1 from the pyramid at stride 4."""
    quarter = channels // 4
    return nn.Sequential(conv_block(channels, quarter), nn.ConvTranspose2d(quarter, quarter, 2, 2),
                         nn.BatchNorm2d(quarter), nn.ReLU(inplace=True), nn.ConvTranspose2d(quarter, 1, 2, 2))


class DBNet(nn.Module):
    """(B, 3, H, W) normalised images, H and W multiples of 32 -> {"prob", "thresh"}: (B, H, W) logits.

    In evaluation mode the threshold head is not computed and "thresh" is absent: only training needs it.
    """

    def __init__(self, config: DBNetConfig, encoder_weights: str = "none"):
        super().__init__()
        self.config = config
        self.encoder, self.encoder_source = build_encoder(config.encoder, encoder_weights)
        self.pyramid = Pyramid(self.encoder.out_channels[-4:], config.channels, config.decoder == "pan")
        self.prob_head = make_head(config.channels)
        self.thresh_head = make_head(config.channels)
        for module in (self.pyramid, self.prob_head, self.thresh_head):
            module.apply(_initialise)
        # Text covers a few per cent of a page: start near that, not at one half.
        nn.init.constant_(self.prob_head[-1].bias, -2.0)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.pyramid(list(self.encoder(image)[-4:]))
        out = {"prob": self.prob_head(features).squeeze(1)}
        if self.training:
            out["thresh"] = self.thresh_head(features).squeeze(1)
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def db_loss(out: dict[str, torch.Tensor], batch: dict) -> tuple[dict[str, torch.Tensor], int]:
    """({"loss", "prob", "thresh", "binary"} means over images, number of images), in float32.

    Each term is taken image by image, so that accumulation and ranks change nothing. The weights are the paper's
    (alpha 1, beta 10) times the 5 that the authors' code gives the probability map.
    """
    with torch.autocast(out["prob"].device.type, enabled=False):
        prob, thresh = out["prob"].float(), out["thresh"].float()
        shrink, mask = batch["shrink_map"], batch["shrink_mask"]
        parts = {"prob": balanced_bce(prob, shrink, mask).mean(),
                 "thresh": masked_l1(thresh.sigmoid(), batch["thresh_map"], batch["thresh_mask"]).mean(),
                 "binary": dice_loss(torch.sigmoid(STEEPNESS * (prob.sigmoid() - thresh.sigmoid())), shrink, mask).mean()}
        loss = PROB_WEIGHT * parts["prob"] + THRESH_WEIGHT * parts["thresh"] + BINARY_WEIGHT * parts["binary"]
    return {"loss": loss} | parts, len(prob)


def balanced_bce(logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) binary cross-entropy over the text pixels and the hardest background pixels, three to one.

    A page with little or no text keeps at least 1/64 of its pixels as background, or it would teach nothing: the
    well-known form returns exactly 0 on a blank page. All (B, H, W); target and mask are 0 or 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * mask
    positive, negative = (target * mask).flatten(1), ((1 - target) * mask).flatten(1)
    loss = loss.flatten(1)
    counts = torch.stack([positive.sum(1), negative.sum(1)]).long().tolist()
    rows = []
    for row, (n_positive, n_negative) in enumerate(zip(*counts)):
        hard = min(max(HARD_NEGATIVES * n_positive, loss.shape[1] // 64), n_negative)
        hardest = (loss[row] * negative[row]).topk(hard, sorted=False).values.sum()
        rows.append(((loss[row] * positive[row]).sum() + hardest) / max(n_positive + hard, 1))
    return torch.stack(rows)


def masked_l1(value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) mean absolute difference inside the mask; 0 where it is empty."""
    return ((value - target).abs() * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def dice_loss(value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) 1 - (2 |X and Y| + 1) / (|X| + |Y| + 1) inside the mask: on a blank page what is found is still punished."""
    value, target = (value * mask).flatten(1), (target * mask).flatten(1)
    return 1 - (2 * (value * target).sum(1) + 1) / (value.sum(1) + target.sum(1) + 1)


def decode_boxes(prob: np.ndarray, thresh: float = 0.3, box_thresh: float = 0.6, unclip_ratio: float = 1.5,
                 max_candidates: int = 1000, min_side: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Rotated rectangles from a probability map (H, W) float32 in [0, 1].

    Returns quads (N, 4, 2) float32 in pixels of the map, clockwise from the top left, and scores (N,): the mean
    probability inside the rectangle before it is grown. A rectangle is grown by D = A * unclip_ratio / L on each side,
    exactly and without polygon offsetting. Smaller ones than `min_side` before or `min_side` + 2 after are left out.
    """
    binary = (prob > thresh).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) > max_candidates:
        contours = sorted(contours, key=cv2.contourArea, reverse=True)[:max_candidates]
    quads, scores = [], []
    for contour in contours:
        # Contours run through pixel centres: the region is one pixel larger each way.
        (x, y), (width, height), angle = cv2.minAreaRect(contour)
        x, y, width, height = x + 0.5, y + 0.5, width + 1, height + 1
        if min(width, height) < min_side:
            continue
        score = mean_inside(prob, cv2.boxPoints(((x - 0.5, y - 0.5), (width - 1, height - 1), angle)))
        if score < box_thresh:
            continue
        grow = width * height * unclip_ratio / (2 * (width + height))
        width, height = width + 2 * grow, height + 2 * grow
        if min(width, height) < min_side + 2:
            continue
        quads.append(min_area_quad(cv2.boxPoints(((x, y), (width, height), angle))))
        scores.append(score)
    return np.array(quads, np.float32).reshape(-1, 4, 2), np.array(scores, np.float32)


def mean_inside(prob: np.ndarray, quad: np.ndarray) -> float:
    """Mean of the map over the pixels of a quad (4, 2) given by pixel centres; 0 where it lies outside."""
    height, width = prob.shape
    x0, y0 = np.clip(np.floor(quad.min(0)).astype(int), 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(quad.max(0)).astype(int) + 1, 1, (width, height))
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.round(quad - (x0, y0)).astype(np.int32)], 1)
    return float(cv2.mean(prob[y0:y1, x0:x1], mask)[0])


@torch.inference_mode()
def probability_map(model: DBNet, image: torch.Tensor) -> np.ndarray:
    """(H, W) float32 of one normalised image (3, H, W) whose sides are multiples of 32."""
    return model(image[None])["prob"][0].float().sigmoid().cpu().numpy()


def predict_boxes(model: DBNet, image: np.ndarray, device: torch.device, thresholds: dict,
                  use_amp: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Text boxes of one page (H, W, 3) uint8 RGB: quads (N, 4, 2) in pixels of the page, and their scores (N,).

    thresholds: the checkpoint's: "thresh", "box_thresh", "unclip_ratio" and "long_side", the size the page is read at.
    """
    fitted, scale = fit_to_side(image, thresholds["long_side"])
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_amp):
        prob = probability_map(model, to_tensor(fitted).to(device))
    quads, scores = decode_boxes(prob, thresholds["thresh"], thresholds["box_thresh"], thresholds["unclip_ratio"])
    return clip_quads(quads / scale, *image.shape[:2]), scores


def clip_quads(quads: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(quads, 0, (width, height)).astype(np.float32)


def load_model(path: Path, device: torch.device) -> tuple[DBNet, dict]:
    """(model in evaluation mode, its checkpoint) from nothing but the file."""
    checkpoint = load_checkpoint(path, "detection")
    model = DBNet(DBNetConfig(**checkpoint["config"]))
    load_weights(model, weights_of(checkpoint), path)
    return model.to(device).eval(), checkpoint
