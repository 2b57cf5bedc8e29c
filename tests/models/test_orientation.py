"""Which way up a page is, told by a reader that reads stripes: ink at their left end is the beginning of a line."""

import cv2
import numpy as np
import pytest

from models.orientation import ENOUGH, best_turn, expected_characters, lying_lines, turned


def stripes(lines: int = 5) -> np.ndarray:
    page = np.full((300, 400, 3), 255, np.uint8)
    for row in range(lines):
        page[40 + 40 * row : 60 + 40 * row, 30:330] = 200
        page[40 + 40 * row : 60 + 40 * row, 30:45] = 0
    return page


def find(image: np.ndarray) -> np.ndarray:
    """As a detector that has learnt from upright pages: lines that lie whole, shreds of 20 pixels of those that stand."""
    boxes = []
    for x, y, w, h, _ in cv2.connectedComponentsWithStats((image[..., 0] < 220).astype(np.uint8))[2][1:]:
        steps = [(x, y, w, h)] if w > h else [(x, top, w + 1, 20) for top in range(y, y + h, 20)]
        boxes += [[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in steps]
    return np.array(boxes, np.float32).reshape(-1, 4, 2)


def read(crops: list[np.ndarray]) -> list[tuple[str, float]]:
    """A line from its beginning: ten characters; upside down: as many, not sure of any; a shred: one, quite sure."""
    return [("a", 0.9) if crop.shape[1] < 60 else ("abcdefghij", 0.8) if crop[:, :10].mean() < 60 else ("jihgfedcba", 0.01)
            for crop in crops]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_shreds_that_are_read_surely_do_not_keep_a_page_on_its_side(turn):
    image = turned(stripes(), (360 - turn) % 360)
    quads = find(image)
    calls = []

    def find_quads(image):
        calls.append(image.shape)
        return find(image)

    assert best_turn(image, quads, read([cut(image, quad) for quad in quads]), find_quads, read) == turn
    assert len(calls) == (0 if turn in (0, 180) else 1)  # an upright page costs nothing


def cut(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    (x0, y0), (x1, y1) = quad[0].astype(int), quad[2].astype(int)
    return image[y0:y1, x0:x1]


def test_a_page_that_no_way_reads_stays_as_it_is():
    image = stripes()
    quads = find(image)
    nothing = [("?", 0.1)] * len(quads)
    assert best_turn(image, quads, nothing, find, lambda crops: [("?", 0.1)] * len(crops)) == 0
    # A script that the reader does not know: twelve times as much is still nothing.
    assert best_turn(image, quads, nothing, find, lambda crops: [("???", 0.4)] * len(crops)) == 0
    assert best_turn(image, quads, nothing, lambda _: np.zeros((0, 4, 2)), lambda crops: [("", 0.0)] * len(crops)) == 0


NUMBER = (370, 60, 390, 260)  # x1 y1 x2 y2, at the edge of the page, standing


def small_print(lines: int = 10) -> np.ndarray:
    """Lines that no way up reads well, and a number at the edge, darker than these."""
    page = np.full((300, 400, 3), 255, np.uint8)
    for row in range(lines):
        page[20 + 25 * row : 32 + 25 * row, 30:330] = 200
        page[20 + 25 * row : 32 + 25 * row, 30:45] = 0
    page[NUMBER[1] : NUMBER[3], NUMBER[0] : NUMBER[2]] = 100
    return page


def read_small(crops: list[np.ndarray]) -> list[tuple[str, float]]:
    """The number surely where it lies, either way; a line from its beginning a little, from its end hardly."""
    return [("2085575778", 0.9) if 50 < crop.mean() < 150 and crop.shape[1] > 2 * crop.shape[0] else
            ("abcdefghij", 0.2 if crop[:, :10].mean() < 60 else 0.01) if crop.shape[1] > 60 else ("a", 0.1) for crop in crops]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_number_that_stands_at_the_edge_of_small_print_does_not_turn_the_page(turn):
    image = turned(small_print(), (360 - turn) % 360)
    quads = find(image)
    assert best_turn(image, quads, read_small([cut(image, quad) for quad in quads]), find, read_small) == turn


def test_a_table_of_short_numbers_that_reads_well_stays_though_its_columns_look_like_lines():
    image = stripes()
    squat = [[[30 + 60 * x, 20 + 40 * y], [60 + 60 * x, 20 + 40 * y], [60 + 60 * x, 40 + 40 * y], [30 + 60 * x, 40 + 40 * y]]
             for x in range(4) for y in range(6)]
    quads = np.float32([*squat, *([[30, y], [90, y], [90, y + 20], [30, y + 20]] for y in (260, 280))])
    columns = np.float32([[[10, y], [280, y], [280, y + 20], [10, y + 20]] for y in (10, 60, 110, 160)])
    for score in (0.035, 0.5):  # of ten characters on the side, where upright all ten are sure
        scores = iter([score, 0.01])
        assert best_turn(image, quads, [("abcdefghij", 1.0)] * len(quads), lambda _: columns,
                         lambda crops: [("abcdefghij", next(scores))] * len(crops)) == 0


def test_lines_written_downwards_are_not_taken_for_small_print_on_its_side():
    image = turned(small_print(), 90)
    quads = np.float32([[[x, 30], [x + 12, 30], [x + 12, 330], [x, 330]] for x in range(20, 260, 25)])  # found as they stand
    assert best_turn(image, quads, [("?", 0.1)] * len(quads), find, read_small) == 0


def test_expected_characters_and_the_lines_that_are_asked():
    assert expected_characters([("abcd", 0.5), ("", 1.0)]) == 1.0 and expected_characters([]) == 0 < ENOUGH
    sizes = [(100, 10), (30, 20), (10, 80), (60, 20), (20, 20)]
    quads = np.array([[[0, 0], [w, 0], [w, h], [0, h]] for w, h in sizes], np.float32)
    assert lying_lines(quads).tolist() == [0, 3]  # at least twice as wide as high, the longest first
    assert lying_lines(quads[[1, 2, 4]]).tolist() == [0] and lying_lines(quads[[2]]).tolist() == []
