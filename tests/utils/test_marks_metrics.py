"""Mean average precision: hand-computed cases, and a slow reference."""

import numpy as np
import pytest

from utils.metrics.marks import (IOU_THRESHOLDS, average_precision, count_errors_at, image_record, mark_scores,
                                 match_detections)

NAMES = {0: "qr", 1: "signature"}


def detection(box, confidence, class_id=0):
    return {"class_id": class_id, "confidence": confidence, "box": box}


def record(detections, truth, classes=None, file="a.png"):
    truth = np.array(truth, float).reshape(-1, 4)
    return image_record(file, detections, truth, np.zeros(len(truth), int) if classes is None else np.array(classes))


def test_a_perfect_detector_scores_one():
    page = record([detection([0, 0, 10, 10], 0.9), detection([20, 0, 40, 10], 0.8, 1)],
                  [[0, 0, 10, 10], [20, 0, 40, 10]], [0, 1])
    scores = mark_scores([page], NAMES)
    # The curve is sampled at 101 recalls with trapezoids, and it falls to 0 at the very last of them.
    assert [scores["map50"], scores["map50_95"]] == pytest.approx([0.995, 0.995])
    assert scores["precision"] == scores["recall"] == 1.0
    assert scores["per_class"]["signature"] == {"map50": pytest.approx(0.995), "map50_95": pytest.approx(0.995),
                                                "precision": 1.0, "recall": 1.0, "n_truth": 1}
    assert (scores["n_images"], scores["n_truth"]) == (1, 2)


def test_half_the_truth_found_is_half_the_area():
    scores = mark_scores([record([detection([0, 0, 10, 10], 0.9)], [[0, 0, 10, 10], [50, 0, 60, 10]])], {0: "qr"})
    assert scores["map50"] == pytest.approx(0.5, abs=0.006)
    assert scores["recall"] == 0.5 and scores["precision"] == 1.0


def test_iou_decides_the_thresholds():
    """Shifted by a quarter: IoU 0.6, so the thresholds 0.50, 0.55 and 0.60 match."""
    page = record([detection([0, 0, 10, 10], 0.9)], [[2.5, 0, 12.5, 10]])
    assert page["detections"] == [[0, 0.9, "1110000000"]]
    scores = mark_scores([page], {0: "qr"})
    assert scores["map50_95"] == pytest.approx(0.3 * scores["map50"])


def test_a_false_alarm_costs_by_its_confidence():
    truth = [[0, 0, 10, 10]]
    hit, miss = detection([0, 0, 10, 10], 0.5), [50, 50, 60, 60]
    below = mark_scores([record([hit, detection(miss, 0.4)], truth)], {0: "qr"})
    above = mark_scores([record([hit, detection(miss, 0.9)], truth)], {0: "qr"})
    assert below["map50"] == pytest.approx(0.995)
    assert above["map50"] == pytest.approx(0.4975)  # precision 1/2 at full recall


def test_a_second_detection_of_one_truth_is_a_false_alarm():
    page = record([detection([0, 0, 10, 10], 0.6), detection([0, 0, 10, 9], 0.9)], [[0, 0, 10, 10]])
    # The more confident one chooses first; above its IoU of 0.9 the other takes the truth.
    assert page["detections"] == [[0, 0.6, "0000000001"], [0, 0.9, "1111111110"]]


def test_a_detection_takes_the_free_truth_it_overlaps_most():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)
    truth = np.array([[1, 0, 11, 10], [0, 0, 10, 10]], float)
    hits = match_detections(boxes, np.zeros(2, int), np.array([0.5, 0.9]), truth, np.zeros(2, int))
    assert hits[1].all()  # the confident one takes the exact truth at every threshold
    assert hits[0].tolist() == (9 / 11 >= IOU_THRESHOLDS).tolist()


def test_classes_do_not_match_each_other():
    page = record([detection([0, 0, 10, 10], 0.9, class_id=1)], [[0, 0, 10, 10]], [0])
    scores = mark_scores([page], NAMES)
    assert scores["map50"] == 0.0
    assert scores["per_class"]["qr"]["map50"] == 0.0
    # A class without truth has no score, and the mean is over the others.
    assert scores["per_class"]["signature"] == {"map50": None, "map50_95": None, "precision": None, "recall": None,
                                                "n_truth": 0}


def test_degenerate_inputs():
    nothing = record([], [])
    assert nothing == {"file": "a.png", "truth": [], "detections": []}
    empty = mark_scores([nothing], NAMES)
    assert (empty["map50"], empty["map50_95"], empty["precision"], empty["recall"]) == (0.0, 0.0, 0.0, 0.0)
    assert mark_scores([record([detection([0, 0, 1, 1], 0.5)], [])], NAMES)["n_truth"] == 0
    assert mark_scores([record([], [[0, 0, 1, 1]])], NAMES)["recall"] == 0.0
    assert match_detections(np.zeros((0, 4)), [], [], np.zeros((0, 4)), []).shape == (0, 10)
    with pytest.raises(ValueError, match="no images"):
        mark_scores([], NAMES)


def test_records_add_up_over_images():
    """Scores depend on the rows alone, whichever images they are spread over."""
    a = record([detection([0, 0, 10, 10], 0.9)], [[0, 0, 10, 10]])
    b = record([detection([0, 0, 10, 10], 0.3)], [[30, 0, 40, 10]])
    joined = {"file": "both", "truth": a["truth"] + b["truth"], "detections": a["detections"] + b["detections"]}
    apart, together = mark_scores([a, b], NAMES), mark_scores([joined], NAMES)
    assert {**apart, "n_images": 0} == {**together, "n_images": 0}


def slow_average_precision(hits, n_truth):
    """At each of 101 recalls the best precision at that recall or beyond, joined by straight lines as in the curve."""
    points = [(0.0, 1.0)]
    for k in range(1, len(hits) + 1):
        points.append((sum(hits[:k]) / n_truth, sum(hits[:k]) / k))
    points += [(points[-1][0], 0.0), (1.0, 0.0)]
    best = [(recall, max(p for _, p in points[k:])) for k, (recall, _) in enumerate(points)]
    values = []
    for x in np.linspace(0, 1, 101):
        left = max(k for k, (recall, _) in enumerate(best) if recall <= x)
        if left + 1 == len(best):
            values.append(best[left][1])
        else:
            (r0, p0), (r1, p1) = best[left], best[left + 1]
            values.append(p0 + (p1 - p0) * (x - r0) / (r1 - r0))
    return sum((a + b) / 2 for a, b in zip(values, values[1:])) / 100


def test_average_precision_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    for _ in range(50):
        hits = rng.integers(0, 2, rng.integers(1, 12))
        n_truth = int(hits.sum() + rng.integers(0, 4)) or 1
        found = hits.cumsum()
        fast = average_precision(found / n_truth, found / np.arange(1, len(hits) + 1))
        assert fast == pytest.approx(slow_average_precision(hits.tolist(), n_truth), abs=1e-9)


def test_count_errors_by_class_and_confidence():
    names = {0: "qr", 1: "signature"}
    counted = [{"truth": [0, 1, 1], "counts_at": {"0.2": {"0": 1, "1": 5}, "0.5": {"1": 1}}},
               {"truth": [], "counts_at": {"0.2": {"1": 1}, "0.5": {}}}]
    assert count_errors_at(counted, names) == {"qr": {"0.2": 0.0, "0.5": 0.5}, "signature": {"0.2": 2.0, "0.5": 0.5}}
