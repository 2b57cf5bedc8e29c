"""Mean average precision of boxes, from scored detections that know which thresholds they match at.

The definitions are those of ultralytics' validator, so that figures compare with published ones: greedy matching in
order of confidence at IoU 0.50, 0.55, ... 0.95; average precision as the area under the precision envelope sampled at
101 recalls; precision and recall at the confidence where the smoothed mean F1 over classes is highest; means over the
classes that have truth.
"""

from collections import Counter
from pathlib import Path
from typing import Iterable

import numpy as np

from utils.geometry import box_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_CONFIDENCES = np.linspace(0, 1, 1000)


def match_detections(boxes: np.ndarray, classes: np.ndarray, confidences: np.ndarray, truth_boxes: np.ndarray,
                     truth_classes: np.ndarray) -> np.ndarray:
    """(N, 10) bool: whether each detection claims a truth at each of IOU_THRESHOLDS.

    boxes (N, 4) and truth_boxes (M, 4) x1 y1 x2 y2 in one frame; classes (N,), (M,) int; confidences (N,). The most
    confident detection chooses first and takes the free truth of its class that it overlaps most.
    """
    hits = np.zeros((len(boxes), len(IOU_THRESHOLDS)), bool)
    if not len(boxes) or not len(truth_boxes):
        return hits
    overlap = box_iou(boxes, truth_boxes) * (np.asarray(classes)[:, None] == np.asarray(truth_classes)[None])
    taken = np.zeros((len(truth_boxes), len(IOU_THRESHOLDS)), bool)
    column = np.arange(len(IOU_THRESHOLDS))
    for place in np.argsort(-np.asarray(confidences), kind="stable"):
        if overlap[place].max() < IOU_THRESHOLDS[0]:
            continue
        free = np.where(taken, 0.0, overlap[place][:, None])
        best = free.argmax(0)
        hits[place] = free[best, column] >= IOU_THRESHOLDS
        taken[best[hits[place]], column[hits[place]]] = True
    return hits


def image_record(file: str, detections: list[dict], truth_boxes: np.ndarray, truth_classes: np.ndarray) -> dict:
    """A row of per_image.jsonl, from which every score below can be computed or bootstrapped.

    {"file", "truth": [class_id, ...], "detections": [[class_id, confidence, "1111100000"], ...]}, the last of them one
    character for each IoU threshold. detections: dicts with class_id, confidence and box in pixels.
    """
    boxes = np.array([d["box"] for d in detections], np.float64).reshape(-1, 4)
    classes = np.array([d["class_id"] for d in detections], np.int64)
    confidences = np.array([d["confidence"] for d in detections], np.float64)
    hits = match_detections(boxes, classes, confidences, truth_boxes, truth_classes)
    rows = [[int(class_id), round(float(confidence), 6), "".join("01"[hit] for hit in row)]
            for class_id, confidence, row in zip(classes, confidences, hits.astype(int))]
    return {"file": file, "truth": [int(class_id) for class_id in truth_classes], "detections": rows}


def mark_scores(records: Iterable[dict], names: dict[int, str]) -> dict:
    """map50, map50_95, precision, recall (0 to 1), per_class, n_images, n_truth and the confidence of the best mean F1.

    per_class: {name: {map50, map50_95, precision, recall, n_truth}}; the scores of a class without truth are None.
    Scores are 0 where there is no truth at all. Raises ValueError without records.
    """
    records = list(records)
    if not records:
        raise ValueError("no images to score")
    truth = np.array([class_id for record in records for class_id in record["truth"]], np.int64)
    rows = [row for record in records for row in record["detections"]]
    classes = np.array([row[0] for row in rows], np.int64)
    confidences = np.array([row[1] for row in rows], np.float64)
    hits = np.array([[mark == "1" for mark in row[2]] for row in rows], bool).reshape(-1, len(IOU_THRESHOLDS))

    present = [class_id for class_id in names if (truth == class_id).any()]
    curves = {class_id: _curves(hits[classes == class_id], confidences[classes == class_id],
                                int((truth == class_id).sum())) for class_id in present}
    best = 0
    if present:
        f1 = np.mean([2 * p * r / (p + r + 1e-16) for _, p, r in curves.values()], axis=0)
        best = int(_smooth(f1).argmax())
    per_class = {}
    for class_id, name in names.items():
        values = dict.fromkeys(("map50", "map50_95", "precision", "recall"))
        if class_id in curves:
            average, precision, recall = curves[class_id]
            values = {"map50": float(average[0]), "map50_95": float(average.mean()),
                      "precision": float(precision[best]), "recall": float(recall[best])}
        per_class[name] = values | {"n_truth": int((truth == class_id).sum())}

    def mean(key: str) -> float:
        return float(np.mean([per_class[names[class_id]][key] for class_id in present])) if present else 0.0

    return {key: mean(key) for key in ("map50", "map50_95", "precision", "recall")} | {
        "per_class": per_class, "confidence": float(_CONFIDENCES[best]), "n_images": len(records),
        "n_truth": len(truth)}


def confidence_curve(records: Iterable[dict], names: dict[int, str],
                     steps: int = 50) -> list[tuple[float, float, float, float]]:
    """(confidence, precision, recall, f1) at IoU 0.5, means over the classes that have truth; [] where none has."""
    records = list(records)
    rows, curves = [row for record in records for row in record["detections"]], []
    for class_id in names:
        own = [row for row in rows if row[0] == class_id]
        n_truth = sum(record["truth"].count(class_id) for record in records)
        if n_truth:
            hits = np.array([[mark == "1" for mark in row[2]] for row in own], bool).reshape(-1, len(IOU_THRESHOLDS))
            curves.append(_curves(hits, np.array([row[1] for row in own], np.float64), n_truth)[1:])
    if not curves:
        return []
    places = range(0, len(_CONFIDENCES), len(_CONFIDENCES) // steps)
    f1 = np.mean([2 * p * r / (p + r + 1e-16) for p, r in curves], axis=0)
    precision, recall = np.mean(curves, axis=0)
    return [(float(_CONFIDENCES[i]), float(precision[i]), float(recall[i]), float(f1[i])) for i in places]


def count_by_class(marks: Iterable[dict]) -> dict[str, int]:
    """{class number, as JSON has it: how many marks}"""
    return {str(class_id): count for class_id, count in sorted(Counter(mark["class_id"] for mark in marks).items())}


def count_errors(records: Iterable[dict]) -> dict[str, float]:
    """{grouping method: mean over images of |counted - true|, summed over classes} from the "counts" of records, which
    hold {method: count_by_class} of marks that were kept."""
    errors: dict[str, list[int]] = {}
    for record in records:
        truth = Counter(map(str, record["truth"]))
        for method, counts in record["counts"].items():
            wrong = sum(abs(counts.get(key, 0) - truth[key]) for key in truth.keys() | counts.keys())
            errors.setdefault(method, []).append(wrong)
    return {method: float(np.mean(values)) for method, values in errors.items()}


def count_errors_at(records: Iterable[dict], names: dict[int, str]) -> dict[str, dict[str, float]]:
    """{class name: {confidence: mean over images of |counted - true|}} from the "counts_at" of records, which hold
    {confidence: count_by_class} of the marks that are at least so sure."""
    records = list(records)
    return {name: {conf: float(np.mean([abs(record["counts_at"][conf].get(str(class_id), 0)
                                            - record["truth"].count(class_id)) for record in records]))
                   for conf in records[0]["counts_at"]} for class_id, name in names.items()}


def scores_by_folder(records: Iterable[dict], names: dict[int, str]) -> dict[str, dict]:
    """mark_scores of each folder that images lie in, by its path; {} where all lie in one."""
    folders: dict[str, list[dict]] = {}
    for record in records:
        folders.setdefault(str(Path(record["file"]).parent), []).append(record)
    return {folder: mark_scores(part, names) for folder, part in folders.items()} if len(folders) > 1 else {}


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the envelope of a curve whose points come in order of falling confidence.

    Past the last recall the precision is 0, since the remaining truth is never found.
    """
    recall = np.concatenate([[0.0], recall, [recall[-1]], [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0], [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.trapezoid(np.interp(_RECALLS, recall, envelope), _RECALLS))


def _curves(hits: np.ndarray, confidences: np.ndarray, n_truth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(10,) average precisions, and precision and recall at IoU 0.5 for each of _CONFIDENCES, of one class."""
    if not len(hits):
        return np.zeros(len(IOU_THRESHOLDS)), np.zeros(len(_CONFIDENCES)), np.zeros(len(_CONFIDENCES))
    order = np.argsort(-confidences, kind="stable")
    found = hits[order].cumsum(0)
    recall, precision = found / n_truth, found / np.arange(1, len(hits) + 1)[:, None]
    average = np.array([average_precision(recall[:, k], precision[:, k]) for k in range(len(IOU_THRESHOLDS))])
    falling = -confidences[order]  # np.interp wants rising positions
    return (average, np.interp(-_CONFIDENCES, falling, precision[:, 0], left=1),
            np.interp(-_CONFIDENCES, falling, recall[:, 0], left=0))


def _smooth(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Moving mean over `share` of the length, the ends held."""
    width = round(len(values) * share * 2) // 2 + 1
    pad = width // 2
    return np.convolve(np.pad(values, pad, mode="edge"), np.ones(width) / width, mode="valid")
