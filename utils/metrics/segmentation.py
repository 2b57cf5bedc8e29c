"""Stroke masks compared with their truth at the image's own resolution: the ratios, their means, and the scorer.

A pixel is ink where probability >= threshold. Ratios of a single image are 1 where both masks are empty and 0 where
only one of them is. Records hold counts that can be added up, so that any of these figures can be bootstrapped.
"""

from functools import partial
from typing import Callable, Iterable, Sequence

import cv2
import numpy as np

from utils.distributed import gather_lists
from utils.metrics.segmentation_pixels import boundary_counts, drd_counts, edge_counts, skeleton_counts
from utils.metrics.segmentation_strokes import stroke_counts
from utils.skeleton import skeleton_of

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


def threshold_curve(counts: Iterable[np.ndarray], steps: int = 24) -> list[tuple[float, float, float, float]]:
    """(threshold, precision, recall, f1), means over images, at about `steps` thresholds of the sweep; counts as in
    best_threshold()."""
    counts = np.stack(list(counts))
    at_least = counts[:, :, ::-1].cumsum(2)[:, :, ::-1]
    rows = []
    for level in SWEPT_LEVELS[:: len(SWEPT_LEVELS) // steps]:
        fp, tp = at_least[:, 0, level], at_least[:, 1, level]
        fn = counts[:, 1].sum(1) - tp
        rows.append((level / LEVELS, *(float(of(tp, fp, fn).mean()) for of in (precision_of, recall_of, f1_of))))
    return rows


def boundary_f1_of(right, predicted, found, truth):
    """F1 of the precision right / predicted and the recall found / truth; 1 where both denominators are 0, 0 where one
    of them is."""
    precision, recall = _ratio(right, predicted, empty=0.0), _ratio(found, truth, empty=0.0)
    both_empty = (np.asarray(predicted) == 0) & (np.asarray(truth) == 0)
    return np.where(both_empty, 1.0, _ratio(2 * precision * recall, precision + recall, empty=0.0))


def pseudo_f_of(tp, fp, fn, found, skeleton):
    """F-measure with the recall taken on the truth's skeleton (Pratikakis et al., H-DIBCO 2010)."""
    return boundary_f1_of(tp, np.asarray(tp) + fp, found, skeleton)


def psnr_of(wrong, pixels):
    """10 log10(pixels / wrong) in dB; a page without a fault counts as one with half a wrong pixel, so that means stay
    finite."""
    return 10 * np.log10(np.asarray(pixels) / np.maximum(wrong, 0.5))


# Each figure from a record's counts, or from their sums. The first ones need count_image() only.
BASIC_RATIOS: dict[str, Callable] = {
    "f1": lambda c: f1_of(c["tp"], c["fp"], c["fn"]),
    "iou": lambda c: iou_of(c["tp"], c["fp"], c["fn"]),
    "precision": lambda c: precision_of(c["tp"], c["fp"], c["fn"]),
    "recall": lambda c: recall_of(c["tp"], c["fp"], c["fn"]),
    "edge_iou_canny": lambda c: _ratio(c["edge_intersection"], c["edge_union"], empty=1.0),
}
RATIOS = BASIC_RATIOS | {
    "boundary_iou_1": lambda c: _ratio(c["boundary_intersection_1"], c["boundary_union_1"], empty=1.0),
    "boundary_iou_2": lambda c: _ratio(c["boundary_intersection_2"], c["boundary_union_2"], empty=1.0),
    "boundary_f1_1": lambda c: boundary_f1_of(c["contour_right_1"], c["contour_predicted"], c["contour_found_1"],
                                              c["contour_truth"]),
    "boundary_f1_2": lambda c: boundary_f1_of(c["contour_right_2"], c["contour_predicted"], c["contour_found_2"],
                                              c["contour_truth"]),
    "cldice": lambda c: boundary_f1_of(c["skeleton_right"], c["skeleton_predicted"], c["skeleton_found"],
                                       c["skeleton_truth"]),
    "pseudo_f": lambda c: pseudo_f_of(c["tp"], c["fp"], c["fn"], c["skeleton_found"], c["skeleton_truth"]),
    "psnr": lambda c: psnr_of(c["fp"] + c["fn"], c["pixels"]),
    "drd": lambda c: c["drd_sum"] / np.maximum(c["drd_blocks"], 1),
}
LOWER_IS_BETTER = ("drd", "gaps_per_1000px")
# The users' five: numerator, denominator and factor, all summed over the images.
SUMMED = {
    "separation": ("separated", "close_pairs", 1),
    "gap_free": ("branches_whole", "branches", 1),
    "gaps_per_1000px": ("gaps", "branch_pixels", 1000),
    "straightness": ("straightness_sum", "straightness_weight", 1),
    "straightness_coverage": ("line_covered", "line_pixels", 1),
}


def count_image(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """The additive counts of one image from two (H, W) bool masks: tp, fp, fn are pixels, the edges those of Canny."""
    tp = int(np.count_nonzero(prediction & truth))
    return {"tp": tp, "fp": int(np.count_nonzero(prediction)) - tp, "fn": int(np.count_nonzero(truth)) - tp,
            **edge_counts(prediction, truth)}


def measure_image(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """count_image() and the counts of every other figure, at some 0.3 s for 1536 x 1536 pixels."""
    skeleton, true_skeleton = skeleton_of(prediction), skeleton_of(truth)
    return (count_image(prediction, truth) | {"pixels": truth.size} | boundary_counts(prediction, truth)
            | skeleton_counts(prediction, truth, skeleton, true_skeleton) | drd_counts(prediction, truth)
            | stroke_counts(prediction, truth, skeleton, true_skeleton))


def summarise(records: list[dict]) -> dict:
    """Scores of a data set from its records, at least one, of count_image() or of measure_image().

    Flat: means over images (f1, iou, ..., psnr in dB, drd), f1_median, f1_worst and f1_micro; the users' five over the
    sums of all images, None where no image has what they are about. "spread": median, worst and micro of each mean.
    "categories": the flat scores of the images of each tag.
    """
    scores = _flat(records)
    ratios = RATIOS if "pixels" in records[0] else BASIC_RATIOS
    columns, sums = _columns(records), _sums(records)
    scores["spread"] = {name: _spread(name, ratio(columns), ratio(sums)) for name, ratio in ratios.items()}
    tags = sorted({tag for record in records for tag in record.get("categories", ())})
    scores["categories"] = {tag: _flat([r for r in records if tag in r.get("categories", ())]) for tag in tags}
    return scores


def _flat(records: list[dict]) -> dict[str, float | None]:
    columns, sums = _columns(records), _sums(records)
    whole = "pixels" in records[0]
    scores = {name: float(ratio(columns).mean()) for name, ratio in (RATIOS if whole else BASIC_RATIOS).items()}
    f1 = BASIC_RATIOS["f1"](columns)
    scores |= {"f1_median": float(np.median(f1)), "f1_worst": float(f1.min()),
               "f1_micro": float(BASIC_RATIOS["f1"](sums)), "n_images": len(records)}
    return scores | (_users_five(sums) if whole else {})


def _users_five(sums: dict[str, float]) -> dict[str, float | None]:
    five = {}
    for name in ("small", "curve", "straight"):
        counts = [sums[f"{name}_{part}"] for part in ("tp", "fp", "fn")]
        five["small_text_f1" if name == "small" else f"{name}_f1"] = float(f1_of(*counts)) if any(counts) else None
    for name, (above, below, factor) in SUMMED.items():
        five[name] = float(factor * sums[above] / sums[below]) if sums[below] else None
    return five


def _spread(name: str, values: np.ndarray, micro: float) -> dict[str, float]:
    worst = values.max() if name in LOWER_IS_BETTER else values.min()
    return {"median": float(np.median(values)), "worst": float(worst), "micro": float(micro)}


def _columns(records: list[dict]) -> dict[str, np.ndarray]:
    """Each count of the records as an array with a row for each of them."""
    names = [name for name, value in records[0].items() if isinstance(value, (int, float))]
    return {name: np.array([record[name] for record in records]) for name in names}


def _sums(records: list[dict]) -> dict[str, float]:
    return {name: column.sum() for name, column in _columns(records).items()}


def harmless(after: dict, before: dict) -> bool:
    """Whether a step of post-processing is no worse in f1, cldice and separation, by the scores with and without it."""
    return all(before[name] is None or after[name] >= before[name] for name in ("f1", "cldice", "separation"))


def unrefined(mask: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return mask


class StrokeScorer:
    """Collects predictions image by image and scores them at a threshold that is given, or found by a sweep.

    With a given threshold an image is counted and forgotten. For a sweep its levels and truth are kept as PNG in
    memory (some hundred kilobytes an image), because edges can be counted only once the threshold is known.
    """

    def __init__(self, threshold: float | None = None, refine: Callable = unrefined, trial: Sequence[str] = ()):
        """refine(mask, probability) -> mask: what is measured. trial: steps of post-processing to try, one after
        another, as refine(mask, probability, steps=...), keeping those that do no harm (harmless())."""
        self.threshold, self.refine, self.trial = threshold, refine, tuple(trial)
        self.records: list[dict] = []
        self.counts: list[np.ndarray] = []
        self.kept: list[tuple[dict, bytes, bytes]] = []

    def add(self, probability: np.ndarray, truth: np.ndarray, **labels) -> None:
        """probability (H, W) float in [0, 1]; truth (H, W) bool; labels (file, categories) go into the record."""
        if self.threshold is not None and not self.trial:
            self.records.append(labels | measure_image(self.refine(probability >= self.threshold, probability), truth))
            return
        levels = quantise(probability)
        self.counts.append(level_counts(levels, truth))
        self.kept.append((labels, _pack(levels), _pack(truth.astype(np.uint8))))

    def finish(self) -> tuple[dict[str, float], list[dict], float]:
        """(scores, records of all ranks, threshold). Every rank must call it; the sweep is over all ranks' images, and
        leaves its course in the scores as "curve". Steps that were tried and kept are in the scores as "postproc"."""
        threshold, extra = self.threshold, {}
        if threshold is None:
            counts = gather_lists(self.counts)
            threshold, extra = best_threshold(counts), {"curve": threshold_curve(counts)}
        if self.kept:
            self.records = self.measure(threshold, self.refine)
        if self.trial:
            extra["postproc"] = self._keep_harmless(threshold)
        records = sorted(gather_lists(self.records), key=lambda record: record.get("file", ""))
        return summarise(records) | {"threshold": threshold} | extra, records, threshold

    def _keep_harmless(self, threshold: float) -> list[str]:
        """The steps, of those to try, that do no harm behind those kept before them; the records become theirs."""
        kept: list[str] = []
        for step in self.trial:
            records = self.measure(threshold, partial(self.refine, steps=(*kept, step)))
            if harmless(summarise(gather_lists(records)), summarise(gather_lists(self.records))):
                self.records, kept = records, [*kept, step]
        return kept

    def measure(self, threshold: float, refine: Callable) -> list[dict]:
        """The records of the images that were kept: all, where there is a sweep or a trial."""
        records = []
        for labels, packed, truth in self.kept:
            levels = _unpack(packed)
            prediction = refine(levels >= round(threshold * LEVELS), levels.astype(np.float32) / LEVELS)
            records.append(labels | measure_image(prediction, _unpack(truth) > 0))
        return records


def _ratio(numerator, denominator, empty):
    """numerator / denominator as float64, and `empty` where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    return np.where(denominator > 0, np.asarray(numerator, np.float64) / np.maximum(denominator, 1), empty)


def _pack(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _unpack(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
