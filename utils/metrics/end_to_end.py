"""Reading from picture to text: a line counts where it was both found and read.

Found is ICDAR's matching at an IoU of 0.5, "do not care" included (utils/metrics/detection.py); read is every character
right, spaces and case aside.
"""

from typing import Sequence

import numpy as np

from utils.metrics.detection import PageMatcher


def folded(text: str) -> str:
    return text.replace(" ", "").upper()


def count_page(polygons: Sequence[np.ndarray], texts: Sequence[str], ignored: Sequence[bool],
               found: Sequence[tuple[Sequence, str]]) -> dict[str, int]:
    """Of a page: tp (lines found), n_pred (boxes that count), n_truth, and exact, the lines that were read too.

    polygons, texts, ignored: the labels, (N, 2) points in pixels of the page; found: (polygon, text) of each box.
    """
    counted = [text for text, out in zip(texts, ignored) if not out]
    boxes = [np.asarray(polygon, float) for polygon, _ in found]
    matcher = PageMatcher(boxes, np.ones(len(boxes)), polygons, ignored)
    pairs = matcher.matches(0.0)
    return {"tp": len(pairs), "n_pred": matcher.counts(0.0)["n_pred"], "n_truth": len(counted),
            "exact": sum(folded(found[ours][1]) == folded(counted[truth]) for ours, truth in pairs)}


def end_to_end_scores(rows: Sequence[dict[str, int]]) -> dict[str, float]:
    """hmean, precision, recall, and exact, the share of all lines that were found and read, over pages."""
    hits, predictions, truths, exact = (sum(row[name] for row in rows) for name in ("tp", "n_pred", "n_truth", "exact"))
    return {"hmean": 2 * hits / max(predictions + truths, 1), "precision": hits / max(predictions, 1),
            "recall": hits / max(truths, 1), "exact": exact / max(truths, 1)}
