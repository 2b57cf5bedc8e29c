"""Stroke masks compared with their truth, pixel by pixel, at the image's own resolution.

A pixel is ink where probability >= threshold. Ratios of a single image are 1 where both masks are empty and 0 where
only one of them is. Records hold counts that can be added up, so that any of these figures can be bootstrapped.
"""

from typing import Iterable

import cv2
import numpy as np

from utils.distributed import gather_lists

LEVELS = 256
SWEPT_LEVELS = range(13, 244)  # thresholds from 0.05 to 0.95 in steps of 1/256


def quantise(probability: np.ndarray) -> np.ndarray:
    """float (H, W) in [0, 1] -> uint8 levels; level >= k exactly where probability >= k / 256."""
    return np.minimum(probability * LEVELS, LEVELS - 1).astype(np.uint8)


def level_counts(levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(2, 256) int64: how many background pixels (row 0) and ink pixels (row 1) lie at each level.

    levels: (H, W) uint8 of quantise(); truth: (H, W) bool.
    """
    everything = np.bincount(levels.ravel(), minlength=LEVELS)
    ink = np.bincount(levels[truth], minlength=LEVELS)
    return np.stack([everything - ink, ink])


def f1_of(tp, fp, fn):
    """2 tp / (2 tp + fp + fn), element by element; 1 where all counts are 0."""
    return _ratio(2 * np.asarray(tp), 2 * np.asarray(tp) + fp + fn, empty=1.0)


def iou_of(tp, fp, fn):
    """tp / (tp + fp + fn), element by element; 1 where all counts are 0."""
    return _ratio(tp, np.asarray(tp) + fp + fn, empty=1.0)


def precision_of(tp, fp, fn):
    """tp / (tp + fp), element by element; where nothing is predicted, 1 for an empty truth and 0 otherwise."""
    return _ratio(tp, np.asarray(tp) + fp, empty=np.asarray(fn) == 0)


def recall_of(tp, fp, fn):
    """tp / (tp + fn), element by element; where the truth is empty, 1 for an empty prediction and 0 otherwise."""
    return _ratio(tp, np.asarray(tp) + fn, empty=np.asarray(fp) == 0)


def best_threshold(counts: Iterable[np.ndarray]) -> float:
    """The threshold with the highest mean F1 over images; of equals, the one nearest to 0.5.

    counts: one level_counts() array per image, at least one. Returns k / 256 between 0.05 and 0.95.
    """
    counts = np.stack(list(counts))
    at_least = counts[:, :, ::-1].cumsum(2)[:, :, ::-1]  # pixels at this level or above
    fp, tp = at_least[:, 0], at_least[:, 1]
    fn = counts[:, 1].sum(1, keepdims=True) - tp
    mean_f1 = f1_of(tp, fp, fn).mean(0)
    level = max(SWEPT_LEVELS, key=lambda k: (mean_f1[k], -abs(k - LEVELS // 2)))
    return level / LEVELS


def canny_edges(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool edge pixels of a bool mask: Canny with thresholds 100 and 200 on its 0/255 picture."""
    return cv2.Canny(mask.astype(np.uint8) * 255, 100, 200) > 0


def count_image(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """The additive counts of one image from two (H, W) bool masks.

    tp, fp, fn are pixels; edge_intersection and edge_union are pixels of the two Canny edge maps, compared with zero
    tolerance. A shift of one pixel already costs two thirds of that figure: it is kept for parity with earlier runs.
    """
    tp = int(np.count_nonzero(prediction & truth))
    edges, true_edges = canny_edges(prediction), canny_edges(truth)
    return {"tp": tp, "fp": int(np.count_nonzero(prediction)) - tp, "fn": int(np.count_nonzero(truth)) - tp,
            "edge_intersection": int(np.count_nonzero(edges & true_edges)),
            "edge_union": int(np.count_nonzero(edges | true_edges))}


def summarise(records: list[dict]) -> dict[str, float]:
    """Scores of a data set from its count_image() records, at least one.

    f1 iou precision recall edge_iou_canny are means over images, f1_median and f1_worst the middle and the lowest of
    the images' f1, f1_micro is from the summed pixels.
    """
    tp, fp, fn, shared, union = (np.array([record[key] for record in records], np.int64)
                                 for key in ("tp", "fp", "fn", "edge_intersection", "edge_union"))
    f1 = f1_of(tp, fp, fn)
    return {
        "f1": float(f1.mean()),
        "iou": float(iou_of(tp, fp, fn).mean()),
        "precision": float(precision_of(tp, fp, fn).mean()),
        "recall": float(recall_of(tp, fp, fn).mean()),
        "f1_micro": float(f1_of(tp.sum(), fp.sum(), fn.sum())),
        "f1_median": float(np.median(f1)),
        "f1_worst": float(f1.min()),
        "edge_iou_canny": float(_ratio(shared, union, empty=1.0).mean()),
        "n_images": len(records),
    }


class StrokeScorer:
    """Collects predictions image by image and scores them at a threshold that is given, or found by a sweep.

    With a given threshold an image is counted and forgotten. For a sweep its levels and truth are kept as PNG in
    memory (some hundred kilobytes an image), because edges can be counted only once the threshold is known.
    """

    def __init__(self, threshold: float | None = None):
        self.threshold = threshold
        self.records: list[dict] = []
        self.counts: list[np.ndarray] = []
        self.kept: list[tuple[dict, bytes, bytes]] = []

    def add(self, probability: np.ndarray, truth: np.ndarray, **labels) -> None:
        """probability (H, W) float in [0, 1]; truth (H, W) bool; labels (file, categories) go into the record."""
        if self.threshold is not None:
            self.records.append(labels | count_image(probability >= self.threshold, truth))
            return
        levels = quantise(probability)
        self.counts.append(level_counts(levels, truth))
        self.kept.append((labels, _pack(levels), _pack(truth.astype(np.uint8))))

    def finish(self) -> tuple[dict[str, float], list[dict], float]:
        """(scores, records of all ranks, threshold). Every rank must call it; the sweep is over all ranks' images."""
        threshold = self.threshold
        if threshold is None:
            threshold = best_threshold(gather_lists(self.counts))
            for labels, levels, truth in self.kept:
                prediction = _unpack(levels) >= round(threshold * LEVELS)
                self.records.append(labels | count_image(prediction, _unpack(truth) > 0))
        records = sorted(gather_lists(self.records), key=lambda record: record.get("file", ""))
        return summarise(records) | {"threshold": threshold}, records, threshold


def _ratio(numerator, denominator, empty):
    """numerator / denominator as float64, and `empty` where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    return np.where(denominator > 0, np.asarray(numerator, np.float64) / np.maximum(denominator, 1), empty)


def _pack(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _unpack(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
