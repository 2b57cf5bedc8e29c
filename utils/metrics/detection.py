"""Text detection by ICDAR 2015's protocol: IoU > 0.5, one to one, greedy in order, "do not care" left out of both sums.

Counts are summed over the data set before precision, recall and hmean are taken. Polygons may have any length.
"""

import numpy as np
import shapely

IOU_THRESHOLD = 0.5
IGNORED_OVERLAP = 0.5


def to_shapely(polygons) -> np.ndarray:
    """(N,) array of valid shapely polygons; what crosses itself becomes its area under the even-odd rule.

    polygons: (N, M, 2), a list of (M, 2) of any M (under 3 points there is no area), or what this has returned already.
    """
    if isinstance(polygons, np.ndarray) and polygons.dtype == object:
        return polygons
    if isinstance(polygons, np.ndarray) and polygons.ndim == 3:
        shapes = shapely.polygons(polygons) if len(polygons) else np.zeros(0, object)
    else:
        shapes = np.array([shapely.Polygon(p) if len(p) > 2 else shapely.Polygon() for p in polygons], dtype=object)
    crossed = ~shapely.is_valid(shapes)
    if crossed.any():
        shapes[crossed] = shapely.make_valid(shapes[crossed])
    return shapes


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(i, j, area) of the pairs of shapely polygons a[i], b[j] that share an area; the others cost nothing."""
    if not len(a) or not len(b):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    i, j = shapely.STRtree(b).query(a, predicate="intersects")
    area = shapely.area(shapely.intersection(a[i], b[j]))
    return i[area > 0], j[area > 0], area[area > 0]


class PageMatcher:
    """Overlaps of one page's candidates with its truth, computed once, to be matched at many score thresholds."""

    def __init__(self, candidates, scores, truth, ignored):
        """candidates, truth: polygons as to_shapely takes them; scores (len(candidates),); ignored: a flag a truth."""
        shapes, truths = to_shapely(candidates), to_shapely(truth)
        ignored = np.asarray(ignored, bool).reshape(-1)
        i, j, inter = overlaps(shapes, truths)
        areas, truth_areas = shapely.area(shapes), shapely.area(truths)
        # A detection over half inside a "do not care" region is neither right nor wrong.
        inside = i[ignored[j] & (inter > IGNORED_OVERLAP * areas[i])]
        self.kept = np.ones(len(shapes), bool)
        self.kept[inside] = False
        self.scores = np.asarray(scores, np.float64).reshape(-1)
        self.n_truth = int((~ignored).sum())
        iou = inter / (areas[i] + truth_areas[j] - inter)
        fit = (iou > IOU_THRESHOLD) & self.kept[i] & ~ignored[j]
        order = np.lexsort((i[fit], j[fit]))
        # (candidate, truth among those that count), truth by truth
        self.pairs = list(zip(i[fit][order].tolist(), (np.cumsum(~ignored) - 1)[j[fit][order]].tolist()))

    def counts(self, box_thresh: float) -> dict[str, int]:
        """{"tp", "n_pred", "n_truth"} with the candidates whose score reaches `box_thresh`."""
        return {"tp": len(self.matches(box_thresh)), "n_pred": int((self.kept & (self.scores >= box_thresh)).sum()),
                "n_truth": self.n_truth}

    def matches(self, box_thresh: float) -> list[tuple[int, int]]:
        """(candidate, truth among those that count) pairs, truth by truth in order, as the official script does."""
        strong = (self.scores >= box_thresh).tolist()
        used, matched, found = set(), set(), []
        for candidate, truth in self.pairs:
            if strong[candidate] and candidate not in used and truth not in matched:
                used.add(candidate)
                matched.add(truth)
                found.append((candidate, truth))
        return found


def scores_of_counts(counts: list[dict]) -> dict[str, float]:
    """{"hmean", "precision", "recall"} of summed counts; 0 where nothing was found or nothing is there."""
    tp, n_pred, n_truth = (sum(c[key] for c in counts) for key in ("tp", "n_pred", "n_truth"))
    precision, recall = tp / max(n_pred, 1), tp / max(n_truth, 1)
    return {"hmean": 2 * precision * recall / max(precision + recall, 1e-12), "precision": precision, "recall": recall}
