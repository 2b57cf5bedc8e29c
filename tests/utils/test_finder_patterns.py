"""Places like those of finder patterns: in codes at any turn, in little else, and by a slow and obvious reference."""

import cv2
import numpy as np
import pytest
from tests.utils.test_qr import code

from utils.finder_patterns import _middles, count_finder_places


def slow_middles(dark):
    """Row by row, run by run."""
    found = np.zeros(dark.shape, bool)
    for y, row in enumerate(dark):
        runs, x = [], 0  # (start, length, value)
        while x < len(row):
            end = x
            while end < len(row) and row[end] == row[x]:
                end += 1
            runs.append((x, end - x, row[x]))
            x = end
        for five in zip(runs, runs[1:], runs[2:], runs[3:], runs[4:]):
            module = sum(length for _, length, _ in five) / 7
            near = all(abs(length / module - share) <= share / 2 if share == 1 else abs(length / module - share) <= 1
                       for (_, length, _), share in zip(five, (1, 1, 3, 1, 1)))
            if near and five[0][2]:
                start, length, _ = five[2]
                found[y, start : start + length] = True
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 5), (40, 60), (200, 90)])
def test_against_the_reference(shape):
    rng = np.random.default_rng(shape[1])
    for share in (0.2, 0.5):
        dark = np.repeat(np.repeat(rng.random(shape) < share, 2, 1), 2, 0)
        np.testing.assert_array_equal(_middles(dark), slow_middles(dark))


def test_a_row_does_not_go_on_in_the_next():
    row = np.array([1, 0, 1, 1, 1, 0, 1], bool)
    assert _middles(row[None]).tolist() == [[False, False, True, True, True, False, False]]
    assert not _middles(np.array([[0, 0, 0, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0, 0]], bool)).any()


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [3, 8])
def test_a_code_has_three(scale, turn):
    assert count_finder_places(np.rot90(code("https://example.com/1234", scale)[..., 0], turn)) == 3


def test_a_tilted_code_has_three_or_more():
    view = code("https://example.com/1234", 8)[..., 0]
    side = view.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 30, 0.7)
    assert count_finder_places(cv2.warpAffine(view, turn, (side, side), borderValue=255)) >= 3


def test_micro_codes_have_one():
    assert count_finder_places(code("7", 6, micro=True)[..., 0]) == 1


@pytest.mark.parametrize("view", [np.zeros((1, 1)), np.full((50, 50), 255), np.tile([0, 255], (40, 20)),
                                  np.linspace(0, 255, 900).reshape(30, 30)])
def test_none(view):
    assert count_finder_places(view.astype(np.uint8)) == 0
