"""Small text on part of a picture, as of a sheet on a table: the detector sees pages at one size, on which it is too small."""

from typing import Callable

import numpy as np

from models.orientation import sides
from models.skew import Found, amount
from utils.geometry import quads_round

SMALL = 0.011  # of the picture's longer side: lines lower than that (14 pixels of 1280) are looked at from nearer by,
PART = 0.75  # where they are spread over less than this share of it
ROUND = 0.05  # of the longer side, that is shown beside them
KEPT = 0.9  # of the text must be found there again


def find_nearer(images: list[np.ndarray], find: Callable[[list[np.ndarray]], list[Found]]) -> list[Found]:
    """Text of each picture (H, W, 3) uint8, in its pixels: as `find` finds it there, or in the part where it found small
    text, if not much less is found so."""
    found = list(find(images))
    parts = {number: part for number, (image, (shapes, _)) in enumerate(zip(images, found))
             if (part := part_with_small_text(quads_round(shapes), *image.shape[:2]))}
    again = find([images[number][part] for number, part in parts.items()]) if parts else []
    for (number, (down, right)), (shapes, scores) in zip(parts.items(), again):
        if amount(shapes, scores) >= KEPT * amount(*found[number]):
            corner = np.float32([right.start, down.start])
            found[number] = [shape + corner for shape in shapes] if isinstance(shapes, list) else shapes + corner, scores
    return found


def part_with_small_text(quads: np.ndarray, height: int, width: int) -> tuple[slice, slice] | None:
    """Where on a picture of that size its text (N, 4, 2) is, as (rows, columns); None where it is large enough, or all over
    the picture."""
    if not len(quads):
        return None
    longer = max(height, width)
    low, high = quads.min((0, 1)), quads.max((0, 1))
    if np.median(sides(quads).min(1)) >= SMALL * longer or max(high - low) >= PART * longer:
        return None
    (left, top), (right, bottom) = np.floor(low - ROUND * longer).astype(int), np.ceil(high + ROUND * longer).astype(int)
    return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
