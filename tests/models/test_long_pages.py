"""A till roll, and a detector that sees every picture at one size."""

import cv2
import numpy as np
import pytest

from models.long_pages import find_in_windows, tile_for, windows


def roll(lines: int, width: int = 300) -> np.ndarray:
    """Dark lines of 20 pixels, 60 apart, on paper."""
    page = np.full((60 * lines, width, 3), 230, np.uint8)
    for row in range(lines):
        page[20 + 60 * row : 40 + 60 * row, 20 : width - 30] = 20
    return page


def find(images: list[np.ndarray]) -> list:
    """The lines; none on pictures on which they are under 5 pixels high at 1280."""
    found = []
    for image in images:
        boxes = cv2.connectedComponentsWithStats((image[..., 0] < 60).astype(np.uint8))[2][1:, :4].tolist()
        boxes = boxes if 20 * 1280 / max(image.shape) >= 5 else []
        quads = np.float32([[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in boxes]).reshape(-1, 4, 2)
        found.append((quads, np.full(len(quads), 0.8, np.float32)))
    return found


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("lines", [10, 16, 33, 100, 333])
def test_each_line_of_a_roll_is_found_once_and_in_pixels_of_the_page(lines, polygons):
    def as_asked(images):
        return [(list(quads), scores) if polygons else (quads, scores) for quads, scores in find(images)]

    (quads, scores), (short, _) = find_in_windows([roll(lines), roll(3)], as_asked)
    assert isinstance(quads, list) == polygons and len(quads) == len(scores) == lines and len(short) == 3
    for row, quad in enumerate(quads):
        top = 20 + 60 * row
        assert quad.tolist() == [[20, top], [270, top], [270, top + 20], [20, top + 20]]
    if lines > 100:
        assert len(find([roll(lines)])[0][0]) < lines  # as one page


def test_a_line_that_two_windows_see_a_little_apart_is_one():
    page, calls = roll(32), []

    def find_one(images):
        calls.append([image.shape[:2] for image in images])
        (_, second) = windows(*page.shape[:2])[:2]
        bottom, top = windows(*page.shape[:2])[0][1], second[0]
        y = (bottom + top) / 2  # the middle of what both see: each finds it on its own side
        boxes = [[y - 11, y + 9], [y - 9 - top, y + 11 - top], *[None] * (len(images) - 2)]
        return [(np.zeros((0, 4, 2), np.float32), np.zeros(0)) if box is None else
                (np.float32([[[10, box[0]], [90, box[0]], [90, box[1]], [10, box[1]]]]), np.array([0.8])) for box in boxes]

    (quads, scores), = find_in_windows([page], find_one)
    assert len(quads) == len(scores) == 1 and len(calls) == 1 and len(calls[0]) > 2


@pytest.mark.parametrize("height, width", [(900, 300), (640, 10), (300, 9000), (1, 1)])
def test_ordinary_pages_are_looked_at_whole(height, width):
    assert windows(height, width) == [(0, height)]


@pytest.mark.parametrize("height, width", [(1300, 400), (20000, 400), (5001, 333), (641, 10), (100_000, 20)])
def test_windows_cover_a_long_page_and_overlap(height, width):
    spans = windows(height, width)
    assert spans[0][0] == 0 and spans[-1][1] == height
    size = spans[0][1]
    assert all(bottom - top == size for top, bottom in spans)
    assert all(above[1] - below[0] >= 0.25 * size - 1 for above, below in zip(spans, spans[1:]))
    assert len(spans) <= height / (0.75 * size) + 1


def test_marks_of_long_pages_are_looked_for_in_tiles():
    assert [tile_for(*size) for size in ((900, 300), (1000, 1000), (8000, 700), (700, 8000), (5000, 100))] == [
        0, 0, 700, 700, 640]


def test_no_pages():
    assert find_in_windows([], lambda images: []) == []
