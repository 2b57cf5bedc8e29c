"""A sheet with small lines on a large table, and a detector that sees every picture at one size."""

import cv2
import numpy as np
import pytest

from models.nearer import find_marks_nearer, find_nearer, part_with_small_text


def sheet(scale: int = 1, margin: int = 0) -> np.ndarray:
    """Twelve dark lines of 10 x scale pixels on paper, with a table round it."""
    page = np.full((400 * scale, 300 * scale, 3), 230, np.uint8)
    for row in range(12):
        page[(20 + 30 * row) * scale : (30 + 30 * row) * scale, 20 * scale : 270 * scale] = 20
    return np.pad(page, ((margin, margin), (margin, margin), (0, 0)), constant_values=120)


def find(images: list[np.ndarray]) -> list:
    """The lines; of those that are under 14 pixels high at 1280 every second alone."""
    found = []
    for image in images:
        dark = image[..., 0] < 60
        rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        tops = rows[np.diff(rows, prepend=-2) > 1] if len(rows) else []
        height = len(rows) // max(len(tops), 1)
        quads = [[[columns[0], y], [columns[-1] + 1, y], [columns[-1] + 1, y + height], [columns[0], y + height]]
                 for y in tops]
        quads = quads[:: 1 if height * 1280 / max(image.shape) >= 14 else 2]
        found.append((np.float32(quads).reshape(-1, 4, 2), np.full(len(quads), 0.8, np.float32)))
    return found


@pytest.mark.parametrize("polygons", [False, True])
def test_small_lines_are_found_from_nearer_by_and_given_in_pixels_of_the_picture(polygons):
    picture = sheet(margin=400)

    def as_asked(images):
        return [(list(quads), scores) if polygons else (quads, scores) for quads, scores in find(images)]

    (quads, scores), = find_nearer([picture], as_asked)
    assert isinstance(quads, list) == polygons and len(quads) == len(scores) == 12
    for row, quad in enumerate(quads):
        assert quad.tolist() == [[420, 420 + 30 * row], [670, 420 + 30 * row], [670, 430 + 30 * row], [420, 430 + 30 * row]]


def test_only_pictures_with_small_text_on_a_part_are_looked_at_again():
    calls = []

    def counted(images):
        calls.append([image.shape[0] for image in images])
        return find(images)

    blank = np.full((100, 100, 3), 230, np.uint8)
    found = find_nearer([sheet(), sheet(margin=400), blank], counted)
    assert [len(quads) for quads, _ in found] == [12, 12, 0]
    (whole, part) = calls
    assert whole == [400, 1200, 100] and len(part) == 1 and part[0] < 500
    assert find_nearer([], counted) == [] and len(calls) == 3


def test_what_was_found_stays_where_much_less_is_found_from_nearer_by():
    picture = sheet(margin=400)
    first, = find([picture])
    calls = iter([[first], [(first[0][:2], first[1][:2])]])
    (quads, _), = find_nearer([picture], lambda images: next(calls))
    assert np.array_equal(quads, first[0])


def marks(image: np.ndarray) -> list[dict]:
    """Red and blue rectangles, class 0 and 1; those lower than a twentieth of the picture are taken for half as long."""
    found = []
    for class_id, channel in ((0, 0), (1, 2)):
        coloured = image[..., channel].astype(int) - image[..., 1] > 100
        for *box, area in cv2.connectedComponentsWithStats(coloured.astype(np.uint8))[2][1:].tolist():
            x, y, width, height = box
            sharp = height * 20 >= max(image.shape)
            found.append({"class_id": class_id, "confidence": 0.9 if sharp else 0.4,
                          "box": [x, y, x + (width if sharp else width // 2), y + height]})
    return found


LINES = np.float32([[[420, y], [670, y], [670, y + 10], [420, y + 10]] for y in range(420, 780, 30)])


def marked(*rectangles: tuple) -> np.ndarray:
    """The sheet on a table, 1200 x 1100 px, with rectangles (colour channel, x1, y1, x2, y2)."""
    picture = sheet(margin=400)
    for channel, x1, y1, x2, y2 in rectangles:
        picture[y1:y2, x1:x2] = [255 if place == channel else 0 for place in range(3)]
    return picture


def boxes(found: list[dict]) -> list[tuple]:
    return [(mark["class_id"], *map(round, mark["box"])) for mark in found]


def test_marks_of_a_small_sheet_are_found_from_nearer_by_and_given_in_pixels_of_the_picture():
    picture = marked((0, 500, 700, 560, 740))
    assert boxes(marks(picture)) == [(0, 500, 700, 530, 740)]
    assert boxes(find_marks_nearer(picture, LINES, marks)) == [(0, 500, 700, 560, 740)]
    assert find_marks_nearer(picture, LINES, marks)[0]["confidence"] == 0.9


def test_marks_round_the_sheet_and_those_that_its_part_cuts_are_taken_from_the_picture():
    outside, cut = (0, 20, 20, 80, 60), (0, 280, 500, 360, 540)  # the part begins at x = 420 - 0.1 x 1200
    assert boxes(find_marks_nearer(marked(outside, cut), LINES, marks)) == [(0, 20, 20, 50, 60), (0, 280, 500, 320, 540)]


def test_what_both_looks_see_is_given_once():
    edge = {"class_id": 0, "confidence": 0.5}

    def find(image):  # the picture's box reaches over the part's edge, the part's own does not
        box = [298.0, 500.0, 400.0, 560.0] if len(image) == 1200 else [8.0, 200.0, 102.0, 260.0]
        return [edge | {"box": box}]

    assert boxes(find_marks_nearer(marked(), LINES, find)) == [(0, 308, 500, 402, 560)]


def test_some_classes_are_taken_from_the_whole_picture():
    picture = marked((0, 500, 600, 560, 640), (2, 500, 700, 560, 740))
    found = find_marks_nearer(picture, LINES, marks, frozenset({1}))
    assert sorted(boxes(found)) == [(0, 500, 600, 560, 640), (1, 500, 700, 530, 740)]


@pytest.mark.parametrize("lines", [np.zeros((0, 4, 2), np.float32), LINES[:7], LINES * [1.0, 2.0]])
def test_pictures_without_a_small_sheet_are_looked_at_once(lines):
    calls = []
    find_marks_nearer(marked(), lines, lambda image: calls.append(image.shape) or [])
    assert calls == [(1200, 1100, 3)]


def test_which_part():
    small = np.float32([[[300, 500], [400, 500], [400, 506], [300, 506]]])
    assert part_with_small_text(small, 1000, 800) == (slice(450, 556), slice(250, 450))
    assert part_with_small_text(small, 510, 800) == (slice(460, 510), slice(260, 440))  # no further than the picture goes
    assert part_with_small_text(small * 2, 1000, 800) is None  # large enough
    far = np.concatenate([small, small - np.float32([0, 490]), small + np.float32([0, 480])])
    assert part_with_small_text(far, 1000, 800) is None  # all over it
    assert part_with_small_text(np.zeros((0, 4, 2), np.float32), 1000, 800) is None
