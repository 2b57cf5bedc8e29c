"""What pages are drawn from: geometry, marks, pens, letters. Each piece against what can be counted in its pixels."""

import cv2
import numpy as np
import zxingcpp

from datasets.pages.canvas import Canvas, PenStroke, TextStyle, ink_hull, rasterise
from datasets.pages.geometry import Geometry, dense, moved_line
from datasets.pages.handwriting import Hand, signature, write_text
from datasets.pages.marks import add_qr, add_stamp, qr_matrix
from datasets.pages.picture import make_picture
from datasets.pages.skeleton import letter, trace
from datasets.pages.truth import MARK_CLASSES, TextLine
from utils.fonts import find_fonts


def test_the_ink_of_a_line_lies_inside_its_polygon():
    """The mask of a page with one line of text, moved by a strong geometry, has nothing outside the moved polygon."""
    face = next(face for face in find_fonts() if face.korean)
    for hand in (False, True):
        sheet = Canvas(600, 300)
        if hand:
            strokes, line = write_text(
                "합계 Total 12,500",
                80,
                180,
                48,
                3,
                face,
                Hand.random(np.random.default_rng(1)),
                np.random.default_rng(2),
                0.05,
            )
            sheet.pen(strokes, "handwriting", (0, 0, 0))
        else:
            line = sheet.text("합계 Total 12,500", 80, 180, TextStyle(face, 40, stretch=1.2))
        matrix = cv2.getPerspectiveTransform(
            np.float32([[0, 0], [600, 0], [600, 300], [0, 300]]),
            np.float32([[30, 20], [560, 60], [590, 290], [10, 240]]),
        )
        geometry = Geometry(matrix, (600, 300), (5, 1, 4, 2))
        mask = geometry.image(sheet.mask, 600, 300) > 127
        polygon = moved_line(line, geometry, 600, 300).polygon
        inside = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(inside, [np.int32(np.round(polygon))], 1)
        inside = cv2.dilate(inside, np.ones((7, 7)))  # the line bends a little, the polygon's sides do not
        assert mask.sum() > 500 and not mask[inside == 0].any()


def test_bends_and_projections_agree_on_points_and_pixels():
    """A dot drawn on the sheet is seen where points() says, bent or not."""
    for bend in ((0, 0, 0, 0), (6, 0.5, 5, 1.0)):
        matrix = cv2.getPerspectiveTransform(
            np.float32([[0, 0], [400, 0], [400, 300], [0, 300]]),
            np.float32([[20, 12], [390, 30], [370, 290], [5, 260]]),
        )
        geometry = Geometry(matrix, (400, 300), bend)
        for x, y in ((60, 50), (333, 120), (200, 240)):
            sheet = np.zeros((300, 400), np.uint8)
            sheet[y - 4 : y + 4, x - 4 : x + 4] = 255  # its middle is the point (x, y)
            seen = geometry.image(sheet, 400, 300).astype(float)
            rows, columns = np.indices(seen.shape) + 0.5
            found = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
            assert np.abs(found - geometry.points([[x, y]])[0]).max() < 0.2


def test_text_that_leaves_the_picture_is_not_asked_for():
    quad = np.float32([[0, 0], [100, 0], [100, 20], [0, 20]])
    line = moved_line(
        TextLine(quad, "half"), Geometry(np.float64([[1, 0, -50], [0, 1, 0], [0, 0, 1]]), (100, 20)), 100, 20
    )
    assert line.text == "###" and line.polygon.min() >= 0


def test_boxes_hold_the_ink_of_their_marks_and_no_more():
    """The picture with the mark and without it differ inside the box, and right up to its sides."""
    rng = np.random.default_rng(5)
    faces = find_fonts()
    for number in range(12):
        sheet = Canvas(400, 400)
        if number % 3 == 0:
            add_qr(sheet, 120, 90, 4, qr_matrix("hello", rng), "hello")
        else:
            add_stamp(sheet, 200, 200, 180, faces, bool(number % 2), rng)
        box = sheet.marks[0].box
        rows, columns = np.nonzero((sheet.image.astype(int) < 230).any(2))
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (found[:2] >= box[:2] - 1).all() and (found[2:] <= box[2:] + 1).all()
        assert np.abs(found - box).max() <= 8  # faint edges of a worn stamp count as ink, but not as dark as 230


def test_signature_boxes_follow_the_pen():
    for seed in range(20):
        strokes = signature(200, 70, 2.5, np.random.default_rng(seed))
        for stroke in strokes:
            stroke.points = stroke.points + np.float32([200, 100])
        sheet = Canvas(400, 200)
        hull = sheet.pen(strokes, "signature", (0, 0, 0), 1.0)
        rows, columns = np.nonzero(sheet.mask > 40)
        assert hull.min(0).tolist() == [columns.min(), rows.min()]
        assert hull.max(0).tolist() == [columns.max() + 1, rows.max() + 1]
        widths = np.concatenate([stroke.widths for stroke in strokes])
        assert widths.max() > 1.2 * widths.min() > 0  # pressure


def test_qr_codes_marked_decodable_decode_to_their_payload():
    rng = np.random.default_rng(8)
    kinds = {"yes": 0, "no": 0}
    for number in range(30):
        payload = ["https://example.com/q7", "영수증 확인 0042", "INV-20250314"][number % 3]
        sheet = Canvas(300, 400)
        add_qr(sheet, 40, 50, int(rng.integers(2, 6)), qr_matrix(payload, rng), payload)
        page = make_picture("receipt", sheet, 300, 400, None, np.random.default_rng(number))
        mark = page.marks[0]
        assert mark.payload == payload and MARK_CLASSES[mark.label] == "qr"
        kinds["yes" if mark.decodable else "no"] += 1
        if mark.decodable:
            assert [code.text for code in zxingcpp.read_barcodes(page.image)] == [payload], (
                number,
                page.style,
                mark.module,
            )
    assert min(kinds.values()) >= 3


def test_a_code_written_over_is_not_called_decodable():
    sheet = Canvas(300, 300)
    add_qr(sheet, 60, 60, 6, qr_matrix("A1", np.random.default_rng(0)), "A1")
    sheet.rule(50, 100, 250, 110, 12)
    assert not make_picture("receipt", sheet, 300, 300, None, np.random.default_rng(1)).marks[0].decodable


def test_pen_width_is_what_was_asked_for():
    for width in (1.5, 3.0, 6.5):
        coverage, x, y = rasterise([PenStroke(np.float32([[10, 20], [210, 20]]), np.full(2, width, np.float32))])
        assert abs(coverage[:, 50 - x : 150 - x].sum() / 255 / 100 - width) < 0.35
        level = (coverage[:, 100 - x] * np.arange(len(coverage), dtype=float)).sum() / coverage[:, 100 - x].sum() + y
        assert abs(level + 0.5 - 20) < 0.51


def test_a_dot_of_the_pen_leaves_ink_and_no_stroke_leaves_none():
    sheet = Canvas(40, 40)
    sheet.pen([PenStroke(np.float32([[20, 20]]), np.float32([4]))], "handwriting", (0, 0, 0))
    assert sheet.mask.max() == 255
    assert sheet.pen([], "handwriting", (0, 0, 0)).shape == (0, 2) and ink_hull(np.zeros((5, 5), np.uint8)).shape == (
        0,
        2,
    )


def test_skeletons_become_few_long_paths():
    cross = np.zeros((41, 41), bool)
    cross[20, 5:36] = cross[5:36, 20] = True
    paths = trace(cross)
    assert len(paths) == 2 and min(map(len, paths)) >= 29
    ring = np.zeros((40, 40), np.uint8)
    cv2.circle(ring, (20, 20), 12, 1)
    assert len(trace(ring > 0)) == 1
    assert trace(np.zeros((5, 5), bool)) == []
    face = next(face for face in find_fonts() if face.korean)
    assert len(letter(face, "i")[0]) == 2  # a stem and its dot
    assert len(letter(face, "ㅣ")[0]) == 1 and letter(face, " ")[0] == []


def test_ink_over_the_edge_is_cut_and_marks_are_not_ink():
    sheet = Canvas(20, 10)
    sheet.ink(np.full((8, 8), 255, np.uint8), -4, -4, (0, 0, 0), mask=np.full((8, 8), 255, np.uint8))
    assert (sheet.mask > 0).sum() == 16 and (sheet.image == 0).all(2).sum() == 16
    sheet.ink(np.full((8, 8), 255, np.uint8), 50, 50, (0, 0, 0))
    sheet.ink(np.full((4, 4), 255, np.uint8), 10, 2, (255, 0, 0), 0.5)
    assert (sheet.mask > 0).sum() == 16
    assert sheet.image[3, 12].tolist() == [255, 128, 128]  # what lies under a stamp shines through
    assert sheet.text("   ", 1, 1, TextStyle(find_fonts()[0], 12)) is None


def test_an_empty_sheet_is_a_page_too():
    for seed in range(6):
        page = make_picture("form", Canvas(300, 400), 300, 400, None, np.random.default_rng(seed))
        assert page.image.shape == (400, 300, 3) and not page.mask.any()
        assert page.categories() == [] and page.to_json()["lines"] == []


def test_dense_paths_keep_their_points():
    path = np.float32([[0, 0], [100, 0], [100, 5]])
    points = dense(path, 24)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= 24
    assert all((points == corner).all(1).any() for corner in path)
    assert dense(path[:1]).shape == (1, 2)
