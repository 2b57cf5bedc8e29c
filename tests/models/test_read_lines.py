"""Lines are read in order, in batches, turned, and in pieces where they are long."""

import cv2
import numpy as np
import pytest
import torch
from parseq_reference import make_model
from test_parseq_weights import save

from models import read_lines
from models.ctc import Frame, likely
from models.ctc_beam import LEAST, beam_search
from models.language import estimate
from models.parseq import load_model, read_texts
from models.read_lines import SQUASH, answers, recognise, recognise_with_answers
from utils.text_crops import ROOM, crop_line, cut_line, longest_run, resize_crop, stack_crops

CPU = torch.device("cpu")


def test_recognise_keeps_the_order_and_reads_as_alone():
    model = make_model()
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in
             ((20, 60), (32, 10), (64, 200), (10, 14), (0, 5), (32, 64))]
    together = recognise(model, crops, CPU, batch_size=2)
    assert together[4] == ("", 0.0)
    for crop, (text, score) in zip(crops, together):
        alone = recognise(model, [crop], CPU)[0]
        assert alone[0] == text and alone[1] == pytest.approx(score, rel=1e-4)
    assert recognise(model, [], CPU) == []


def test_recognise_reads_as_the_model_was_validated(tmp_path):
    """The checkpoint says how; what is asked for goes before."""
    model = make_model()
    assert model.reading == {"decode": "ar", "refine_iters": 1}
    crops = [crop for crop in np.random.default_rng(0).integers(0, 256, (20, 32, 60, 3), np.uint8)]
    modes = [("ar", 0), ("ar", 1), ("nar", 0), ("nar", 2)]
    expected = {mode: recognise(model, crops, CPU, 64, *mode) for mode in modes}
    assert len({str(readings) for readings in expected.values()}) == 4
    assert recognise(model, crops, CPU) == expected["ar", 1]
    for decode, refine_iters in modes:
        save(model, tmp_path / "a.pt", reading={"decode": decode, "refine_iters": refine_iters})
        loaded, _ = load_model(tmp_path / "a.pt", CPU)
        assert recognise(loaded, crops, CPU) == expected[decode, refine_iters]
        assert recognise(loaded, crops, CPU, 64, "ar", 0) == expected["ar", 0]


def test_recognise_takes_the_best_view_of_a_tall_crop():
    model = make_model()
    crop = np.random.default_rng(3).integers(0, 256, (72, 30, 3), np.uint8)
    views = [crop, np.rot90(crop), np.rot90(crop, -1)]
    scores = []
    for view in views:
        images, widths = stack_crops([resize_crop(np.ascontiguousarray(view), 32, 64)], 16, 64)
        scores.append(read_texts(model, images, widths, "ar", 1)[0])
    expected = max(scores, key=lambda pair: pair[1])
    text, score = recognise(model, [crop], CPU)[0]
    assert text == expected[0] and score == pytest.approx(expected[1], rel=1e-4)


# ---- lines longer than any crop of the training


def printed(words: list[str], gap: int = 16) -> tuple[np.ndarray, list[int]]:
    """(a line of words 40 px high on lit paper, noisy as scans are; the columns at which words begin)."""
    canvas, x, begins = np.full((40, 4000, 3), 235, np.uint8), 6, []
    for word in words:
        begins.append(x)
        cv2.putText(canvas, word, (x, 29), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (40, 40, 40), 2, cv2.LINE_AA)
        x += cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, 0.9, 2)[0][0] + gap
    noise = np.random.default_rng(0).normal(0, 4, canvas.shape)
    shade = np.linspace(1, 0.6, canvas.shape[1])[None, :, None]
    return np.clip(canvas * shade + noise, 0, 255).astype(np.uint8)[:, :x], begins


@pytest.mark.parametrize("height, views, expected", [
    (31, [(":", 0.99), ("849", 0.9), ("6ħ8", 0.2)], "849"),  # a line on its side, squeezed to a few pixels, is a colon
    (31, [(":", 0.99), ("ab", 0.05), ("₩", 0.7)], ":"),  # and a colon on its side makes no line
    (31, [("1", 0.6), ("-", 0.9), ("|", 0.1)], "-"),  # of single characters the surest
    (30, [(":", 0.99), ("849", 0.9), ("6ħ8", 0.2)], ":"),  # may be one character still
    (5, [("wide", 0.3)], "wide"),
])
def test_a_crop_far_higher_than_wide_is_a_line_where_that_makes_sense(height, views, expected):
    crop = np.zeros((height, 10, 3), np.uint8)
    assert read_lines.best_view([(*view, ["parts"]) for view in views], crop) == (expected, dict(views)[expected], ["parts"])


def test_an_empty_crop_has_no_view():
    assert read_lines.best_view([], np.zeros((0, 10, 3), np.uint8)) == ("", 0.0, [])


@pytest.mark.parametrize("longest", [10.0, 12.5, 20.0])
def test_a_long_line_is_cut_between_its_words(longest):
    words = "the quick brown fox jumps over the lazy dog while seven wizards make toxic brew".split()
    line, begins = printed(words)
    pieces = cut_line(line, longest)
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces], 1), line)
    assert len(pieces) > 1 and all(piece.shape[1] <= longest * 40 + 1 for piece, _ in pieces)
    ends = np.cumsum([piece.shape[1] for piece, _ in pieces])[:-1]
    for end in ends:  # in the gap before a word
        before = [begin - end for begin in begins if begin >= end]
        assert before and 0 < before[0] < 16
    assert [gap for _, gap in pieces] == [" "] * (len(pieces) - 1) + [""]


def test_what_has_no_gap_is_cut_without_a_space_and_what_fits_not_at_all():
    line, _ = printed(["m" * 60])
    pieces = cut_line(line, 10.0)
    assert len(pieces) > 1 and {gap for _, gap in pieces} == {""}
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces], 1), line)
    (whole, gap), = cut_line(line, line.shape[1] / 40)
    assert whole is line and gap == "" and cut_line(line, float("inf"))[0][0] is line
    blank = np.full((3, 500, 3), 200, np.uint8)
    assert sum(piece.shape[1] for piece, _ in cut_line(blank, 8.0)) == 500
    thin = np.full((1, 90, 3), 200, np.uint8)
    assert sum(piece.shape[1] for piece, _ in cut_line(thin, 8.0)) == 90


def test_longest_run():
    flags = lambda text: np.array([letter == "x" for letter in text])  # noqa: E731
    assert longest_run(flags("xx.xxx.x")) == (3, 6) and longest_run(flags("....")) == (2, 2)
    assert longest_run(flags("xxxx")) == (0, 4) and longest_run(flags("")) == (0, 0)


def test_pieces_are_joined_and_their_scores_multiplied(monkeypatch):
    model = make_model()
    read = []

    def name_by_width(model, images, widths, decode, refine_iters):
        read.extend(widths.tolist())
        return [(f"w{width}", 0.5) for width in widths.tolist()]

    monkeypatch.setattr(read_lines, "read_raw", name_by_width)
    line, _ = printed(["one", "three", "five", "seven", "nine", "eleven"])
    longest = SQUASH * model.config.img_width / model.config.img_height
    pieces = [(resize_crop(piece, 32, model.config.img_width).shape[1], gap) for piece, gap in cut_line(line, longest)]
    (first, _), (text, score), (last, _) = recognise(model, [line[:, :40], line, line[:, :50]], CPU, batch_size=2)
    assert text == "".join(f"w{width}{gap}" for width, gap in pieces) and " " in text
    assert score == 0.5 ** len(pieces) and len(pieces) > 2
    assert (first, last) == ("w32", "w40") and sorted(read) == sorted([32, 40, *(width for width, _ in pieces)])


@pytest.mark.parametrize("texts, gaps, expected", [
    (["ab", "", "cd"], [" ", " ", ""], "ab cd"), (["ab", ""], [" ", ""], "ab"), (["", "cd"], [" ", ""], "cd"),
    (["ab ", "cd"], ["", ""], "ab cd"), (["ab", "cd"], ["", ""], "abcd"), (["ab ", " cd"], [" ", ""], "ab cd")])
def test_pieces_are_parted_by_one_space_where_a_cut_or_a_piece_has_one(monkeypatch, texts, gaps, expected):
    monkeypatch.setattr(read_lines, "cut_line", lambda crop, longest: [(crop, gap) for gap in gaps])
    monkeypatch.setattr(read_lines, "in_batches", lambda *_: [(text, 1.0) for text in texts])
    assert recognise(make_model(), [np.zeros((32, 64, 3), np.uint8)], CPU) == [(expected, 1.0)]


# ---- readings by CTC and a language


def ctc_model():
    model = make_model(stem="resnet", patch_height=32, patch_width=4, depth=1, ctc=True)
    model.reading = {"decode": "ctc", "refine_iters": 0}
    with torch.no_grad():
        model.ctc_head.weight.mul_(6)
    return model


def test_answers_are_those_of_each_line_alone():
    model, language = ctc_model(), estimate(["abc", "cab"], 3)
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((20, 30), (32, 10), (64, 120), (9, 9))]
    together = answers(model, crops, CPU, language, batch_size=2)
    assert answers(model, [], CPU, language) == [] and len({str(sorted(found)) for found in together}) == 4
    for crop, found in zip(crops, together):
        images, widths = stack_crops([resize_crop(crop, 32, model.config.img_width)], model.config.bucket,
                                     model.config.img_width)
        (frames,) = likely(*model.see(images, widths), LEAST)
        expected = beam_search(frames, model.charset.characters, language)
        assert sum(found.values()) == pytest.approx(1)
        for text in expected:
            assert found[text.strip()] == pytest.approx(expected[text], rel=1e-3)


def test_readings_with_the_answers_of_those_in_doubt():
    """They are recognise's and answers', of one pass; none for what is sure or empty."""
    model, language = ctc_model(), estimate(["abc", "cab"], 3)
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((20, 30), (32, 60), (64, 120), (9, 9))]
    crops += [np.zeros((0, 5, 3), np.uint8), rng.integers(0, 256, (60, 20, 3), np.uint8)]
    scores = sorted(score for _, score in recognise(model, crops, CPU))
    doubt = (scores[3] + scores[4]) / 2  # two are surer
    found = recognise_with_answers(model, crops, CPU, language, doubt, batch_size=2)
    for crop, (text, score), (same_text, same_score, shares) in zip(crops, recognise(model, crops, CPU), found):
        assert same_text == text and same_score == pytest.approx(score, rel=1e-3)
        assert (shares is None) == (score >= doubt or not crop.size)
    assert sum(shares is None for _, _, shares in found) == 3  # two sure ones, and the empty one
    lines = [*crops[:4], rng.integers(0, 256, (32, 90, 3), np.uint8)]  # the last one is cut
    everything = recognise_with_answers(model, lines, CPU, language, np.inf)
    for expected, (_, _, shares) in zip(answers(model, lines, CPU, language), everything):
        for text in expected:
            assert shares[text] == pytest.approx(expected[text], rel=1e-3)
    assert recognise_with_answers(model, [], CPU, language, 0.5) == []


def test_a_tall_crop_is_answered_by_its_best_way_up(monkeypatch):
    model = ctc_model()
    readings = [(letter, score, [Frame(0.0, [(model.charset.ids[letter], 1.0)])])
                for letter, score in zip("abc", (0.1, 0.5, 0.2))]
    monkeypatch.setattr(read_lines, "cut_line", lambda crop, longest: [(crop, "")])
    monkeypatch.setattr(read_lines, "in_batches", lambda *_: readings)
    (found,) = recognise_with_answers(model, [np.zeros((60, 20, 3), np.uint8)], CPU, estimate(["abc"], 2), 0.9)
    assert found[:2] == ("b", 0.5) and found[2]["b"] == pytest.approx(1.0)


def test_a_line_with_a_sure_piece_is_looked_at_anew(monkeypatch):
    model, language = ctc_model(), estimate(["abc"], 2)
    frame = Frame(0.0, [(model.charset.ids["a"], 1.0)])
    monkeypatch.setattr(read_lines, "cut_line", lambda crop, longest: [(crop, " "), (crop, "")])
    for readings, score, text in (([("a", 0.9, [frame]), ("b", 0.99, None)], 0.9 * 0.99, None),
                                  ([("a", 0.98, None), ("b", 0.98, None)], 0.98**2, None),
                                  ([("a", 0.9, [frame]), ("a", 0.9, [frame])], 0.81, "aa")):  # " " is not in the charset
        monkeypatch.setattr(read_lines, "in_batches", lambda *_, readings=readings: readings)
        (found,) = recognise_with_answers(model, [np.zeros((32, 64, 3), np.uint8)], CPU, language, 0.97)
        assert found[1] == pytest.approx(score) and (found[2] is None) == (text is None)
        assert text is None or found[2][text] > 0.9


@pytest.mark.parametrize("gap, expected", [(" ", "ab b"), ("", "abb")])
def test_answers_of_pieces_are_one_line(monkeypatch, gap, expected):
    """A letter at the end of a piece and the same one at the beginning of the next are two."""
    model = ctc_model()
    ids = model.charset.ids
    if " " not in ids:
        monkeypatch.setattr(model, "charset", type(model.charset)(model.charset.characters + " "))
        ids = model.charset.ids
    frames = [[Frame(0.0, [(ids[letter], 1.0)]) for letter in piece] for piece in ("ab", "b")]
    monkeypatch.setattr(read_lines, "cut_line", lambda crop, longest: [(crop, gap), (crop, "")])
    monkeypatch.setattr(read_lines, "in_batches", lambda *_: frames)
    (found,) = answers(model, [np.zeros((32, 64, 3), np.uint8)], CPU, estimate(["ab b", "abb"], 2))
    assert max(found, key=found.get) == expected and found[expected] > 0.99


@pytest.mark.parametrize("width, height, room", [(100, 20, (2, 0)), (20, 100, (0, 2)), (20, 25, (2.5, 0)), (1, 1, (0.1, 0))])
def test_a_found_box_gets_room_at_the_ends_of_its_text(width, height, room):
    """An image whose red is x and whose green is y says where its crop came from, whichever way the box is turned."""
    y, x = np.mgrid[:200, :200]
    image = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    corners = np.float64([[0, 0], [width, 0], [width, height], [0, height]])
    crop = crop_line(image, corners + 50)
    assert crop.shape[:2] == (max(round(height + 2 * room[1]), 1), max(round(width + 2 * room[0]), 1))
    if min(width, height) > 1:
        np.testing.assert_allclose(crop[0, 0, :2], 50 - np.array(room), atol=1)
        np.testing.assert_allclose(crop[-1, -1, :2], 50 + np.array([width, height]) + room, atol=2)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    assert crop_line(image, corners @ turn.T + 80).shape == crop.shape
    assert ROOM == 0.1
    wide = crop_line(image, corners + 50, ends=0.0, sides=0.5)
    more = 0.5 * np.array([width * (height > 1.5 * width), height * (height <= 1.5 * width)])  # at the long sides
    assert wide.shape[:2] == (max(round(height + 2 * more[1]), 1), max(round(width + 2 * more[0]), 1))


def test_room_beyond_the_page_and_boxes_without_length():
    image = np.full((20, 40, 3), 200, np.uint8)
    assert (crop_line(image, np.float64([[0, 0], [40, 0], [40, 20], [0, 20]])) == 200).all()
    assert crop_line(image, np.zeros((4, 2))).shape == (1, 1, 3)
