"""Post-processing: what each step mends, what it must leave alone, and that it leaves perfect masks as they are."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.refine_strokes import STEPS, refine_predictions, separate_strokes, stroke_ends
from utils.metrics.segmentation import f1_of, measure_image, summarise
from utils.skeleton import branches_of, skeleton_of

every_step = pytest.mark.parametrize("step", STEPS)


def lines(*points, width=5, height=160, columns=260):
    mask = np.zeros((height, columns), np.uint8)
    for x0, y0, x1, y1 in points:
        cv2.line(mask, (x0, y0), (x1, y1), 1, {1: 1, 3: 2, 5: 3, 7: 5}[width])  # OpenCV 5 draws them wider
    return mask > 0


def pieces(mask):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def f1(prediction, truth):
    tp = (prediction & truth).sum()
    return float(f1_of(tp, prediction.sum() - tp, truth.sum() - tp))


def page(seed):
    """Lines, curves, letters: everything that strokes do, without a fault."""
    rng, mask = np.random.default_rng(seed), np.zeros((300, 400), np.uint8)
    for _ in range(6):
        (x0, y0), (x1, y1) = rng.integers((20, 20), (380, 280), (2, 2)).tolist()
        cv2.line(mask, (x0, y0), (x1, y1), 1, int(rng.integers(2, 6)))
    cv2.ellipse(mask, (200, 150), (90, 60), 20, 0, int(rng.integers(120, 360)), 1, 3)
    cv2.putText(mask, "min Hill 0.5", (30, 260), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1, 2)
    return mask > 0


def test_nothing_is_done_that_is_not_asked_for():
    mask = lines((20, 50, 100, 50), (106, 50, 200, 50))
    assert refine_predictions(mask) is mask and refine_predictions(mask, mask.astype(np.float32)) is mask
    with pytest.raises(ValueError, match="no post-processing step thicken"):
        refine_predictions(mask, steps=["thicken"])


@every_step
@given(seed=st.integers(0, 1000))
@example(seed=323)  # two lines two pixels apart, which a plain closing runs together
@settings(max_examples=5, deadline=None)
def test_a_perfect_mask_stays_as_it_is(step, seed):
    mask = page(seed)
    sure = mask.astype(np.float32)
    assert np.array_equal(refine_predictions(mask, sure, [step]), mask)  # a sure network is not corrected
    assert f1(refine_predictions(mask, None, [step]), mask) > 0.97  # nor much is changed without a map
    before = mask.copy()
    refine_predictions(mask, None, STEPS)
    assert np.array_equal(mask, before)  # the caller's array is left alone


@every_step
@pytest.mark.parametrize("mask", [np.zeros((40, 50), bool), np.ones((40, 50), bool), np.eye(40, 50, dtype=bool)],
                         ids=["empty", "full", "diagonal"])
def test_degenerate_masks(step, mask):
    assert np.array_equal(refine_predictions(mask, mask.astype(np.float32), [step]), mask)
    assert refine_predictions(mask, np.full(mask.shape, 0.5, np.float32), [step]).shape == mask.shape


@pytest.mark.parametrize("step, gap", [("close", 2), ("connect", 2), ("connect", 5)])
@pytest.mark.parametrize("between, joined", [(0.4, True), (0.05, False), (None, True)])
def test_gaps_are_closed_where_the_network_saw_ink(step, gap, between, joined):
    whole = lines((20, 50, 200, 50))
    mask = whole.copy()
    mask[:, 100 : 100 + gap] = False
    prob = None if between is None else np.where(mask, 0.9, np.where(whole, between, 0.0))
    refined = refine_predictions(mask, prob, [step])
    assert (pieces(refined) == 1) == joined
    assert f1(refined, whole) > 0.995 if joined else np.array_equal(refined, mask)


def test_connect_minds_distance_direction_and_uses_an_end_once():
    far = lines((20, 50, 100, 50), (115, 50, 200, 50))
    assert np.array_equal(refine_predictions(far, None, ["connect"]), far)
    assert pieces(refine_predictions(far, None, ["connect"], max_gap=12)) == 1
    beside = lines((20, 50, 100, 50), (20, 59, 100, 59))  # ends side by side look the same way
    assert np.array_equal(refine_predictions(beside, None, ["connect"]), beside)
    corner = lines((20, 50, 100, 50), (106, 56, 106, 140))  # the second one does not look at the first
    assert np.array_equal(refine_predictions(corner, None, ["connect"]), corner)
    fork = lines((20, 50, 100, 50), (109, 46, 200, 20), (109, 54, 200, 80), width=3)
    assert pieces(fork) == 3 and pieces(refine_predictions(fork, None, ["connect"], max_gap=9)) == 2


@every_step
def test_a_mask_of_0_and_255_is_taken_as_one_of_bool(step):
    gap = np.ones(260, bool)
    gap[100:103] = False
    for mask in (lines((20, 50, 200, 50)) & gap, wobbly(2.0), lines((20, 50, 200, 50), (20, 58, 200, 58))):
        prob = np.where(mask, 0.95, 0.4)
        grown = mask | (cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        for one, some in ((mask, prob), (mask, None), (grown, prob)):
            expected = refine_predictions(one, some, [step])
            for grey in (one.astype(np.uint8), one.astype(np.uint8) * 255):
                refined = refine_predictions(grey, some, [step])
                assert refined.dtype == bool and np.array_equal(refined, expected)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("width, gap", [(width, gap) for width in (1, 2) for gap in range(1, 6)])
def test_connect_looks_at_every_pixel_between_thin_strokes(width, gap, upright):
    whole = np.zeros((60, 300), bool)
    whole[30 : 30 + width, 20:280] = True
    mask = whole.copy()
    mask[:, 140 : 140 + gap] = False

    def connected(prob):
        turned = [None if array is None else np.ascontiguousarray(array.T) if upright else array for array in (mask, prob)]
        return pieces(refine_predictions(*turned, ["connect"]))

    prob = np.where(mask, 0.95, 0.4)
    assert connected(prob) == 1 and connected(None) == 1
    for column in range(140, 140 + gap):
        unseen = prob.copy()
        unseen[:, column] = 0
        assert connected(unseen) == 2, column


def test_a_connection_is_as_wide_as_the_strokes():
    whole = lines((20, 30, 220, 110), width=7)
    mask = whole & ~lines((120, 40, 100, 100), width=3)
    assert pieces(mask) == 2
    refined = refine_predictions(mask, None, ["connect"], max_gap=6)
    assert pieces(refined) == 1 and f1(refined, whole) > f1(mask, whole) and f1(refined, whole) > 0.99


def test_ends_look_out_of_their_strokes():
    points, directions, half = stroke_ends(lines((50, 80, 150, 80), width=5))
    left, right = points[:, 0].argmin(), points[:, 0].argmax()
    assert len(points) == 2 and np.allclose(directions[[left, right]], [[-1, 0], [1, 0]], atol=0.25)
    assert half == pytest.approx([3, 3], abs=0.1)  # the third row of five is three steps from paper
    assert len(stroke_ends(lines((50, 80, 50, 80), width=1))[0]) == 0


def wobbly(amplitude, wavelength=14, bow=0.0):
    mask = np.zeros((160, 260), np.uint8)
    x = np.arange(20, 241)
    y = 80 + amplitude * np.sin(x / wavelength * 2 * np.pi) + bow * (((x - 130) / 110) ** 2 - 1 / 3)
    cv2.polylines(mask, [np.stack([x, np.rint(y)], 1).astype(np.int32)], False, 1, 3)
    return mask > 0


def residual(mask):
    branches = branches_of(skeleton_of(mask))
    return branches.residual[branches.pixels.argmax()]


def test_a_wavering_line_is_straightened_and_ends_where_it_ended():
    mask, truth = wobbly(2.0), lines((20, 80, 240, 80))
    prob = np.where(mask | truth, 0.5, 0.0)  # the network is sure of nothing round here
    refined = refine_predictions(mask, prob, ["straighten"])
    assert residual(refined) < 0.6 < 1 < residual(mask)
    assert f1(refined, truth) > f1(mask, truth) + 0.1
    columns = [np.flatnonzero(m.any(0))[[0, -1]] for m in (refined, mask)]
    assert np.abs(columns[0] - columns[1]).max() <= 3
    sure = np.where(mask, 0.95, 0.01)
    assert np.array_equal(refine_predictions(mask, sure, ["straighten"]), mask)


def test_what_is_bowed_or_too_far_from_a_line_is_not_straightened():
    bowed = wobbly(0.0, bow=5.0)
    assert 0.7 < residual(bowed) < 2 and np.array_equal(refine_predictions(bowed, None, ["straighten"]), bowed)
    wild = wobbly(6.0, wavelength=40)
    assert residual(wild) > 2 and np.array_equal(refine_predictions(wild, None, ["straighten"]), wild)
    assert not np.array_equal(refine_predictions(wild, None, ["straighten"], deviation_threshold=6), wild)


def test_straightening_keeps_junctions_together():
    mask = wobbly(2.0) | lines((130, 20, 130, 80))
    assert pieces(mask) == 1 and pieces(refine_predictions(mask, None, ["straighten"])) == 1


def test_merged_strokes_are_separated_where_the_network_was_not_sure():
    truth = lines((20, 50, 200, 50), (20, 58, 200, 58), width=5)
    prob = np.where(truth, 0.95, 0.0)
    prob[53:56, 30:190] = 0.6  # all the paper between them is taken for ink
    mask = prob >= 0.5
    assert pieces(truth) == 2 and pieces(mask) == 1
    refined = refine_predictions(mask, prob, ["separate"])
    assert pieces(refined) == 2
    before, after = (summarise([measure_image(m, truth)]) for m in (mask, refined))
    assert (before["separation"], after["separation"]) == (0, 1) and after["f1"] > before["f1"]
    assert refine_predictions(mask, None, ["separate"]) is mask  # no map, no separation
    assert np.array_equal(refine_predictions(mask, np.where(mask, 0.95, 0.0), ["separate"]), mask)


def test_a_faint_piece_of_a_stroke_is_no_neck():
    mask = lines((20, 50, 200, 50))
    prob = np.where(mask, 0.95, 0.0)
    prob[:, 100:104] *= 0.6
    assert np.array_equal(separate_strokes(mask, prob), mask)


def test_specks_are_not_cut_off():
    prob = np.where(lines((20, 50, 200, 50)) | lines((100, 44, 102, 44), width=3), 0.95, 0.0)
    prob[46:48, 98:105] = 0.6
    mask = prob >= 0.5
    assert pieces(mask) == 1 and np.array_equal(separate_strokes(mask, prob), mask)
