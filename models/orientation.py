"""Which way up a page is, by how well its text can be read."""

from typing import Callable

import cv2
import numpy as np

from utils.geometry import crop_quad

SAMPLE = 12  # boxes that are read to find it out
LONG = 2.0  # times their height that boxes are wide whose direction counts
SURE = 0.6  # mean score above which a page is not looked at the other way up
MARGIN = 0.15  # by which the other way must be read better
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
Recognise = Callable[[list[np.ndarray]], list[tuple[str, float]]]


def turned(image: np.ndarray, degrees: int) -> np.ndarray:
    """(H, W, 3) turned clockwise by 0, 90, 180 or 270 degrees."""
    return cv2.rotate(image, TURNS[degrees]) if degrees else image


def side_turn(image: np.ndarray, quads: np.ndarray, recognise: Recognise) -> int | None:
    """90 or 270 where most of the text stands on its side and can be read that way; 0 where it stands but cannot (as
    lines written downwards); None where it lies.

    image (H, W, 3) uint8; quads (N, 4, 2).
    """
    long = longest(quads)
    width, height = sides(quads[long]).T
    if not len(long) or np.where(height > width, height, 0).sum() <= 0.5 * np.maximum(width, height).sum():
        return None
    standing = [crop_quad(image, quads[box]) for box, tall in zip(long, height > width) if tall][:SAMPLE]
    scores = {degrees: mean_score([turned(crop, degrees) for crop in standing], recognise) for degrees in (90, 270)}
    best = max(scores, key=scores.get)
    return best if scores[best] > min(scores.values()) + MARGIN else 0


def is_upside_down(image: np.ndarray, quads: np.ndarray, scores: np.ndarray, recognise: Recognise) -> bool:
    """quads (N, 4, 2) with the scores (N,) of what was read in them as it is: read badly, better upside down."""
    long = longest(quads)
    width, height = sides(quads[long]).T
    long = long[width > height][:SAMPLE]
    if not len(long) or (as_it_is := float(np.mean(np.asarray(scores)[long]))) >= SURE:
        return False
    return mean_score([turned(crop_quad(image, quads[box]), 180) for box in long], recognise) > as_it_is + MARGIN


def longest(quads: np.ndarray) -> np.ndarray:
    """Numbers of the quads (N, 4, 2) that are LONG times longer than high or the other way round, the longest first."""
    size = sides(quads)
    order = np.argsort(-size.max(1), kind="stable")
    return order[size.max(1)[order] >= LONG * size.min(1)[order]]


def sides(quads: np.ndarray) -> np.ndarray:
    """(N, 2) width and height in pixels of quads (N, 4, 2) in reading order."""
    width = np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1)
    return np.stack([width, np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)], axis=1)


def mean_score(crops: list[np.ndarray], recognise: Recognise) -> float:
    return float(np.mean([score for _, score in recognise(crops)]))
