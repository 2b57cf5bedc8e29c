"""Weighted boxes fusion (Solovyev, Wang and Gabruseva 2021, arXiv:1910.13302): several looks at one image become one."""

import numpy as np

from utils.geometry import box_iou

SAME = 0.55  # IoU from which boxes of two looks show one thing


def fuse_boxes(looks: list[np.ndarray], iou: float = SAME) -> np.ndarray:
    """(M, 6) float64, most confident first, of what was found in each look, (N, 6) rows x1 y1 x2 y2 confidence class.

    Boxes of one class that overlap by more than `iou` become one, at the mean of their corners weighted by confidence.
    Its confidence is the sum of theirs over the number of looks: what one look alone sees loses, unlike in a
    suppression, where every look adds its mistakes. Unlike in the paper, a thing takes at most one box of each look, so
    that what a look tells apart stays apart.
    """
    rows = np.concatenate(looks)
    of_look = np.repeat(np.arange(len(looks)), [len(rows) for rows in looks])
    things: list[list[int]] = []  # the rows of each
    boxes, classes, seen = np.zeros((len(rows), 4)), np.zeros(len(rows)), np.zeros((len(rows), len(looks)), bool)
    for row in np.argsort(-rows[:, 4], kind="stable"):
        known = slice(0, len(things))
        overlaps = box_iou(rows[row, :4], boxes[known])[0]
        overlaps *= (classes[known] == rows[row, 5]) & ~seen[known, of_look[row]]
        thing = int(overlaps.argmax()) if len(things) else 0
        if not len(things) or overlaps[thing] <= iou:
            thing = len(things)
            things.append([])
        things[thing].append(row)
        members = rows[things[thing]]
        boxes[thing] = members[:, 4] @ members[:, :4] / max(members[:, 4].sum(), 1e-12)
        classes[thing], seen[thing, of_look[row]] = rows[row, 5], True
    confidence = np.array([rows[members, 4].sum() for members in things]) / max(len(looks), 1)
    fused = np.column_stack([boxes[: len(things)], confidence, classes[: len(things)]])
    return fused[np.argsort(-confidence, kind="stable")]
