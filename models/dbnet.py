"""DBNet: real-time scene text detection with differentiable binarization (Liao et al., AAAI 2020, arXiv 1911.08947).

Its decoders are in dbnet_decoders.py, its loss in dbnet_loss.py; dbnet_decode.py makes boxes and polygons of its map.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from models.backbones import build_encoder
from models.dbnet_decode import boxes_of_map
from models.dbnet_decoders import DECODERS, conv_block
from models.deformable import deform
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.geometry import PageSize
from utils.images import to_tensor

TTA_SCALES = (0.75, 1.0, 1.25)


@dataclass
class DBNetConfig:
    """encoder: smp's name. decoder: one of DECODERS. channels: width of the pyramid, divisible by 4. deformable: the
    encoder, a ResNet, has deformable convolutions."""

    encoder: str = "resnet18"
    decoder: str = "fpn"
    channels: int = 256
    deformable: bool = False


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
        self.pyramid = DECODERS[config.decoder](list(self.encoder.out_channels[-4:]), config.channels)
        self.prob_head = make_head(config.channels)
        self.thresh_head = make_head(config.channels)
        for module in (self.pyramid, self.prob_head, self.thresh_head):
            module.apply(_initialise)
        if config.deformable:
            deform(self.encoder)
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


@torch.inference_mode()
def probability_map(model: DBNet, image: torch.Tensor) -> np.ndarray:
    """(H, W) float32 of one normalised image (3, H, W) whose sides are multiples of 32."""
    return model(image[None])["prob"][0].float().sigmoid().cpu().numpy()


def averaged_map(model: DBNet, page: np.ndarray, size: PageSize, device: torch.device, mirrored: bool) -> np.ndarray:
    """Test-time augmentation: the mean over TTA_SCALES of the maps of a page (H, W, 3) uint8 RGB, in the frame of
    size.fit(page). mirrored: each scale is looked at in the mirror too, for models that have learnt from mirrored text.
    """
    height, width = size.fit(page)[0].shape[:2]
    total = np.zeros((height, width), np.float32)
    for factor in TTA_SCALES:
        fitted, scale = size.times(factor).fit(page)
        tensor = to_tensor(fitted).to(device)
        prob = probability_map(model, tensor)
        if mirrored:
            prob = (prob + probability_map(model, tensor.flip(-1))[:, ::-1]) / 2
        # Back by the exact ratio of scales; what the padding differs by is cut off or filled with 0.
        ratio = size.scale(*page.shape[:2]) / scale
        shift = (ratio - 1) / 2  # warpAffine counts from the pixels' centres
        total += cv2.warpAffine(prob, np.float64([[ratio, 0, shift], [0, ratio, shift]]), (width, height))
    return total / len(TTA_SCALES)


def predict_boxes(model: DBNet, image: np.ndarray, device: torch.device,
                  thresholds: dict) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Text of one page (H, W, 3) uint8 RGB: quads (N, 4, 2) in pixels of the page, or a list of N polygons (M, 2) where
    the thresholds say so, and their scores (N,).

    thresholds: the checkpoint's: "thresh", "box_thresh", "unclip_ratio", "long_side" or "short_side", the size the page
    is read at, and "output", 'quad' (also where it is absent) or 'polygon'.
    """
    fitted, scale = PageSize.of(thresholds).fit(image)
    prob = probability_map(model, to_tensor(fitted).to(device))
    return boxes_of_map(prob, scale, image.shape[:2], thresholds)


def load_model(path: Path, device: torch.device) -> tuple[DBNet, dict]:
    """(model in evaluation mode, its checkpoint) from nothing but the file."""
    checkpoint = load_checkpoint(path, "detection")
    model = DBNet(DBNetConfig(**checkpoint["config"]))
    load_weights(model, weights_of(checkpoint), path)
    return model.to(device).eval(), checkpoint
