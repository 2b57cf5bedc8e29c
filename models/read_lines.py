"""Crops of text lines in, text out: by a PARSeq, or by models.onnx_recognition.OnnxReader, which has its face."""

import math

import numpy as np
import torch

from models.parseq import PARSeq, read_raw
from utils.charset import one_space
from utils.text_crops import cut_line, is_tall, resize_crop, stack_crops, turn_left, turn_right

SQUASH = 1.25  # how much a line may be squashed to the widest crop before it is cut instead


@torch.no_grad()
def recognise(model: PARSeq, crops: list[np.ndarray], device: torch.device, batch_size: int = 64,
              decode: str | None = None, refine_iters: int | None = None) -> list[tuple[str, float]]:
    """Read crops of text lines, (h, w, 3) uint8 RGB of any size; (text, score) for each, in order. decode, refine_iters:
    None for the model's own, with which it was validated.

    score: the product of the probabilities of the characters and of the EOS behind them, 0 to 1. A crop higher than 1.5
    times its width is read as it stands and turned both ways, and the highest score wins. A line far longer than the
    widest crop of the training is read in pieces, not squashed. An empty crop is ("", 0.0).
    """
    model.eval()
    config = model.config
    decode = model.reading["decode"] if decode is None else decode
    refine_iters = model.reading["refine_iters"] if refine_iters is None else refine_iters
    longest = float("inf") if config.stretch else SQUASH * config.img_width / config.img_height
    views = [(place, cut_line(view, longest)) for place, crop in enumerate(crops) if crop.size for view in ways_up(crop)]
    pieces = [resize_crop(piece, config.img_height, config.img_width, config.stretch)
              for _, line in views for piece, _ in line]
    readings = iter(read_in_batches(model, pieces, device, batch_size, decode, refine_iters))
    best = [("", 0.0)] * len(crops)
    for place, line in views:
        parts = [(*next(readings), gap) for _, gap in line]
        text, score = "".join(text + gap for text, _, gap in parts), math.prod(score for _, score, _ in parts)
        best[place] = max(best[place], (one_space(text), score), key=lambda pair: pair[1])
    return best


def ways_up(crop: np.ndarray) -> list[np.ndarray]:
    """The crop, and turned both ways where it may be a line on its side."""
    return [crop, turn_left(crop), turn_right(crop)] if is_tall(*crop.shape[:2]) else [crop]


def read_in_batches(model: PARSeq, crops: list[np.ndarray], device: torch.device, batch_size: int, decode: str,
                    refine_iters: int) -> list[tuple[str, float]]:
    """(text, score) of resized crops, in order. Like widths go together: a short word does not pay for a long line."""
    order = sorted(range(len(crops)), key=lambda index: crops[index].shape[1])
    found = [("", 0.0)] * len(crops)
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        images, widths = stack_crops([crops[index] for index in part], model.config.bucket, model.config.img_width)
        for index, reading in zip(part, read_raw(model, images.to(device), widths.to(device), decode, refine_iters)):
            found[index] = reading
    return found
