"""What was read with doubt is looked at again, with more paper, and the looks vote."""

import numpy as np
import pytest

from models.second_look import DOUBT, LOOKS, look_again, vote
from utils.text_crops import crop_line

LYING, STANDING = np.float64([[20, 20], [60, 20], [60, 30], [20, 30]]), np.float64([[20, 20], [30, 20], [30, 60], [20, 60]])


def test_only_doubtful_lying_lines_are_asked_about():
    image = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    asked = []

    def answers(crops):
        asked.extend(crops)
        return [{f"crop {number}": 0.5, "all": 0.4} for number in range(len(crops))]

    readings = [[("sure", DOUBT, None), ("doubtful", DOUBT - 0.01, None)], [],
                [("tall", 0.1, {"x": 1.0}), ("empty", 0.0, None)]]
    quads = [np.stack([LYING, LYING + 5]), np.zeros((0, 4, 2)), np.stack([STANDING, LYING])]
    given = [list(page) for page in readings]
    found = look_again([image] * 3, quads, readings, answers)
    assert readings == given  # what was given stays
    assert found[0][0] == ("sure", DOUBT) and found[1] == [] and found[2][0] == ("tall", 0.1)
    # two lines, two looks each, one line after the other
    assert len(asked) == 4 and found[0][1] == ("all", pytest.approx(0.4)) and found[2][1] == ("all", pytest.approx(0.4))
    for number, look in enumerate(LOOKS):
        assert np.array_equal(asked[number], crop_line(image, LYING + 5, **look))
    heights, widths = zip(*(crop.shape[:2] for crop in asked[:2]))
    assert heights == (10, 12) and widths == (42, 44)


def test_a_line_that_was_answered_when_it_was_read_is_looked_at_once_more():
    image, asked = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8), []

    def answers(crops):
        asked.extend(crops)
        return [{"a": 1.0}, {"c": 0.6, "d": 0.4}, {"d": 0.8}]

    readings = [[("x", 0.2, {"a": 0.3, "b": 0.7}), ("y", 0.2, None), ("z", DOUBT, {"w": 1.0})]]
    found = look_again([image], [np.stack([LYING, LYING + 5, LYING + 9])], readings, answers)
    assert found == [[("a", pytest.approx(1.3 / 2)), ("d", pytest.approx(1.2 / 2)), ("z", DOUBT)]]
    for crop, quad, look in zip(asked, (LYING, LYING + 5, LYING + 5), (LOOKS[1], *LOOKS)):
        assert np.array_equal(crop, crop_line(image, quad, **look))
    assert len(asked) == 3


def test_nothing_to_ask():
    def never(crops):
        raise AssertionError("asked")

    assert look_again([], [], [], never) == []
    assert look_again([np.zeros((9, 9, 3), np.uint8)], [LYING[None]], [[("a", 1.0, None)]], never) == [[("a", 1.0)]]


@pytest.mark.parametrize("looks, text, score", [
    ([{"12.50": 0.6, "12,50": 0.4}, {"12,50": 0.9}, {"12.50": 1.0}], "12.50", 1.6 / 3),
    ([{"a": 0.5}, {"b": 0.5}], "a", 0.25),  # of two alike the first
    ([{"Total": 0.5, "TotaL": 0.1}, {"TOTAL": 0.3}, {"T0TAL": 0.8}], "Total", 0.3),
    ([{"": 1.0}, {"": 1.0}, {"x": 1.0}], "", 2 / 3),
    ([{"STRASSE": 0.4, "STRA\u00dfE": 0.5}, {"ABC": 0.6}], "ABC", 0.3),  # a letter whose capital are two is itself
    ([{"x": 1.0 + 1e-9}], "x", 1.0), ([{"z": 0.0}], "z", 0.0)])
def test_vote(looks, text, score):
    assert vote(looks) == (text, pytest.approx(score))
    assert vote(looks)[1] <= 1.0
