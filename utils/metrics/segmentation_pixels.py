"""Additive counts of one stroke mask against its truth: boundaries, skeletons, and DIBCO's distortion.

Masks are (H, W) bool, True = ink, at the image's own resolution. The ratios that are made of the counts, and what they
are where both masks are empty, stand in utils/metrics/segmentation.py.
"""

import cv2
import numpy as np

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))  # all pixels within 1 px
DISK = np.uint8([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])  # within 2 px
SQUARE = np.ones((3, 3), np.uint8)


def _reciprocal_distances() -> np.ndarray:
    """(5, 5) weights of DRD: 1 / distance from the middle, 0 in the middle, sum 1."""
    y, x = np.mgrid[-2:3, -2:3]
    distance = np.hypot(x, y)
    weights = np.where(distance > 0, 1 / np.maximum(distance, 1), 0)
    return weights / weights.sum()


DRD_WEIGHTS = _reciprocal_distances()


def canny_edges(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool edge pixels of a bool mask: Canny with thresholds 100 and 200 on its 0/255 picture."""
    return cv2.Canny(mask.astype(np.uint8) * 255, 100, 200) > 0


def edge_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Pixels of the two Canny edge maps, compared with zero tolerance. A shift of one pixel already costs two thirds of
    that figure: it is kept for parity with earlier runs."""
    edges, true_edges = canny_edges(prediction), canny_edges(truth)
    return {"edge_intersection": int(np.count_nonzero(edges & true_edges)),
            "edge_union": int(np.count_nonzero(edges | true_edges))}


def inner_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: ink within `distance` pixels (chessboard) of paper; beyond the border of the page is paper."""
    ink = mask.astype(np.uint8)
    inner = cv2.erode(ink, SQUARE, iterations=distance, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return ink > inner


def boundary_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Boundary IoU at d = 1 and 2 px (Cheng et al., 2021, arXiv 2103.16562; its default of 2 % of the diagonal is the
    plain IoU on strokes): intersection and union of the inner boundaries. Boundary F1 at tolerance 1 and 2 px: boundary
    pixels of either mask, and how many of them lie near the other's.
    Tolerances are by Euclid.
    """
    counts = {}
    for d in (1, 2):
        ours, theirs = inner_boundary(prediction, d), inner_boundary(truth, d)
        counts[f"boundary_intersection_{d}"] = int(np.count_nonzero(ours & theirs))
        counts[f"boundary_union_{d}"] = int(np.count_nonzero(ours | theirs))
        if d == 1:
            contour, true_contour = ours, theirs
    counts["contour_predicted"] = int(np.count_nonzero(contour))
    counts["contour_truth"] = int(np.count_nonzero(true_contour))
    for tolerance, shape in ((1, CROSS), (2, DISK)):
        near, near_truth = (cv2.dilate(c.astype(np.uint8), shape) > 0 for c in (contour, true_contour))
        counts[f"contour_right_{tolerance}"] = int(np.count_nonzero(contour & near_truth))
        counts[f"contour_found_{tolerance}"] = int(np.count_nonzero(true_contour & near))
    return counts


def skeleton_counts(prediction: np.ndarray, truth: np.ndarray, skeleton: np.ndarray,
                    true_skeleton: np.ndarray) -> dict[str, int]:
    """What clDice and pseudo-F are made of: pixels of either skeleton, and how many lie in the other mask."""
    return {"skeleton_predicted": int(np.count_nonzero(skeleton)),
            "skeleton_right": int(np.count_nonzero(skeleton & truth)),
            "skeleton_truth": int(np.count_nonzero(true_skeleton)),
            "skeleton_found": int(np.count_nonzero(true_skeleton & prediction))}


def drd_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """DRD = drd_sum / drd_blocks (Lu, Kot and Shi, 2004): each wrong pixel costs the reciprocal-distance weights of its
    5 x 5 neighbours in the truth that differ from it; blocks are those of 8 x 8 that hold both ink and paper.

    Beyond the border nothing differs. Blocks cut off by the border count as well.
    """
    ink = np.pad(truth.astype(np.int8), 2, constant_values=-1)  # -1: beyond the border
    wrong = np.flatnonzero(np.pad(prediction != truth, 2))
    ink, width = ink.ravel(), ink.shape[1]
    opposite = ink[wrong]  # a wrong pixel differs from those neighbours that are as it should be
    total = sum(DRD_WEIGHTS[dy, dx] * np.count_nonzero(ink[wrong + ((dy - 2) * width + dx - 2)] == opposite)
                for dy in range(5) for dx in range(5))
    rows, columns = (np.arange(0, side, 8) for side in truth.shape)
    filled = np.add.reduceat(np.add.reduceat(truth.astype(np.uint8), rows, 0, np.uint16), columns, 1, np.uint16)
    area = np.outer(np.diff(np.append(rows, truth.shape[0])), np.diff(np.append(columns, truth.shape[1])))
    return {"drd_sum": float(total), "drd_blocks": int(np.count_nonzero((filled > 0) & (filled < area)))}
