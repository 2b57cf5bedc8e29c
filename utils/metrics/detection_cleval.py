"""CLEval for text detection: how many characters are found, and how often words are split or joined (Baek et al., CVPR
Workshops 2020, arXiv 2006.06244).

A text of n characters stands for n points along its middle line. A detection and a text belong together where the
detection holds a point of the text and lies in it by AREA_PRECISION of its area at least; one that covers several
texts, where it lies in them together by that much. A text found in pieces costs a point a cut, a detection that joins
texts a point a join. A detection of nothing counts as many characters as its shape has room for.
"""

import cv2
import numpy as np
import shapely

from utils.geometry import min_area_quad
from utils.metrics.detection import overlaps, to_shapely

AREA_PRECISION = 0.3
MAX_GUESSED = 10  # characters of a detection, or of a text without transcription, whose number is not known
VERTICAL = 2.0  # a quad this much higher than wide is read downwards


def cleval_counts(candidates, truth: list[np.ndarray], texts: list[str], ignored: list[bool]) -> dict[str, int]:
    """What the scores are made of, additive over pages:

    cleval_found: characters whose point lies in a detection that belongs to their text; cleval_split and cleval_joined:
    cuts and joins; cleval_characters and cleval_predicted: characters there are and are predicted.

    candidates, truth: polygons as utils.metrics.detection.to_shapely takes them, the truth's in reading order (along
    the upper side first). texts: transcriptions; ignored: the flags of "do not care" regions, which take the
    detections in them out of the count.
    """
    shapes, truths = to_shapely(candidates), to_shapely(truth)
    ignored = np.asarray(ignored, bool).reshape(-1)
    asked = np.flatnonzero(~ignored)
    # "Do not care" is what lies outside every text that counts.
    regions = np.array([shape for shape in truths[ignored]], dtype=object)
    if len(regions) and len(asked):
        regions = shapely.difference(regions, shapely.union_all(truths[asked]))
    left_out = _mostly_inside(shapes, regions)
    found = shapes[~left_out]

    points = [character_centres(truth[t], len(texts[t]) or guessed_characters(truth[t])) for t in asked]
    owner = np.repeat(np.arange(len(asked)), [len(p) for p in points])
    share = np.zeros((len(asked), len(found)))
    t, d, area = overlaps(truths[asked], found)
    share[t, d] = area / np.maximum(shapely.area(found)[d], 1e-9)
    detection, point = _points_inside(found, np.concatenate(points)) if len(asked) and len(found) else ([], [])
    held = np.zeros(share.shape, int)
    np.add.at(held, (owner[point], detection), 1)

    together = (held > 0) & (share >= AREA_PRECISION)
    covers = held > 0
    joins = (covers.sum(0) >= 2) & ((share * covers).sum(0) >= AREA_PRECISION)
    together |= covers & joins
    characters_found = len({p for p, d in zip(point, detection) if together[owner[p], d]})
    n_of_nothing = sum(guessed_characters(np.array(shapely.get_coordinates(shape)))
                       for shape in found[~together.any(0)])
    return {"cleval_found": characters_found, "cleval_characters": len(owner),
            "cleval_split": int(np.maximum(together.sum(1) - 1, 0).sum()),
            "cleval_joined": int(np.maximum(together.sum(0) - 1, 0).sum()),
            "cleval_predicted": int((held * together).sum()) + n_of_nothing}


def cleval_scores(counts: list[dict]) -> dict[str, float]:
    """{"cleval_hmean", "cleval_precision", "cleval_recall"} of summed counts, and "cleval_page_hmean", the mean of the
    pages' own; a page without text scores 1 where nothing is predicted on it, and 0 else."""
    total = {key: sum(c[key] for c in counts) for key in (counts[0] if counts else ()) if key.startswith("cleval_")}
    precision, recall, hmean = _scores(total) if counts else (0.0, 0.0, 0.0)
    pages = [_scores(c)[2] if c["cleval_characters"] else float(not c["cleval_predicted"]) for c in counts]
    return {"cleval_hmean": hmean, "cleval_precision": precision, "cleval_recall": recall,
            "cleval_page_hmean": float(np.mean(pages)) if pages else 0.0}


def _scores(c: dict) -> tuple[float, float, float]:
    recall = max(c["cleval_found"] - c["cleval_split"], 0) / max(c["cleval_characters"], 1)
    precision = max(c["cleval_found"] - c["cleval_joined"], 0) / max(c["cleval_predicted"], 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def _mostly_inside(shapes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N,) flags of the shapes that lie in the regions by AREA_PRECISION of their area, all regions together."""
    inside = np.zeros(len(shapes))
    i, _, area = overlaps(shapes, regions)
    np.add.at(inside, i, area)
    return inside >= AREA_PRECISION * np.maximum(shapely.area(shapes), 1e-9)


def _points_inside(shapes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shape, point) numbers of the pairs where the point lies in the shape."""
    return shapely.STRtree(shapely.points(points)).query(shapes, predicate="contains")


def character_centres(polygon: np.ndarray, count: int) -> np.ndarray:
    """(count, 2) points, evenly along the middle between the upper side and the lower one.

    polygon: (N, 2), the upper side from the start of the text, then the lower one back; with an odd number of points
    its smallest rectangle takes its place.
    """
    polygon = np.asarray(polygon, np.float64)
    if len(polygon) % 2:
        polygon = min_area_quad(polygon).astype(np.float64)
    if len(polygon) == 4:
        across, down = (np.linalg.norm(polygon[a] - polygon[b]) for a, b in ((0, 1), (0, 3)))
        if down > VERTICAL * across and count > 1:
            polygon = np.roll(polygon, 1, axis=0)
    half = len(polygon) // 2
    middle = (polygon[:half] + polygon[half:][::-1]) / 2
    walked = np.concatenate([[0], np.linalg.norm(np.diff(middle, axis=0), axis=1).cumsum()])
    places = (np.arange(count) + 0.5) / count * walked[-1]
    return np.stack([np.interp(places, walked, middle[:, axis]) for axis in (0, 1)], axis=1)


def guessed_characters(polygon: np.ndarray) -> int:
    """How many characters a shape has room for: its longer side over its shorter one, rounded up to MAX_GUESSED."""
    short, long = sorted(cv2.minAreaRect(np.asarray(polygon, np.float32).reshape(-1, 2))[1]) if len(polygon) else (1, 1)
    return min(max(round(0.5 + long / max(short, 1e-5)), 1), MAX_GUESSED)
