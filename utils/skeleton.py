"""Skeletons of stroke masks, cut at their junctions into branches.

A branch is a piece of the skeleton between junctions and ends. Neighbours are the eight around a pixel; a corner that
is bridged by two straight steps is not counted as a diagonal one too.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.morphology import skeletonize

# The neighbours' bits, clockwise from the top left one.
NEIGHBOURS = np.array([[1, 2, 4], [128, 0, 8], [64, 32, 16]], np.float32)
NORTH, EAST, SOUTH, WEST = 2, 8, 32, 128
NORTH_EAST, SOUTH_EAST, SOUTH_WEST, NORTH_WEST = 4, 16, 64, 1


def skeleton_of(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool, one pixel wide, of an (H, W) bool mask (Zhang and Suen, 1984); thinned only where there is ink."""
    skeleton = np.zeros(mask.shape, bool)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if width:
        # A rim of paper round the piece, so that its border is the same as if it lay inside the page.
        piece = np.pad(mask[y : y + height, x : x + width], 1)
        skeleton[y : y + height, x : x + width] = skeletonize(piece)[1:-1, 1:-1]
    return skeleton


def neighbour_codes(skeleton: np.ndarray) -> np.ndarray:
    """(H, W) uint8: which of the eight neighbours are set, a bit each; beyond the border nothing is."""
    return cv2.filter2D(skeleton.astype(np.uint8), cv2.CV_8U, NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)


def _crossings() -> np.ndarray:
    """(256,) uint8: how many arms leave a pixel with this neighbour code (runs of set neighbours round it)."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1).astype(np.uint8)


CROSSINGS = _crossings()


@dataclass
class Branches:
    """The branches of a skeleton, numbered from 1; 0 in `labels` is no branch. Arrays have a row for each branch.

    labels: (H, W) int32. points: (y, x) of the pixels with a label. pixels: skeleton pixels. length: steps between them,
    in pixels. chord: distance between its two ends, 0 for a ring. mean: (N, 2) x, y. direction: (N, 2) unit
    vector of the line that fits best (total least squares). residual: root mean square distance of its pixels from that
    line, in pixels.
    """

    labels: np.ndarray
    points: tuple[np.ndarray, np.ndarray]
    pixels: np.ndarray
    length: np.ndarray
    chord: np.ndarray
    mean: np.ndarray
    direction: np.ndarray
    residual: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def at(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(y, x) of the points of all branches that lie in an (H, W) bool mask."""
        y, x = self.points
        inside = mask[y, x]
        return y[inside], x[inside]

    @property
    def curved(self) -> np.ndarray:
        """(N,) bool: longer than 1.1 times its chord, or over 1.5 px from its line."""
        return (self.length > 1.1 * self.chord) | (self.residual > 1.5)


def branches_of(skeleton: np.ndarray) -> Branches:
    """The branches of an (H, W) bool skeleton. Junctions and the pixels that touch them belong to no branch."""
    codes = neighbour_codes(skeleton)
    junctions = skeleton & (cv2.LUT(codes, CROSSINGS) >= 3)
    cut = skeleton & (cv2.dilate(junctions.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    count, labels = cv2.connectedComponents(cut.astype(np.uint8), connectivity=8)
    y, x = np.nonzero(cut)
    label = labels[y, x]
    codes = neighbour_codes(cut)[y, x]
    steps = STEPS[codes]
    pixels = np.bincount(label, minlength=count)[1:]
    mean, direction, residual = fit_lines(x, y, label, count)
    return Branches(labels, (y, x), pixels, np.bincount(label, steps, count)[1:],
                    _chords(x, y, label, codes, count), mean, direction, residual)


def fit_lines(x: np.ndarray, y: np.ndarray, label: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total least squares: (mean (count - 1, 2), direction (count - 1, 2), root mean square distance) of the points of
    each label from 1 to count - 1."""
    number = np.maximum(np.bincount(label, minlength=count), 1)
    mean = np.stack([np.bincount(label, v, count) / number for v in (x, y)], 1)
    dx, dy = x - mean[label, 0], y - mean[label, 1]
    xx, yy, xy = (np.bincount(label, v, count) / number for v in (dx * dx, dy * dy, dx * dy))
    angle = np.arctan2(2 * xy, xx - yy) / 2
    smaller = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    return (mean[1:], np.stack([np.cos(angle), np.sin(angle)], 1)[1:], np.sqrt(np.maximum(smaller, 0))[1:])


def end_points(skeleton: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the pixels from which one arm leaves, or none."""
    y, x = np.nonzero(skeleton)
    return tuple(v[_arms(neighbour_codes(skeleton)[y, x]) <= 1] for v in (x, y))


def trimmed(skeleton: np.ndarray, by: int) -> np.ndarray:
    """(H, W) bool: the skeleton without its outermost `by` pixels at every end."""
    kept, (y, x) = skeleton.copy(), np.nonzero(skeleton)
    for _ in range(by):
        ends = _arms(neighbour_codes(kept)[y, x]) <= 1
        kept[y[ends], x[ends]] = False
        y, x = y[~ends], x[~ends]
    return kept


def _chords(x: np.ndarray, y: np.ndarray, label: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """(count - 1,) distance between the two ends of each label; 0 where there are not two."""
    ends = _arms(codes) == 1
    x, y, label = x[ends], y[ends], label[ends]
    order = np.argsort(label, kind="stable")
    x, y, label = x[order], y[order], label[order]
    number = np.bincount(label, minlength=count)
    first = np.cumsum(number) - number
    chord, pairs = np.zeros(count), np.flatnonzero(number == 2)
    a = first[pairs]
    chord[pairs] = np.hypot(x[a] - x[a + 1], y[a] - y[a + 1])
    return chord[1:]


def _has(codes: np.ndarray, bit: int) -> np.ndarray:
    return (codes & bit) > 0


def _diagonal(codes: np.ndarray, bit: int, *sides: int) -> np.ndarray:
    """Whether the diagonal neighbour is set and not reached by straight steps already."""
    return _has(codes, bit) & ~_has(codes, sides[0]) & ~_has(codes, sides[1])


def _arm_counts() -> np.ndarray:
    """(256,) uint8: how many neighbours a pixel with this neighbour code is linked to."""
    codes = np.arange(256)
    corners = ((NORTH_EAST, NORTH, EAST), (SOUTH_EAST, SOUTH, EAST), (SOUTH_WEST, SOUTH, WEST),
               (NORTH_WEST, NORTH, WEST))
    return (sum(_has(codes, bit).astype(np.uint8) for bit in (NORTH, EAST, SOUTH, WEST))
            + sum(_diagonal(codes, *corner).astype(np.uint8) for corner in corners))


def _step_lengths() -> np.ndarray:
    """(256,) length of a pixel's links to its neighbours on the right and below: each link belongs to one pixel."""
    codes = np.arange(256)
    straight = _has(codes, EAST).astype(float) + _has(codes, SOUTH)
    diagonal = _diagonal(codes, SOUTH_EAST, SOUTH, EAST).astype(float) + _diagonal(codes, SOUTH_WEST, SOUTH, WEST)
    return straight + np.sqrt(2) * diagonal


ARMS, STEPS = _arm_counts(), _step_lengths()


def _arms(codes: np.ndarray) -> np.ndarray:
    return ARMS[codes]
