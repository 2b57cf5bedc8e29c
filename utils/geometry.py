"""Points, quads and boxes. Points are (x, y) in pixels from the image's top left corner."""

from dataclasses import dataclass
from typing import Iterable

import cv2
import numpy as np
import pyclipper

# Clipper works on integers; sixteenths of a pixel keep small text exact.
CLIPPER_SCALE = 16
# Pages read by their shorter side: no page becomes longer than this.
LONGEST_SIDE = 4096


def polygon_area(points: np.ndarray) -> float:
    """Unsigned area in square pixels of an (N, 2) polygon by the shoelace formula; 0 under three points."""
    points = np.asarray(points, np.float64)
    if len(points) < 3:
        return 0.0
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def polygon_perimeter(points: np.ndarray) -> float:
    """Length in pixels of the closed (N, 2) polygon."""
    points = np.asarray(points, np.float64)
    return float(np.linalg.norm(points - np.roll(points, -1, 0), axis=1).sum())


def order_quad(quad: np.ndarray) -> np.ndarray:
    """(4, 2) corners clockwise (as seen on the screen) from the top left one: the corner with the least x + y after
    the box has been turned upright, so that a slightly rotated line keeps its reading direction."""
    quad = np.asarray(quad, np.float32).reshape(4, 2)
    centre = quad.mean(0)
    angles = np.arctan2(quad[:, 1] - centre[1], quad[:, 0] - centre[0])
    quad = quad[np.argsort(angles, kind="stable")]  # clockwise on the screen, since y points down
    return np.roll(quad, -int(np.argmin(quad.sum(1))), axis=0)


def min_area_quad(points: np.ndarray) -> np.ndarray:
    """(4, 2) float32 corners of the smallest rotated rectangle round the points, ordered by order_quad."""
    return order_quad(cv2.boxPoints(cv2.minAreaRect(np.asarray(points, np.float32).reshape(-1, 2))))


def quads_round(shapes: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """(N, 4, 2) float32: quads (N, 4, 2) as they are, or the smallest rectangles round polygons (M, 2)."""
    return np.array([min_area_quad(shape) for shape in shapes], np.float32).reshape(-1, 4, 2) \
        if isinstance(shapes, list) else shapes


def text_quad(polygon, text: str = "") -> np.ndarray:
    """(4, 2) corners in reading order of a text's polygon (N, 2): of a quad as it comes, else of the smallest rectangle
    round it. What is higher than 1.5 times its width and more than one character is taken to run downwards."""
    polygon = np.asarray(polygon, np.float32)
    quad = polygon if len(polygon) == 4 else min_area_quad(polygon)
    height, width = np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[1] - quad[0])
    return np.roll(quad, -1, axis=0) if height > 1.5 * width and len(text) != 1 else quad


def crop_quad(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """The upright crop of a quad by perspective.

    image (H, W[, 3]) uint8; quad (4, 2) in reading order: top left, top right, bottom right, bottom left. The crop is as
    wide and as high as the longer of the opposite sides, at least one pixel.
    """
    quad = np.asarray(quad, np.float32).reshape(4, 2)
    width = max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3]))
    height = max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1]))
    width, height = max(int(round(float(width))), 1), max(int(round(float(height))), 1)
    target = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    matrix = cv2.getPerspectiveTransform(quad, target)
    return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 2) points moved by a (2, 3) or (3, 3) matrix, the latter with its perspective division."""
    points = np.asarray(points, np.float64)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved if len(matrix) == 2 else moved[..., :2] / moved[..., 2:]


def letterbox(image: np.ndarray, height: int, width: int, fill: int = 0) -> tuple[np.ndarray, float]:
    """Scale to fit (height, width) without distortion and pad at the right and at the bottom.

    Returns (image, scale): a point of the original times `scale` is its place in the result.
    """
    h, w = image.shape[:2]
    scale = min(height / h, width / w)
    new_h, new_w = min(max(round(h * scale), 1), height), min(max(round(w * scale), 1), width)
    if (new_h, new_w) != (h, w):
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    border = ((0, height - new_h), (0, width - new_w)) + ((0, 0),) * (image.ndim - 2)
    return np.pad(image, border, constant_values=fill), scale


def padded_size(height: int, width: int, long_side: int, divisor: int = 32) -> tuple[float, int, int]:
    """(scale, height, width) when the longer side becomes `long_side` and both are padded to multiples of `divisor`."""
    scale = long_side / max(height, width)
    return scale, *padded_sides(height, width, scale, divisor)


def padded_sides(height: int, width: int, scale: float, divisor: int = 32) -> tuple[int, int]:
    """(height, width) times `scale`, padded to multiples of `divisor`."""
    return tuple(-(-max(round(side * scale), 1) // divisor) * divisor for side in (height, width))


def fit_to_side(image: np.ndarray, long_side: int, divisor: int = 32) -> tuple[np.ndarray, float]:
    """fit_to_scale at the scale at which the longer side is `long_side` pixels; (image, scale)."""
    scale = long_side / max(image.shape[:2])
    return fit_to_scale(image, scale, divisor), scale


def fit_to_scale(image: np.ndarray, scale: float, divisor: int = 32) -> np.ndarray:
    """The image times `scale`, both sides padded at the right and below to multiples of `divisor`; a point of the
    original times `scale` is its place in the result."""
    height, width = padded_sides(*image.shape[:2], scale, divisor)
    new_h, new_w = (max(round(side * scale), 1) for side in image.shape[:2])
    if (new_h, new_w) != image.shape[:2]:
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.pad(image, ((0, height - new_h), (0, width - new_w)) + ((0, 0),) * (image.ndim - 2))


@dataclass(frozen=True)
class PageSize:
    """How large pages are read: their longer side (which 'long') or their shorter one ('short') becomes `side` pixels.

    By the shorter side a strip could become endless: no side becomes longer than LONGEST_SIDE (or `side`).
    """

    side: float
    which: str = "long"

    @classmethod
    def of(cls, thresholds: dict) -> "PageSize":
        """From a checkpoint's thresholds, which hold "short_side" or "long_side"."""
        which = "short" if "short_side" in thresholds else "long"
        return cls(thresholds[f"{which}_side"], which)

    @property
    def flag(self) -> str:
        return f"--test-{self.which}-side"

    def times(self, factor: float) -> "PageSize":
        return PageSize(self.side * factor, self.which)

    def scale(self, height: int, width: int) -> float:
        if self.which == "long":
            return self.side / max(height, width)
        return min(self.side / min(height, width), max(LONGEST_SIDE, self.side) / max(height, width))

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """(image scaled and padded to multiples of 32, scale)."""
        scale = self.scale(*image.shape[:2])
        return fit_to_scale(image, scale), scale


def offset_polygon(polygon: np.ndarray, distance: float) -> list[np.ndarray]:
    """The polygon grown (distance > 0) or shrunk (< 0) by `distance` pixels with round corners: a list of (N, 2)
    float32 polygons, empty where nothing is left."""
    return [path.astype(np.float32) / CLIPPER_SCALE for path in offset_paths(polygon, (distance,))[0]]


def offset_paths(polygon: np.ndarray, distances: Iterable[float]) -> list[list[np.ndarray]]:
    """offset_polygon for each of several distances, in one go and as Clipper gives them: (N, 2) int32, in units of a
    pixel / CLIPPER_SCALE."""
    path = np.round(np.asarray(polygon, np.float64) * CLIPPER_SCALE).astype(np.int64).tolist()
    offset = pyclipper.PyclipperOffset(arc_tolerance=0.25 * CLIPPER_SCALE)
    try:
        offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
        found = [offset.Execute(distance * CLIPPER_SCALE) for distance in distances]
    except pyclipper.ClipperException:  # a polygon whose points all fall together
        return [[] for _ in distances]
    return [[np.array(p, np.int32) for p in paths if len(p) > 2] for paths in found]


def bounding_boxes(polygons: Iterable[np.ndarray]) -> np.ndarray:
    """(N, 4) float64 x1 y1 x2 y2 round those of the (M, 2) polygons that have an area of a square pixel or more."""
    return np.array([[*p.min(0), *p.max(0)] for p in polygons if polygon_area(p) >= 1], np.float64).reshape(-1, 4)


def share_inside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M): how much of each axis-aligned box of a (N, 4), x1 y1 x2 y2, lies in each of b (M, 4); 0 for empty boxes."""
    inter, area, _ = _box_areas(a, b)
    return inter / np.maximum(area, 1e-12)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of axis-aligned boxes (N, 4) and (M, 4), x1 y1 x2 y2; 0 for empty boxes."""
    inter, area_a, area_b = _box_areas(a, b)
    return inter / np.maximum(area_a + area_b - inter, 1e-12)


def _box_areas(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intersections (N, M), areas of a (N, 1), areas of b (1, M))"""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    area_a, area_b = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(-1), np.clip(b[:, 2:] - b[:, :2], 0, None).prod(-1)
    return np.clip(overlap, 0, None).prod(-1), area_a[:, None], area_b[None]
