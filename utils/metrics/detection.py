"""Text detection by ICDAR 2015's protocol: IoU > 0.5, one to one, greedy in order, "do not care" left out of both sums.

Counts are summed over the data set before precision, recall and hmean are taken.
"""

import numpy as np
import shapely

IOU_THRESHOLD = 0.5
IGNORED_OVERLAP = 0.5


def to_shapely(polygons) -> np.ndarray:
    """(N,) array of valid shapely polygons; what crosses itself becomes its area under the even-odd rule."""
    shapes = np.array([shapely.Polygon(p) if len(p) > 2 else shapely.Polygon() for p in polygons], dtype=object)
    return shapely.make_valid(shapes) if len(shapes) else shapes


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(intersection areas (N, M), IoU (N, M)) of two arrays of shapely polygons; pairs that do not touch cost nothing."""
    inter = np.zeros((len(a), len(b)))
    if len(a) and len(b):
        rows, columns = shapely.STRtree(b).query(a, predicate="intersects")
        inter[rows, columns] = shapely.area(shapely.intersection(a[rows], b[columns]))
    union = shapely.area(a)[:, None] + shapely.area(b)[None] - inter if inter.size else inter
    return inter, inter / np.maximum(union, 1e-9)


class PageMatcher:
    """Overlaps of one page's candidates with its truth, computed once, to be matched at many score thresholds."""

    def __init__(self, candidates, scores, truth, ignored):
        """candidates, truth: lists of (N, 2) points; scores (len(candidates),); ignored: a flag a truth polygon."""
        shapes, truths = to_shapely(candidates), to_shapely(truth)
        ignored = np.asarray(ignored, bool).reshape(-1)
        inter, iou = overlaps(shapes, truths)
        # A detection over half inside a "do not care" region is neither right nor wrong.
        areas = np.maximum(shapely.area(shapes), 1e-9) if len(shapes) else np.zeros(0)
        covered = (inter[:, ignored] / areas[:, None]).max(1, initial=0)
        self.kept = covered <= IGNORED_OVERLAP
        self.iou = iou[:, ~ignored]
        self.scores = np.asarray(scores, np.float64).reshape(-1)
        self.n_truth = int((~ignored).sum())

    def counts(self, box_thresh: float) -> dict[str, int]:
        """{"tp", "n_pred", "n_truth"} with the candidates whose score reaches `box_thresh`."""
        return {"tp": len(self.matches(box_thresh)), "n_pred": int((self.kept & (self.scores >= box_thresh)).sum()),
                "n_truth": self.n_truth}

    def matches(self, box_thresh: float) -> list[tuple[int, int]]:
        """(candidate, truth among those that count) pairs, truth by truth in order, as the official script does."""
        usable = self.kept & (self.scores >= box_thresh)
        pairs = []
        for truth in range(self.n_truth):
            found = np.flatnonzero(usable & (self.iou[:, truth] > IOU_THRESHOLD))
            if len(found):
                usable[found[0]] = False
                pairs.append((int(found[0]), truth))
        return pairs


def scores_of_counts(counts: list[dict]) -> dict[str, float]:
    """{"hmean", "precision", "recall"} of summed counts; 0 where nothing was found or nothing is there."""
    tp, n_pred, n_truth = (sum(c[key] for c in counts) for key in ("tp", "n_pred", "n_truth"))
    precision, recall = tp / max(n_pred, 1), tp / max(n_truth, 1)
    return {"hmean": 2 * precision * recall / max(precision + recall, 1e-12), "precision": precision, "recall": recall}
