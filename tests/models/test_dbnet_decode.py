"""Decoding against slow, obvious ways: rectangles by pyclipper, curved text by Shapely's buffer; and odd maps."""

import cv2
import numpy as np
import pytest
import shapely

from models.dbnet_decode import MAX_POINTS, decode, decode_boxes, find_candidates
from utils.geometry import PageSize, min_area_quad, offset_polygon


def draw(polygons, height=400, width=400):
    """0.9 where a pixel's centre is inside."""
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.any([shapely.contains_xy(shapely.Polygon(polygon), xs, ys) for polygon in polygons], axis=0)
    return np.where(inside, np.float32(0.9), np.float32(0))


def slow_boxes(prob, thresh, box_thresh, unclip_ratio):
    """Region by region, with a true polygon offset."""
    count, labels = cv2.connectedComponents((prob > thresh).astype(np.uint8), connectivity=8)
    boxes = []
    for label in range(1, count):
        ys, xs = np.nonzero(labels == label)
        corners = np.concatenate([np.stack([xs + dx, ys + dy], 1) for dx in (0, 1) for dy in (0, 1)]).astype(np.float32)
        quad = min_area_quad(corners)
        if min(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[1] - quad[2])) < 3:
            continue
        grid = np.meshgrid(np.arange(prob.shape[1]) + 0.5, np.arange(prob.shape[0]) + 0.5)
        if prob[shapely.contains_xy(shapely.Polygon(quad).buffer(0.01), *grid)].mean() < box_thresh:
            continue
        shape = shapely.Polygon(quad)
        boxes.append(min_area_quad(offset_polygon(quad, shape.area * unclip_ratio / shape.length)[0]))
    return boxes


@pytest.mark.parametrize("angle", [0, 9, -30, 80])
def test_boxes_equal_the_slow_ones(angle):
    rng = np.random.default_rng(angle % 7)
    prob = draw([cv2.boxPoints(((x, y), (rng.uniform(20, 40), rng.uniform(8, 12)), angle))
                 for x, y in ((30, 30), (90, 35), (40, 90), (100, 95))], 130, 130)
    prob[prob > 0] -= rng.uniform(0, 0.5, (prob > 0).sum()).astype(np.float32)
    prob[120:122, 3:5] = 1
    slow = slow_boxes(prob, 0.3, 0.5, 1.5)
    fast, scores = decode_boxes(prob, 0.3, 0.5, 1.5)
    assert len(fast) == len(slow) == 4 and fast.dtype == np.float32 and (scores >= 0.5).all()
    for box in slow:
        nearest = fast[np.abs(fast.mean(1) - box.mean(0)).sum(1).argmin()]
        assert min(np.abs(np.roll(nearest, k, 0) - box).max() for k in range(4)) < 2


def arc(radius=120, half=14, centre=(200, 230), points=15):
    angles = np.linspace(np.pi * 1.1, np.pi * 1.9, points)
    outer, inner = ([(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for a in angles] for r in
                    (radius + half, radius - half))
    return np.float32(outer + inner[::-1])


def test_curved_text_comes_back_as_a_polygon():
    """A kernel shrunk as in training grows towards its text; a rectangle round the arc is none of it."""
    text = shapely.Polygon(arc())
    kernel, = offset_polygon(arc(), -text.area * (1 - 0.4**2) / text.length)
    (found,), (score,) = decode_boxes(draw([kernel]), unclip_ratio=2.0, output="polygon")
    shape, grown = shapely.Polygon(found), shapely.Polygon(kernel)
    expected = grown.buffer(grown.area * 2.0 / grown.length)
    assert 4 <= len(found) <= MAX_POINTS and shape.is_valid and score > 0.85
    assert shape.intersection(expected).area / shape.union(expected).area > 0.93
    assert shape.intersection(text).area / shape.union(text).area > 0.6
    (quad,), _ = decode_boxes(draw([kernel]), box_thresh=0.01)
    assert shapely.Polygon(quad).intersection(text).area / shapely.Polygon(quad).union(text).area < 0.5


def sagging(bow=4.0, level=0.6):
    """A kernel 5 px high over 300 px that sags by `bow` in the middle: a line of print on paper that is not flat."""
    prob = np.zeros((100, 400), np.float32)
    for x in range(50, 350):
        y = 40 + round(bow * (1 - ((x - 200) / 150) ** 2))
        prob[y : y + 5, x] = level
    return prob


def test_a_crooked_line_is_not_lost_for_the_paper_in_its_rectangle():
    (quad,), (score,) = decode_boxes(sagging(), box_thresh=0.45)
    assert score == pytest.approx(0.5, abs=0.01)  # what a straight one's rectangle has of 0.6, or less
    (_,), (straight,) = decode_boxes(sagging(0), box_thresh=0.45)
    assert straight == pytest.approx(0.6)
    assert len(decode_boxes(sagging(level=0.5), box_thresh=0.45)[0]) == 0  # unsure, and not only crooked


def test_a_ring_is_no_line():
    """The letters round a stamp: their rectangle is nearly all of something else."""
    prob = np.zeros((200, 200), np.float32)
    cv2.ellipse(prob, (100, 100), (70, 70), 0, 0, 300, 0.9, 6)
    assert len(decode_boxes(prob, box_thresh=0.45)[0]) == 0
    assert len(decode_boxes(prob, box_thresh=0.45, output="polygon")[0]) == 1


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_blank_full_and_noisy_maps(output):
    thresholds = {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5, "output": output}
    found, scores = decode(np.zeros((64, 96), np.float32), thresholds)
    assert len(found) == len(scores) == 0
    found, _ = decode(np.ones((64, 96), np.float32), thresholds)
    assert len(found) == 1
    noise = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    found, scores = decode(noise, thresholds)
    assert len(found) == len(scores) and all(np.isfinite(polygon).all() for polygon in found)
    one = np.zeros((64, 64), np.float32)
    one[10, 10] = one[20, 5:60] = 1  # a pixel and a line
    assert len(decode(one, thresholds)[0]) == 0
    cross = np.zeros((64, 64), np.float32)
    cross[20:24, 5:60] = cross[5:60, 30:34] = 1
    assert len(decode(cross, thresholds | {"box_thresh": 0.1})[0]) >= 1


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_two_thousand_words(output):
    prob = np.zeros((820, 1020), np.float32)
    for y in range(5, 805, 20):
        for x in range(5, 1005, 20):
            prob[y : y + 6, x : x + 14] = 0.8
    found, scores = decode_boxes(prob, output=output)
    assert len(found) == len(scores) == 2000
    few = find_candidates(prob, max_candidates=7)
    assert len(few.scores) == 7


def test_candidates_grow_as_they_would_when_decoded_anew():
    rng = np.random.default_rng(3)
    prob = draw([cv2.boxPoints(((x, y), (rng.uniform(20, 60), rng.uniform(4, 16)), rng.uniform(-90, 90)))
                 for x in range(50, 400, 90) for y in range(50, 400, 90)])
    candidates = find_candidates(prob, 0.3)
    for ratio in (0.5, 1.5, 2.5):
        quads, scores = candidates.grown(ratio)
        anew, again = decode_boxes(prob, 0.3, 0.0, ratio)
        assert np.array_equal(quads, anew) and np.array_equal(scores, again)
        assert np.abs(quads - np.array([min_area_quad(quad) for quad in quads])).max() < 0.01  # in reading order


def test_pages_by_their_shorter_side():
    size = PageSize(736, "short")
    assert size.scale(1472, 3000) == 0.5 and size.scale(368, 736) == 2
    assert size.scale(10, 10_000) == pytest.approx(0.4096)  # a strip does not become endless
    image, scale = size.fit(np.zeros((100, 150, 3), np.uint8))
    assert image.shape[:2] == (736, 1120) and scale == 7.36
    assert PageSize.of({"long_side": 1280}) == PageSize(1280) and PageSize.of({"short_side": 736}) == size
