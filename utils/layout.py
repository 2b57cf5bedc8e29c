"""Text boxes of a page in the order a person reads them."""

import numpy as np

SAME_LINE = 0.5  # centres nearer than this share of the lower box's height are on one line


def reading_order(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines from top to bottom, each from left to right.

    quads (N, 4, 2): corners in pixels, clockwise from the top left of the text. Returns (order, lines), both (N,) int:
    quads[order] are in reading order, and lines[i] is the line of quads[order[i]], from 0. A tilted page is read along
    its text. The columns of a page are not told apart: what stands at one height is one line. Whatever order the boxes
    come in, the same boxes are read in the same order.
    """
    quads = np.asarray(quads, np.float64).reshape(-1, 4, 2)
    if not len(quads):
        return np.zeros(0, int), np.zeros(0, int)
    canonical = np.lexsort(quads.reshape(-1, 8).T)
    quads = quads[canonical]
    angle = text_angle(quads)
    cos, sin = np.cos(angle), np.sin(angle)
    upright = quads @ np.array([[cos, -sin], [sin, cos]])
    left, top, bottom = upright[..., 0].min(1), upright[..., 1].min(1), upright[..., 1].max(1)
    middle, height = (top + bottom) / 2, bottom - top

    # From left to right, each box continues the line whose last box is nearest in height, so that curved lines hold.
    lines: list[list[int]] = []
    for box in np.lexsort((middle, left)):
        last = np.array([line[-1] for line in lines], int)
        offset = np.abs(middle[last] - middle[box])
        offset[offset >= SAME_LINE * np.minimum(height[last], height[box])] = np.inf
        if len(lines) and np.isfinite(offset.min()):
            lines[int(offset.argmin())].append(int(box))
        else:
            lines.append([int(box)])
    lines.sort(key=lambda line: (middle[line].mean(), left[line[0]]))
    return canonical[np.concatenate(lines)], np.repeat(np.arange(len(lines)), [len(line) for line in lines])


def text_angle(quads: np.ndarray) -> float:
    """Radians by which the text is turned clockwise: the median over the boxes of (N, 4, 2) that are wider than high,
    the long ones counting more; 0 where there are none."""
    along = (quads[:, 1] - quads[:, 0] + quads[:, 2] - quads[:, 3]) / 2
    down = (quads[:, 3] - quads[:, 0] + quads[:, 2] - quads[:, 1]) / 2
    length, height = np.hypot(*along.T), np.hypot(*down.T)
    wide = length > 1.5 * height
    if not wide.any():
        return 0.0
    angle, weight = np.arctan2(along[wide, 1], along[wide, 0]), length[wide]
    order = np.argsort(angle, kind="stable")
    return float(angle[order][np.searchsorted(weight[order].cumsum(), weight.sum() / 2)])


def plain_text(pages: list[list[dict]]) -> str:
    """Words joined to lines, lines to pages, pages parted by form feeds as pdftotext does.

    pages: for each page its "text" records in reading order, with "text" and "line".
    """
    return "\f".join("".join(" ".join(words) + "\n" for words in _words_by_line(page)) for page in pages)


def _words_by_line(records: list[dict]) -> list[list[str]]:
    lines: dict[int, list[str]] = {}
    for record in records:
        lines.setdefault(record["line"], []).append(record["text"])
    return [[word for word in lines[line] if word] for line in sorted(lines)]
