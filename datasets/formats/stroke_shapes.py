"""Strokes drawn as shapes, in LabelMe's JSON, made into a mask.

    {"imageHeight": 1400, "imageWidth": 1000,
     "shapes": [{"label": "stroke", "shape_type": "polygon", "points": [[x, y], ...]},
                {"label": "stroke", "shape_type": "linestrip", "points": [[x, y], ...], "width": 3}]}

polygon, rectangle (two corners) and circle (centre and a point on it) are filled; linestrip and line are drawn with
round ends and the shape's own "width" in pixels, or else with --line-width. Every shape is ink, whatever its label, but
for those labelled _background_ (LabelMe's own name), which take ink away again. Shapes are drawn in their order. Points
count from the pixels' corners: a square from (0, 0) to (2, 2) is four pixels.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from utils.errors import DataError
from utils.images import MAX_PIXELS

BACKGROUND = "_background_"
FAR = 1e7  # pixels; no image is so large
LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2}


@dataclass(frozen=True)
class Shape:
    """points (N, 2) float64 in pixels from the image's top left corner; width in pixels of a line, else None."""

    kind: str
    points: np.ndarray
    width: float | None
    ink: bool


@dataclass(frozen=True)
class Drawing:
    height: int
    width: int
    shapes: list[Shape]


def read_drawing(path: Path, line_width: float | None = None) -> Drawing:
    """line_width: pixels, for lines that state no width. Raises DataError where the file is no LabelMe JSON, or a shape
    cannot be drawn."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
        height, width = int(content["imageHeight"]), int(content["imageWidth"])
        shapes = content["shapes"]
        if not isinstance(shapes, list):
            raise TypeError
    except (KeyError, TypeError, OverflowError):
        raise DataError(f"{path}: is no LabelMe file: it needs imageHeight, imageWidth and a list of shapes") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not (0 < height and 0 < width and height * width <= MAX_PIXELS):
        raise DataError(f"{path}: states an image of {width} x {height} pixels")
    drawn = []
    for number, shape in enumerate(shapes, start=1):
        try:
            drawn.append(_read_shape(shape, line_width))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: shape {number} {error}") from None
    return Drawing(height, width, drawn)


def _read_shape(shape: dict, line_width: float | None) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    if kind not in LEAST_POINTS:
        raise ValueError(f"is a {kind}; {', '.join(LEAST_POINTS)} can be drawn")
    points = np.array(shape.get("points", []), np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < LEAST_POINTS[kind]:
        raise ValueError(f"is a {kind} without {LEAST_POINTS[kind]} points [x, y]")
    if not (np.abs(points) < FAR).all():
        raise ValueError(f"is a {kind} with coordinates that are no numbers of pixels")
    width = None
    if kind in ("line", "linestrip"):
        width = shape.get("width", line_width)
        if width is None:
            raise ValueError(f'is a {kind} without "width"; add it, or name one for all by --line-width PIXELS')
        width = float(width)
        if not 0 < width < FAR:
            raise ValueError(f"is a {kind} of width {width:g}")
    return Shape(kind, points, width, shape.get("label") != BACKGROUND)


def draw(drawing: Drawing) -> np.ndarray:
    """(height, width) bool, True = ink: the pixels whose centre lies inside a shape."""
    mask = np.zeros((drawing.height, drawing.width), bool)
    for shape in drawing.shapes:
        if rings := _rings(shape):
            top, left, inside = fill_rings(rings, *mask.shape)
            mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = shape.ink
    return mask


def _rings(shape: Shape) -> list[np.ndarray]:
    """The (N, 2) closed outlines of a shape, those of its holes included."""
    points = shape.points
    if shape.kind == "polygon":
        return [points]
    if shape.kind == "rectangle":
        (x1, y1), (x2, y2) = points[:2]
        return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    if shape.kind == "circle":
        area = shapely.Point(points[0]).buffer(float(np.linalg.norm(points[1] - points[0])), 32)
    else:
        area = shapely.LineString(points).buffer(shape.width / 2, 16)
    return [] if area.is_empty else [np.array(ring.coords) for ring in (area.exterior, *area.interiors)]


def fill_rings(rings: list[np.ndarray], height: int, width: int) -> tuple[int, int, np.ndarray]:
    """(top, left, inside (h, w) bool): the part of a (height, width) picture round the rings, and which pixels' centres
    lie inside an odd number of them. Every row counts the sides that it crosses to the left of a pixel."""
    points = np.concatenate(rings) - 0.5  # a pixel's centre is at whole numbers from here on
    low, high = np.floor(points.min(0)), np.ceil(points.max(0)) + 1
    (left, top), (right, bottom) = (np.clip(corner, 0, (width, height)).astype(int) for corner in (low, high))
    starts, ends = points, np.concatenate([np.roll(ring, -1, 0) for ring in rings]) - 0.5
    down = starts[:, 1] <= ends[:, 1]
    upper, lower = np.where(down[:, None], starts, ends), np.where(down[:, None], ends, starts)
    # A side crosses the rows first <= y < last, so that two sides that meet on a row count once.
    first, last = (np.clip(np.ceil(end[:, 1]), top, bottom).astype(int) for end in (upper, lower))
    side = np.repeat(np.arange(len(points)), last - first)
    row = np.arange(len(side)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[side]
    slope = (lower[side, 0] - upper[side, 0]) / (lower[side, 1] - upper[side, 1])
    column = np.clip(np.ceil(upper[side, 0] + (row - upper[side, 1]) * slope), left, right).astype(int)
    shape = (bottom - top, right - left + 1)
    crossings = np.bincount((row - top) * shape[1] + column - left, minlength=shape[0] * shape[1]).reshape(shape)
    return top, left, (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1]
