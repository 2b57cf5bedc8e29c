"""Marks laid on other pages: ink and no rectangle, boxes that fit, and all of it as the generator given says."""

import numpy as np
import pytest

from datasets.paste_marks import BRIGHT, MADE, MarkPaster, bare_pages, cut_marks, light_left, make_marks
from datasets.yolo import MarkSample
from utils.errors import DataError
from utils.images import save_image

NAMES = {0: "qr", 1: "signature", 2: "stamp"}
PAPER = 230


def page(folder, name, marks=(), paper=PAPER, size=(200, 160)):
    """A page with filled marks: (class, x1, y1, x2, y2, colour), under which every fourth column is left as paper."""
    image = np.full((*size, 3), paper, np.uint8)
    boxes = []
    for class_id, x1, y1, x2, y2, colour in marks:
        image[y1:y2, x1:x2] = colour
        image[y1 + 3 : y2 - 3, x1 + 4 : x2 - 4 : 4] = paper
        boxes.append([(x1 + x2) / 2 / size[1], (y1 + y2) / 2 / size[0], (x2 - x1) / size[1], (y2 - y1) / size[0]])
    save_image(folder / name, image)
    return MarkSample(folder / name, *size, np.array([m[0] for m in marks], np.int64), np.float32(boxes).reshape(-1, 4))


@pytest.fixture
def samples(tmp_path):
    return [page(tmp_path, "a.png", [(2, 20, 30, 60, 70, (200, 20, 20)), (0, 100, 100, 140, 140, (10, 10, 10))]),
            page(tmp_path, "b.png", [(1, 40, 40, 110, 60, (20, 20, 120))]), page(tmp_path, "c.png")]


def test_what_is_cut_is_the_ink_and_no_paper(samples):
    stamp, code = cut_marks(samples[0], NAMES)
    assert (stamp.class_id, code.class_id) == (2, 0) and stamp.share == pytest.approx(40 / 200, abs=0.01)
    assert stamp.light.shape == (40, 40, 3)
    np.testing.assert_allclose(stamp.light[0, 0], np.array([200, 20, 20]) / PAPER * 255, atol=2)
    assert (stamp.light[4, 4::4][:8] == 255).all()  # between the bars there is paper, which lets all light through


@pytest.mark.parametrize("paper", ["dark", "uneven", "no ink"])
def test_marks_that_are_not_on_even_bright_paper_stay(tmp_path, paper):
    patch = np.full((40, 40, 3), PAPER, np.uint8)
    patch[10:30, 10:30] = 0
    assert light_left(patch) is not None
    if paper == "dark":
        patch[:8] = patch[-8:] = patch[:, :8] = patch[:, -8:] = BRIGHT - 40
    elif paper == "uneven":
        patch[:, 20:] //= 2
    else:
        patch[:] = PAPER
    assert light_left(patch) is None


def test_boxes_fit_the_ink_and_the_page_shines_through(samples):
    paster = MarkPaster(samples, NAMES, 0)
    seen = set()
    for seed in range(40):
        before = np.full((300, 240, 3), 255, np.uint8)
        before[::10] = 160  # print on the page
        image, classes, boxes = paster(before, np.zeros(0, np.int64), np.zeros((0, 4), np.float32),
                                       np.random.default_rng(seed))
        assert len(classes) == len(boxes) >= 1 and classes.dtype == np.int64 and boxes.dtype == np.float32
        assert (image <= before).all()
        darker = (image < 0.82 * before).any(2)
        size = np.array([240, 300] * 2)
        corners = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2]) * size
        inside = np.zeros_like(darker)
        for x1, y1, x2, y2 in np.round(corners).astype(int):
            inside[y1:y2, x1:x2] = True
            rows, columns = np.nonzero(darker[y1:y2, x1:x2])
            # Ink reaches every side of the box, to a pixel, and the box is not filled.
            assert rows.min() <= 1 and columns.min() <= 1 and rows.max() >= y2 - y1 - 2 and columns.max() >= x2 - x1 - 2
        assert not ((image < 0.8 * before).any(2) & ~inside).any()
        seen |= set(classes.tolist())
    assert seen == {0, 1, 2}


def test_marks_keep_clear_of_each_other_and_of_what_is_there(samples):
    paster = MarkPaster(samples, NAMES, 0)
    there = np.float32([[0.5, 0.25, 1.0, 0.5]])
    for seed in range(30):
        image = np.full((300, 240, 3), 255, np.uint8)
        _, classes, boxes = paster(image, np.array([2.0], np.float32), there, np.random.default_rng(seed))
        assert (boxes[0] == there[0]).all() and classes[0] == 2 and classes.dtype == np.float32
        for x, y, w, h in boxes[1:]:
            shared = max(0.0, 0.5 - (y - h / 2)) * w
            assert shared <= 0.25 * w * h


def test_the_generator_decides_everything_and_the_image_is_not_touched(samples):
    image = np.full((300, 240, 3), 255, np.uint8)
    empty = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    one, two = (MarkPaster(samples, NAMES, 3)(image, *empty, np.random.default_rng(5)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two)) and (image == 255).all()
    other = MarkPaster(samples, NAMES, 3)(image, *empty, np.random.default_rng(6))
    assert not np.array_equal(one[0], other[0])
    dark = np.full((300, 240, 3), 60, np.uint8)
    assert len(MarkPaster(samples, NAMES, 3)(dark, *empty, np.random.default_rng(5))[1]) == 0
    tiny = np.full((6, 6, 3), 255, np.uint8)
    assert len(MarkPaster(samples, NAMES, 3)(tiny, *empty, np.random.default_rng(5))[1]) == 0


def test_where_none_can_be_cut_they_are_made(tmp_path):
    paster = MarkPaster([page(tmp_path, "c.png")], {0: "qr", 1: "Signature", 2: "stamp", 3: "logo"}, 0)
    assert [len(paster.marks[class_id]) for class_id in range(4)] == [MADE] * 3 + [0]
    assert paster.describe() == f"{MADE} qr (made), {MADE} Signature (made), {MADE} stamp (made), 0 logo"
    light = make_marks(2, "stamp", np.random.default_rng(1))[0].light
    assert light.dtype == np.uint8 and light.min() < 200 and light.max() == 255


def test_bare_pages_say_nothing_about_any_class(tmp_path):
    page(tmp_path / "receipts", "a.png")
    (sample,) = bare_pages(tmp_path / "receipts")
    assert (sample.height, sample.width) == (200, 160) and not any(sample.labels_class(k) for k in NAMES)
    with pytest.raises(DataError, match="no such folder"):
        bare_pages(tmp_path / "absent")
