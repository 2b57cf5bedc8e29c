"""Target maps of DBNet (Liao et al., 2020, https://arxiv.org/abs/1911.08947): shrink map and threshold map."""

import math

import cv2
import numpy as np

from utils.geometry import offset_both_ways, offset_polygon

SHRINK_RATIO = 0.4
THRESH_MIN, THRESH_MAX = 0.3, 0.7
MIN_TEXT_SIDE = 8.0
ZERO = np.float32(0)
RECTANGLE_SLACK = 0.02
CHUNK = 100_000  # pixels of edges' boxes that are worked on at once: they stay in the cache


def shrink_distance(polygon: np.ndarray, ratio: float = SHRINK_RATIO) -> float:
    """D = A (1 - r^2) / L in pixels; 0 for a polygon without area."""
    outline = np.asarray(polygon, np.float32).reshape(-1, 1, 2)
    perimeter = cv2.arcLength(outline, True)
    return cv2.contourArea(outline) * (1 - ratio**2) / perimeter if perimeter > 0 else 0.0


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
    thresh_map = np.full((height, width), THRESH_MIN, np.float32)
    thresh_mask = np.zeros((height, width), np.float32)
    learnt, distances = [], []
    for polygon, ignore in zip(polygons, ignored):
        polygon = np.asarray(polygon, np.float32)
        distance = 0.0 if ignore or shorter_side(polygon) < MIN_TEXT_SIDE else shrink_distance(polygon)
        kernels, dilated = offset_both_ways(polygon, (-distance, distance)) if distance > 0 else ([], [])
        if not kernels:
            _fill(shrink_mask, [polygon], 0.0)
            continue
        _fill(shrink_map, kernels, 1.0)
        _fill(thresh_mask, dilated, 1.0)
        learnt.append(polygon)
        distances.append(distance)
    _draw_borders(thresh_map, learnt, distances)
    return {"shrink_map": shrink_map, "shrink_mask": shrink_mask, "thresh_mask": thresh_mask,
            "thresh_map": thresh_map}


def text_kernels(polygon: np.ndarray) -> list[np.ndarray]:
    """The shrunk polygons that stand for a text, empty where it is too small or too thin to be learnt."""
    distance = shrink_distance(polygon)
    return offset_polygon(polygon, -distance) if distance > 0 and shorter_side(polygon) >= MIN_TEXT_SIDE else []


def shorter_side(polygon: np.ndarray) -> float:
    """The shorter side in pixels of the smallest rotated rectangle round the polygon."""
    return float(min(cv2.minAreaRect(np.asarray(polygon, np.float32).reshape(-1, 2))[1]))


def _draw_borders(canvas: np.ndarray, polygons: list[np.ndarray], distances: list[float]) -> None:
    """canvas = max(canvas, 0.3 + 0.4 (1 - d / D)) for each polygon, d being the distance to its outline and D its
    shrink distance, in `distances`."""
    others = []
    for polygon, distance in zip(polygons, distances):
        if is_rectangle(polygon):
            _draw_rectangle(canvas, polygon, distance)
        else:
            others.append((polygon, distance))
    if others:
        _draw_polygons(canvas, *map(list, zip(*others)))


def is_rectangle(polygon: np.ndarray) -> bool:
    """Whether the diagonals of (N, 2) points are equally long and halve each other, to RECTANGLE_SLACK pixels."""
    if len(polygon) != 4:
        return False
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = polygon.tolist()
    return (abs(ax + cx - bx - dx) < RECTANGLE_SLACK and abs(ay + cy - by - dy) < RECTANGLE_SLACK
            and abs(math.hypot(ax - cx, ay - cy) - math.hypot(bx - dx, by - dy)) < RECTANGLE_SLACK)


def _draw_rectangle(canvas: np.ndarray, corners: np.ndarray, distance: float) -> None:
    """_draw_borders of one rectangle, in its own frame: no edge by edge."""
    height, width = canvas.shape
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners.tolist()
    x0, y0 = (max(math.floor(min(side) - distance), 0) for side in ((ax, bx, cx, dx), (ay, by, cy, dy)))
    x1 = min(math.ceil(max(ax, bx, cx, dx) + distance) + 1, width)
    y1 = min(math.ceil(max(ay, by, cy, dy) + distance) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return
    length, breadth = math.hypot(bx - ax, by - ay), math.hypot(dx - ax, dy - ay)
    unit = (THRESH_MAX - THRESH_MIN) / distance  # lengths are measured in D / 0.4
    ux, uy = (bx - ax) / length * unit, (by - ay) / length * unit
    xs = np.arange(x0, x1, dtype=np.float32) - np.float32((ax + cx) / 2)
    ys = (np.arange(y0, y1, dtype=np.float32) - np.float32((ay + cy) / 2))[:, None]
    beyond = _past(xs * np.float32(ux), ys * np.float32(uy), length * unit / 2)  # the ends, below 0 between them
    above = _past(xs * np.float32(-uy), ys * np.float32(ux), breadth * unit / 2)
    # Outside the distance is that to the nearer side or corner, inside that to the nearest side.
    np.maximum(beyond, np.minimum(above, ZERO), out=beyond)
    np.maximum(above, ZERO, out=above)
    beyond *= beyond
    above *= above
    beyond += above
    np.sqrt(beyond, out=beyond)
    np.subtract(np.float32(THRESH_MAX), beyond, out=beyond)
    region = canvas[y0:y1, x0:x1]
    np.maximum(region, beyond, out=region)


def _past(of_x: np.ndarray, of_y: np.ndarray, half: float) -> np.ndarray:
    """|of_x + of_y| - half: (h, w) from (w,) and (h, 1)."""
    distance = of_x + of_y
    np.abs(distance, out=distance)
    distance -= np.float32(half)
    return distance


def _draw_polygons(canvas: np.ndarray, polygons: list[np.ndarray], distances: list[float]) -> None:
    """_draw_borders of polygons of any shape.

    Edge by edge, each in the box that its band of width 2 D fits in: elsewhere it is further away than D. The boxes of
    many edges lie one behind the other in one array, so that most of the arithmetic is a few calls for all of them.
    """
    starts, counts = np.concatenate(polygons), np.array([len(polygon) for polygon in polygons])
    following = np.arange(1, len(starts) + 1)
    following[counts.cumsum() - 1] -= counts  # the last point of a polygon is followed by its first
    ends, reach = starts[following], np.repeat(np.float32(distances), counts)
    height, width = canvas.shape
    low = np.floor(np.minimum(starts, ends) - reach[:, None]).clip(0, (width, height)).astype(int)
    size = (np.ceil(np.maximum(starts, ends) + reach[:, None]) + 1).clip(0, (width, height)).astype(int) - low
    shown = np.flatnonzero(size.min(1) > 0)
    if not len(shown):
        return
    areas = size[shown].prod(1).cumsum()
    for chunk in np.split(shown, np.flatnonzero(np.diff(areas // CHUNK)) + 1):
        _draw_edges(canvas, starts[chunk], ends[chunk], reach[chunk], low[chunk], size[chunk])


def _draw_edges(canvas: np.ndarray, starts: np.ndarray, ends: np.ndarray, reach: np.ndarray, low: np.ndarray,
                size: np.ndarray) -> None:
    """starts, ends (E, 2) float32; reach (E,) float32; low, size (E, 2) int: x and y of the edges' boxes."""
    step = ends - starts
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), np.float32(1e-6))
    ux, uy = step.T / length
    xs = np.arange(size[:, 0].max(initial=0), dtype=np.float32) + np.float32(low[:, :1]) - starts[:, :1]
    ys = np.arange(size[:, 1].max(initial=0), dtype=np.float32) + np.float32(low[:, 1:]) - starts[:, 1:]
    # Along an edge and across it, from its middle, in units of D / 0.4: each a term of x plus a term of y.
    unit = np.float32(THRESH_MAX - THRESH_MIN) / reach
    ux, uy, half = ux * unit, uy * unit, length * unit / 2
    along_x, along_y = ux[:, None] * xs, (uy[:, None] * ys - half[:, None])[..., None]
    across_x, across_y = -uy[:, None] * xs, (ux[:, None] * ys)[..., None]
    areas = size.prod(1)
    along, across = np.empty(areas.sum(), np.float32), np.empty(areas.sum(), np.float32)
    boxes, offset = [], 0
    for (w, h), area, ax, ay, cx, cy in zip(size.tolist(), areas.tolist(), along_x, along_y, across_x, across_y):
        part = slice(offset, offset + area)
        np.add(ax[:w], ay[:h], out=along[part].reshape(h, w))
        np.add(cx[:w], cy[:h], out=across[part].reshape(h, w))
        boxes.append((part, w, h))
        offset += area
    np.abs(along, out=along)
    along -= np.repeat(half, areas)
    np.maximum(along, 0, out=along)  # how far beyond the nearer end
    # Not cv2.magnitude, whose last bits depend on where in memory its arrays lie.
    along *= along
    across *= across
    along += across
    near = np.sqrt(along, out=along)
    np.subtract(np.float32(THRESH_MAX), near, out=near)
    for (part, w, h), (x0, y0) in zip(boxes, low.tolist()):
        region = canvas[y0 : y0 + h, x0 : x0 + w]
        np.maximum(region, near[part].reshape(h, w), out=region)


def _fill(canvas: np.ndarray, polygons: list[np.ndarray], value: float) -> None:
    """Set the pixels of the polygons. One that leaves the picture is drawn on a canvas of its own first: where OpenCV
    clips an outline at the border, it moves the rest of it."""
    shift = 4  # cv2 takes fixed-point coordinates: sixteenths of a pixel
    height, width = canvas.shape
    for polygon in polygons:
        x0, y0, w, h = cv2.boundingRect(polygon)
        if x0 >= 0 and y0 >= 0 and x0 + w < width and y0 + h < height:
            cv2.fillPoly(canvas, [np.rint(polygon * (1 << shift)).astype(np.int32)], value, shift=shift)
            continue
        low = np.floor(polygon.min(0)).astype(int)
        w, h = np.ceil(polygon.max(0)).astype(int) - low + 1
        mask = np.zeros((h, w), np.uint8)
        cv2.fillPoly(mask, [np.rint((polygon - low) * (1 << shift)).astype(np.int32)], 1, shift=shift)
        (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(low + (w, h), (width, height))
        if x0 < x1 and y0 < y1:
            region = canvas[y0:y1, x0:x1]
            region[mask[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] > 0] = value
