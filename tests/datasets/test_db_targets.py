"""Target maps against the formula of the paper, written out pixel by pixel."""

import cv2
import numpy as np
import pytest
import shapely

from datasets.db_targets import is_rectangle, make_targets, shorter_side, shrink_distance
from utils.geometry import offset_polygon

QUAD = np.float32([[20, 20], [100, 30], [97, 55], [18, 45]])


def slow_targets(polygons, ignored, height, width):
    shrink_map, shrink_mask = np.zeros((height, width)), np.ones((height, width))
    thresh_map, thresh_mask = np.full((height, width), 0.3), np.zeros((height, width))
    for polygon, ignore in zip(polygons, ignored):
        shape = shapely.Polygon(polygon)
        distance = shape.area * (1 - 0.4**2) / shape.length
        kernel, dilated = shape.buffer(-distance), shape.buffer(distance)
        for y in range(height):
            for x in range(width):
                point = shapely.Point(x, y)
                if ignore:
                    shrink_mask[y, x] *= not shape.contains(point)
                    continue
                shrink_map[y, x] = max(shrink_map[y, x], kernel.contains(point))
                thresh_mask[y, x] = max(thresh_mask[y, x], dilated.contains(point))
                near = 1 - min(shape.exterior.distance(point) / distance, 1)
                thresh_map[y, x] = max(thresh_map[y, x], 0.3 + 0.4 * near)
    return {"shrink_map": shrink_map, "shrink_mask": shrink_mask, "thresh_map": thresh_map, "thresh_mask": thresh_mask}


def test_maps_equal_the_slow_ones():
    polygons = [QUAD, QUAD[[0, 1, 2, 3]] * 0.5 + (5, 60)]
    fast, slow = make_targets(polygons, [False, True], 90, 120), slow_targets(polygons, [False, True], 90, 120)
    for name in slow:
        assert fast[name].dtype == np.float32 and fast[name].shape == (90, 120)
    inside = slow["thresh_mask"] * fast["thresh_mask"] > 0
    assert np.abs(fast["thresh_map"] - slow["thresh_map"])[inside].max() < 1e-3
    for name in ("shrink_map", "shrink_mask", "thresh_mask"):
        # a filled outline may differ by the pixels it runs through
        differing = (fast[name] > 0.5) != (slow[name] > 0.5)
        eroded = cv2.erode(slow[name].astype(np.uint8), np.ones((3, 3)))
        dilated = cv2.dilate(slow[name].astype(np.uint8), np.ones((3, 3)))
        assert not differing[eroded == dilated].any()


def test_shrink_distance_by_hand():
    assert shrink_distance(np.float32([[0, 0], [40, 0], [40, 10], [0, 10]])) == pytest.approx(400 * 0.84 / 100)
    assert shrink_distance(np.zeros((4, 2))) == 0


@pytest.mark.parametrize("polygon", [
    np.float32([[5, 5], [5, 5], [5, 5], [5, 5]]),  # a point
    np.float32([[5, 5], [60, 5], [60, 5], [5, 5]]),  # a line
    np.float32([[5, 5], [60, 5], [60, 11], [5, 11]]),  # under 8 pixels high
    np.float32([[-500, -500], [-400, -500], [-400, -450], [-500, -450]]),  # off the page
])
def test_text_that_cannot_be_learnt_leaves_both_losses(polygon):
    maps = make_targets([polygon], [False], 70, 70)
    assert maps["shrink_map"].sum() == maps["thresh_mask"].sum() == 0
    assert np.allclose(maps["thresh_map"], 0.3)


def test_small_and_ignored_text_is_masked():
    for polygon, ignored in ((np.float32([[5, 5], [60, 5], [60, 11], [5, 11]]), False), (QUAD, True)):
        mask = make_targets([polygon], [ignored], 120, 120)["shrink_mask"]
        centre = polygon.mean(0).astype(int)
        assert mask[centre[1], centre[0]] == 0 and mask[110, 110] == 1


def test_a_polygon_that_crosses_itself_does_not_crash():
    bow = np.float32([[10, 10], [90, 60], [90, 10], [10, 60]])
    maps = make_targets([bow], [False], 100, 100)
    assert all(np.isfinite(m).all() for m in maps.values())


def test_parts_off_the_page_are_cut_not_moved():
    shifted = QUAD - (50, 0)
    maps, whole = make_targets([shifted], [False], 90, 60), make_targets([QUAD], [False], 90, 110)
    for name in maps:
        assert np.allclose(maps[name], whole[name][:, 50:], atol=1e-4), name


def test_an_empty_page():
    maps = make_targets([], [], 32, 32)
    assert maps["shrink_map"].sum() == 0 and maps["shrink_mask"].all() and maps["thresh_mask"].sum() == 0


def test_two_thousand_words():
    words = [np.float32([[x, y], [x + 18, y], [x + 18, y + 10], [x, y + 10]])
             for y in range(0, 800, 20) for x in range(0, 1000, 20)]
    maps = make_targets(words, [False] * len(words), 800, 1000)
    assert cv2.connectedComponents(maps["shrink_map"].astype(np.uint8))[0] - 1 == len(words) == 2000


def test_offset_grows_and_shrinks_by_the_distance():
    square = np.float32([[10, 10], [50, 10], [50, 50], [10, 50]])
    (shrunk,), (grown,) = offset_polygon(square, -5), offset_polygon(square, 5)
    assert shapely.Polygon(shrunk).area == pytest.approx(900, rel=0.01)
    assert shapely.Polygon(grown).area == pytest.approx(shapely.Polygon(square).buffer(5).area, rel=0.01)
    assert offset_polygon(square, -30) == []


def test_shorter_side():
    assert shorter_side(QUAD) == pytest.approx(25, abs=1.5)


@pytest.mark.parametrize("angle", [0, 12, 90, -50])
def test_rectangles_equal_the_slow_ones(angle):
    """They have a way of their own."""
    rectangle = cv2.boxPoints(((45.5, 40), (50, 22), angle))
    assert is_rectangle(rectangle) and not is_rectangle(QUAD)
    for corners in (rectangle, rectangle[::-1].copy(), rectangle + np.float32([0, 0.5])):
        fast, slow = make_targets([corners], [False], 80, 90), slow_targets([corners], [False], 80, 90)
        assert np.abs(fast["thresh_map"] - slow["thresh_map"]).max() < 1e-3


@pytest.mark.parametrize("points", [5, 8, 32])
def test_polygons_of_many_points_equal_the_slow_ones(points):
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    ring = np.float32(np.stack([45 + 38 * np.cos(angles), 40 + 25 * np.sin(angles)], 1))
    fast, slow = make_targets([ring], [False], 80, 90), slow_targets([ring], [False], 80, 90)
    inside = slow["thresh_mask"] * fast["thresh_mask"] > 0
    assert np.abs(fast["thresh_map"] - slow["thresh_map"])[inside].max() < 1e-3
    for name in ("shrink_map", "thresh_mask"):
        assert np.abs(fast[name] - slow[name]).mean() < 0.03


def test_overlapping_text_takes_the_nearer_outline():
    other = QUAD + (30, 10)
    both = make_targets([QUAD, other], [False, False], 90, 150)["thresh_map"]
    single = [make_targets([quad], [False], 90, 150)["thresh_map"] for quad in (QUAD, other)]
    assert np.array_equal(both, np.maximum(*single))


def test_many_shapes_at_once_are_what_they_are_one_by_one(monkeypatch):
    """Rectangles and others, some partly off the page, in chunks that end anywhere."""
    rng = np.random.default_rng(3)
    words = [QUAD * rng.uniform(0.4, 1.5) + rng.uniform(-60, 300, 2).astype(np.float32) for _ in range(12)]
    words += [cv2.boxPoints((tuple(rng.uniform(0, 300, 2)), tuple(rng.uniform(12, 90, 2)), rng.uniform(0, 90)))
              for _ in range(12)]
    single = [make_targets([word], [False], 280, 310) for word in words]
    for chunk in (1, 5_000, 1_000_000):
        monkeypatch.setattr("datasets.db_targets.CHUNK", chunk)
        maps = make_targets(words, [False] * len(words), 280, 310)
        for name in ("shrink_map", "thresh_map", "thresh_mask"):
            assert np.array_equal(maps[name], np.maximum.reduce([each[name] for each in single])), (name, chunk)


def test_the_same_arguments_give_the_same_bits():
    rng = np.random.default_rng(0)
    words = [QUAD * rng.uniform(0.4, 2) + rng.uniform(-40, 500, 2).astype(np.float32) for _ in range(40)]
    first, second = (make_targets(words, [False] * 40, 500, 500) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_only_text_that_is_ignored():
    maps = make_targets([QUAD, QUAD + 30], [True, True], 120, 160)
    assert maps["shrink_map"].sum() == maps["thresh_mask"].sum() == 0 and not maps["shrink_mask"].all()
    assert (maps["thresh_map"] == np.float32(0.3)).all()
