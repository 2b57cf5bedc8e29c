"""Where the words of a line stand: against lines drawn word by word, all ways of choosing gaps, and lines without any."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from models.reader import text_records
from utils.fonts import find_fonts
from utils.word_boxes import choose_gaps, natural_length, part_of, word_quads, word_spans

WHITE = np.full((40, 600, 3), 255, np.uint8)


def drawn(words, gaps, noise=0.0, scale=1.0):
    """(line (h, w, 3) uint8, truth (N, 2) shares of its width): words of block letters 8 pixels wide, 2 apart."""
    x, spans, height = 3, [], 24
    for word, gap in zip(words, [*gaps, 0]):
        spans.append((x, x + 10 * len(word) - 2))
        x = spans[-1][1] + gap
    line = np.full((height, spans[-1][1] + 4, 3), 230, np.uint8)
    for word, (begin, _) in zip(words, spans):
        for letter in range(len(word)):
            cv2.rectangle(line, (begin + 10 * letter, 4), (begin + 10 * letter + 7, height - 5), (40, 40, 40), 2)
    line = np.clip(line + np.random.default_rng(0).normal(0, noise, line.shape), 0, 255).astype(np.uint8)
    return cv2.resize(line, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.array(spans) / line.shape[1]


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("noise", [0.0, 10.0])
@pytest.mark.parametrize("gaps", [[9, 9, 9], [9, 200, 9], [60, 8, 120]])
def test_words_stand_where_they_were_drawn(gaps, noise, scale):
    words = ["TOTAL", "ab", "cdefgh", "k"]
    line, truth = drawn(words, gaps, noise, scale)
    assert np.abs(word_spans(line, words)[0] - truth).max() * line.shape[1] <= 2 + scale


def test_a_gap_inside_a_word_is_none_of_its_spaces():
    """Letters that stand wide apart, as in a heading, by gaps half as wide as the space itself."""
    line, truth = drawn([*"HEADING", *"TWO"], [6, 6, 6, 6, 6, 6, 14, 6, 6])
    spans, _ = word_spans(line, ["HEADING", "TWO"])
    assert np.abs(spans.ravel() - [truth[0, 0], truth[6, 1], truth[7, 0], truth[9, 1]]).max() * line.shape[1] <= 3


def test_gaps_are_chosen_as_by_trying_all():
    rng = np.random.default_rng(4)
    for _ in range(40):
        number = int(rng.integers(2, 5))
        gaps = np.sort(1 + rng.choice(298, 2 * int(rng.integers(number, 9)), replace=False)).reshape(-1, 2).astype(float)
        worth, expected = rng.uniform(0, 12, len(gaps)), rng.uniform(20, 120, number)
        deviations = rng.uniform(5, 30, number)

        def cost(chosen):
            edges = np.concatenate([[0.0], gaps[list(chosen)].ravel(), [300.0]]).reshape(-1, 2)
            return (((np.ptp(edges, axis=1) - expected) / deviations) ** 2).sum() - worth[list(chosen)].sum()

        best = min(combinations(range(len(gaps)), number - 1), key=cost)
        rows, least = choose_gaps(gaps, worth, expected, deviations, (0.0, 300.0))
        assert tuple(rows) == best and least == pytest.approx(cost(best))


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="a 1.W가\t", max_size=40), width=st.integers(1, 90), height=st.integers(1, 70),
       seed=st.integers(0, 3))
def test_words_are_all_there_in_order_and_inside_of_any_picture(text, width, height, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) if seed else np.zeros((height, width, 3), np.uint8)
    quad = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    found = word_quads(image, quad, text)
    assert [word for word, _ in found] == text.split()
    edges = np.concatenate([quad[:2, 0] for _, quad in found] or [np.zeros(0)])
    assert np.isfinite(edges).all() and (np.diff(edges) >= 0).all()
    assert edges.min(initial=0) >= 0 and edges.max(initial=0) <= width + 1e-3


def test_a_blank_line_is_shared_out_by_lengths():
    spans, _ = word_spans(WHITE, ["aaaa", "aa"])
    assert spans.ravel() == pytest.approx([0, 2 / 3, 2 / 3, 1], abs=0.01)


def test_a_word_alone_has_its_line_and_spaces_have_none():
    quad = np.float32([[10, 5], [90, 5], [90, 25], [10, 25]])
    (word, place), = word_quads(WHITE, quad, " TOTAL ")
    assert word == "TOTAL" and np.array_equal(place, quad)
    assert word_quads(WHITE, quad, "  ") == word_quads(WHITE, quad, "") == []


def test_words_of_a_tilted_line_lie_along_it():
    line, truth = drawn(["some", "words", "here"], [12, 12])
    height, width = line.shape[:2]
    canvas = np.full((400, 400, 3), 230, np.uint8)
    matrix = cv2.getRotationMatrix2D((0, 0), -20, 1.0) + [[0, 0, 60], [0, 0, 100]]
    canvas = cv2.warpAffine(line, matrix, (400, 400), canvas, borderMode=cv2.BORDER_TRANSPARENT)
    corners = cv2.transform(np.float32([[[0, 0], [width, 0], [width, height], [0, height]]]), matrix)[0]
    found = word_quads(canvas, corners, "some words here")
    for (_, quad), (begin, end) in zip(found, truth):
        assert np.abs(quad - part_of(corners, begin, end)).max() < 3


def test_a_part_of_a_line_in_perspective():
    quad = np.float32([[0, 0], [100, 10], [100, 30], [0, 40]])
    assert part_of(quad, 0.5, 1).tolist() == [[50, 5], [100, 10], [100, 30], [50, 35]]


def test_lengths_of_letters():
    assert natural_length("가나") == 2.0 and natural_length("ab") == pytest.approx(1.1)
    assert natural_length("il.") < natural_length("abc") < natural_length("WMW")


@pytest.mark.parametrize("text", ["TOTAL I HILL", "BILL NO 11 LID", "Tel l Total", "HALL | ILL"])
def test_stems_that_fill_a_tight_box_from_top_to_bottom_are_no_gaps(text):
    font = find_fonts()[0].at(30)
    tile = Image.new("L", (400, 80), 255)
    ImageDraw.Draw(tile).text((10, 60), text, fill=0, font=font, anchor="ls")
    grey = np.asarray(tile)
    (top, left), (bottom, right) = np.argwhere(grey < 128).min(0), np.argwhere(grey < 128).max(0) + 1
    words, truth = text.split(), []
    for number in range(len(words)):
        x = 10 + font.getlength(" ".join([*words[:number], ""]) if number else "")
        box = font.getbbox(words[number], anchor="ls")
        truth.append((x + box[0] - left, x + box[2] - left))
    spans, _ = word_spans(cv2.merge([grey[top:bottom, left:right]] * 3), words)
    assert np.abs(spans * (right - left) - truth).max() <= 4  # an eighth of an em


def test_faint_ink_at_the_ends_stays_in_its_word():
    line, truth = drawn(["first", "word", "last"], [12, 12])
    for place in (truth[0, 0], truth[-1, 1] - 0.06):  # a letter at either end
        begin = int(place * line.shape[1])
        line[:, begin : begin + 9] = 230 - (230 - line[:, begin : begin + 9].astype(int)) // 12
    spans, _ = word_spans(line, ["first", "word", "last"])
    assert np.abs(spans - truth).max() * line.shape[1] <= 0.25 * line.shape[0] + 3


@pytest.mark.parametrize("upwards", [False, True])
def test_a_line_on_its_side_is_laid_the_way_that_fits(upwards):
    line, truth = drawn(["international", "tax", "no"], [12, 12])
    image = np.ascontiguousarray(np.rot90(line, 1 if upwards else -1))
    height, width = image.shape[:2]
    quads = np.float32([[[0, 0], [width, 0], [width, height], [0, height]]])
    (record,) = text_records(image, (quads, quads, [0.9]), [("international tax no", 0.9)])
    assert [word["text"] for word in record["words"]] == ["international", "tax", "no"]
    for word, (begin, end) in zip(record["words"], truth):
        rows = sorted((height * (1 - begin), height * (1 - end)) if upwards else (height * begin, height * end))
        ys = [y for _, y in word["polygon"]]
        assert (min(ys), max(ys)) == pytest.approx(rows, abs=4)
        start = word["polygon"][0][1]
        assert start == (max(ys) if upwards else min(ys))
