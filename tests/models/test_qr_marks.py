"""QR marks against their pixels: decoded ones raised, added, and alone in their place; those without finder
patterns doubted."""

import numpy as np
import pytest
import torch
from torch import nn

from datasets.yolo import MarkSample
from models.qr_marks import WITHOUT, check_codes, group_checked, qr_classes
from models.skew import put_level
from models.yolo_boxes import evaluate
from tests.utils.test_qr import code, page_with
from utils.images import save_image
from utils.qr import read_qr_codes

NAMES = {0: "QR code", 1: "signature"}
PAGE = np.full((300, 400, 3), 255, np.uint8)


@pytest.fixture
def patterns(monkeypatch):
    """Three are seen wherever one looks."""
    monkeypatch.setattr("models.qr_marks.finder_places", lambda grey, box: 3)


def mark(box, confidence, class_id=0):
    return {"class_name": NAMES[class_id], "class_id": class_id, "confidence": confidence, "box": list(map(float, box))}


def record(x1, y1, x2, y2, status="decoded"):
    return {"status": status, "payload": "x", "corners": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}


def test_a_weak_mark_becomes_certain_and_comes_first(patterns):
    strong, weak = mark([0, 0, 50, 50], 0.9), mark([100, 100, 200, 200], 0.2)
    assert check_codes([strong, weak], [record(110, 110, 200, 200)], PAGE, NAMES) == [weak | {"confidence": 1.0}, strong]


def test_what_the_network_missed_is_added_inside_the_image(patterns):
    far = mark([0, 0, 50, 50], 0.9)
    found = check_codes([far], [record(350, 250, 403, 299)], PAGE, NAMES)
    assert found == [mark([350, 250, 400, 299], 1.0), far]
    assert check_codes([], [record(1, 2, 30, 40)], PAGE, NAMES) == [mark([1, 2, 30, 40], 1.0)]


def test_others_in_its_place_go(patterns):
    marks = [mark([100, 100, 200, 200], 0.8), mark([105, 95, 200, 205], 0.7), mark([98, 98, 202, 202], 0.6, 1),
             mark([100, 100, 200, 170], 0.5, 1), mark([100, 100, 200, 145], 0.4, 1), mark([0, 0, 90, 90], 0.3)]
    found = check_codes(marks, [record(100, 100, 200, 200)], PAGE, NAMES)
    assert found == [marks[0] | {"confidence": 1.0}, marks[4], marks[5]]  # a signature across half of a code may be one


def test_a_box_round_two_codes_is_neither(patterns):
    found = check_codes([mark([0, 0, 100, 50], 0.5)], [record(0, 0, 50, 50), record(50, 0, 100, 50)], PAGE, NAMES)
    assert found == [mark([0, 0, 50, 50], 1.0), mark([50, 0, 100, 50], 1.0)]


@pytest.mark.parametrize("names, codes", [({0: "stamp"}, [record(0, 0, 9, 9)]), (NAMES, []),
                                          (NAMES, [record(0, 0, 9, 9, "unreadable")])])
def test_nothing_to_confirm(patterns, names, codes):
    marks = [mark([0, 0, 9, 9], 0.4)]
    assert check_codes(marks, codes, PAGE, names) == marks


def test_marks_without_finder_patterns_are_doubted():
    """The signature is none of the codes; the network's own doubt below LOOKED_AT is enough."""
    piece = code("seen, whoever reads it", 3).copy()
    side = piece.shape[0]
    piece[side // 2 - 18 : side // 2 + 18, side // 2 - 18 : side // 2 + 18] = 255  # more than it can do without
    page = page_with((piece, 20, 20), size=(300, 400))
    box, nothing = [32, 32, 8 + side, 8 + side], [200, 150, 290, 240]
    marks = [mark(nothing, 0.9), mark(box, 0.8), mark(nothing, 0.7, 1), mark(nothing, 0.2), mark(nothing, 0.1)]
    assert read_qr_codes(page, [box])[0]["status"] == "unreadable"
    found = check_codes(marks, [], page, NAMES)
    assert [(m["box"], m["class_id"]) for m in found] == [(box, 0), (nothing, 1), (nothing, 0), (nothing, 0), (nothing, 0)]
    assert [m["confidence"] for m in found] == pytest.approx([0.8, 0.7, 9 / 16, 0.1, 1 / 29])
    assert check_codes([mark(nothing, 1.0)], [], page, NAMES)[0]["confidence"] == pytest.approx(1, abs=1e-4)
    assert WITHOUT == 1 / 7


def test_boxes_in_and_round_a_code_go_with_it(patterns):
    """Of four codes in one box, of a box four times as large, and of a quarter of a code."""
    four = [record(x, y, x + 50, y + 50) for y in (0, 60) for x in (0, 60)]
    found = check_codes([mark([0, 0, 110, 110], 0.9)], four, PAGE, NAMES)
    assert [m["box"] for m in found] == [[0, 0, 50, 50], [60, 0, 110, 50], [0, 60, 50, 110], [60, 60, 110, 110]]
    found = check_codes([mark([0, 0, 100, 100], 0.9), mark([25, 25, 50, 50], 0.8)], [record(0, 0, 50, 50)], PAGE, NAMES)
    assert found == [mark([0, 0, 50, 50], 1.0)]
    stamp = mark([0, 0, 120, 120], 0.9, 1)  # round a code, a mark of another class is one
    assert check_codes([stamp], [record(0, 0, 50, 50)], PAGE, NAMES) == [mark([0, 0, 50, 50], 1.0), stamp]


def test_decoded_codes_are_not_joined():
    codes = check_codes([mark([200, 200, 210, 210], 0.1)], [record(0, 0, 40, 40), record(45, 0, 85, 40)], PAGE, NAMES)
    found = group_checked(codes, NAMES, dist=50.0)
    assert [m["box"] for m in found] == [[0, 0, 40, 40], [45, 0, 85, 40], [200, 200, 210, 210]]
    assert [m["merged_count"] for m in found] == [1, 1, 1]


def test_marks_are_asked_from_a_confidence_on():
    marks = [mark([10, 10, 60, 60], 0.14), mark([100, 100, 160, 160], 0.12)]
    assert check_codes(marks, [], PAGE, NAMES) == marks
    assert check_codes(marks, [], PAGE, NAMES, 0.13)[0] == marks[1]


def test_the_class_by_its_name():
    assert qr_classes({0: "stamp", 1: "QRcode", 2: "micro_qr"}) == {1, 2} and not qr_classes({0: "stamp"}) | qr_classes({})


class Blind(nn.Module):
    """A network that is sure of nothing."""

    names, stride, end2end = {0: "qr", 1: "stamp"}, torch.tensor([32.0]), False

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return torch.zeros(1, 6, 8)


def test_evaluation_counts_decoded_codes_where_they_are_asked_for(tmp_path):
    piece = code("https://example.com", 5)
    save_image(tmp_path / "a.png", page_with((piece, 100, 200)))
    inner = np.array([120, 220, 100 + piece.shape[1] - 20, 200 + piece.shape[0] - 20]) / [500, 600, 500, 600]
    box = np.array([[*(inner[:2] + inner[2:]) / 2, *(inner[2:] - inner[:2])]], np.float32)
    sample = MarkSample(tmp_path / "a.png", 600, 500, np.array([0]), box)
    assert evaluate(Blind(), [sample], 320)[0]["map50"] == 0
    scores, (row,) = evaluate(Blind(), [sample], 320, bare=False)
    assert scores["map50"] == pytest.approx(0.995) and row["detections"][0][:2] == [0, 1.0]
    assert scores["count_error"]["components"] == 0
    unlabelled = MarkSample(tmp_path / "a.png", 600, 500, np.zeros(0, int), np.zeros((0, 4), np.float32), frozenset({1}))
    assert evaluate(Blind(), [unlabelled], 320, bare=False)[1][0]["detections"] == []


class Counting(Blind):
    """Counts its looks."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def forward(self, images):
        self.looks += 1
        return super().forward(images)


def test_evaluation_puts_pages_level_unless_bare(tmp_path):
    """Once as it is, for codes, and once level."""
    page = np.full((700, 560, 3), 235, np.uint8)
    page[60:640:42, 40:500] = 40
    save_image(tmp_path / "a.png", put_level(page, -15, 235)[0])
    sample = MarkSample(tmp_path / "a.png", 821, 723, np.zeros(0, int), np.zeros((0, 4), np.float32))
    for bare, looks in ((True, 1), (False, 2)):
        model = Counting()
        evaluate(model, [sample], 320, bare=bare)
        assert model.looks == looks
