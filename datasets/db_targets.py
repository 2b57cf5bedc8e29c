"""Target maps of DBNet (Liao et al., 2020, https://arxiv.org/abs/1911.08947): shrink map and threshold map."""

import math
from typing import Iterator

import cv2
import numpy as np

from utils.geometry import CLIPPER_SCALE, offset_paths, offset_polygon

SHRINK_RATIO = 0.4
THRESH_MIN, THRESH_MAX = 0.3, 0.7
MIN_TEXT_SIDE = 8.0
RECTANGLE_SLACK = 0.02
CHUNK = 100_000  # pixels of the shapes' boxes that are worked on at once: they stay in the cache


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
        kernels, dilated = offset_paths(polygon, (-distance, distance)) if distance > 0 else ([], [])
        if not kernels:
            _fill(shrink_mask, [np.rint(polygon * CLIPPER_SCALE).astype(np.int32)], 0.0)
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
    rectangles, others = [], []
    for polygon, distance in zip(polygons, distances):
        (rectangles if is_rectangle(polygon) else others).append((polygon, distance))
    if rectangles:
        _draw_rectangles(canvas, *map(np.float32, zip(*rectangles)))
    if others:
        outlines, reach = zip(*others)
        _draw_edges(canvas, list(outlines), np.float32(reach))


def is_rectangle(polygon: np.ndarray) -> bool:
    """Whether the diagonals of (N, 2) points are equally long and halve each other, to RECTANGLE_SLACK pixels."""
    if len(polygon) != 4:
        return False
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = polygon.tolist()
    return (abs(ax + cx - bx - dx) < RECTANGLE_SLACK and abs(ay + cy - by - dy) < RECTANGLE_SLACK
            and abs(math.hypot(ax - cx, ay - cy) - math.hypot(bx - dx, by - dy)) < RECTANGLE_SLACK)


def _draw_rectangles(canvas: np.ndarray, corners: np.ndarray, reach: np.ndarray) -> None:
    """_draw_borders of (N, 4, 2) float32 rectangles, each in its own frame: no edge by edge."""
    sides = corners[:, [1, 3]] - corners[:, :1]
    lengths = np.maximum(np.hypot(*np.moveaxis(sides, -1, 0)), np.float32(1e-6))  # (N, 2)
    centres = (corners[:, 0] + corners[:, 2]) / 2
    for boxes in _boxes(canvas.shape, corners.min(1), corners.max(1), reach):
        beyond, above = boxes.measure(centres, (sides / lengths[..., None])[:, 0], reach)
        half = lengths / 2 * (np.float32(THRESH_MAX - THRESH_MIN) / reach)[:, None]
        for distance, side in ((beyond, 0), (above, 1)):
            np.abs(distance, out=distance)
            distance -= boxes.spread(half[:, side])
        # Outside the distance is that to the nearer side or corner, inside that to the nearest side.
        zeros = np.zeros(boxes.pixels, np.float32)  # numpy is several times as fast with it as with a single 0
        np.maximum(beyond, np.minimum(above, zeros), out=beyond)
        np.maximum(above, zeros, out=above)
        boxes.draw(canvas, beyond, above)


def _draw_edges(canvas: np.ndarray, outlines: list[np.ndarray], reach: np.ndarray) -> None:
    """_draw_borders of polygons of any shape: edge by edge, each in the box that its band of width 2 D fits in.
    Elsewhere it is further away than D."""
    starts, counts = np.concatenate(outlines), np.array([len(outline) for outline in outlines])
    following = np.arange(1, len(starts) + 1)
    following[counts.cumsum() - 1] -= counts  # the last point of a polygon is followed by its first
    ends, reach = starts[following], np.repeat(reach, counts)
    step = ends - starts
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), np.float32(1e-6))
    for boxes in _boxes(canvas.shape, np.minimum(starts, ends), np.maximum(starts, ends), reach):
        along, across = boxes.measure((starts + ends) / 2, step / length[:, None], reach)
        np.abs(along, out=along)
        along -= boxes.spread(length / 2 * (np.float32(THRESH_MAX - THRESH_MIN) / reach))
        np.maximum(along, np.zeros_like(along), out=along)  # how far beyond the nearer end
        boxes.draw(canvas, along, across)


def _boxes(shape: tuple[int, int], low: np.ndarray, high: np.ndarray, reach: np.ndarray) -> Iterator["Boxes"]:
    """Those parts of the picture that shapes from `low` to `high` (N, 2), grown by `reach` (N,), may touch: as many at
    once as stay in the processor's cache."""
    limit = (shape[1], shape[0])
    low = np.floor(low - reach[:, None]).clip(0, limit).astype(int)
    size = (np.ceil(high + reach[:, None]) + 1).clip(0, limit).astype(int) - low
    shown = np.flatnonzero(size.min(1) > 0)
    areas = size[shown].prod(1).cumsum()
    for chunk in np.split(shown, np.flatnonzero(np.diff(areas // CHUNK)) + 1):
        if len(chunk):
            yield Boxes(chunk, low[chunk], size[chunk])


class Boxes:
    """Rectangular parts of a picture, whose pixels lie one behind the other in one array: most of the arithmetic is a
    few calls for all of them, whatever their number.

    chosen (N,): which of the shapes they are of; low, size (N, 2) int: x and y.
    """

    def __init__(self, chosen: np.ndarray, low: np.ndarray, size: np.ndarray):
        self.chosen, self.low, self.size = chosen, low, size
        stops = size.prod(1).cumsum().tolist()
        self.pixels = stops[-1]
        self.parts = [(slice(stop - w * h, stop), w, h) for stop, (w, h) in zip(stops, size.tolist())]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value of each shape, for each pixel of its box."""
        spread = np.empty(self.pixels, np.float32)
        for (part, _, _), value in zip(self.parts, values[self.chosen].tolist()):
            spread[part] = value  # several times as fast as np.repeat
        return spread

    def measure(self, origins: np.ndarray, directions: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """(2, pixels) float32: how far along the shape's direction, a unit vector, and across it a pixel lies from its
        origin, in units of D / 0.4, D being `reach`."""
        origins, directions = origins[self.chosen], directions[self.chosen]
        ux, uy = (directions * (np.float32(THRESH_MAX - THRESH_MIN) / reach[self.chosen])[:, None]).T[..., None]
        x0, y0 = (np.float32(self.low) - origins).T[..., None]
        xs = np.arange(self.size[:, 0].max(), dtype=np.float32) + x0
        ys = np.arange(self.size[:, 1].max(), dtype=np.float32) + y0
        # Each is a term of x plus one of y: (h, 2) @ (2, w), which is faster than to add (h, 1) and (w,).
        of_x, of_y = (np.ones((len(ux), 2, *shape), np.float32) for shape in ((2, xs.shape[1]), (ys.shape[1], 2)))
        of_x[:, 0, 0], of_x[:, 1, 0] = ux * xs, -uy * xs
        of_y[:, 0, :, 1], of_y[:, 1, :, 1] = uy * ys, ux * ys
        found = np.empty((2, self.pixels), np.float32)
        for (part, w, h), x, y in zip(self.parts, of_x, of_y):
            np.matmul(y[:, :h], x[..., :w], out=found[:, part].reshape(2, h, w))
        return found

    def draw(self, canvas: np.ndarray, along: np.ndarray, across: np.ndarray) -> None:
        """canvas = max(canvas, 0.7 - hypot(along, across)); both arrays are used up."""
        # Not cv2.magnitude, whose last bits depend on where in memory its arrays lie.
        along *= along
        across *= across
        along += across
        near = np.sqrt(along, out=along)
        np.subtract(np.float32(THRESH_MAX), near, out=near)
        for (part, w, h), (x, y) in zip(self.parts, self.low.tolist()):
            region = canvas[y : y + h, x : x + w]
            cv2.max(region, near[part].reshape(h, w), region)


def _fill(canvas: np.ndarray, polygons: list[np.ndarray], value: float) -> None:
    """Set the pixels of the polygons, (N, 2) int32 in units of a pixel / CLIPPER_SCALE. One that leaves the picture is
    drawn on a canvas of its own first: where OpenCV clips an outline at the border, it moves the rest of it."""
    shift = CLIPPER_SCALE.bit_length() - 1
    height, width = canvas.shape
    for polygon in polygons:
        x0, y0, w, h = cv2.boundingRect(polygon)
        x1, y1 = (x0 + w >> shift) + 1, (y0 + h >> shift) + 1
        x0, y0 = x0 >> shift, y0 >> shift
        if x0 >= 0 and y0 >= 0 and x1 < width and y1 < height:
            cv2.fillPoly(canvas, [polygon], value, shift=shift)
            continue
        mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
        cv2.fillPoly(mask, [polygon - np.int32([x0, y0]) * CLIPPER_SCALE], 1, shift=shift)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
        if left < right and top < bottom:
            region = canvas[top:bottom, left:right]
            region[mask[top - y0 : bottom - y0, left - x0 : right - x0] > 0] = value
