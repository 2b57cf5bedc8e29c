"""Post-processing of stroke masks: close gaps, connect segments, straighten lines, separate merged strokes.

Each step is off unless it is asked for, and is held back by the probability map: ink is added only where the network
saw some, and taken away only where it was not sure. Plain closing and a plain watershed do more harm than good on strokes
(F1 0.93 and 0.77 on a perfect mask), so python -m experiments.ablate_postproc says which steps a validation set bears.
"""

from typing import Iterable

import cv2
import numpy as np
from scipy.spatial import cKDTree

from utils.skeleton import branches_of, end_points, skeleton_of

STEPS = ("close", "connect", "straighten", "separate")  # in the order in which they are taken
ADDED, SURE = 0.2, 0.8  # least probability of ink that is added; ink of a higher one is never taken away
ENCLOSED = 400  # pixels of paper that ink surrounds: up to here it belongs to a letter or to strokes that meet
REACH = 10  # pixels round the end of a stroke that tell its direction
COS_45 = np.cos(np.pi / 4)
LONG = 40  # pixels of skeleton: shorter branches are not straightened
WOBBLE = 0.7  # pixels: branches nearer to their line are as straight as a grid of pixels allows
JOIN = 3  # pixels of a straightened line that lead back to its junction
PART = 8  # pixels, the longer side of the least part that may be cut off


def refine_predictions(mask: np.ndarray, prob: np.ndarray | None = None, steps: Iterable[str] = (), *,
                       max_gap: float = 5, deviation_threshold: float = 2) -> np.ndarray:
    """The mask (H, W) bool after the named steps of STEPS, in their own order.

    mask: (H, W) bool, or numbers of which those above 0 are ink, such as uint8 of 0 and 255. prob: (H, W) float
    probability of ink that the mask was cut from; without it `separate` changes nothing, and the other steps go by
    geometry alone. max_gap: pixels of paper between the ends of two segments that may be one stroke.
    deviation_threshold: pixels, largest root mean square deviation of a line that is straightened.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool:  # ~ and & of numbers are others than those of truth
        mask = mask > 0
    steps = set(steps)
    if unknown := steps - set(STEPS):
        raise ValueError(f"no post-processing step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if "close" in steps:
        mask = close_gaps(mask, prob)
    if "connect" in steps:
        mask = connect_segments(mask, prob, max_gap)
    if "straighten" in steps:
        mask = straighten_lines(mask, prob, deviation_threshold)
    if "separate" in steps and prob is not None:
        mask = separate_strokes(mask, prob)
    return mask


def close_gaps(mask: np.ndarray, prob: np.ndarray | None = None) -> np.ndarray:
    """Morphological closing by 3 x 3, where the probability is at least ADDED; without a map not in paper that ink
    surrounds: that is inside letters and between strokes, and a gap is not."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    return mask | (closed & (~surrounded(mask) if prob is None else prob >= ADDED))


def surrounded(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of paper in pieces of at most ENCLOSED that have no way out."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    return ~mask & (stats[:, cv2.CC_STAT_AREA] <= ENCLOSED)[labels]


def connect_segments(mask: np.ndarray, prob: np.ndarray | None = None, max_gap: float = 5) -> np.ndarray:
    """Draw the missing piece between ends of strokes that face each other across up to max_gap pixels of paper.

    Both ends must run within 45 degrees of the line between them, and the probability must be at least ADDED all along
    it; each end is used once, the shortest gaps first. The piece is as wide as the thinner of the two strokes.
    """
    ends, directions, half = stroke_ends(mask)
    if len(ends) < 2:
        return mask
    a, b = cKDTree(ends).query_pairs(max_gap + 2 * half.max() + REACH, output_type="ndarray").T
    link = ends[b] - ends[a]
    distance = np.maximum(np.hypot(*link.T), 1e-6)
    link = link / distance[:, None]
    faces = ((directions[a] * link).sum(1) >= COS_45) & ((directions[b] * -link).sum(1) >= COS_45)
    drawn, used = mask.astype(np.uint8), np.zeros(len(ends), bool)
    for i in np.flatnonzero(faces)[np.argsort(distance[faces], kind="stable")]:
        one, other = a[i], b[i]
        x, y = _pixels_between(ends[one], ends[other])
        paper = ~mask[y, x]
        gap = paper.sum() * distance[i] / max(len(x) - 1, 1)
        unseen = prob is not None and prob[y, x].min(where=paper, initial=1) < ADDED
        if used[one] or used[other] or not 0 < gap < max_gap + 0.5 or unseen:
            continue
        used[[one, other]] = True
        draw_stroke(drawn, ends[[one, other]], min(half[one], half[other]))
    return drawn > 0


def draw_stroke(canvas: np.ndarray, path: np.ndarray, half: float) -> None:
    """Draw into an (H, W) uint8 mask a stroke along path (N, 2) x, y, whose middle is `half` pixels from paper, as
    half_widths() measures it. cv2.line is up to two pixels wider than it is asked to be."""
    reach = int(np.ceil(half))
    path = np.rint(path).astype(np.int32)
    left, top = np.maximum(path.min(0) - reach, 0)
    window = canvas[top : path[:, 1].max() + reach + 1, left : path[:, 0].max() + reach + 1]
    pen = np.zeros(window.shape, np.uint8)
    cv2.polylines(pen, [path - (left, top)], False, 1, 1)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    window |= cv2.dilate(pen, (np.hypot(y, x) <= half - 0.5).astype(np.uint8))


def stroke_ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points (N, 2) x, y, in the middle of the last pixels; directions (N, 2), unit vectors out of the stroke; half
    widths (N,)) of the free ends of the mask's skeleton. Ends of specks, which have no direction, are left out."""
    skeleton = skeleton_of(mask)
    x, y = end_points(skeleton)
    # The middle of the ink round an end lies behind it; the skeleton itself may turn aside in its last pixels.
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    offsets = np.arange(-REACH, REACH + 1)
    dy, dx = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    padded = np.pad(labels, REACH)
    near = padded[y[:, None] + REACH + dy, x[:, None] + REACH + dx] == labels[y, x][:, None]
    # From the middle of the ink within REACH to that of its nearer half: a cut end's corners tell nothing.
    tip = near & (np.maximum(np.abs(dy), np.abs(dx)) <= REACH // 2)
    number = near.sum(1)
    middle = _middle(tip, dx, dy)
    out = middle - _middle(near, dx, dy)
    length = np.hypot(*out.T)
    whole = (number >= 3) & (length > 0.5)
    # Behind the end: at a corner, where a skeleton may run out, the stroke is not as thin as it looks.
    half = np.pad(half_widths(mask), REACH)[y[:, None] + REACH + dy, x[:, None] + REACH + dx]
    half = (half * near).max(1, initial=1)
    return (np.stack([x, y], 1) + middle)[whole], out[whole] / length[whole, None], half[whole]


def _middle(near: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """(N, 2) x, y: the middle of the chosen offsets of each row of (N, M) bool."""
    return np.stack([(near * dx).sum(1), (near * dy).sum(1)], 1) / np.maximum(near.sum(1), 1)[:, None]


def half_widths(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: distance of each ink pixel from paper, in pixels; beyond the border of the page is paper."""
    return cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]


def straighten_lines(mask: np.ndarray, prob: np.ndarray | None = None, deviation_threshold: float = 2) -> np.ndarray:
    """Redraw long branches that waver about a straight line, at their mean width, from one end to the other.

    Both ends stay where they are, and so do junctions. A branch that is bowed, not wavering (a parabola fits it much
    better than a line), is left alone, and so is one that is straight already. Of what a redrawing would change, only
    pixels that the network was not sure of are changed.
    """
    skeleton = skeleton_of(mask)
    branches = branches_of(skeleton)
    chosen = ((branches.pixels >= LONG) & (branches.residual > WOBBLE) & (branches.residual <= deviation_threshold)
              & (branches.chord > 0.8 * branches.pixels))
    if not chosen.any():
        return mask
    half, owner = half_widths(mask), nearest_label(skeleton, branches.labels)
    free = np.zeros_like(mask)
    x, y = end_points(skeleton)
    free[y, x] = True
    refined = mask.copy()
    y, x = branches.points
    order = np.argsort(branches.labels[y, x], kind="stable")
    bounds = np.append(0, np.cumsum(branches.pixels))
    for number in np.flatnonzero(chosen):
        points = np.stack([x, y], 1)[order[bounds[number] : bounds[number + 1]]]
        along, across = _along_and_across(points, branches.mean[number], branches.direction[number])
        if not _wavers(along, across):
            continue
        path = _straight_path(points, along, branches.mean[number], branches.direction[number], free)
        own = mask & (owner == number + 1)
        width = own.sum() / (branches.length[number] + 2 * np.median(half[points[:, 1], points[:, 0]]))
        _redraw(refined, mask, prob, own, path, (width + 1) / 2)
    return refined


def nearest_label(skeleton: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W) int32: for each pixel, the label at the nearest pixel of the skeleton."""
    _, source = cv2.distanceTransformWithLabels((~skeleton).astype(np.uint8), cv2.DIST_L2, 5,
                                                labelType=cv2.DIST_LABEL_PIXEL)
    label_of = np.zeros(source.max() + 1, np.int32)
    label_of[source[skeleton]] = labels[skeleton]
    return label_of[source]


def _along_and_across(points: np.ndarray, mean: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points (N, 2) along a line and across it."""
    x, y = (points - mean).T
    return x * direction[0] + y * direction[1], x * direction[1] - y * direction[0]


def _straight_path(points: np.ndarray, along: np.ndarray, mean: np.ndarray, direction: np.ndarray,
                   free: np.ndarray) -> np.ndarray:
    """(2 to 4, 2) float: the piece of the line, and at ends that are not free the way back to the branch's end."""
    path = []
    for end, inwards in ((along.argmin(), 1), (along.argmax(), -1)):
        x, y = points[end]
        step = 0 if free[y, x] else JOIN * inwards
        corner = [mean + direction * (along[end] + step)] + ([] if free[y, x] else [points[end]])
        path += corner[::-1] if inwards == 1 else corner
    return np.clip(path, 0, np.array(free.shape[::-1]) - 1)


def _wavers(along: np.ndarray, across: np.ndarray) -> bool:
    bow = np.polyval(np.polyfit(along, across, 2), along)
    return (across - bow).std() > 0.7 * across.std()


def _redraw(refined: np.ndarray, mask: np.ndarray, prob: np.ndarray | None, own: np.ndarray, path: np.ndarray,
            half: float) -> None:
    """Put a stroke along `path` in place of the ink in `own`; changes `refined`."""
    new = np.zeros(mask.shape, np.uint8)
    draw_stroke(new, path, half)
    removed, added = own & (new == 0), (new > 0) & ~mask
    if prob is not None:
        removed &= prob < SURE
        added &= prob >= ADDED
    refined &= ~removed
    refined |= added


def separate_strokes(mask: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Cut strokes that have grown together where the probability between them is low.

    Where the ink surer than SURE falls into several parts of at least PART pixels, the rest goes to the nearest part,
    and ink that lies between two parts and is not sure is taken away. A cut across a stroke, whose two ends would face each
    other, is no separation of strokes but a gap, and is filled again.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask & (prob >= SURE)).astype(np.uint8), connectivity=8)
    real = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1) >= PART
    real[0] = False
    if real.sum() < 2:
        return mask
    cores = real[labels]
    part = np.where(mask, nearest_label(cores, labels), 0)
    other = np.zeros_like(mask)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here, there = _shifted(part, dy, dx)
        meet = (here > 0) & (there > 0) & (here != there)
        for view in _shifted(other, dy, dx):
            view |= meet
    cut = other & (prob < SURE)
    if not cut.any():
        return mask
    return _without_gaps(mask, cut)


def _without_gaps(mask: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The mask without those pieces of `cut` that ends on both sides would bridge at once."""
    split = mask & ~cut
    bridged = connect_segments(split, None, max_gap=4) & cut
    pieces = cv2.connectedComponents(cut.astype(np.uint8), connectivity=8)[1]
    refused = np.isin(pieces, np.unique(pieces[bridged]))  # of none, where nothing is bridged
    return split | (refused & cut)


def _shifted(array: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """Two views of (H, W): each pixel, and its neighbour dy (0 or 1) below and dx (-1 to 1) to the right."""
    height, width = array.shape
    here = array[: height - dy, max(-dx, 0) : width - max(dx, 0)]
    return here, array[dy:, max(dx, 0) : width - max(-dx, 0)]


def _pixels_between(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the pixels on the segment between two points, none left out: np.rint would take every other half to the
    same even number."""
    number = int(np.ceil(np.abs(end - start).max())) + 1
    x, y = (np.floor(np.linspace(a, b, number) + 0.5).astype(int) for a, b in zip(start, end))
    return x, y
