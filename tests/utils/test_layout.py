"""Reading order against hand cases, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.layout import plain_text, reading_order, text_angle


def box(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def turned(quads, degrees):
    """Clockwise on the screen, round the origin."""
    angle = np.radians(degrees)
    return np.asarray(quads, float) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def order_of(quads):
    order, lines = reading_order(np.array(quads, np.float32))
    return order.tolist(), lines.tolist()


def test_nothing_and_one():
    order, lines = reading_order(np.zeros((0, 4, 2)))
    assert len(order) == len(lines) == 0
    assert order_of([box(5, 5, 10, 4)]) == ([0], [0])


def test_lines_then_left_to_right():
    quads = [box(60, 33, 30, 10), box(0, 30, 50, 12), box(0, 0, 40, 12), box(50, 2, 40, 12), box(0, 60, 90, 12)]
    assert order_of(quads) == ([2, 3, 1, 0, 4], [0, 0, 1, 1, 2])


def test_touching_lines_stay_apart():
    assert order_of([box(0, 10, 50, 10), box(0, 0, 50, 10), box(60, 10, 50, 10), box(60, 0, 50, 10)]) \
        == ([1, 3, 0, 2], [0, 0, 1, 1])


def test_a_high_box_does_not_join_the_lines_beside_it():
    # a big title at the left of three small lines: the middle one is at its height
    quads = [box(0, 0, 60, 60), box(70, 0, 80, 14), box(70, 22, 80, 14), box(70, 44, 80, 14)]
    order, lines = order_of(quads)
    numbers = dict(zip(order, lines))
    assert len({numbers[1], numbers[2], numbers[3]}) == 3 and numbers[0] == numbers[2]


def test_a_curved_line_is_one_line():
    bent = [box(60 * i, 20 * (i / 5 - 1) ** 2, 50, 16) for i in range(11)]  # sags by more than its height
    assert order_of(bent) == (list(range(11)), [0] * 11)


@pytest.mark.parametrize("degrees", [-20, -5, 3, 12, 30])
def test_a_tilted_page_is_read_along_its_text(degrees):
    quads = [box(100 * column, 30 * row, 80, 16) for row in range(6) for column in range(5)]
    order, lines = order_of(turned(quads, degrees))
    assert order == list(range(30)) and lines == np.repeat(range(6), 5).tolist()
    assert np.degrees(text_angle(turned(quads, degrees))) == pytest.approx(degrees)


def test_angle_is_that_of_the_long_lines():
    assert text_angle(np.array([box(0, 0, 10, 40)], float)) == 0.0
    quads = np.concatenate([turned([box(0, 0, 300, 20), box(0, 50, 300, 20)], 4), turned([box(0, 90, 40, 20)] * 2, -30)])
    assert np.degrees(text_angle(quads)) == pytest.approx(4)


BOXES = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(1, 200), st.integers(1, 60)), min_size=1,
                 max_size=25)


@settings(deadline=None, max_examples=150)
@given(BOXES, st.randoms())
def test_every_box_once_whatever_order_they_come_in(boxes, random):
    quads = np.array([box(*values) for values in boxes], np.float32)
    order, lines = reading_order(quads)
    assert sorted(order) == list(range(len(quads)))
    assert lines[0] == 0 and set(np.diff(lines)) <= {0, 1}
    shuffled = random.sample(range(len(quads)), len(quads))
    order_again, lines_again = reading_order(quads[shuffled])
    assert (quads[shuffled][order_again] == quads[order]).all() and (lines_again == lines).all()


def test_plain_text():
    pages = [[{"text": "합계", "line": 0}, {"text": "1,000", "line": 0}, {"text": "", "line": 1}, {"text": "끝", "line": 2}],
             [], [{"text": "x", "line": 0}]]
    assert plain_text(pages) == "합계 1,000\n\n끝\n\f\fx\n"
    assert plain_text([]) == ""
