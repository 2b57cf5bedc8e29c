"""From DBNet's probability map to text: rotated rectangles, or polygons for curved text.

What stands over the threshold is looked for once (find_candidates) and may then be grown by several unclip ratios
(Candidates.grown), so that a sweep over thresholds costs little more than one decoding.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.geometry import offset_polygon, polygon_area, polygon_perimeter

OUTPUTS = ("quad", "polygon")
UNCLIP = {"quad": 1.5, "polygon": 2.0}
MAX_CANDIDATES = 5000  # 1000, as elsewhere, would lose text on a page of 2000 words
MIN_SIDE = 3.0
CROOKED = np.float32(0.1)  # the middle of 0.02 to 0.16 on receipts and made pages
MAX_POINTS = 32


@dataclass
class Candidates:
    """Regions of a map that are over the threshold, in its pixels, before they are grown.

    rects: (N, 5) float64 centre x and y, width, height and angle in degrees; scores: (N,) float32 mean probability
    inside (scores_of_lines, or that of the outline); outlines: for each an (M, 2) float32 polygon, or None where only
    rectangles are wanted.
    """

    rects: np.ndarray
    scores: np.ndarray
    outlines: list[np.ndarray] | None = None

    def grown(self, unclip_ratio: float) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """(quads (N, 4, 2) float32 clockwise from the top left, or a list of polygons (M, 2), M <= 32; scores (N,)).

        Each is grown by D = area * unclip_ratio / perimeter; a rectangle exactly so, without polygon offsetting. What
        then has a side under MIN_SIDE + 2 is left out.
        """
        sides = self.rects[:, 2:4]
        grow = sides.prod(1) * unclip_ratio / np.maximum(2 * sides.sum(1), 1e-9)
        kept = sides.min(1, initial=np.inf) + 2 * grow >= MIN_SIDE + 2
        if self.outlines is not None:
            return [grow_outline(self.outlines[i], unclip_ratio) for i in np.flatnonzero(kept)], self.scores[kept]
        rects = self.rects[kept].copy()
        rects[:, 2:4] += 2 * grow[kept, None]
        return corners_of(rects).astype(np.float32), self.scores[kept]


def find_candidates(prob: np.ndarray, thresh: float = 0.3, box_thresh: float = 0.0, output: str = "quad",
                    max_candidates: int = MAX_CANDIDATES) -> Candidates:
    """Regions of the map (H, W) float32 in [0, 1] over `thresh` whose mean probability reaches `box_thresh`.

    Specks with a side under MIN_SIDE are left out first; of more regions than `max_candidates` the largest are kept.
    """
    contours, _ = cv2.findContours((prob > thresh).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    # A rotated rectangle is no thicker than the upright one: specks need no second look.
    contours = [c for c in contours if min(cv2.boundingRect(c)[2:]) >= MIN_SIDE]
    if len(contours) > max_candidates:
        contours = sorted(contours, key=cv2.contourArea, reverse=True)[:max_candidates]
    rects = np.array([(*centre, *sides, angle) for centre, sides, angle in map(cv2.minAreaRect, contours)],
                     np.float64).reshape(-1, 5)
    wide = rects[:, 2:4].min(1, initial=np.inf) + 1 >= MIN_SIDE
    contours, rects = [contours[i] for i in np.flatnonzero(wide)], rects[wide]
    outlines = [simplified(c, 0.002 * cv2.arcLength(c, True)) for c in contours] if output == "polygon" else None
    scores = means_inside(prob, outlines) if outlines is not None else scores_of_lines(prob, rects, contours)
    # Contours run through pixel centres: the region is half a pixel larger each way.
    rects[:, :2] += 0.5
    rects[:, 2:4] += 1
    good = np.flatnonzero(scores >= box_thresh)
    return Candidates(rects[good], scores[good], outlines and [outlines[i] + 0.5 for i in good])


def decode(prob: np.ndarray, thresholds: dict) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Text in a map (H, W) by a checkpoint's thresholds: (quads or polygons in its pixels, scores (N,))."""
    found = find_candidates(prob, thresholds["thresh"], thresholds["box_thresh"], thresholds.get("output", "quad"))
    return found.grown(thresholds["unclip_ratio"])


def decode_boxes(prob: np.ndarray, thresh: float = 0.3, box_thresh: float = 0.6, unclip_ratio: float = UNCLIP["quad"],
                 output: str = "quad") -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """`decode` with its thresholds one by one."""
    return find_candidates(prob, thresh, box_thresh, output).grown(unclip_ratio)


def boxes_of_map(prob: np.ndarray, scale: float, size: tuple[int, int],
                 thresholds: dict) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """What a map at `scale` says of a page of `size` (height, width): `decode` in pixels of the page, inside it."""
    found, scores = decode(prob, thresholds)
    return on_page(found, scale, *size), scores


def on_page(found: np.ndarray | list[np.ndarray], scale: float, height: int,
            width: int) -> np.ndarray | list[np.ndarray]:
    """Quads or polygons of a map at `scale` in pixels of the page, points outside it moved to its edge."""
    if isinstance(found, list):
        return [np.clip(polygon / scale, 0, (width, height)).astype(np.float32) for polygon in found]
    return np.clip(found / scale, 0, (width, height)).astype(np.float32)


def corners_of(rects: np.ndarray) -> np.ndarray:
    """(N, 4, 2) corners of (N, 5) rectangles: clockwise on the screen, from the one with the least x + y."""
    angle = np.deg2rad(rects[:, 4])
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * rects[:, 2:3] / 2
    down = np.stack([-np.sin(angle), np.cos(angle)], 1) * rects[:, 3:4] / 2
    centre = rects[:, :2]
    corners = np.stack([centre - along - down, centre + along - down, centre + along + down, centre - along + down], 1)
    first = corners.sum(2).argmin(1)
    return corners[np.arange(len(rects))[:, None], (first[:, None] + np.arange(4)) % 4]


def scores_of_lines(prob: np.ndarray, rects: np.ndarray, contours: list[np.ndarray]) -> np.ndarray:
    """(N,) float32 means of the map over rectangles (N, 5) round regions. Where a long line sags, its rectangle is half
    paper: the mean over the region itself then counts, less CROOKED, which is what the rectangle of a straight line
    loses; not where the rectangle has less than half of the region's mean, as that round an arc."""
    scores = means_inside(prob, corners_of(rects))
    own = means_inside(prob, [contour[:, 0] for contour in contours])
    return np.where(scores >= own / 2, np.maximum(scores, own - CROOKED), scores)


def means_inside(prob: np.ndarray, polygons: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """(N,) float32 means of the map over the pixels of polygons given by pixel centres; 0 for those outside it."""
    height, width = prob.shape
    points = [np.round(polygon).astype(np.int32) for polygon in polygons]
    lows = np.clip([p.min(0) for p in points], 0, (width - 1, height - 1)) if points else np.zeros((0, 2), int)
    highs = np.clip([p.max(0) + 1 for p in points], 1, (width, height)) if points else np.zeros((0, 2), int)
    scores = np.zeros(len(points), np.float32)
    for i, ((x0, y0), (x1, y1)) in enumerate(zip(lows.tolist(), highs.tolist())):
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [points[i]], 1, offset=(-x0, -y0))
        scores[i] = cv2.mean(prob[y0:y1, x0:x1], mask)[0]
    return scores


def simplified(polygon: np.ndarray, tolerance: float) -> np.ndarray:
    """(M, 2) float32 with points left out that move the outline by less than `tolerance` pixels; at least 3 of them,
    unless there were fewer."""
    polygon = np.asarray(polygon, np.float32).reshape(-1, 1, 2)
    fewer = cv2.approxPolyDP(polygon, tolerance, True)
    return (fewer if len(fewer) > 2 else polygon).reshape(-1, 2)


def grow_outline(outline: np.ndarray, unclip_ratio: float) -> np.ndarray:
    """(M, 2) float32, 4 <= M <= MAX_POINTS: the outline through the outer pixels' centres, grown."""
    # The region is half a pixel larger each way than the outline (Steiner's formula for its area and perimeter).
    perimeter = polygon_perimeter(outline)
    area = polygon_area(outline) + perimeter / 2 + np.pi / 4
    parts = offset_polygon(outline, 0.5 + area * unclip_ratio / (perimeter + np.pi))
    grown = max(parts, key=polygon_area) if parts else outline
    tolerance = 0.3
    smaller = simplified(grown, tolerance)
    while len(smaller) > MAX_POINTS:
        tolerance *= 1.5
        smaller = simplified(grown, tolerance)
    if len(smaller) < 4:  # a triangle of text is none: its rectangle says as much
        smaller = cv2.boxPoints(cv2.minAreaRect(np.asarray(grown, np.float32)))
    return smaller
