import numpy as np
import pytest

from utils.boards import (FOUND, INK, PAPER, TRUTH, WRONG, crop_board, curve_chart, heat, mark_board, outlined, page_board,
                          panels, stroke_board)


def has(image, colour) -> bool:
    return bool((image == colour).all(-1).any())


page = np.full((300, 200, 3), 255, np.uint8)
box = np.array([[20, 30], [120, 30], [120, 60], [20, 60]])


def test_panels_keep_the_aspect_and_stand_side_by_side():
    image = panels([("one", page), ("a caption that is far too long for its narrow panel", page[..., 0])], height=150)
    assert image.shape == (180, 100 + 8 + 100, 3) and image.dtype == np.uint8
    assert (image[30:, 100:108] == PAPER).all()


@pytest.mark.parametrize("thresh, parts", [(None, 4), (np.zeros((300, 200)), 5)])
def test_page_board(thresh, parts):
    board = page_board(page, [box, box + 100], [False, True], [box], np.eye(300, 200), thresh)
    assert board.shape[1] == parts * round(200 * 460 / 300) + (parts - 1) * 8
    assert page_board(page, [], [], [], np.zeros((300, 200))).shape[0] == board.shape[0]


def test_outlines_are_drawn_on_a_copy():
    drawn = outlined(page, [box], [TRUTH])
    assert has(drawn, TRUTH) and not has(page, TRUTH)
    assert (drawn[40, 60] == 255).all()  # the inside stays to be seen


def test_stroke_board_tells_missed_from_wrong():
    truth, found = np.zeros((300, 200), bool), np.zeros((300, 200), bool)
    truth[:100], found[50:150] = True, True
    board = stroke_board(page, truth, found)
    assert has(board, FOUND) and has(board, WRONG) and has(board, INK)
    same = stroke_board(page, truth, truth)
    assert not has(same, FOUND) and not has(same, WRONG)


def test_crops_with_korean_truth_and_reading():
    crop = np.full((32, 90, 3), 200, np.uint8)
    board = crop_board([crop, crop, crop], ["합계 1,000원", "도장", ""], ["합계 1,000원", "도정", ""])
    assert board.shape[1] == 1000 and has(board, TRUTH) and has(board, WRONG)
    other = crop_board([crop], ["합계"], ["합계"])
    box_for_every_glyph = crop_board([crop], ["학게"], ["학게"])
    assert (other != box_for_every_glyph).any()  # two texts of like length look different: there are glyphs
    assert crop_board([np.zeros((400, 3, 3), np.uint8)], ["가" * 300], ["x"]).shape[1] == 500


def test_mark_board_with_and_without_marks():
    board = mark_board(page, [("stamp", [10, 10, 50, 60])], [("서명", [-5, 0, 50, 60], 0.875)])
    assert mark_board(page, [], []).shape == board.shape and (mark_board(page, [], []) != board).any()


def test_heat_is_dark_at_0_and_bright_at_1():
    low, high = heat(np.array([[0.0, 1.0]]))[0].astype(int).sum(-1)
    assert low < 50 and high > 400


@pytest.mark.parametrize("rows", [[(0.5, 1.0, 0.0, 0.0)], [(0.9, 0.9, 0.1, 0.2), (0.1, 0.2, 0.9, 0.3)],
                                  [(t / 20, t / 20, 1 - t / 20, 0.5) for t in range(21)]])
def test_curve_chart(rows):
    chart = curve_chart(rows)
    assert chart.shape == (420, 840, 3) and has(chart, INK)
