"""QR codes: read, found by a second look, and honestly unreadable."""

import io

import cv2
import numpy as np
import pytest
import segno
from PIL import Image

from utils import qr
from utils.qr import read_qr_codes


def code(payload, scale, micro=False):
    buffer = io.BytesIO()
    segno.make(payload, micro=micro, error=None if micro else "m").save(buffer, kind="png", scale=scale, border=4)
    return np.asarray(Image.open(buffer).convert("RGB"))


def page_with(*pieces, size=(600, 500)):
    page = np.full((*size, 3), 255, np.uint8)
    for piece, x, y in pieces:
        page[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
    return page


def test_payload_and_corners():
    piece = code("https://example.com/문서?번호=12", 5)
    record, = read_qr_codes(page_with((piece, 100, 200)), [])
    assert record["status"] == "decoded" and record["payload"] == "https://example.com/문서?번호=12"
    low, high = 20, piece.shape[0] - 20  # within the quiet zone of 4 modules
    expected = [[100 + low, 200 + low], [100 + high, 200 + low], [100 + high, 200 + high], [100 + low, 200 + high]]
    assert np.abs(np.array(record["corners"]) - expected).max() <= 3


def test_corners_start_at_the_top_left_of_a_turned_code():
    piece = np.ascontiguousarray(np.rot90(code("turned", 6), -1))
    record, = read_qr_codes(page_with((piece, 50, 50)), [])
    corners = np.array(record["corners"])
    assert corners[0, 0] > corners[2, 0] and corners[0, 1] < corners[2, 1]  # now at the top right


def test_several_from_top_to_bottom_and_micro():
    page = page_with((code("second", 4), 20, 300), (code("first", 4), 300, 20), (code("7", 6, micro=True), 300, 300))
    assert [record["payload"] for record in read_qr_codes(page, [])][0] == "first"
    assert {record["payload"] for record in read_qr_codes(page, [])} == {"first", "second", "7"}


def test_detected_and_decoded_is_said_once():
    piece = code("once", 5)
    side = piece.shape[0]
    page = page_with((piece, 100, 100))
    assert len(read_qr_codes(page, [[100, 100, 100 + side, 100 + side], [90, 90, 110 + side, 110 + side]])) == 1


def test_a_second_look_reads_a_small_code():
    piece = cv2.GaussianBlur(code("A small code that needs a closer look, 0123456789", 2), (0, 0), 1)
    page = page_with((piece, 200, 150))
    box = [208, 158, 200 + piece.shape[1] - 8, 150 + piece.shape[0] - 8]
    assert read_qr_codes(page, []) == []
    record, = read_qr_codes(page, [box])
    assert record["payload"] == "A small code that needs a closer look, 0123456789"
    assert np.abs(np.array(record["corners"])[0] - [208, 158]).max() <= 2


@pytest.mark.parametrize("number", range(len(qr.LOOKS)))
def test_every_look_gives_corners_in_pixels_of_the_page(number, monkeypatch):
    """A code that is found without any look, asked of each look alone."""
    monkeypatch.setattr(qr, "LOOKS", qr.LOOKS[number : number + 1])
    piece = code("where", 4)
    page = page_with((piece, 200, 150))
    low, high = 16, piece.shape[0] - 16
    record, = qr._look_closer(page[..., 0], [200 + low, 150 + low, 200 + high, 150 + high])
    expected = [[200 + low, 150 + low], [200 + high, 150 + low], [200 + high, 150 + high], [200 + low, 150 + high]]
    assert record["payload"] == "where" and np.abs(np.array(record["corners"]) - expected).max() <= 1.5


def test_a_blurred_code_half_in_shadow_is_read():
    piece = cv2.GaussianBlur(code("A code under a lamp, 0123456789", 3), (0, 0), 1.8)
    light = np.linspace(0.1, 1, piece.shape[1])[None, :, None]
    page = page_with(((piece * light).astype(np.uint8), 200, 150))
    record, = read_qr_codes(page, [[212, 162, 188 + piece.shape[1], 138 + piece.shape[0]]])
    assert record["payload"] == "A code under a lamp, 0123456789"


@pytest.mark.parametrize("box", [[100, 100, 200, 200], [-5, -5, 3, 3], [590, 490, 640, 620], [10, 10, 10, 10]])
def test_unreadable(box):
    record, = read_qr_codes(page_with(), [box])
    x1, y1, x2, y2 = box
    assert record == {"status": "unreadable", "payload": None, "corners": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}


def test_a_page_without_codes():
    assert read_qr_codes(page_with(), []) == [] and read_qr_codes(np.zeros((1, 1, 3), np.uint8), []) == []
