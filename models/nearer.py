"""Small text on part of a picture, as of a sheet on a table, and its marks: networks see pages at one size, on which they
are too small."""

from typing import Callable

import numpy as np

from models.orientation import sides
from models.skew import LINES, Found, amount
from utils.geometry import box_iou, quads_round

SMALL = 0.011  # of the picture's longer side: lines lower than that (14 pixels of 1280) are looked at from nearer by,
PART = 0.75  # where they are spread over less than this share of it
ROUND, ROUND_MARKS = 0.05, 0.1  # of the longer side, that is shown beside them: stamps and signatures stand off the text
KEPT = 0.9  # of the text must be found there again
EDGE, SAME = 2.0, 0.45  # pixels; IoU from which marks of both looks are one


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


def find_marks_nearer(image: np.ndarray, lines: np.ndarray, find: Callable[[np.ndarray], list[dict]],
                      as_it_is: frozenset[int] = frozenset()) -> list[dict]:
    """Marks of a picture (H, W, 3) uint8, in its pixels, most confident first: as `find` finds them there, or, of a sheet with
    small lines (N, 4, 2) on a part of it, as it finds them in that part, and round it in the picture. as_it_is: classes whose
    marks are taken from the picture in any case."""
    part = part_with_small_text(lines, *image.shape[:2], ROUND_MARKS) if len(lines) >= LINES else None
    if part is None:
        return find(image)
    height, width = image.shape[:2]
    (top, bottom), (left, right) = ((rows.start, rows.stop) for rows in part)
    ends = np.array([left, top, right, bottom])
    inner = np.array([left > 0, top > 0, right < width, bottom < height])  # which of them cut the picture

    def whole(mark: dict) -> bool:
        """Whether the part shows all of it."""
        outwards = (mark["box"] - ends) * [-1, -1, 1, 1]
        return not (inner & (outwards > -EDGE)).any()

    near = [mark | {"box": (mark["box"] + ends[[0, 1, 0, 1]]).tolist()} for mark in find(np.ascontiguousarray(image[part]))]
    near = [mark for mark in near if mark["class_id"] not in as_it_is and whole(mark)]
    far = [mark for mark in find(image)
           if mark["class_id"] in as_it_is or not whole(mark) and not _among(mark, near)]
    return sorted(near + far, key=lambda mark: -mark["confidence"])


def _among(mark: dict, others: list[dict]) -> bool:
    boxes = np.array([other["box"] for other in others if other["class_id"] == mark["class_id"]]).reshape(-1, 4)
    return bool((box_iou(np.array([mark["box"]]), boxes) > SAME).any())


def part_with_small_text(quads: np.ndarray, height: int, width: int, round_it: float = ROUND) -> tuple[slice, slice] | None:
    """Where on a picture of that size its text (N, 4, 2) is, and that share of the longer side round it, as (rows, columns);
    None where it is large enough, or all over the picture."""
    if not len(quads):
        return None
    longer = max(height, width)
    low, high = quads.min((0, 1)), quads.max((0, 1))
    if np.median(sides(quads).min(1)) >= SMALL * longer or max(high - low) >= PART * longer:
        return None
    beside = round_it * longer
    (left, top), (right, bottom) = np.floor(low - beside).astype(int), np.ceil(high + beside).astype(int)
    return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
