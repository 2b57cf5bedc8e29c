"""From a crop of any size to what the recogniser sees: one code path for training, evaluation and inference, but for lines
far longer than any crop of the training, which inference alone cuts (models/read_lines.py)."""

import math

import cv2
import numpy as np
import torch

from utils.geometry import crop_quad

# As in the published PARSeq: pixels / 255 normalised by mean 0.5 and standard deviation 0.5, to [-1, 1].
MEAN, STD = 0.5, 0.5
SPACE = 0.2  # of a line's height: a gap that parts words, not letters
ROOM = 0.1  # of a line's height: a found box ends where its text does, labelled ones that were learnt from leave some
TALL = 1.5  # a crop higher than this many times its width is a line of text on its side, unless it is one character


def crop_line(image: np.ndarray, quad: np.ndarray, ends: float = ROOM, sides: float = 0.0) -> np.ndarray:
    """The upright crop of a box as a detector finds it, with a little room at both ends of its text.

    image (H, W, 3) uint8; quad (4, 2) in reading order; ends, sides: what is added at each end of the line and at each
    of its long sides, in shares of its height.
    """
    corners = np.array(quad, np.float64).reshape(4, 2)[[0, 1, 3, 2]].reshape(2, 2, 2)  # row, column, (x, y)
    height, width = np.linalg.norm(corners[1, 0] - corners[0, 0]), np.linalg.norm(corners[0, 1] - corners[0, 0])
    line, length, thick = (0, height, width) if is_tall(height, width) else (1, width, height)
    corners = widened(widened(corners, line, ends * thick / max(length, 1.0)), 1 - line, sides)
    return crop_quad(image, corners.reshape(4, 2)[[0, 1, 3, 2]])


def widened(corners: np.ndarray, axis: int, share: float) -> np.ndarray:
    """(2, 2, 2) corners by row and column, the first and the last of `axis` apart by `share` of their distance more,
    each way."""
    first, last = np.take(corners, 0, axis), np.take(corners, 1, axis)
    return np.stack([first - (last - first) * share, last + (last - first) * share], axis)


def resized_width(height: int, width: int, to_height: int, max_width: int, stretch: bool = False) -> int:
    """The width in pixels, 1 to max_width, that resize_crop gives a crop of (height, width)."""
    return max_width if stretch else min(max(round(width * to_height / height), 1), max_width)


def resized_widths(heights: np.ndarray, widths: np.ndarray, to_height: int, max_width: int,
                   stretch: bool = False) -> np.ndarray:
    """resized_width of (n,) integers: (n,) int64 pixels."""
    if stretch:
        return np.full(len(heights), max_width)
    return np.clip(np.rint(widths.astype(np.int64) * to_height / heights), 1, max_width).astype(np.int64)


def resize_crop(crop: np.ndarray, height: int, max_width: int, stretch: bool = False) -> np.ndarray:
    """(h, w, 3) uint8 -> (height, w', 3) uint8 with the aspect ratio kept; a line that would be wider than max_width is
    squashed to it. stretch: every crop becomes max_width wide, as the published PARSeq has it. Bicubic when enlarging,
    area averaging when shrinking (bicubic would alias)."""
    h, w = crop.shape[:2]
    new_w = resized_width(h, w, height, max_width, stretch)
    shrinks = height * new_w < h * w
    return cv2.resize(crop, (new_w, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def cut_line(crop: np.ndarray, longest: float) -> list[tuple[np.ndarray, str]]:
    """A line (h, w, 3) uint8 in pieces from left to right, at most about `longest` times as wide as high, each with what
    stands between it and the next one: " " where it was cut in a gap as wide as a space, "" elsewhere.

    A cut goes through the middle of the widest run of columns that show paper alone, near where pieces of one length
    would end: a fifth of a piece to either side.
    """
    height, width = crop.shape[:2]
    if width <= longest * height:
        return [(crop, "")]
    pieces = math.ceil(1.4 * width / (longest * height))  # each may become longer by a fifth at both ends
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[height // 8 : -(height // 8) or None]
    contrast = grey.max(0).astype(np.int32) - grey.min(0)
    paper = contrast < np.percentile(contrast, (10, 90)).mean()
    cuts, between = [0], []
    for number in range(1, pieces):
        first, last = (round((number + shift) * width / pieces) for shift in (-0.2, 0.2))
        begin, end = longest_run(paper[first:last])
        cuts.append(first + (begin + end) // 2)
        between.append(" " if end - begin >= SPACE * height else "")
    return [(crop[:, left:right], gap) for left, right, gap in zip(cuts, [*cuts[1:], width], [*between, ""])]


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """(begin, end) of the longest run of True in (n,) bool; the middle, twice, where there is none."""
    found = runs(flags)
    if not len(found):
        return len(flags) // 2, len(flags) // 2
    begin, end = found[np.argmax(np.ptp(found, axis=1))]
    return int(begin), int(end)


def runs(flags: np.ndarray) -> np.ndarray:
    """(N, 2) int: begin and end of each run of True in (n,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def is_tall(height: int | np.ndarray, width: int | np.ndarray) -> bool | np.ndarray:
    return height > TALL * width


def turn_left(crop: np.ndarray) -> np.ndarray:
    """A line that runs downwards (top to bottom) turned by 90 degrees, so that it runs to the right."""
    return np.ascontiguousarray(np.rot90(crop))


def turn_right(crop: np.ndarray) -> np.ndarray:
    """A line that runs upwards turned by 90 degrees, so that it runs to the right."""
    return np.ascontiguousarray(np.rot90(crop, -1))


def bucket_width(width: int, bucket: int, max_width: int) -> int:
    """The least multiple of `bucket` that holds `width`, at most max_width."""
    return min(-(-width // bucket) * bucket, max_width)


def stack_crops(crops: list[np.ndarray], bucket: int, max_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Resized crops (H, w_i, 3) uint8 -> images (B, 3, H, W) float32 in [-1, 1], padded on the right with 0 (mid grey)
    to the bucket of the widest, and their widths (B,) int64 in pixels without the padding."""
    widths = [crop.shape[1] for crop in crops]
    shape = (len(crops), crops[0].shape[0], bucket_width(max(widths), bucket, max_width), 3)
    images = np.zeros(shape, np.float32)
    for image, crop in zip(images, crops):
        image[:, : crop.shape[1]] = (crop / np.float32(255) - MEAN) / STD
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.tensor(widths)
