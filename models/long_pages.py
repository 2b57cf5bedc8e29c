"""Pages many times as high as wide, such as till rolls: networks see pages at one size, on which these are threads."""

from typing import Callable

import numpy as np

from models.skew import Found
from utils.geometry import box_iou, quads_round

# Times as high as wide. Two, three and twelve receipts of SROIE's validation on one strip: 0.909, 0.910 and 0.906 of the
# lines are read exactly so; as one page 0.858, 0.692 and next to none.
LONG = 3.0
WINDOW, LEAST = 2.0, 640  # how high one window is: times the width, but at least so many pixels
OVERLAP = 0.25  # of a window's height, that it has in common with the next one, at least
SAME = 0.5  # IoU of two boxes from which they are one


def find_in_windows(images: list[np.ndarray], find: Callable[[list[np.ndarray]], list[Found]]) -> list[Found]:
    """Text of each page (H, W, 3) uint8, in its pixels: as `find` finds it there, or, on long pages, in windows one below
    the other."""
    parts = [windows(*image.shape[:2]) for image in images]
    found = iter(find([image[top:bottom] for image, spans in zip(images, parts) for top, bottom in spans]))
    return [_joined([next(found) for _ in spans], spans) for spans in parts]


def windows(height: int, width: int) -> list[tuple[int, int]]:
    """(top, bottom) of what is looked at one by one: all of a page, or evenly spread windows of a long one."""
    size = max(round(WINDOW * width), LEAST)
    if height <= max(LONG * width, size):
        return [(0, height)]
    gaps = int(np.ceil((height - size) / (size * (1 - OVERLAP))))
    tops = np.linspace(0, height - size, gaps + 1).round().astype(int)
    return [(top, top + size) for top in tops.tolist()]


def tile_for(height: int, width: int) -> int:
    """The side of the tiles, in pixels, in which marks of a long page are looked for beside all of it; 0 for other pages.
    Signatures on eight letters one below the other: mAP50 0.00 without, 0.76 so, 0.59 in tiles twice as large (one letter
    alone 0.77)."""
    shorter = min(height, width)
    return max(shorter, LEAST) if max(height, width) > LONG * shorter else 0


def _joined(found: list[Found], spans: list[tuple[int, int]]) -> Found:
    """Of what two windows show, the one whose middle is nearer has it."""
    if len(found) == 1:
        return found[0]
    middles = [(below + bottom) / 2 for (_, bottom), (below, _) in zip(spans, spans[1:])]
    shapes, scores, boxes = [], [], np.zeros((0, 4))
    for (shapes_here, scores_here), (top, _), low, high in zip(found, spans, [-np.inf, *middles], [*middles, np.inf]):
        quads = quads_round(shapes_here) + np.float32([0, top])
        bounds = np.concatenate([quads.min(1), quads.max(1)], 1)
        centres = bounds[:, 1::2].mean(1)
        own = (centres >= low) & (centres < high) & ~(box_iou(bounds, boxes) > SAME).any(1)
        shapes += [shapes_here[place] + np.float32([0, top]) for place in np.flatnonzero(own)]
        scores.append(scores_here[own])
        boxes = bounds[own]
    scores = np.concatenate(scores)
    return (shapes if isinstance(found[0][0], list) else np.float32(shapes).reshape(-1, 4, 2)), scores
