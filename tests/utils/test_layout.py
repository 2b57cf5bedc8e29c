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
    order, lines, _ = reading_order(np.array(quads, np.float32))
    return order.tolist(), lines.tolist()


def test_nothing_and_one():
    assert [len(found) for found in reading_order(np.zeros((0, 4, 2)))] == [0, 0, 0]
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
    order, lines, paragraphs = reading_order(quads)
    assert sorted(order) == list(range(len(quads)))
    assert lines[0] == 0 and set(np.diff(lines)) <= {0, 1}
    assert paragraphs[0] == 0 and set(np.diff(paragraphs)) <= {0, 1}
    assert all(line_changes for line_changes, new in zip(np.diff(lines), np.diff(paragraphs)) if new)
    shuffled = random.sample(range(len(quads)), len(quads))
    again, lines_again, paragraphs_again = reading_order(quads[shuffled])
    assert (quads[shuffled][again] == quads[order]).all() and (lines_again == lines).all()
    assert (paragraphs_again == paragraphs).all()


def words(x, y, width, height=12):
    """A line cut into words with gaps of half a height."""
    each = width / 4
    return [box(x + number * each, y, each - height / 2, height) for number in range(4)]


def column(x, y, width, lines, by_words=False):
    rows = [words(x, y + 18 * row, width) if by_words else [box(x, y + 18 * row, width, 12)] for row in range(lines)]
    return [quad for row in rows for quad in row]


@pytest.mark.parametrize("by_words", [False, True])
def test_columns_are_read_one_after_the_other(by_words):
    title, foot = [box(20, 0, 500, 20)], [box(20, 200, 500, 12)]
    left, right = column(0, 40, 250, 6, by_words), column(280, 40, 250, 6, by_words)
    quads = title + left + right + foot
    order, lines, paragraphs = reading_order(quads)
    assert order.tolist() == list(range(len(quads)))
    assert lines.tolist() == [0, *np.repeat(np.arange(1, 13), 4 if by_words else 1), 13]
    assert len(np.unique(paragraphs)) == 4


def test_three_columns_and_a_title_in_the_middle():
    first = column(0, 40, 160, 5) + column(180, 40, 160, 5) + column(360, 40, 160, 5)
    title = [box(0, 150, 520, 18)]
    second = column(0, 190, 250, 4) + column(270, 190, 250, 4)
    assert order_of(first + title + second)[0] == list(range(15 + 1 + 8))


def test_columns_of_a_tilted_page():
    quads = turned(column(0, 40, 250, 6) + column(280, 40, 250, 6), 4)
    assert order_of(quads)[0] == list(range(12))


def test_prices_stay_beside_their_articles():
    articles = [box(0, 20 * row, 90 + 30 * (row % 3), 14) for row in range(8)]
    prices = [box(300, 20 * row, 50, 14) for row in range(8)]
    order, lines = order_of(articles + prices)
    assert order == [number for row in range(8) for number in (row, 8 + row)]
    assert lines == np.repeat(range(8), 2).tolist()
    labels = [box(0, 24 * row, 70, 14) for row in range(6)]
    values = [box(200, 24 * row, 250, 14) for row in range(6)]  # a form: short labels, long values
    assert order_of(labels + values)[0] == [number for row in range(6) for number in (row, 6 + row)]


def test_paragraphs():
    quads = column(0, 0, 300, 3) + column(0, 80, 300, 2) + [box(0, 130, 300, 40)]  # a gap, then another size
    assert reading_order(quads)[2].tolist() == [0, 0, 0, 1, 1, 2]
    apart = [box(0, 0, 100, 12), box(200, 18, 100, 12)]  # one below the other in no sense
    assert reading_order(apart)[2].tolist() == [0, 1]


def record(text, line, paragraph=0):
    return {"text": text, "line": line, "paragraph": paragraph}


def test_plain_text():
    pages = [[record("합계", 0), record("1,000", 0), record("", 1), record("끝", 2, 1)], [], [record("x", 0)]]
    assert plain_text(pages) == "합계 1,000\n\n\n끝\n\f\fx\n"
    assert plain_text([]) == ""
