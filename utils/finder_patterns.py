"""Places of a picture like the middle of a QR code's finder pattern: dark, light, dark, light, dark as 1:1:3:1:1 along the
row and along the column (ISO/IEC 18004, 6.3.3). Codes that are too small or too blurred to be read have them too, often by
their data as well; of print and pictures that a network takes for codes, one in nine has two.
"""

import cv2
import numpy as np

RATIO = np.array([1, 1, 3, 1, 1])
SPECK = 4  # pixels of a place at least
MISS = 0.5 * np.array([1, 1, 2, 1, 1])  # modules by which a part may be longer or shorter


def count_finder_places(view: np.ndarray) -> int:
    """How many there are in a picture (H, W) uint8 of about one code, with some paper round it, dark on light: three or more
    in a code, at any turn."""
    threshold, _ = cv2.threshold(view, 0, 255, cv2.THRESH_OTSU)
    dark = view <= threshold
    middles = _middles(dark) & _middles(np.ascontiguousarray(dark.T)).T
    areas = cv2.connectedComponentsWithStats(middles.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return int((areas >= SPECK).sum())


def _middles(dark: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels in the middle part of five parts of a row that have the ratio."""
    height, width = dark.shape
    flat = np.full((height, width + 1), 2, np.int8)  # a third value ends each row, so that all can be gone through at once
    flat[:, :width] = dark
    flat = flat.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    if len(starts) < len(RATIO):
        return np.zeros(dark.shape, bool)
    lengths = np.lib.stride_tricks.sliding_window_view(np.diff(starts, append=flat.size), len(RATIO))
    values = np.lib.stride_tricks.sliding_window_view(flat[starts], len(RATIO))
    module = lengths.sum(1, keepdims=True) / RATIO.sum()
    fits = (values == [1, 0, 1, 0, 1]).all(1) & (np.abs(lengths / module - RATIO) <= MISS).all(1)
    first = starts[2 : len(starts) - 2][fits]
    change = np.bincount(first, minlength=flat.size + 1) - np.bincount(first + lengths[fits, 2], minlength=flat.size + 1)
    return change[:-1].cumsum().reshape(height, width + 1)[:, :width] > 0
