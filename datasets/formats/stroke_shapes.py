"""Strokes drawn as shapes, in LabelMe's JSON, made into a mask.

    {"imageHeight": 1400, "imageWidth": 1000,
     "shapes": [{"label": "stroke", "shape_type": "polygon", "points": [[x, y], ...]},
                {"label": "stroke", "shape_type": "linestrip", "points": [[x, y], ...], "width": 3}]}

polygon, rectangle (two corners) and circle (centre and a point on it) are filled; linestrip and line are drawn with
round ends and the shape's own "width" in pixels, or else with --line-width. Every shape is ink, whatever its label, but
for those labelled _background_ (LabelMe's own name), which take ink away again. Shapes are drawn in their order.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from skimage.draw import polygon as pixels_inside

from utils.errors import DataError
from utils.images import MAX_PIXELS

BACKGROUND = "_background_"
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
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < LEAST_POINTS[kind] or not np.isfinite(points).all():
        raise ValueError(f"is a {kind} without {LEAST_POINTS[kind]} points [x, y] that are finite numbers")
    width = None
    if kind in ("line", "linestrip"):
        width = shape.get("width", line_width)
        if width is None:
            raise ValueError(f'is a {kind} without "width"; add it, or name one for all by --line-width PIXELS')
        width = float(width)
        if not 0 < width < float("inf"):
            raise ValueError(f"is a {kind} of width {width:g}")
    return Shape(kind, points, width, shape.get("label") != BACKGROUND)


def draw(drawing: Drawing) -> np.ndarray:
    """(height, width) bool, True = ink: the pixels whose centre lies inside a shape."""
    mask = np.zeros((drawing.height, drawing.width), bool)
    for shape in drawing.shapes:
        for outline in _outlines(shape):
            rows, columns = pixels_inside(outline[:, 1] - 0.5, outline[:, 0] - 0.5, mask.shape)
            mask[rows, columns] = shape.ink
    return mask


def _outlines(shape: Shape) -> list[np.ndarray]:
    """The (N, 2) polygons whose union is the shape. A line is taken segment by segment, since the outline of the whole
    could have holes."""
    points = shape.points
    if shape.kind == "polygon":
        return [points]
    if shape.kind == "rectangle":
        (x1, y1), (x2, y2) = points[:2]
        return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    if shape.kind == "circle":
        areas = [shapely.Point(points[0]).buffer(float(np.linalg.norm(points[1] - points[0])), 32)]
    else:
        pairs = (points[i : i + 2] for i in range(len(points) - 1))
        areas = [shapely.LineString(pair).buffer(shape.width / 2, 16) for pair in pairs]
    return [np.array(area.exterior.coords) for area in areas if not area.is_empty]
