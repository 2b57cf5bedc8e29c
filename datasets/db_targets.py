"""Target maps of DBNet (Liao et al., 2020, https://arxiv.org/abs/1911.08947): shrink map and threshold map."""

import cv2
import numpy as np
import pyclipper

from utils.geometry import polygon_area, polygon_perimeter

SHRINK_RATIO = 0.4
THRESH_MIN, THRESH_MAX = 0.3, 0.7
MIN_TEXT_SIDE = 8.0
# Clipper works on integers; sixteenths of a pixel keep small text exact.
CLIPPER_SCALE = 16


def shrink_distance(polygon: np.ndarray, ratio: float = SHRINK_RATIO) -> float:
    """D = A (1 - r^2) / L in pixels; 0 for a polygon without area."""
    perimeter = polygon_perimeter(polygon)
    return polygon_area(polygon) * (1 - ratio**2) / perimeter if perimeter > 0 else 0.0


def offset_polygon(polygon: np.ndarray, distance: float) -> list[np.ndarray]:
    """The polygon grown (distance > 0) or shrunk (< 0) by `distance` pixels with round corners: a list of (N, 2)
    float32 polygons, empty where nothing is left."""
    path = np.round(np.asarray(polygon, np.float64) * CLIPPER_SCALE).astype(np.int64).tolist()
    offset = pyclipper.PyclipperOffset(arc_tolerance=0.25 * CLIPPER_SCALE)
    try:
        offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
        paths = offset.Execute(distance * CLIPPER_SCALE)
    except pyclipper.ClipperException:  # a polygon whose points all fall together
        return []
    return [np.float32(p) / CLIPPER_SCALE for p in paths if len(p) > 2]


def make_targets(polygons: list[np.ndarray], ignored: list[bool], height: int, width: int) -> dict[str, np.ndarray]:
    """The four maps, each (height, width) float32.

    shrink_map   1 inside the shrunk text, 0 elsewhere
    shrink_mask  0 on text that is ignored: as labelled, with a shorter side under 8 px, or with an empty kernel
                (no area, or outlines that cross so that it cancels out)
    thresh_map   0.3 + 0.4 (1 - d / D) where d, the distance to the text's outline, is under D; 0.3 elsewhere
    thresh_mask  1 inside the dilated text, where the threshold is learnt

    polygons: (N, 2) points in pixels of the map; parts outside it are cut off.
    """
    shrink_map = np.zeros((height, width), np.float32)
    shrink_mask = np.ones((height, width), np.float32)
    nearness = np.zeros((height, width), np.float32)
    thresh_mask = np.zeros((height, width), np.float32)
    for polygon, ignore in zip(polygons, ignored):
        polygon = np.asarray(polygon, np.float32)
        distance = shrink_distance(polygon)
        kernels = [] if ignore else text_kernels(polygon)
        if not kernels:
            _fill(shrink_mask, [polygon], 0.0)
            continue
        _fill(shrink_map, kernels, 1.0)
        dilated = offset_polygon(polygon, distance)
        _fill(thresh_mask, dilated, 1.0)
        _draw_nearness(nearness, polygon, dilated, distance)
    return {"shrink_map": shrink_map, "shrink_mask": shrink_mask, "thresh_mask": thresh_mask,
            "thresh_map": THRESH_MIN + (THRESH_MAX - THRESH_MIN) * nearness}


def text_kernels(polygon: np.ndarray) -> list[np.ndarray]:
    """The shrunk polygons that stand for a text, empty where it is too small or too thin to be learnt."""
    distance = shrink_distance(polygon)
    if distance <= 0 or shorter_side(polygon) < MIN_TEXT_SIDE:
        return []
    return offset_polygon(polygon, -distance)


def shorter_side(polygon: np.ndarray) -> float:
    """The shorter side in pixels of the smallest rotated rectangle round the polygon."""
    return float(min(cv2.minAreaRect(np.asarray(polygon, np.float32).reshape(-1, 2))[1]))


def _draw_nearness(canvas: np.ndarray, polygon: np.ndarray, dilated: list[np.ndarray], distance: float) -> None:
    """canvas = max(canvas, 1 - d / D) over the dilated polygon's box, d being the distance to the nearest edge."""
    height, width = canvas.shape
    points = np.concatenate(dilated)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (width, height))
    if x0 >= x1 or y0 >= y1:
        return
    xs, ys = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)[:, None]
    nearest = np.full((y1 - y0, x1 - x0), np.float32(distance) ** 2)
    for start, end in zip(polygon, np.roll(polygon, -1, 0)):
        nearest = np.minimum(nearest, _squared_distance(xs, ys, start, end))
    region = canvas[y0:y1, x0:x1]
    np.maximum(region, 1 - np.sqrt(nearest) / np.float32(distance), out=region)


def _squared_distance(xs: np.ndarray, ys: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(len(ys), len(xs)) squared distances in float32 from grid points to a segment."""
    dx, dy = end - start
    length2 = dx * dx + dy * dy
    px, py = xs - start[0], ys - start[1]
    if length2 == 0:
        return px * px + py * py
    t = np.clip((px * (dx / length2)) + (py * (dy / length2)), 0, 1)
    ex, ey = px - t * dx, py - t * dy
    return ex * ex + ey * ey


def _fill(canvas: np.ndarray, polygons: list[np.ndarray], value: float) -> None:
    """Set the pixels of the polygons. Each is drawn on a canvas of its own size first: where OpenCV clips an outline at
    the border of the picture, it moves the rest of it."""
    shift = 4  # cv2 takes fixed-point coordinates: sixteenths of a pixel
    for polygon in polygons:
        low = np.floor(polygon.min(0)).astype(int)
        width, height = np.ceil(polygon.max(0)).astype(int) - low + 1
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round((polygon - low) * (1 << shift)).astype(np.int32)], 1, shift=shift)
        (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(low + (width, height), canvas.shape[::-1])
        if x0 < x1 and y0 < y1:
            region = canvas[y0:y1, x0:x1]
            region[mask[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] > 0] = value
