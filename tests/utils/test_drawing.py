"""Overlays: what is drawn, where, in which colour, and that nothing odd breaks them."""

import numpy as np
import pytest

from utils.documents import Page
from utils.drawing import (MARK_COLOURS, Canvas, captions, doubt_colour, draw_overlay, face_for, fitting_font,
                           mark_colour, mark_label, text_tile)
from utils.records import page_record


def box(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def text(polygon, words="TOTAL 12", score=0.99, line=0):
    return {"polygon": polygon, "text": words, "score": score, "line": line, "box_score": 0.9}


def mark(name, corners, confidence=0.9, **more):
    return {"class_name": name, "class_id": 0, "confidence": confidence, "box": corners} | more


def page_of(image, **more):
    return page_record(Page(3, image)) | more


WHITE = np.full((1000, 800, 3), 255, np.uint8)


def halves(overlay):
    width = (overlay.shape[1] - max(800 // 80, 4)) // 2
    strip = overlay.shape[0] - 1000
    return overlay[strip:, :width], overlay[strip:, -width:]


def close(pixels, colour):
    """Where pixels (H, W, 3) have about that colour."""
    return np.abs(pixels.astype(int) - colour).max(-1) < 40


def test_raw_marks_are_left_and_grouped_ones_right():
    signature = mark("signature", [400, 600, 600, 700], merged_count=1)
    raw = [mark("stamp", [100, 100, 200, 200]), mark("stamp", [110, 110, 220, 220]), signature]
    grouped = [mark("stamp", [100, 100, 220, 220], merged_count=2), signature]
    overlay = draw_overlay(WHITE, page_of(WHITE, marks={"raw": raw, "grouped": grouped}))
    left, right = halves(overlay)
    assert left.shape == right.shape == WHITE.shape and overlay.dtype == np.uint8
    red, green = MARK_COLOURS["stamp"], MARK_COLOURS["sign"]
    assert close(left[150:151, 95:105], red).any() and close(left[205:215, 110], red).any()  # both raw boxes
    assert close(right[150:151, 95:105], red).any() and not close(right[160, 105:115], red).any()  # one grouped box
    for panel in (left, right):
        assert close(panel[640:660, 395:405], green).any() and close(panel[695:705, 500], green).any()


def test_the_page_itself_is_left_alone():
    image = np.random.default_rng(0).integers(0, 255, (1200, 300, 3), np.uint8)
    before = image.copy()
    page = page_of(image, text=[text(box(10, 10, 200, 40))])
    record = repr(page)
    draw_overlay(image, page, np.full((1200, 300), 255, np.uint8))
    assert (image == before).all() and repr(page) == record


def test_strokes_are_tinted_on_the_left_only():
    mask = np.zeros((1000, 800), np.uint8)
    mask[300:320, 100:700] = 255
    left, right = halves(draw_overlay(WHITE, page_of(WHITE), mask))
    assert (left[310, 200:600, 1] < 90).all() and (left[340] == 255).all()
    assert (right == 255).all()


def test_read_text_replaces_what_was_printed():
    image = WHITE.copy()
    image[500:540, 100:500] = 0
    left, right = halves(draw_overlay(image, page_of(image, text=[text(box(100, 500, 400, 40), "합계 12,000원")])))
    assert left[502:538, 110:490].mean() < 30  # as it was
    inside = right[502:538, 105:495]
    assert inside.mean() > 150 and close(inside, doubt_colour(0.99)).mean() > 0.02
    assert (right[400:490] == 255).all() and (right[550:] == 255).all()


def test_doubtful_text_is_orange():
    assert doubt_colour(1.0) == doubt_colour(0.95) == (15, 30, 90)
    assert doubt_colour(0.0) == doubt_colour(0.4) == (200, 40, 0)
    assert 15 < doubt_colour(0.7)[0] < 200


def test_what_was_read_as_nothing_stays_to_be_seen():
    image = WHITE.copy()
    image[320:360, 150:400] = 0
    page = page_of(image, text=[text(box(100, 300, 400, 80), words=" ", score=0.1)])
    _, right = halves(draw_overlay(image, page))
    assert (right[325:355, 155:395] < 40).all()
    assert "1 box in orange read as nothing" in captions(page, False)[1]


def test_text_along_a_tilted_box():
    canvas = Canvas(WHITE)
    canvas.set_text([[200, 300], [550, 500], [520, 553], [170, 353]], "HHHHHHHHHHHH", (255, 0, 0))
    red = close(canvas.image, (255, 0, 0))
    assert red[:, 200:260].any() and red[:, 480:530].any()
    ys = [np.flatnonzero(red[:, x : x + 40].any(1)).mean() for x in (220, 460)]
    assert ys[1] - ys[0] == pytest.approx(240 * 200 / 350, rel=0.15)


def test_text_in_a_high_box_runs_downwards():
    canvas = Canvas(WHITE)
    canvas.set_text(box(300, 200, 40, 500), "HHHHHHHHHHHH", (255, 0, 0))
    rows = np.flatnonzero(close(canvas.image, (255, 0, 0)).any(1))
    assert rows.min() < 230 and rows.max() > 550


def test_boxes_without_a_reading_are_numbered():
    texts = [text(box(100, 100 * n, 200, 40), None, line=n) for n in range(1, 4)]
    page = page_of(WHITE, text=texts)
    left, right = halves(draw_overlay(WHITE, page))
    assert (right[110:135, 110:290] == 255).all()  # what is printed stays to be seen
    assert not (right[95:145, 60:99] == 255).all()  # the tag beside it
    assert "numbered in reading order" in captions(page, False)[1]


def test_what_qr_codes_say():
    codes = [{"status": "decoded", "payload": "https://example.com", "corners": box(100, 100, 100, 100)},
             {"status": "unreadable", "payload": None, "corners": box(500, 500, 100, 100)}]
    left, right = halves(draw_overlay(WHITE, page_of(WHITE, qr=codes)))
    assert (left == 255).all()
    assert close(right[:, 95:105], MARK_COLOURS["qr"]).any() and close(right[:, 595:605], MARK_COLOURS["qr"]).any()
    assert close(right[60:100, 100:300], MARK_COLOURS["qr"]).sum() > 1000  # the tag with the payload


def test_labels_find_places_of_their_own_inside_the_page():
    canvas = Canvas(WHITE)
    for n in range(8):
        canvas.label((2 * n, 3 * n), (60 + n, 50 + n), f"signature 0.9{n}", (0, 0, 0))
    for n in range(4):
        canvas.label((780, 990 - n), (799, 999), "stamp 0.50", (0, 0, 0))
    places = [place for place, *_ in canvas.labels]
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= 800 and 0 <= y1 < y2 <= 1000
    overlaps = [(a, b) for i, a in enumerate(places) for b in places[:i]
                if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]
    assert not overlaps


def test_names_decide_the_colours():
    assert mark_colour("QR code") == MARK_COLOURS["qr"] and mark_colour("stamp_red") == MARK_COLOURS["stamp"]
    assert mark_colour("Signature") == mark_colour("handwritten_signature") == MARK_COLOURS["sign"]
    assert mark_colour("seal") not in MARK_COLOURS.values() and mark_colour("seal") == mark_colour("seal")
    assert mark_label(mark("stamp", [0, 0, 1, 1], 0.876)) == "stamp 0.88"
    assert mark_label(mark("stamp", [0, 0, 1, 1], 0.876, merged_count=3)) == "stamp 0.88 \u00d73"


def test_captions_count():
    page = page_of(WHITE, text=[text(box(0, 0, 9, 9)), text(box(20, 0, 9, 9)), text(box(0, 20, 9, 9), line=1)],
                   marks={"raw": [mark("qr", [0, 0, 1, 1])] * 2, "grouped": [mark("qr", [0, 0, 1, 1])]})
    assert captions(page, True) == ("page 3, found: 3 text boxes, 2 raw marks, strokes",
                                    "page 3, read: 2 lines, 1 grouped mark")
    assert captions(page_of(WHITE), False) == ("page 3, found: nothing", "page 3, read: nothing")


def test_fonts_have_the_glyphs():
    assert face_for("합계").korean and face_for("합계 ABC 12₩").has("합계 ABC 12₩")
    assert face_for("Декларация").has("Декларация")
    assert fitting_font("w" * 100, 40, 200).size < 10 < fitting_font("w", 40, 200).size == 40


def test_a_text_is_neither_cut_off_nor_torn_apart():
    assert text_tile("i", 40, 400).shape == (40, 286)  # stretched by no more than 1.4
    tile = text_tile("W" * 60, 40, 100)  # far too long: squeezed as a whole
    assert tile.shape[1] > 100 and tile[:, -20:].any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (37, 53), (4000, 3000)])
def test_pages_of_any_shape(shape):
    image = np.full((*shape, 3), 200, np.uint8)
    h, w = shape
    code = {"status": "decoded", "payload": "", "corners": box(0, 0, w, h)}
    page = page_of(image, text=[text(box(0, 0, w, h))], qr=[code],
                   marks={"raw": [mark("qr", [0, 0, w, h])], "grouped": [mark("qr", [0, 0, w, h])]})
    overlay = draw_overlay(image, page, np.full(shape, 255, np.uint8))
    assert overlay.shape[2] == 3 and overlay.shape[0] < 2000 and overlay.shape[1] < 4000


@pytest.mark.parametrize("polygon", [box(0, 0, 0, 0), box(790, 990, 500, 500), box(-300, -300, 100, 100),
                                     box(100, 100, 0, 50), box(-10, 5, 9000, 20),
                                     [[0, 0], [800, 1000], [0, 0], [800, 1000]]])
def test_degenerate_and_outlying_boxes(polygon):
    texts = [text(polygon, words) for words in ("A", "긴 글 " * 40, "", None)]
    corners = [*polygon[0], *polygon[2]]
    page = page_of(WHITE, text=texts, marks={"raw": [mark("stamp", corners)], "grouped": [mark("stamp", corners)]},
                   qr=[{"status": "unreadable", "payload": None, "corners": polygon}])
    assert draw_overlay(WHITE, page).shape[0] > 1000
