"""Where a flat sheet lies in the picture, and the truth moved there with it."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from datasets.pages.canvas import Canvas
from datasets.pages.truth import Mark, Stroke, TextLine, Word

# Degrees of freedom by style: largest turn in radians, and largest shift of a corner as a share of its distance.
MOST_TURN = {"clean": 0.0, "scan": 0.025, "old": 0.02, "fax": 0.014, "photo": 0.06}
MOST_TILT = {"photo": 0.045}


@dataclass
class Geometry:
    """Sheet -> picture: the sheet bends, y by a wave over x, then x by a wave over y; then `matrix` (3, 3) projects it.

    bend: amplitude in pixels and phase of the first wave, then of the second; a wave is half a period over `span`, the
    sheet's (width, height). Each wave moves one coordinate by a function of the other, so the inverse is exact.
    """

    matrix: np.ndarray
    span: tuple[float, float]
    bend: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    _maps: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) points of the sheet -> (N, 2) float32 points of the picture."""
        x, y = np.asarray(points, np.float64).reshape(-1, 2).T
        y = y + _wave(x / self.span[0], *self.bend[:2])
        x = x + _wave(y / self.span[1], *self.bend[2:])
        moved = np.stack([x, y, np.ones_like(x)], 1) @ self.matrix.T
        return np.float32(moved[:, :2] / moved[:, 2:])

    def image(self, image: np.ndarray, width: int, height: int) -> np.ndarray:
        """The sheet's (h, w[, 3]) uint8 as it is seen in a picture of (height, width); 0 outside the sheet."""
        # A pixel's middle is at its index for OpenCV, and half a pixel further in our points.
        if not any(self.bend):
            return cv2.warpPerspective(
                image, _HALF_BACK @ self.matrix @ _HALF_ON, (width, height), flags=cv2.INTER_LINEAR
            )
        if self._maps is None:
            self._maps = self._sources(width, height)
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def scale(self) -> float:
        """The least enlargement of the sheet's four sides."""
        corners = np.float32([[0, 0], [self.span[0], 0], self.span, [0, self.span[1]]])
        moved = self.points(corners)
        sides = np.linalg.norm(np.roll(moved, -1, 0) - moved, axis=1)
        return float((sides / np.linalg.norm(np.roll(corners, -1, 0) - corners, axis=1)).min())

    def _sources(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """For each pixel of the picture, the x and the y of the sheet's pixel: (height, width) float32 both."""
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        x = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
        y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
        scale = 1 / (inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2])
        sheet_x = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) * scale
        sheet_y = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) * scale
        sheet_x -= _wave(sheet_y / np.float32(self.span[1]), *self.bend[2:])
        sheet_y -= _wave(sheet_x / np.float32(self.span[0]), *self.bend[:2])
        return sheet_x - np.float32(0.5), sheet_y - np.float32(0.5)


_HALF_ON = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_HALF_BACK = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])


def _wave(position: np.ndarray, amplitude: float, phase: float) -> np.ndarray:
    """Half a period over positions from 0 to 1, in the dtype of `position`."""
    return amplitude * np.sin(np.pi * position + phase)


def place(style: str, kind: str, sheet: Canvas, width: int, height: int, rng: np.random.Generator) -> Geometry:
    """A sheet's place in a picture of width x height: whole, its corners inside; a whiteboard's frame may be cut."""
    w, h = sheet.width, sheet.height
    if style == "clean" and (w, h) == (width, height):
        return Geometry(np.eye(3), (w, h))
    turn, tilt = MOST_TURN[style], MOST_TILT.get(style, 0.0)
    angle = float(np.clip(rng.normal(0, turn / 1.5), -turn, turn))
    corners = np.float64([[0, 0], [w, 0], [w, h], [0, h]]) - [w / 2, h / 2]
    corners = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners *= 1 + rng.uniform(-tilt, tilt, (4, 2))
    if kind == "whiteboard":
        room = rng.uniform(0.97, 1.05)
    else:
        room = rng.uniform(0.9, 1.0) if style == "photo" else rng.uniform(0.97, 1.0)
    fit = room * min(width / np.ptp(corners[:, 0]), height / np.ptp(corners[:, 1]))
    # A receipt is not always enlarged to fill the picture: the scanner's glass is larger.
    corners *= min(fit, rng.choice([1.0, 1.3])) if kind == "receipt" else fit
    low, high = corners.min(0), corners.max(0)
    corners += -low + (np.array([width, height]) - (high - low)) * rng.uniform(0.2, 0.8, 2)
    matrix = cv2.getPerspectiveTransform(np.float32([[0, 0], [w, 0], [w, h], [0, h]]), np.float32(corners))
    bend = (0.0, 0.0, 0.0, 0.0)
    if style in ("photo", "old") and kind != "whiteboard" and rng.random() < 0.6:
        most = 0.008 * min(w, h)
        bend = (rng.uniform(-most, most), rng.uniform(0, 6.3), rng.uniform(-most, most), rng.uniform(0, 6.3))
    return Geometry(matrix, (w, h), bend)


def moved_line(line: TextLine, geometry: Geometry, width: int, height: int) -> TextLine:
    """The line in the picture of width x height. Cut at the edges where it sticks out; "###" if that is too much."""
    polygon = geometry.points(line.polygon)
    inside = np.clip(polygon, 0, [width, height]).astype(np.float32)
    cut = float(np.abs(inside - polygon).max()) > 0.15 * float(np.ptp(polygon, axis=0).min())
    words = [
        Word(np.clip(geometry.points(word.polygon), 0, [width, height]).astype(np.float32), word.text)
        for word in line.words
    ]
    return TextLine(inside, "###" if cut else line.text, line.kind, words)


def moved_stroke(stroke: Stroke, geometry: Geometry, scale: float) -> Stroke:
    """The stroke in the picture, with no more points than keep it within a quarter of a pixel."""
    points = geometry.points(dense(stroke.points))
    if len(points) > 2:
        points = cv2.approxPolyDP(points[:, None], 0.25, False).reshape(-1, 2)
    return replace(stroke, points=points, width=stroke.width * scale)


def moved_mark(mark: Mark, geometry: Geometry, scale: float, blur: float, sheet: Canvas) -> Mark:
    """The mark in the picture.

    blur: the picture's, in pixels, infinite where greys are lost; with the ink of `sheet` that lies on a code it
    decides whether the code can be read.
    """
    x0, y0, x1, y1 = mark.box.astype(int)
    bare = not sheet.mask[max(y0, 0) : y1, max(x0, 0) : x1].any()
    hull = cv2.convexHull(geometry.points(dense(np.concatenate([mark.outline, mark.outline[:1]])))).reshape(-1, 2)
    module = mark.module * scale
    return replace(mark, outline=hull, module=module, decodable=bare and module >= 3 and module >= 3.2 * blur)


def dense(points: np.ndarray, step: float = 24.0) -> np.ndarray:
    """(N, 2) path with a point at least every `step` pixels, so that a straight line can bend."""
    points = np.float32(points)
    if len(points) < 2 or np.abs(np.diff(points, axis=0)).max() < step:
        return points
    parts = [points[:1]]
    for a, b in zip(points[:-1], points[1:]):
        count = max(int(np.ceil(float(np.hypot(*(b - a))) / step)), 1)
        parts.append(
            b[None] if count == 1 else a + (b - a) * (np.arange(1, count + 1, dtype=np.float32) / count)[:, None]
        )
    return np.concatenate(parts)
