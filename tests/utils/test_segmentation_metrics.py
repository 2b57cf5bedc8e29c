"""Stroke metrics against pixel loops and figures worked out by hand."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils.metrics.segmentation import (LEVELS, StrokeScorer, best_threshold, count_image, f1_of, iou_of, level_counts,
                                        precision_of, quantise, recall_of, summarise)
from utils.metrics.segmentation_pixels import canny_edges

MASKS = arrays(bool, (6, 7))
PROBABILITIES = arrays(np.float32, (6, 7), fill=st.nothing(), elements=st.one_of(
    st.floats(0, 1, width=32), st.integers(0, 2560).map(lambda tenth: np.float32(tenth / 2560))))


def bar(width=40, height=30, left=10, right=20):
    mask = np.zeros((height, width), bool)
    mask[5:25, left:right] = True
    return mask


def slow_counts(prediction, truth):
    counts = {"tp": 0, "fp": 0, "fn": 0}
    for p, t in zip(prediction.ravel(), truth.ravel()):
        if p or t:
            counts["tp" if p and t else "fp" if p else "fn"] += 1
    return counts


@given(MASKS, MASKS)
@settings(max_examples=50, deadline=None)
def test_counts_match_a_loop_over_the_pixels(prediction, truth):
    counts = count_image(prediction, truth)
    assert {key: counts[key] for key in ("tp", "fp", "fn")} == slow_counts(prediction, truth)
    assert all(type(value) is int for value in counts.values())  # they go into JSON


@given(PROBABILITIES, MASKS, st.integers(1, LEVELS - 1))
@settings(max_examples=100, deadline=None)
def test_a_level_is_reached_exactly_where_the_threshold_is(probability, truth, level):
    levels = quantise(probability)
    assert np.array_equal(levels >= level, probability >= level / LEVELS)
    counts = level_counts(levels, truth)
    expected = slow_counts(probability >= level / LEVELS, truth)
    assert counts[1, level:].sum() == expected["tp"] and counts[0, level:].sum() == expected["fp"]
    assert counts.sum() == truth.size and counts[1].sum() == truth.sum()


def test_known_values():
    counts = count_image(bar(left=15, right=25), bar())  # half of each bar is shared: 100 of 200 pixels
    assert (counts["tp"], counts["fp"], counts["fn"]) == (100, 100, 100)
    scores = summarise([counts])
    assert scores["f1"] == pytest.approx(0.5) and scores["iou"] == pytest.approx(1 / 3)
    assert scores["precision"] == scores["recall"] == pytest.approx(0.5) and scores["n_images"] == 1


def test_means_are_over_images_and_micro_over_pixels():
    good = {"tp": 1000, "fp": 0, "fn": 0, "edge_intersection": 10, "edge_union": 10}
    bad = {"tp": 0, "fp": 5, "fn": 5, "edge_intersection": 0, "edge_union": 10}
    middling = {"tp": 1, "fp": 0, "fn": 2, "edge_intersection": 1, "edge_union": 4}
    scores = summarise([good, bad, middling])
    assert scores["f1"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert scores["f1_median"] == pytest.approx(0.5) and scores["f1_worst"] == 0
    assert scores["f1_micro"] == pytest.approx(2 * 1001 / (2 * 1001 + 5 + 7))
    assert scores["precision"] == pytest.approx(2 / 3) and scores["recall"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert scores["edge_iou_canny"] == pytest.approx((1 + 0 + 0.25) / 3)


@pytest.mark.parametrize("ratio", [f1_of, iou_of, precision_of, recall_of])
def test_both_empty_is_one_and_one_empty_is_zero(ratio):
    assert ratio(0, 0, 0) == 1
    assert ratio(0, 7, 0) == 0  # ink predicted on an empty page
    assert ratio(0, 0, 7) == 0  # nothing predicted on a full one
    assert ratio(7, 0, 0) == 1


@given(MASKS, MASKS)
@settings(max_examples=50, deadline=None)
def test_ratios_stay_in_range_and_agree_with_each_other(prediction, truth):
    counts = tuple(slow_counts(prediction, truth).values())
    f1, iou, precision, recall = (float(ratio(*counts)) for ratio in (f1_of, iou_of, precision_of, recall_of))
    assert all(0 <= value <= 1 for value in (f1, iou, precision, recall))
    assert f1 == pytest.approx(2 * iou / (1 + iou))
    if precision + recall > 0:
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_edge_iou_of_equal_empty_and_shifted_masks():
    empty = np.zeros((30, 40), bool)
    assert summarise([count_image(empty, empty)])["edge_iou_canny"] == 1
    assert summarise([count_image(bar(), bar())])["edge_iou_canny"] == 1
    assert summarise([count_image(bar(), empty)])["edge_iou_canny"] == 0
    shifted = summarise([count_image(bar(left=11, right=21), bar())])
    assert shifted["f1"] == pytest.approx(0.9)
    assert 0 < shifted["edge_iou_canny"] < 0.5  # one pixel costs far more here than in f1


def test_edge_counts_match_canny_on_0_and_255():
    mask, other = bar(), bar(left=12, right=30)
    edges, others = (cv2.Canny(m.astype(np.uint8) * 255, 100, 200) > 0 for m in (mask, other))
    counts = count_image(mask, other)
    assert edges.any() and np.array_equal(canny_edges(mask), edges)
    assert counts["edge_intersection"] == (edges & others).sum() and counts["edge_union"] == (edges | others).sum()


def slow_best_threshold(probabilities, truths):
    def mean_f1(level):
        return np.mean([summarise([count_image(p >= level / LEVELS, t)])["f1"] for p, t in zip(probabilities, truths)])

    return max(range(13, 244), key=lambda level: (round(mean_f1(level), 12), -abs(level - 128))) / LEVELS


def test_the_sweep_finds_what_trying_every_threshold_finds():
    rng = np.random.default_rng(3)
    truths = [rng.random((12, 9)) < share for share in (0.1, 0.3, 0.5)]
    probabilities = [np.clip(0.3 * t + rng.random(t.shape) * 0.6, 0, 1).astype(np.float32) for t in truths]
    counts = [level_counts(quantise(p), t) for p, t in zip(probabilities, truths)]
    assert best_threshold(counts) == slow_best_threshold(probabilities, truths)


def test_of_equal_thresholds_the_sweep_takes_the_one_nearest_to_a_half():
    truth = bar()
    assert best_threshold([level_counts(quantise(truth.astype(np.float32)), truth)]) == 0.5
    assert best_threshold([level_counts(quantise(np.where(truth, 0.25, 0.1)), truth)]) == 0.25
    empty = np.zeros_like(truth)
    assert best_threshold([level_counts(quantise(empty.astype(np.float32)), empty)]) == 0.5


def test_scorer_gives_the_same_scores_with_a_found_and_with_a_given_threshold():
    rng = np.random.default_rng(5)
    pages = [(f"{i}.png", np.clip(bar(left=8 + i) * 0.5 + rng.random((30, 40)) * 0.4, 0, 1).astype(np.float32), bar())
             for i in range(3)]
    sweep = StrokeScorer()
    for name, probability, truth in pages:
        sweep.add(probability, truth, file=name)
    scores, records, threshold = sweep.finish()
    fixed = StrokeScorer(threshold)
    for name, probability, truth in pages:
        fixed.add(probability, truth, file=name)
    assert len(scores.pop("curve")) > 10  # the course of the sweep; a given threshold has none
    assert fixed.finish() == (scores, records, threshold)
    assert scores["threshold"] == threshold and [record["file"] for record in records] == ["0.png", "1.png", "2.png"]
    assert scores == summarise(records) | {"threshold": threshold}
