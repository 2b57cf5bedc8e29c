"""Labels and images in one frame: each way in which they can come apart is found and named."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datasets.segmentation import StrokePage
from utils.errors import DataError
from utils.frames import TURNS, BoxFrame, check_boxes, check_masks, mask_fits, name_fault, size_fault, turn_boxes
from utils.images import load_image, save_image

WORDS = ("TOTAL", "12,900", "Seoul", "cash", "QR", "date 3.1")


def draw_page(seed: int, height: int = 200, width: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """(page with six words, their tight boxes x1 y1 x2 y2)."""
    rng = np.random.default_rng(seed)
    page, boxes = np.full((height, width, 3), 230, np.uint8), []
    for row, word in enumerate(WORDS):
        x, y = int(rng.integers(4, 40)), int(height / 12 + height * row / 7 + rng.integers(0, 6))
        before = page.copy()
        cv2.putText(page, word, (x, y + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1)
        ys, xs = np.nonzero((page != before).any(2))
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return page, np.array(boxes, np.float64)


def frame_of(change=lambda boxes, height, width: boxes, pages: int = 6, orientation: int = 1) -> BoxFrame:
    frame = BoxFrame()
    for seed in range(pages):
        page, boxes = draw_page(seed, 200 + 10 * seed, 170 - 10 * (seed % 3))
        frame.add(page, change(boxes, *page.shape[:2]), orientation)
    return frame


# ---- boxes


@given(st.sampled_from(range(1, 9)), st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_a_turned_box_holds_the_turned_pixels(orientation, numbers):
    """Against Pillow: the box of a patch in the stored picture, turned, is the box of the patch in the shown one."""
    x1, y1, w, h = numbers
    stored = np.zeros((64, 70), np.uint8)
    box = np.array([x1, y1, x1 + w + 1, y1 + h + 1])
    stored[box[1] : box[3], box[0] : box[2]] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    shown = np.array(ImageOps.exif_transpose(image))
    ys, xs = np.nonzero(shown)
    expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert turn_boxes(box, *shown.shape, orientation).tolist() == expected


def test_labels_in_their_frame_are_left_alone():
    now, words, mended = frame_of().verdict()
    assert words == "" and now == mended > 0.4


@pytest.mark.parametrize("orientation", TURNS)
def test_each_turn_is_named(orientation):
    def undo(boxes, height, width):  # the boxes such that turning them brings them back
        inverse = {6: 8, 8: 6}.get(orientation, orientation)
        return turn_boxes(boxes, *((width, height) if orientation >= 5 else (height, width)), inverse)

    now, words, mended = frame_of(undo).verdict()
    assert words == f"are {TURNS[orientation]}" and now < 0.3 < mended
    assert "without their EXIF rotation" in frame_of(undo, orientation=orientation).verdict()[1]


@pytest.mark.parametrize("change, words", [
    (lambda boxes, h, w: boxes / 2, "by 2.0"), (lambda boxes, h, w: boxes * 1.5, "by 0.67"),
    (lambda boxes, h, w: boxes * (1000 / max(h, w)), "from a longer side of (99|100)"),
    (lambda boxes, h, w: boxes * np.tile([640 / w, 640 / h], 2), "from 6[34][0-9] x 6"),
    (lambda boxes, h, w: boxes[:, [1, 0, 3, 2]], "are with x and y swapped"),
    (lambda boxes, h, w: boxes - np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2), "give a box's corner")])
def test_each_fault_of_labels_is_named(change, words):
    assert re.search(words, frame_of(change).verdict()[1])


def test_boxes_round_nothing_name_no_fault():
    rng = np.random.default_rng(0)

    def anywhere(boxes, height, width):
        corner = rng.uniform(0, 0.7, (40, 2)) * (width, height)
        return np.hstack([corner, corner + (30, 12)])

    now, words, _ = frame_of(anywhere).verdict()
    assert words == "" and abs(now) < 0.2


def write_split(folder: Path, count: int = 6, tag: int = 1) -> list[tuple]:
    """Pages as files; with an EXIF tag they are stored such that it brings them upright."""
    folder.mkdir(parents=True)
    rows = []
    for seed in range(count):
        page, boxes = draw_page(seed)
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = {1: page, 3: page[::-1, ::-1], 6: np.rot90(page)}[tag]
        Image.fromarray(np.ascontiguousarray(stored)).save(folder / f"{seed}.png", exif=exif)
        rows.append((folder / f"{seed}.png", *page.shape[:2], boxes))
    return rows


def test_pages_that_fit_give_a_line_each(tmp_path):
    upright, photographs = write_split(tmp_path / "a"), write_split(tmp_path / "b", tag=6)
    lines = check_boxes("train", upright + photographs)
    assert len(lines) == 2 and "train with an EXIF rotation: +0." in lines[1] and "on 6 images" in lines[0]
    assert check_boxes("train", [(Path("p.png"), 9, 9, np.zeros((0, 4)))]) == ["train: no boxes to look at"]


def test_a_few_photographs_among_many_pages(tmp_path):
    """The EXIF rotation left out of a minority of labels is found, since rotated files are looked at by themselves."""
    rows = write_split(tmp_path / "a", 12)
    rows += [(path, h, w, turn_boxes(boxes, h, w, 3)) for path, h, w, boxes in write_split(tmp_path / "b", 4, tag=3)]
    with pytest.raises(DataError, match="with an EXIF rotation do not lie .* frame of the files without their EXIF"):
        check_boxes("val", rows)


def test_a_size_that_the_image_does_not_have(tmp_path):
    (path, height, width, boxes), = write_split(tmp_path / "a", 1, tag=6)
    with pytest.raises(DataError, match="0.png: the image is 150 x 200 pixels, its labels 200 x 150: is the EXIF"):
        check_boxes("train", [(path, width, height, boxes)])


def test_labels_of_other_images_are_a_warning(tmp_path):
    rows = write_split(tmp_path / "a")
    blank = tmp_path / "blank.png"
    save_image(blank, np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8))
    line, = check_boxes("train", [(blank, *row[1:]) for row in rows])
    assert line.startswith("warning: ") and "do the labels belong to these images?" in line


def test_single_pages_are_named(tmp_path):
    rows = write_split(tmp_path / "a", 5)
    more = [np.tile(boxes, (2, 1)) for *_, boxes in rows]
    rows = [(path, h, w, boxes if i else turn_boxes(boxes, h, w, 3))
            for i, ((path, h, w, _), boxes) in enumerate(zip(rows, more))]
    fine, odd = check_boxes("train", rows)
    assert not fine.startswith("warning") and "the labels of 1 of 5 images seem wrong" in odd and "0.png" in odd


def test_name_fault_passes_over_what_it_cannot_read(tmp_path):
    rows = [(path, boxes * 2) for path, _, _, boxes in write_split(tmp_path / "a")]
    assert "resized images" in name_fault([*rows, (tmp_path / "gone.png", rows[0][1])])
    assert name_fault([]) == "" and name_fault([(tmp_path / "gone.png", rows[0][1])]) == ""


# ---- masks


def masks_of(folder: Path, count: int = 3, size: tuple[int, int] = (120, 120)) -> list[StrokePage]:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(count):
        page, _ = draw_page(seed, *size)
        save_image(folder / "images" / f"{seed}.png", page)
        save_image(folder / "masks" / f"{seed}.png", (page[..., 0] < 128).astype(np.uint8) * 255)
    return [StrokePage(folder / "images" / f"{seed}.png", folder / "masks" / f"{seed}.png") for seed in range(count)]


def look(pages, change=lambda mask: mask):
    return check_masks("train", pages, lambda page: page.image, lambda page: change(page.truth()))


def test_masks_that_fit(tmp_path):
    line, = look(masks_of(tmp_path))
    assert line.startswith("train: masks and darkness correlate by 0.") and "on 3 images" in line
    assert look(masks_of(tmp_path / "b"), np.zeros_like) == ["train: no ink to look at"]


def test_light_ink_on_a_dark_board_fits_too(tmp_path):
    pages = masks_of(tmp_path)
    for page in pages:
        save_image(page.image, 255 - load_image(page.image))
    assert not look(pages)[0].startswith("warning")


@pytest.mark.parametrize("change, words", [
    (lambda mask: ~mask, "is 9[0-9]% ink; ink must be 255, not 0: invert the masks"),
    (lambda mask: mask[::-1, ::-1], "it is turned by 180 degrees .* EXIF rotation"),
    (lambda mask: mask.T, "it is with x and y swapped"), (lambda mask: np.rot90(mask), "it is turned by 90 degrees"),
    (lambda mask: mask[:, :60], "its mask is 60 x 120 pixels, the image 120 x 120")])
def test_each_fault_of_masks_is_named(tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        look(masks_of(tmp_path), change)


def test_masks_of_other_images_are_a_warning(tmp_path):
    noise = np.random.default_rng(0).random((120, 120)) < 0.05
    assert "do the masks belong to these images?" in look(masks_of(tmp_path), lambda mask: noise)[0]


def test_a_correlation_by_hand():
    grey = np.full((40, 40), 200, np.uint8)
    grey[10:12, 3:15] = 20
    fits = mask_fits(grey, grey < 100)
    assert fits[1] > 0.7 and all(fits[turn] < 0.3 for turn in TURNS) and set(fits) == {1, *TURNS}
    assert set(mask_fits(grey[:30], grey[:30] < 100)) == {1, 2, 3, 4}


def test_sizes_in_words():
    assert "EXIF" in size_fault("a", (3, 4), "b", (4, 3)) and "resized?" in size_fault("a", (30, 40), "b", (60, 80))
    assert size_fault("a", (3, 4), "b", (7, 70)) == "a is 4 x 3 pixels, b 70 x 7"
