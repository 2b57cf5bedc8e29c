"""What users of stroke masks complain of, counted on one image: small text, merged strokes, gaps, wobble, lost curves.

Masks are (H, W) bool, True = ink, at the image's own resolution, and so are all lengths in pixels. Counts can be added
up over images; the figures are ratios of the sums.
"""

import cv2
import numpy as np
from scipy import sparse

from utils.metrics.segmentation_pixels import CROSS
from utils.skeleton import Branches, branches_of, trimmed

SMALL_TEXT = 32 / 1536  # height of small text, as a share of the page's longer side
SMALL_MARGIN = 5  # pixels round a small component that are looked at
CLOSE = 6  # pixels between components that count as close
COVERED = 0.1  # share of a component that a predicted one must cover to count as merging it
GAP_BRANCH, GAP_TRIM, GAP_RUN = 20, 3, 2  # pixels: least branch, trimmed off its ends, least run that is a gap
LINE_BRANCH, LINE_RESIDUAL = 40, 1.5  # pixels: least branch and largest residual of what counts as straight
LINE_REACH = 5  # pixels from a branch within which the predicted skeleton is taken for it
CURVE_BRANCH = 20  # pixels: shorter branches are neither curved nor straight


def small_text_counts(prediction: np.ndarray, truth: np.ndarray, stats: np.ndarray) -> dict[str, int]:
    """tp, fp, fn within the boxes of truth components up to 32 px high (on a page of 1536), padded by 5 px.

    stats: of the truth's components from 1 on, as cv2.connectedComponentsWithStats gives them.
    """
    highest = SMALL_TEXT * max(truth.shape)
    window = np.zeros(truth.shape, np.uint8)
    for x, y, width, height in stats[stats[:, cv2.CC_STAT_HEIGHT] <= highest, :4].tolist():
        window[max(y - SMALL_MARGIN, 0) : y + height + SMALL_MARGIN,
               max(x - SMALL_MARGIN, 0) : x + width + SMALL_MARGIN] = 1
    inside = window.view(bool)
    ours, theirs = prediction & inside, truth & inside
    tp = int(np.count_nonzero(ours & theirs))
    return {"small_tp": tp, "small_fp": int(np.count_nonzero(ours)) - tp, "small_fn": int(np.count_nonzero(theirs)) - tp}


def separation_counts(prediction: np.ndarray, labels: np.ndarray, area: np.ndarray) -> dict[str, int]:
    """labels: (H, W) int32, the truth's components; area: their pixels, from label 1 on.

    close_pairs: pairs of truth components within 6 px of each other; separated: those of which both are recalled by
    half and no predicted component covers a tenth of both."""
    count, area = len(area) + 1, np.append(1, area)
    pairs = close_pairs(labels, count)
    if not len(pairs):
        return {"close_pairs": 0, "separated": 0}
    predicted, predicted_labels = cv2.connectedComponents(prediction.astype(np.uint8), connectivity=8)
    both = prediction & (labels > 0)
    ours, theirs = predicted_labels[both], labels[both]
    shared = sparse.coo_array((np.ones(len(ours), np.int32), (theirs, ours)), (count, predicted)).tocsr()
    recalled = shared.sum(1) >= 0.5 * area
    rows = np.repeat(np.arange(count), np.diff(shared.indptr))
    shared.data = (shared.data >= COVERED * area[rows]).astype(np.int32)
    a, b = pairs.T
    merged = np.asarray((shared[a] * shared[b]).sum(1)) > 0  # element by element
    return {"close_pairs": len(pairs), "separated": int(np.count_nonzero(recalled[a] & recalled[b] & ~merged))}


def close_pairs(labels: np.ndarray, count: int, distance: int = CLOSE) -> np.ndarray:
    """(N, 2) labels a < b of the components (1 to count - 1) with pixels up to `distance` apart, by Euclid."""
    padded = np.pad(labels, distance + 1)
    width, flat = padded.shape[1], padded.ravel()
    ink = (padded > 0).astype(np.uint8)
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    exact = padded.astype(np.float32)  # labels under 2 ** 24
    others = cv2.dilate(exact, window) > exact  # a higher label in sight: of each pair, the lower one looks
    rim = np.flatnonzero((ink > cv2.erode(ink, CROSS)) & others)  # the nearest pixels of two components are rims
    own, found = flat[rim].astype(np.int64), []
    for dy in range(-distance, distance + 1):
        for dx in range(-distance, distance + 1):
            if dy * dy + dx * dx <= distance * distance:
                other = flat[rim + (dy * width + dx)]
                meet = np.flatnonzero(other > own)
                found.append(own[meet] * count + other[meet])
    codes = np.unique(np.concatenate(found))
    return np.stack(np.divmod(codes, count), 1)


def gap_counts(prediction: np.ndarray, branches: Branches) -> dict[str, int]:
    """Of truth skeleton branches of 20 px or more, their outer 3 px trimmed: how many there are, how many have no gap,
    the gaps, and their pixels. A gap is a run of 2 px or more that lies further than 1 px from the prediction."""
    long = np.append(False, branches.pixels >= GAP_BRANCH)
    y, x = branches.at(trimmed(branches.labels > 0, GAP_TRIM) if long.any() else np.zeros_like(prediction))
    y, x = (v[long[branches.labels[y, x]]] for v in (y, x))
    near = cv2.dilate(prediction.astype(np.uint8), CROSS)
    lost = near[y, x] == 0
    missing = np.zeros(prediction.shape, np.uint8)
    missing[y[lost], x[lost]] = 1
    runs = cv2.connectedComponents(missing, connectivity=8)[1][y[lost], x[lost]]  # branches never touch each other
    gaps = np.bincount(runs) >= GAP_RUN
    broken = np.unique(branches.labels[y[lost], x[lost]][gaps[runs]])
    return {"branches": int(long.sum()), "branches_whole": int(long.sum()) - len(broken), "gaps": int(gaps.sum()),
            "branch_pixels": len(y)}


class Nearest:
    """The branch that is nearest to any pixel, and how far it is, a few per cent exact."""

    def __init__(self, branches: Branches):
        background = (branches.labels == 0).astype(np.uint8)
        self.apart, self.source = cv2.distanceTransformWithLabels(background, cv2.DIST_L2, 5,
                                                                  labelType=cv2.DIST_LABEL_PIXEL)
        y, x = branches.points
        self.label = np.zeros(self.source.max(initial=0) + 1, np.int32)
        self.label[self.source[y, x]] = branches.labels[y, x]

    def __call__(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(N,) labels; 0 where there is no branch at all."""
        return self.label[self.source[y, x]]


def straightness_counts(skeleton: np.ndarray, branches: Branches, nearest: Nearest) -> dict[str, float]:
    """How straight the prediction of straight strokes is. Branches of 40 px or more whose own residual is up to 1.5 px
    are lines; the predicted skeleton nearest to such a branch, and within 5 px, scores max(0, 1 - RMS / 2), RMS in
    pixels from the line. Weighted by length: line_pixels, line_covered (with predicted skeleton within 5 px),
    straightness_sum and straightness_weight (of the lines that have any predicted skeleton)."""
    straight = (branches.pixels >= LINE_BRANCH) & (branches.residual <= LINE_RESIDUAL)
    y, x = np.nonzero(skeleton)
    label = np.where(nearest.apart[y, x] <= LINE_REACH, nearest(y, x), 0)
    chosen = np.append(False, straight)[label]
    y, x, label = y[chosen], x[chosen], label[chosen] - 1
    offset = np.stack([x, y], 1) - branches.mean[label]
    direction = branches.direction[label]
    square = (offset[:, 0] * direction[:, 1] - offset[:, 1] * direction[:, 0]) ** 2
    number = np.bincount(label, minlength=len(branches))
    rms = np.sqrt(np.bincount(label, square, len(branches)) / np.maximum(number, 1))
    weight = branches.pixels * (straight & (number > 0))
    by, bx = branches.points
    on_line = np.append(False, straight)[branches.labels[by, bx]]
    away = cv2.distanceTransform((~skeleton).astype(np.uint8), cv2.DIST_L2, 3)[by[on_line], bx[on_line]]
    covered = skeleton.any() and np.count_nonzero(away <= LINE_REACH)
    return {"line_pixels": int(branches.pixels[straight].sum()), "line_covered": int(covered),
            "straightness_sum": float((weight * np.maximum(0, 1 - rms / 2)).sum()),
            "straightness_weight": int(weight.sum())}


def curve_counts(prediction: np.ndarray, truth: np.ndarray, branches: Branches, nearest: Nearest) -> dict[str, int]:
    """tp, fp, fn of the pixels whose nearest branch is curved (longer than 1.1 times its chord, or over 1.5 px from its
    line), and of those whose nearest branch is straight; nearest to branches under 20 px, neither."""
    kind = np.where(branches.pixels >= CURVE_BRANCH, np.where(branches.curved, 1, 2), 0)
    kind = np.append(0, kind)
    y, x = np.nonzero(prediction | truth)
    cell = np.bincount(kind[nearest(y, x)] * 4 + prediction[y, x] * 2 + truth[y, x], minlength=12).reshape(3, 2, 2)
    return {f"{name}_{part}": int(cell[number, ours, theirs]) for number, name in ((1, "curve"), (2, "straight"))
            for part, ours, theirs in (("tp", 1, 1), ("fp", 1, 0), ("fn", 0, 1))}


def stroke_counts(prediction: np.ndarray, truth: np.ndarray, skeleton: np.ndarray,
                  true_skeleton: np.ndarray) -> dict[str, float]:
    """All counts of this page; the skeletons are those of the two masks."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
    branches = branches_of(true_skeleton)
    nearest = Nearest(branches)
    return (small_text_counts(prediction, truth, stats[1:])
            | separation_counts(prediction, labels, stats[1:, cv2.CC_STAT_AREA])
            | gap_counts(prediction, branches) | straightness_counts(skeleton, branches, nearest)
            | curve_counts(prediction, truth, branches, nearest))
