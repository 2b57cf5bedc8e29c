"""Stroke masks: which pixels of a page are ink. Network, and prediction at the page's own resolution.

The networks are those of segmentation_models_pytorch. What keeps close strokes apart is the stride they predict at:
bilinear logits fitted straight to the truth reach F1 0.60, 0.74, 0.89 and 0.99 at stride 16, 8, 4 and 2.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Callable, Sequence

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from models.backbones import build_encoder, load_encoder_file, unknown_encoder
from models.refine_strokes import refine_predictions
from models.stroke_memory import forward_in_pieces, use_group_norm
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.errors import DataError
from utils.geometry import letterbox
from utils.images import IMAGENET_MEAN, IMAGENET_STD, to_tensor

TASK = "segmentation"
ARCHITECTURES = tuple(smp.MODEL_ARCHITECTURES_MAPPING)
# Networks that predict on a coarser grid and enlarge the result; all others predict every pixel.
COARSE_STRIDE = {"dpt": 2, "fpn": 4, "segformer": 4, "upernet": 4, "deeplabv3plus": 4, "pan": 4, "pspnet": 8}
POOLED_NORM = ("deeplabv3", "deeplabv3plus", "pan", "upernet")  # batch norm behind a pooling to a single pixel
WIDE_DECODERS = ("unet", "unetplusplus", "manet")  # whose decoder has a width for each stage
DECODER_CHANNELS = (256, 128, 64, 32, 16)  # smp's default of these
SIZE_STEP = 32  # networks halve their input five times
LEAST_SIDE = {"pan": 128}  # which pools what is halved four times by 2, three times more


@dataclass
class StrokesConfig:
    """height, width: training size in pixels, multiples of 32. resize: 'letterbox' (the whole page scaled to fit) or
    'crop' (pieces at native resolution; pages are then predicted tile by tile). freeze_bn: batch norm keeps its
    statistics, so that micro-batches of one image are seen as those of a hundred. encoder_depth: how often the encoder
    halves its input. decoder_channels: widths of the decoder's stages, coarsest first, as many as encoder_depth; none:
    smp's own. norm: 'batch', or 'group', which needs no batch. output_stride: of deeplabv3, 8 or 16."""

    arch: str = "unet"
    encoder: str = "tu-mobilenetv3_large_100"
    height: int = 1536
    width: int = 1536
    resize: str = "letterbox"
    freeze_bn: bool = False
    encoder_depth: int = 5
    decoder_channels: tuple[int, ...] = ()
    norm: str = "batch"
    output_stride: int = 8


class StrokeNet(nn.Module):
    """An smp network with one output channel; `encoder_source` says what its encoder starts from. With
    `grad_checkpointing` set, training keeps few activations and computes the rest twice.

    encoder_weights: as in models.backbones.build_encoder; dpt, which has encoders of its own, takes 'none' or a file.
    Raises DataError where architecture and encoder do not go together, or the weights do not fit.
    """

    def __init__(self, config: StrokesConfig, encoder_weights: str = "none"):
        super().__init__()
        self.config, self.grad_checkpointing = config, False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.network = smp.create_model(config.arch, config.encoder, encoder_weights=None, classes=1,
                                                **_shape(config))
        except Exception as error:  # smp and timm raise KeyError, ValueError, RuntimeError, AssertionError, ...
            if unknown := unknown_encoder(config.encoder):
                raise DataError(unknown) from None
            reason = shorten(str(error.args[0] if error.args else type(error).__name__), 200, placeholder=" ...")
            raise DataError(f"--arch {config.arch} with --encoder {config.encoder} cannot be built ({reason}); "
                            "take another encoder") from None
        self.encoder_source = self._load_encoder(encoder_weights)
        if config.norm == "group":
            use_group_norm(self.network)
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
        if self.grad_checkpointing and self.training:
            return forward_in_pieces(self.network, image)
        return self.network(image)

    def train(self, mode: bool = True) -> "StrokeNet":
        super().train(mode)
        if self.config.freeze_bn:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def _shape(config: StrokesConfig) -> dict:
    """What smp's constructor must be told where it is not its default."""
    shape = {}
    if config.arch == "dpt" and "vit" in config.encoder:
        shape["dynamic_img_size"] = True
    if config.arch == "deeplabv3":
        shape["encoder_output_stride"] = config.output_stride
    if config.encoder_depth != 5:
        shape["encoder_depth"] = config.encoder_depth
    if config.arch in WIDE_DECODERS and (config.decoder_channels or config.encoder_depth != 5):
        shape["decoder_channels"] = config.decoder_channels or DECODER_CHANNELS[-config.encoder_depth :]
    return shape


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[StrokeNet, dict]:
    """(model in evaluation mode, its checkpoint); checkpoint["thresholds"]["ink"] is the probability of ink."""
    checkpoint = load_checkpoint(path, TASK)
    model = StrokeNet(StrokesConfig(**checkpoint["config"]))
    load_weights(model, weights_of(checkpoint), path)
    return model.to(device).eval(), checkpoint


def why_not(arch: str, encoder: str, micro_batch: int, encoder_weights: str, freeze_bn: bool, encoder_depth: int = 5,
            decoder_channels: Sequence[int] = ()) -> str:
    """Why this combination cannot be trained, or an empty string. Other misfits show when the network is built."""
    if arch in ("unetplusplus", "linknet") and encoder.startswith("mit_"):
        return f"--arch {arch} needs an encoder with features at stride 2, which {encoder} does not have"
    if arch in ("deeplabv3", "deeplabv3plus", "pan") and "hrnet" in encoder:
        return f"--arch {arch} dilates its encoder, which {encoder} does not allow"
    if arch in POOLED_NORM and micro_batch == 1 and not freeze_bn:
        return (f"--arch {arch} normalises a single pixel per image and cannot learn from one image at a time; "
                "take --batch-size 2 or more, or --freeze-bn")
    if decoder_channels and arch not in WIDE_DECODERS:
        return f"--decoder-channels is for {', '.join(WIDE_DECODERS)}, whose decoders have a width for each stage"
    if decoder_channels and len(decoder_channels) != encoder_depth:
        return f"--decoder-channels needs --encoder-depth numbers, {encoder_depth}"
    if arch == "dpt" and encoder_weights == "imagenet":
        return "--arch dpt takes its encoder's weights from a file (--encoder-weights PATH), or none"
    return ""


def coarse_warning(arch: str, output_stride: int) -> str:
    """A warning for architectures whose grid is too coarse for thin strokes, or an empty string."""
    stride = output_stride if arch == "deeplabv3" else COARSE_STRIDE.get(arch, 1)
    return "" if stride < 4 else (f"warning: --arch {arch} predicts at stride {stride} and enlarges: strokes closer "
                                  "than that will merge; unet, unetplusplus, manet and linknet predict every pixel")


def find_ink(model: StrokeNet, checkpoint: dict, image: np.ndarray) -> np.ndarray:
    """image (H, W, 3) uint8 RGB -> (H, W) bool, True = ink: at the checkpoint's threshold, and after the steps of
    post-processing that it was found to bear."""
    probability = predict_strokes(model, image)
    refine = refiner(**checkpoint.get("postproc", {}))
    return refine(probability >= checkpoint["thresholds"]["ink"], probability)


def refiner(steps: Sequence[str] = (), max_gap: float = 5.0, deviation_threshold: float = 2.0) -> Callable:
    """refine(mask, probability) -> mask, by models.refine_strokes.refine_predictions with these settings."""
    return partial(refine_predictions, steps=tuple(steps), max_gap=max_gap, deviation_threshold=deviation_threshold)


@torch.inference_mode()
def predict_strokes(model: StrokeNet, image: np.ndarray, tta: bool = False, tiles_at_once: int = 1) -> np.ndarray:
    """image (H, W, 3) uint8 RGB -> (H, W) float32 probability of ink in [0, 1], at the image's own resolution.

    tta: the mean over the page and the page turned upside down; its mirror images would look like ink from behind.
    tiles_at_once: tiles in a batch.

    A model trained on letterboxed pages sees the page as it did in training, and the probabilities are scaled back; one
    trained on native crops sees the page in tiles. The model must be in evaluation mode.
    """
    tiled = partial(predict_tiled, tiles_at_once=tiles_at_once)
    predict = tiled if model.config.resize == "crop" else predict_whole
    if not tta:
        return predict(model, image)
    return (predict(model, image) + predict(model, np.ascontiguousarray(image[::-1, ::-1]))[::-1, ::-1]) / 2


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
    canvas = np.pad(image, ((0, _round_up(h) - h), (0, _round_up(w) - w), (0, 0)))
    tops, lefts = (tile_starts(length, tile, overlap, SIZE_STEP)
                   for length, tile in zip(canvas.shape, (tile_h, tile_w)))
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


def tile_starts(length: int, tile: int, overlap: float, grid: int = 1) -> list[int]:
    """First pixels of evenly spread tiles that cover `length` (at least `tile`) with at least this overlap.

    They are multiples of `grid`, which must divide the length and the tile: the cells that a network pools are then the
    same in every tile.
    """
    step = max(int(tile * (1 - overlap)) // grid * grid, grid)
    gaps = -(-(length - tile) // step)
    return [number * (length - tile) // max(gaps, 1) // grid * grid for number in range(gaps + 1)]


def _ramp(tile: int, overlap: float) -> np.ndarray:
    """(tile,) float32 weights that fall towards both ends over the overlap and are never 0: slowly at first and at last
    (3 t^2 - 2 t^3), because at its very border a tile knows least."""
    edge = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    t = np.minimum(edge / max(tile * overlap, 0.5), 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _summed_ramps(starts: list[int], ramp: np.ndarray, length: int) -> np.ndarray:
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return total


def _probability(model: StrokeNet, images: list[np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8 images of one size -> (N, H, W) float32 on the CPU."""
    h, w = images[0].shape[:2]
    least = LEAST_SIDE.get(model.config.arch, 0)
    missing = (0, max(least - h, 0)), (0, max(least - w, 0)), (0, 0)
    batch = torch.stack([to_tensor(np.pad(image, missing)) for image in images])
    batch = batch.to(next(model.parameters(), batch).device)
    return model(batch).float().sigmoid()[:, 0, :h, :w].cpu().numpy()


def _round_up(side: int) -> int:
    return -(-side // SIZE_STEP) * SIZE_STEP
