"""Crops of text lines in, text out: by a PARSeq, or by models.onnx_recognition.OnnxReader, which has its face."""

import math
from collections import defaultdict
from functools import partial
from operator import itemgetter
from typing import Any, Callable

import numpy as np
import torch

from models.ctc import Frame
from models.ctc_beam import LEAST, beam_search
from models.language import Language
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
    decode = model.reading["decode"] if decode is None else decode
    refine_iters = model.reading["refine_iters"] if refine_iters is None else refine_iters
    views = [(place, line) for place, crop in enumerate(crops) if crop.size for line in pieces(model, ways_up(crop))]
    read = partial(read_raw, model, decode=decode, refine_iters=refine_iters)
    readings = iter(in_batches(model, [piece for _, line in views for piece, _ in line], device, batch_size, read))
    best = [("", 0.0)] * len(crops)
    for place, line in views:
        parts = [(*next(readings), gap) for _, gap in line]
        text, score = "".join(text + gap for text, _, gap in parts), math.prod(score for _, score, _ in parts)
        best[place] = max(best[place], (one_space(text), score), key=lambda pair: pair[1])
    return best


def ways_up(crop: np.ndarray) -> list[np.ndarray]:
    """The crop, and turned both ways where it may be a line on its side."""
    return [crop, turn_left(crop), turn_right(crop)] if is_tall(*crop.shape[:2]) else [crop]


def pieces(model: PARSeq, lines: list[np.ndarray]) -> list[list[tuple[np.ndarray, str]]]:
    """Each line as the crops that the model sees of it, and what stands between them (utils.text_crops.cut_line)."""
    config = model.config
    longest = float("inf") if config.stretch else SQUASH * config.img_width / config.img_height
    return [[(resize_crop(piece, config.img_height, config.img_width, config.stretch), gap)
             for piece, gap in cut_line(line, longest)] for line in lines]


@torch.no_grad()
def answers(model: PARSeq, crops: list[np.ndarray], device: torch.device, language: Language,
            batch_size: int = 64) -> list[dict[str, float]]:
    """What each crop of a lying line, (h, w, 3) uint8 RGB and not empty, may say by the CTC head and by the language:
    {text: share of the probability}."""
    model.eval()
    lines = pieces(model, crops)
    read = partial(model.ctc_frames, least=LEAST)
    frames = iter(in_batches(model, [piece for line in lines for piece, _ in line], device, batch_size, read))
    found = []
    for line in lines:
        joined = [frame for _, gap in line for frame in [*next(frames), behind(gap, model.charset.ids)]]
        found.append(spaced_answers(joined, model.charset.characters, language))
    return found


def spaced_answers(frames: list[Frame], characters: str, language: Language) -> dict[str, float]:
    """beam_search, gaps as labels have them."""
    shares: dict[str, float] = defaultdict(float)
    for text, share in beam_search(frames, characters, language).items():
        shares[one_space(text)] += share
    return dict(shares)


@torch.no_grad()
def read_by_language(model: PARSeq, language: Language, images: torch.Tensor, widths: torch.Tensor) -> list[tuple[str, float]]:
    """(text, its share of the probability) of a batch as stack_crops makes it, by the CTC head and by the language."""
    return [max(spaced_answers(frames, model.charset.characters, language).items(), key=itemgetter(1))
            for frames in model.ctc_frames(images, widths, LEAST)]


def behind(gap: str, ids: dict[str, int]) -> Frame:
    """A frame for what stands behind a piece: its gap, or blank."""
    return Frame(0.0, [(ids[gap], 1.0)]) if gap in ids else Frame(1.0, [])


def in_batches(model: PARSeq, crops: list[np.ndarray], device: torch.device, batch_size: int, read: Callable) -> list[Any]:
    """What read(images, widths) gives for each resized crop, in order. Like widths go together: a short word does not pay
    for a long line."""
    order = sorted(range(len(crops)), key=lambda index: crops[index].shape[1])
    found: list[Any] = [None] * len(crops)
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        images, widths = stack_crops([crops[index] for index in part], model.config.bucket, model.config.img_width)
        for index, result in zip(part, read(images.to(device), widths.to(device))):
            found[index] = result
    return found
