"""The stroke figures on hand-drawn pages with known answers, and against slow, obvious references."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from utils.metrics.segmentation import StrokeScorer, measure_image, summarise
from utils.metrics.segmentation_pixels import DRD_WEIGHTS, boundary_counts, drd_counts, inner_boundary
from utils.metrics.segmentation_strokes import close_pairs
from utils.skeleton import branches_of, skeleton_of, trimmed

SMALL = arrays(bool, (21, 26), elements=st.booleans())


def blank(height=200, width=300):
    return np.zeros((height, width), bool)


def line(mask, x0, y0, x1, y1, width=3):
    drawn = mask.astype(np.uint8)
    cv2.line(drawn, (x0, y0), (x1, y1), 1, {1: 1, 3: 2, 5: 3}[width])  # OpenCV 5 draws them wider
    return drawn > 0


def box(mask, top, left, height, width):
    mask = mask.copy()
    mask[top : top + height, left : left + width] = True
    return mask


def scores(prediction, truth):
    return summarise([measure_image(prediction, truth)])


# ---- skeletons


def test_branches_of_a_cross_a_ring_and_a_curve():
    cross = line(line(blank(), 20, 50, 80, 50, 1), 50, 20, 50, 80, 1)
    branches = branches_of(cross)
    assert len(branches) == 4 and not branches.curved.any()  # four arms; the junction and its neighbours belong to none
    assert sorted(branches.pixels) == [29, 29, 29, 29] and np.allclose(branches.chord, 28)
    assert np.allclose(branches.length, 28) and np.allclose(branches.residual, 0, atol=1e-6)
    ring = blank().astype(np.uint8)
    cv2.circle(ring, (150, 100), 40, 1, 1)
    branches = branches_of(skeleton_of(ring > 0))
    assert len(branches) == 1 and branches.chord[0] == 0 and branches.curved[0]
    assert branches.length[0] == pytest.approx(2 * np.pi * 40, rel=0.08)  # steps on a grid are longer than the circle
    half = blank().astype(np.uint8)
    cv2.ellipse(half, (150, 100), (40, 40), 0, 0, 180, 1, 1)
    branches = branches_of(skeleton_of(half > 0))
    assert branches.chord[0] == pytest.approx(80, abs=2) and branches.curved[0]


def test_a_diagonal_is_measured_by_its_diagonal_steps():
    branches = branches_of(np.eye(40, dtype=bool))
    assert branches.length[0] == pytest.approx(39 * np.sqrt(2)) == pytest.approx(branches.chord[0])
    assert abs(branches.direction[0] @ (1, 1)) == pytest.approx(np.sqrt(2))


def test_trimming_takes_pixels_from_both_ends():
    bar = line(blank(), 20, 50, 80, 50, 1)
    assert np.flatnonzero(trimmed(bar, 3)[50]).tolist() == list(range(23, 78))
    assert not trimmed(line(blank(), 20, 50, 23, 50, 1), 3).any()


@given(SMALL)
@settings(max_examples=60, deadline=None)
def test_branches_are_paths(mask):
    """No pixel of a branch has more than two links, and different branches never touch."""
    branches = branches_of(skeleton_of(mask))
    separate, count = ndimage.label(branches.labels > 0, np.ones((3, 3)))
    assert count == len(branches) and branches.pixels.sum() == (branches.labels > 0).sum()
    assert not branches.labels[~mask].any()
    assert (branches.length >= branches.chord - 1e-9).all()


def test_skeletons_of_pieces_at_the_border_and_of_nothing():
    assert not skeleton_of(blank()).any()
    full = skeleton_of(np.ones((20, 20), bool))
    assert full.any()
    page = np.zeros((60, 60), bool)
    page[20:40, 20:40] = True
    assert np.array_equal(skeleton_of(page)[20:40, 20:40], full)  # the border of a page is paper


# ---- boundaries, DIBCO


def test_perfect_empty_and_lost():
    truth = line(line(blank(), 20, 30, 260, 40), 20, 60, 260, 160)
    perfect = scores(truth, truth)
    for name in ("f1", "iou", "boundary_iou_1", "boundary_iou_2", "boundary_f1_1", "boundary_f1_2", "cldice", "pseudo_f",
                 "edge_iou_canny", "gap_free", "straightness_coverage", "straight_f1"):
        assert perfect[name] == 1, name
    assert perfect["drd"] == 0 and perfect["psnr"] == pytest.approx(10 * np.log10(2 * truth.size))
    assert perfect["gaps_per_1000px"] == 0 and perfect["straightness"] > 0.7
    empty = scores(blank(), blank())
    assert empty["f1"] == empty["cldice"] == empty["pseudo_f"] == empty["boundary_f1_1"] == empty["boundary_iou_2"] == 1
    for name in ("small_text_f1", "separation", "gap_free", "gaps_per_1000px", "straightness", "curve_f1", "straight_f1"):
        assert empty[name] is None, name
    for pair in ((blank(), truth), (truth, blank())):
        lost = scores(*pair)
        assert lost["f1"] == lost["cldice"] == lost["pseudo_f"] == lost["boundary_f1_2"] == lost["boundary_iou_1"] == 0
    assert scores(blank(), truth)["gap_free"] == 0 and scores(blank(), truth)["straightness_coverage"] == 0


def test_a_shift_by_one_pixel_costs_the_canny_edges_most():
    truth = box(blank(), 40, 40, 40, 40)
    shifted = scores(np.roll(truth, 1, 1), truth)
    assert shifted["boundary_f1_1"] == shifted["boundary_f1_2"] == shifted["cldice"] == 1
    # 156 pixels of boundary; 2 * 40 + 78 fall off: the two columns, and what the rows lose at their ends
    assert shifted["boundary_iou_1"] == pytest.approx(78 / (2 * 156 - 78))
    assert shifted["edge_iou_canny"] < 0.5 < shifted["boundary_iou_2"] < shifted["f1"] == pytest.approx(39 / 40)
    twice = scores(np.roll(truth, 2, 1), truth)
    assert twice["boundary_f1_2"] == 1 and twice["boundary_f1_1"] < 0.6


@given(SMALL, SMALL)
@settings(max_examples=40, deadline=None)
def test_boundaries_match_distances_between_all_pixels(prediction, truth):
    counts = boundary_counts(prediction, truth)
    contours = [inner_boundary(mask, 1) for mask in (prediction, truth)]
    for mask, contour in zip((prediction, truth), contours):
        eroded = ndimage.binary_erosion(mask, np.ones((3, 3)))
        assert np.array_equal(contour, mask & ~eroded)
    a, b = (np.argwhere(contour) for contour in contours)
    apart = cdist(a, b) if len(a) and len(b) else np.full((len(a), len(b) + 1), np.inf)
    for tolerance in (1, 2):
        assert counts[f"contour_right_{tolerance}"] == (apart.min(1, initial=np.inf) <= tolerance).sum()
        if len(b) and len(a):
            assert counts[f"contour_found_{tolerance}"] == (apart.min(0) <= tolerance).sum()
    second = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), 2) for mask in (prediction, truth)]
    assert counts["boundary_union_2"] == (second[0] | second[1]).sum()


def slow_drd(prediction, truth):
    total, (height, width) = 0.0, truth.shape
    for y, x in np.argwhere(prediction != truth):
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                if 0 <= y + dy < height and 0 <= x + dx < width and (dy or dx):
                    total += abs(int(truth[y + dy, x + dx]) - int(prediction[y, x])) / np.hypot(dy, dx)
    weights = sum(1 / np.hypot(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if dy or dx)
    blocks = [truth[top : top + 8, left : left + 8] for top in range(0, height, 8) for left in range(0, width, 8)]
    return total / weights, sum(block.any() and not block.all() for block in blocks)


@given(SMALL, SMALL)
@settings(max_examples=25, deadline=None)
def test_drd_matches_loops_over_the_pixels(prediction, truth):
    counts = drd_counts(prediction, truth)
    total, blocks = slow_drd(prediction, truth)
    assert counts["drd_sum"] == pytest.approx(total) and counts["drd_blocks"] == blocks


def test_drd_of_a_lone_pixel_is_1_and_of_one_at_an_edge_is_less():
    truth = box(blank(), 40, 40, 8, 8)  # one block of 64 pixels, all ink: no mixed block
    assert DRD_WEIGHTS.sum() == pytest.approx(1)
    lone = truth.copy()
    lone[100, 100] = True
    assert drd_counts(lone, truth) == {"drd_sum": pytest.approx(1), "drd_blocks": 0}
    grown = truth.copy()
    grown[39, 44] = True  # beside the box: some of its neighbours are ink indeed
    assert 0 < drd_counts(grown, truth)["drd_sum"] < 0.7


def test_pseudo_f_and_cldice_by_hand():
    truth = line(blank(), 20, 100, 279, 100, 5)
    skeleton = skeleton_of(truth)
    thin = line(blank(), 20, 100, 279, 100, 3)  # the rims lost, the skeleton not
    assert scores(thin, truth)["pseudo_f"] == 1 > scores(thin, truth)["recall"] + 0.25
    half = truth.copy()
    half[:, 150:] = False
    counts, found = measure_image(half, truth), int((skeleton & half).sum())
    assert counts["skeleton_found"] == found and counts["skeleton_truth"] == skeleton.sum()
    recall = found / skeleton.sum()
    assert scores(half, truth)["pseudo_f"] == pytest.approx(2 * recall / (1 + recall))
    assert scores(half, truth)["cldice"] == pytest.approx(2 * recall / (1 + recall))  # all of its own skeleton is right


# ---- the users' five


def test_small_text_is_scored_inside_its_boxes_only():
    truth = box(box(np.zeros((1536, 1000), bool), 100, 100, 30, 20), 500, 100, 60, 20)  # a small letter and a large one
    assert scores(truth, truth)["small_text_f1"] == 1
    prediction = box(truth, 110, 90, 10, 10)  # a blot that leaves half of its 10 x 10 pixels in the padding of 5
    assert scores(prediction, truth)["small_text_f1"] == pytest.approx(2 * 600 / (2 * 600 + 50))
    prediction = truth.copy()
    prediction[500:560] = False  # the large letter is lost
    assert scores(prediction, truth)["small_text_f1"] == 1 > scores(prediction, truth)["f1"]
    at_half = truth[::2, ::2]  # on a page half as large 32 px are 16
    counts = measure_image(at_half, at_half)
    assert counts["small_tp"] == 150


@pytest.mark.parametrize("case, expected", [("as it is", 1), ("bridged", 0), ("one lost", 0), ("a nibble", 1),
                                            ("one halved", 1), ("one thinner than half", 0)])
def test_separation(case, expected):
    truth = line(line(blank(), 20, 50, 200, 50, 3), 20, 57, 200, 57, 3)  # 4 px of paper between them
    far = line(truth, 20, 150, 200, 150, 3)  # no partner for anyone
    prediction = far.copy()
    if case == "bridged":
        prediction[50:57, 100] = True
    elif case == "one lost":
        prediction[55:60] = False
    elif case == "a nibble":  # joined with 6 px of the other, of 180: not a tenth of it
        prediction[55:60, 26:28] = False
        prediction[50:57, 20] = True
        prediction[50:57, 40:] &= far[50:57, 40:]
    elif case == "one halved":
        prediction[55:60, 115:] = False
    elif case == "one thinner than half":
        prediction[55:60, 95:] = False
    counts = measure_image(prediction, far)
    assert (counts["close_pairs"], counts["separated"]) == (1, expected)


@given(arrays(np.uint8, (24, 30), elements=st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1])))
@settings(max_examples=60, deadline=None)
def test_close_pairs_match_distances_between_all_pixels(mask):
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    points = [np.argwhere(labels == label) for label in range(1, count)]
    slow = [(a + 1, b + 1) for a in range(count - 1) for b in range(a + 1, count - 1)
            if cdist(points[a], points[b]).min() <= 6]
    assert sorted(map(tuple, close_pairs(labels, count).tolist())) == slow


def test_gaps_by_hand():
    truth = line(line(blank(), 20, 40, 219, 40, 3), 20, 120, 219, 120, 3)
    pixels = measure_image(truth, truth)["branch_pixels"]
    assert 2 * 190 <= pixels <= 2 * 194  # two lines of 200 px, their ends trimmed
    prediction = truth.copy()
    prediction[:, 60:66] = False  # 6 px out of both lines; 4 of them are further than 1 px from what is left
    prediction[100:, 150:156] = False
    prediction[100:, 180:183] = False  # 1 px further than 1 px away: no gap
    counts = measure_image(prediction, truth)
    assert (counts["branches"], counts["branches_whole"], counts["gaps"]) == (2, 0, 3)
    assert scores(prediction, truth)["gaps_per_1000px"] == pytest.approx(3000 / pixels)
    prediction = truth.copy()
    prediction[:, 20:23] = False  # shorter, not broken
    prediction[30:50, 100:106] = False
    found = scores(prediction, truth)
    assert found["gap_free"] == 0.5 and found["gaps_per_1000px"] == pytest.approx(1000 / pixels)


def test_straightness_by_hand():
    truth = line(blank(), 20, 100, 279, 100, 3)
    assert scores(truth, truth)["straightness"] == pytest.approx(1, abs=0.05)
    shifted = np.roll(truth, 1, 0)  # still straight, but a pixel off the line
    assert scores(shifted, truth)["straightness"] == pytest.approx(1 - 1 / 2, abs=0.05)
    wave = blank()
    for x in range(20, 280):
        wave[round(100 + 2 * np.sqrt(2) * np.sin(x / 8)) + np.arange(-1, 2), x] = True  # an RMS of 2 px: no line at all
    assert scores(wave, truth)["straightness"] < 0.15 and scores(wave, truth)["straightness_coverage"] > 0.97
    half = truth.copy()
    half[:, 150:] = False
    assert scores(half, truth)["straightness"] == pytest.approx(1, abs=0.08)  # what is there is straight;
    assert scores(half, truth)["straightness_coverage"] == pytest.approx(0.52, abs=0.03)  # coverage says what is not


def test_curves_and_straight_lines_are_told_apart():
    ring = blank().astype(np.uint8)
    cv2.circle(ring, (220, 100), 40, 1, 3)
    bar = line(blank(), 20, 100, 120, 100, 3)
    truth = bar | (ring > 0)
    assert scores(truth, truth)["curve_f1"] == scores(truth, truth)["straight_f1"] == 1
    without_ring, without_bar = scores(bar, truth), scores(ring > 0, truth)
    assert (without_ring["curve_f1"], without_ring["straight_f1"]) == (0, 1)
    assert (without_bar["curve_f1"], without_bar["straight_f1"]) == (1, 0)


# ---- summaries


def test_scores_by_category_and_their_spread():
    truth = line(blank(), 20, 100, 279, 100, 3)
    bad = truth.copy()
    bad[:, 100:] = False
    records = [measure_image(truth, truth) | {"categories": ["curves"]},
               measure_image(bad, truth) | {"categories": ["curves", "small_text"]},
               measure_image(truth, truth) | {"categories": []}]
    found = summarise(records)
    assert set(found["categories"]) == {"curves", "small_text"} and found["categories"]["curves"]["n_images"] == 2
    assert found["categories"]["small_text"]["f1"] == pytest.approx(summarise(records[1:2])["f1"])
    assert found["categories"]["curves"]["f1"] == pytest.approx((1 + found["categories"]["small_text"]["f1"]) / 2)
    assert found["spread"]["f1"]["worst"] == found["f1_worst"] and found["spread"]["f1"]["median"] == 1
    assert found["spread"]["drd"]["worst"] == summarise(records[1:2])["drd"] > 0  # high is bad here


def test_the_scorer_measures_everything_and_numbers_are_plain():
    truth = line(line(blank(), 20, 50, 200, 50, 3), 20, 57, 200, 60, 3)
    scorer = StrokeScorer()
    scorer.add(truth.astype(np.float32) * 0.9, truth, file="a.png", categories=["close_strokes"])
    found, records, _ = scorer.finish()
    assert all(type(value) in (int, float, str, list) for record in records for value in record.values())
    assert {"cldice", "separation", "gap_free", "curve_f1", "boundary_f1_2", "drd"} <= set(found)
    assert found["categories"]["close_strokes"]["f1"] == 1


def refine_by_name(mask, probability, steps=()):
    """Stands in for post-processing: `good` fills where the probability allows, `bad` wipes a corner out."""
    mask = mask | (probability > 0.3) if "good" in steps else mask.copy()
    if "bad" in steps:
        mask[:, 100:120] = False
    return mask


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_steps_are_kept_only_where_they_do_no_harm(threshold):
    truth = line(blank(), 20, 50, 200, 50, 3)
    probability = np.where(truth, 0.9, 0.1).astype(np.float32)
    probability[:, 60:66] = np.where(truth, 0.4, 0.1)[:, 60:66]  # a gap at 0.5
    probability[100:120, 30:60] = 0.45  # or there would be a better threshold than 0.5
    plain = StrokeScorer(0.5)
    plain.add(probability, truth)
    for trial, kept in ((("bad", "good"), ["good"]), (("bad",), []), ((), None)):
        refine = (lambda mask, p, steps=(): refine_by_name(mask, np.where(p < 0.42, p, 0) + mask, steps))
        scorer = StrokeScorer(threshold, refine, trial=trial)
        scorer.add(probability, truth, file="a.png")
        scores_, records, found = scorer.finish()
        assert scores_.get("postproc") == kept and found >= 0.45
        assert scores_["f1"] == (1 if kept == ["good"] else plain.finish()[0]["f1"])
    test = StrokeScorer(0.5, lambda mask, p: refine_by_name(mask, p, ("bad",)))
    test.add(probability, truth)
    assert test.finish()[0]["f1"] < plain.finish()[0]["f1"]
