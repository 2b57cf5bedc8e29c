"""Pages of bars that lie askew, and a detector that finds level bars alone."""

import cv2
import numpy as np
import pytest
import shapely

from models.skew import clear_skew, find_level, find_marks_level, put_level, skew_of, surely_level


def bars(rows: int = 14) -> np.ndarray:
    """A page of lines of words: dark, of different lengths."""
    page, rng = np.full((700, 560, 3), 235, np.uint8), np.random.default_rng(0)
    for row in range(rows):
        left = 40
        while left < rng.integers(250, 480):
            width = int(rng.integers(20, 80))
            page[60 + 42 * row : 78 + 42 * row, left : left + width] = 40
            left += width + 9
    return page


def lines_of(page: np.ndarray) -> np.ndarray:
    """(N, 4, 2) rectangles round what is dark and not further apart than words are."""
    dark = cv2.morphologyEx(np.uint8(page[..., 0] < 100), cv2.MORPH_CLOSE, np.ones((1, 15), np.uint8))
    stats = cv2.connectedComponentsWithStats(dark)[2][1:]
    return np.float32([[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h, _ in stats]).reshape(-1, 4, 2)


def find(images: list[np.ndarray]) -> list:
    """Level bars, whole; nothing on a page that lies askew by five degrees or more."""
    found = []
    for image in images:
        quads = lines_of(image) if abs(skew_of(image)) < 5 else np.zeros((0, 4, 2), np.float32)
        found.append((quads, np.full(len(quads), 0.8, np.float32)))
    return found


@pytest.mark.parametrize("degrees", [0, 5, 12.5, -20, 33, -44, 90, 97])
def test_the_skew_of_drawn_lines(degrees):
    askew, _ = put_level(bars(), -degrees)  # clockwise
    assert skew_of(askew) == pytest.approx((degrees + 45) % 90 - 45, abs=0.5)
    assert skew_of(255 - askew) == pytest.approx((degrees + 45) % 90 - 45, abs=0.5)  # light on dark


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (300, 200)])
def test_a_page_without_ink_lies_level(shape):
    assert skew_of(np.full((*shape, 3), 200, np.uint8)) == 0


def test_a_speck_and_noise_do_not_crash():
    page = np.full((90, 60, 3), 200, np.uint8)
    page[40, 30] = 0
    assert abs(skew_of(page)) < 47
    assert abs(skew_of(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))) < 47


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("degrees", [8, -15, 40])
def test_lines_are_found_on_the_page_put_level_and_given_in_pixels_of_the_page(degrees, polygons):
    level = bars()
    askew, matrix = put_level(level, -degrees)
    truth = lines_of(level) @ matrix[:, :2].T + matrix[:, 2]

    def as_asked(images):
        return [(list(quads), scores) if polygons else (quads, scores) for quads, scores in find(images)]

    (quads, scores), = find_level([askew], as_asked)
    assert isinstance(quads, list) == polygons and len(quads) == len(scores) == len(truth)
    for quad, line in zip(quads, truth):  # both from top to bottom
        a, b = shapely.Polygon(quad), shapely.Polygon(line)
        assert quad.dtype == np.float32 and a.intersection(b).area > 0.85 * a.union(b).area
        assert np.linalg.norm(quad[0] - line[0]) < 6  # still from its own top left corner


def test_only_pages_that_lie_askew_are_looked_at_again():
    calls = []

    def counted(images):
        calls.append(len(images))
        return find(images)

    askew, _ = put_level(bars(), 12)
    found = find_level([bars(), askew, np.full((50, 50, 3), 255, np.uint8)], counted)
    assert calls == [3, 1] and [len(quads) for quads, _ in found] == [14, 14, 0]
    find_level([bars()], counted)
    assert calls[2:] == [1]
    assert find_level([], counted) == []


def test_what_is_found_askew_stays_where_less_is_found_level():
    askew, _ = put_level(bars(), 12)
    quads = np.float32([[[10, 10], [300, 10], [300, 60], [10, 60]]])
    calls = iter([[(quads, np.float32([0.9]))], [(quads[:, ::-1] / 4, np.float32([0.9]))]])
    (kept, scores), = find_level([askew], lambda images: next(calls))
    assert np.array_equal(kept, quads) and scores == np.float32([0.9])


def test_a_strip_that_would_take_all_memory_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("models.skew.skew_of", lambda image: 11.0)
    calls = []

    def nothing(images):
        calls.append([image.shape for image in images])
        return [(np.zeros((0, 4, 2), np.float32), np.zeros(0, np.float32))] * len(images)

    find_level([np.zeros((20_000, 60, 3), np.uint8), np.zeros((300, 200, 3), np.uint8)], nothing)
    assert len(calls[0]) == 2 and calls[1:] == [[(333, 254, 3)]]


def test_a_closer_look_is_for_pages_with_few_lines_or_tilted_ones():
    quads = lines_of(bars())
    turn = np.float32([[np.cos(0.1), np.sin(0.1)], [-np.sin(0.1), np.cos(0.1)]])
    assert surely_level(quads) and not surely_level(quads[:5]) and not surely_level(quads @ turn)
    assert not surely_level(np.zeros((0, 4, 2), np.float32))
    standing = np.float32([[[x, 10], [x + 20, 10], [x + 20, 300], [x, 300]] for x in range(0, 500, 40)])
    assert not surely_level(standing)  # they say nothing


def dark_box(image):
    """A mark round everything that is darker than the bars, if the page lies level."""
    ys, xs = np.nonzero(image[..., 0] < 30)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    lies = len(xs) > 0.9 * (box[2] - box[0]) * (box[3] - box[1])
    return [{"class_id": 1, "confidence": 0.7, "box": box}] if lies else []


@pytest.mark.parametrize("degrees", [0, 9, -20, 44])
def test_marks_are_found_on_the_page_put_level(degrees):
    """Their box is the one round the turned box."""
    page = bars()
    page[480:540, 300:450] = 0
    askew, matrix = put_level(page, -degrees, 235)
    corners = np.array([[300, 480], [450, 480], [450, 540], [300, 540]]) @ matrix[:, :2].T + matrix[:, 2]
    (mark,) = find_marks_level(askew, dark_box)
    np.testing.assert_allclose(mark.pop("box"), [*corners.min(0), *corners.max(0)], atol=4)
    assert mark == {"class_id": 1, "confidence": 0.7}


def test_marks_beyond_the_page_are_none():
    """Put level, the page has corners that it did not have."""
    askew, _ = put_level(bars(), -30)
    box = {"class_id": 0, "confidence": 0.5, "box": [0.0, 0.0, 20.0, 20.0]}
    assert find_marks_level(askew, lambda image: [box] if image.shape != askew.shape else []) == []
    assert find_marks_level(bars(), lambda image: [box]) == [box]


def test_a_class_that_is_taken_as_it_is():
    askew, _ = put_level(bars(), -12)

    def find(image):
        width = float(image.shape[1])
        return [{"class_id": number, "confidence": 0.2 + number / 2, "box": [300.0, 300.0, 310.0, width / 2]}
                for number in (0, 1)]

    second, first = find_marks_level(askew, find, as_it_is=frozenset([0]))
    assert first == find(askew)[0] and second["confidence"] == 0.7 and second["box"] != find(askew)[1]["box"]


def test_a_photograph_has_no_angle_of_its_own(monkeypatch):
    blobs = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8), (0, 0), 3)
    blobs = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    degrees, clear = clear_skew(blobs)
    assert 1 <= clear < 3 and clear_skew(put_level(bars(), -12)[0])[1] > 3
    assert clear_skew(np.full((30, 40, 3), 200, np.uint8)) == (0.0, 1.0)
    monkeypatch.setattr("models.skew.clear_skew", lambda image: (20.0, clear))
    assert find_marks_level(blobs, lambda image: [image.shape]) == [blobs.shape]


@pytest.mark.parametrize("shape", [(9000, 20), (20, 9000), (600, 1), (2, 2)])
def test_thin_pages_with_ink(shape):
    page = np.full((*shape, 3), 230, np.uint8)
    page[:: max(shape[0] // 40, 1), :: max(shape[1] // 40, 1)] = 0
    degrees, clear = clear_skew(page)
    assert abs(degrees) < 47 and clear >= 1
    assert find_marks_level(page, lambda image: []) == []


def test_marks_of_a_strip_are_looked_for_as_it_is(monkeypatch):
    monkeypatch.setattr("models.skew.clear_skew", lambda image: (20.0, 50.0))
    assert find_marks_level(np.zeros((9000, 60, 3), np.uint8), lambda image: [image.shape]) == [(9000, 60, 3)]
