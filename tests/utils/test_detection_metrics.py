"""The ICDAR 2015 protocol against loops over pairs, and by hand."""

import numpy as np
import pytest
import shapely

from utils.metrics.detection import PageMatcher, scores_of_counts


def box(x, y, width=10, height=10):
    return np.float32([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def slow_counts(candidates, scores, truth, ignored, thresh):
    """The official script's loops."""
    def area(a, b):
        return shapely.Polygon(a).intersection(shapely.Polygon(b)).area

    used, found = set(), 0
    skipped = {i for i, c in enumerate(candidates) for t, skip in zip(truth, ignored)
               if skip and area(c, t) / shapely.Polygon(c).area > 0.5}
    for t, skip in zip(truth, ignored):
        for i, (c, score) in enumerate(zip(candidates, scores)):
            if skip or i in used or i in skipped or score < thresh:
                continue
            inter = area(c, t)
            if inter / (shapely.Polygon(c).area + shapely.Polygon(t).area - inter) > 0.5:
                used.add(i)
                found += 1
                break
    n_pred = sum(score >= thresh and i not in skipped for i, score in enumerate(scores))
    return {"tp": found, "n_pred": n_pred, "n_truth": sum(not skip for skip in ignored)}


@pytest.mark.parametrize("seed", range(20))
def test_counts_equal_the_slow_ones(seed):
    rng = np.random.default_rng(seed)
    truth = [box(*rng.uniform(0, 60, 2), *rng.uniform(5, 25, 2)) for _ in range(12)]
    candidates = [t + rng.normal(0, 2, (1, 2)) for t in truth for _ in range(2)]
    candidates += [box(*rng.uniform(0, 60, 2)) for _ in range(5)]
    scores, ignored = rng.random(len(candidates)), rng.random(len(truth)) < 0.3
    matcher = PageMatcher(candidates, scores, truth, ignored)
    for thresh in (0.0, 0.3, 0.7):
        assert matcher.counts(thresh) == slow_counts(candidates, scores, truth, ignored, thresh)


def test_by_hand():
    truth = [box(0, 0), box(20, 0), box(40, 0)]
    candidates = [box(1, 0), box(0, 1), box(40, 0, 20), box(45, 0)]
    counts = PageMatcher(candidates, [0.9, 0.8, 0.9, 0.9], truth, [False, False, True]).counts(0.5)
    # the second box matches a truth that is taken; the third is half, the fourth half, inside "do not care": kept
    assert counts == {"tp": 1, "n_pred": 4, "n_truth": 2}
    assert scores_of_counts([counts]) == pytest.approx({"hmean": 1 / 3, "precision": 0.25, "recall": 0.5})


def test_iou_of_exactly_one_half_is_no_match():
    assert PageMatcher([box(0, 0, 10, 5)], [1.0], [box(0, 0)], [False]).counts(0.5)["tp"] == 0


def test_sums_are_over_the_data_set():
    counts = [{"tp": 1, "n_pred": 1, "n_truth": 1}, {"tp": 0, "n_pred": 0, "n_truth": 9}]
    assert scores_of_counts(counts)["recall"] == pytest.approx(0.1)


@pytest.mark.parametrize("candidates, truth", [([], []), ([box(0, 0)], []), ([], [box(0, 0)])])
def test_empty_pages(candidates, truth):
    counts = PageMatcher(candidates, [1.0] * len(candidates), truth, [False] * len(truth)).counts(0.5)
    assert counts == {"tp": 0, "n_pred": len(candidates), "n_truth": len(truth)}
    assert scores_of_counts([counts])["hmean"] == 0


def test_degenerate_and_crossing_polygons_do_not_crash():
    bow = np.float32([[0, 0], [10, 10], [10, 0], [0, 10]])
    line = np.float32([[0, 0], [10, 0], [10, 0], [0, 0]])
    counts = PageMatcher([bow, line, box(0, 0)], [1, 1, 1], [bow, line, box(0, 0)], [False, False, True]).counts(0.5)
    assert counts["n_truth"] == 2
