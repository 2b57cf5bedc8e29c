"""Crops of text lines in, text out: by a PARSeq, or by models.onnx_recognition.OnnxReader, which has its face."""

import math
from collections import defaultdict
from functools import partial
from operator import itemgetter
from typing import Any, Callable

import numpy as np
import torch

from models.ctc import Frame, likely, path_logits
from models.ctc_beam import LEAST, beam_search
from models.language import Language
from models.parseq import PARSeq, most_probable, read_raw, with_scores
from utils.charset import one_space
from utils.text_crops import cut_line, is_tall, resize_crop, stack_crops, turn_left, turn_right

SQUASH = 1.25  # how much a line may be squashed to the widest crop before it is cut instead
# A crop so many times as high as wide is no character: of 49 that were, in training's receipts and scenes, all were 1, L or
# a colon, which read turned are nothing. A line squeezed to a few pixels is a colon, though, and surer than what it says.
UPRIGHT = 3.0
SENSE = 0.1  # the score from which a turned crop's two characters or more count as a line


@torch.no_grad()
def recognise(model: PARSeq, crops: list[np.ndarray], device: torch.device, batch_size: int = 64,
              decode: str | None = None, refine_iters: int | None = None) -> list[tuple[str, float]]:
    """Read crops of text lines, (h, w, 3) uint8 RGB of any size; (text, score) for each, in order. decode, refine_iters:
    None for the model's own, with which it was validated.

    score: the product of the probabilities of the characters and of the EOS behind them, 0 to 1. A crop higher than 1.5
    times its width is read as it stands and turned both ways, and the highest score wins (best_view). A line far longer than
    the widest crop of the training is read in pieces, not squashed. An empty crop is ("", 0.0).
    """
    model.eval()
    decode = model.reading["decode"] if decode is None else decode
    refine_iters = model.reading["refine_iters"] if refine_iters is None else refine_iters
    read = partial(read_raw, model, decode=decode, refine_iters=refine_iters)
    return [best_view(views, crop)[:2] for crop, views in zip(crops, read_views(model, crops, device, batch_size, read))]


@torch.no_grad()
def recognise_with_answers(model: PARSeq, crops: list[np.ndarray], device: torch.device, language: Language, doubt: float,
                           batch_size: int = 64) -> list[tuple[str, float, dict[str, float] | None]]:
    """`recognise` by the CTC head, and for a line with a score below `doubt` what `answers` gives, without another look. None
    for the others, for empty crops, and where a piece of the line was read with more certainty than that."""
    model.eval()
    found = []
    for crop, views in zip(crops, read_views(model, crops, device, batch_size, partial(read_and_see, model, doubt))):
        text, score, parts = best_view(views, crop)
        shares = None
        if parts and all(seen is not None for (_, _, seen), _ in parts):  # and so the score is below `doubt`
            frames = [frame for (_, _, seen), gap in parts for frame in [*seen, behind(gap, model.charset.ids)]]
            shares = spaced_answers(frames, model.charset.characters, language)
        found.append((text, score, shares))
    return found


def read_views(model: PARSeq, crops: list[np.ndarray], device: torch.device, batch_size: int,
               read: Callable) -> list[list[tuple[str, float, list]]]:
    """(text, score, [(what `read` gave for a piece, its gap)]) of each way up of each crop; none of an empty one."""
    lines = [pieces(model, ways_up(crop)) if crop.size else [] for crop in crops]
    flat = [piece for views in lines for line in views for piece, _ in line]
    readings = iter(in_batches(model, flat, device, batch_size, read))
    found = []
    for views in lines:
        found.append([])
        for line in views:
            parts = [(next(readings), gap) for _, gap in line]
            text = "".join(reading[0] + gap for reading, gap in parts)
            found[-1].append((one_space(text), math.prod(reading[1] for reading, _ in parts), parts))
    return found


def best_view(views: list[tuple[str, float, list]], crop: np.ndarray) -> tuple[str, float, list]:
    """The surest of a crop's views (ways_up); of one far higher than wide the surest that is turned, where that makes a
    line. ("", 0.0, []) without views."""
    if crop.size and crop.shape[0] > UPRIGHT * crop.shape[1]:
        views = [view for view in views[1:] if len(view[0]) > 1 and view[1] >= SENSE] or views
    return max(views, key=itemgetter(1), default=("", 0.0, []))


def read_and_see(model: PARSeq, doubt: float, images: torch.Tensor,
                 widths: torch.Tensor) -> list[tuple[str, float, list[Frame] | None]]:
    """(text, score, what the CTC head saw where the score is below `doubt`) of a batch as stack_crops makes it."""
    frames, used = model.see(images, widths)
    logits = path_logits(frames, used, model.config.max_label_length + 1, model.charset.case_pairs)
    readings = with_scores(model.charset, *most_probable(logits, model.temperature))
    rows = [row for row, (_, score) in enumerate(readings) if score < doubt]
    seen = dict(zip(rows, likely(frames[rows], [used[row] for row in rows], LEAST)))
    return [(*reading, seen.get(row)) for row, reading in enumerate(readings)]


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
    frames = iter(in_batches(model, [piece for line in lines for piece, _ in line], device, batch_size,
                             lambda images, widths: likely(*model.see(images, widths), LEAST)))
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
            for frames in likely(*model.see(images, widths), LEAST)]


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
