"""Ink laid on another page's paper: what is carried over, what stays behind, and the pages that have none of one."""

import cv2
import numpy as np
import pytest
from test_segmentation_data import drawing, write_page

from datasets.other_paper import bare_paper, ink_on_paper, without_ink
from datasets.segmentation import StrokeDataset, read_split
from utils.errors import DataError

RNG = np.random.default_rng


def page(mask, paper=(200, 180, 160), ink=(100, 45, 40)):
    return np.where(mask[..., None] > 0, np.uint8(ink), np.uint8(paper))


def test_ink_keeps_its_share_of_the_light_and_its_colour():
    mask, blank = drawing(120, 160), np.zeros((120, 160), np.uint8)
    laid = ink_on_paper(page(mask), mask, page(blank, (100, 200, 240)), blank, RNG(0))
    middle = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
    assert middle.any() and np.abs(laid[middle].astype(int) - (50, 50, 60)).max() <= 1  # 1/2, 1/4, 1/4 of the light
    away = cv2.dilate(mask, np.ones((11, 11), np.uint8)) == 0
    assert (laid[away] == (100, 200, 240)).all()


def test_stains_and_ink_without_truth_stay_on_their_own_page():
    mask, blank = drawing(120, 160), np.zeros((120, 160), np.uint8)
    image = page(mask)
    image[2:8, 100:150] = 20  # not in the mask: ink from behind
    laid = ink_on_paper(image, mask, page(blank), blank, RNG(0))
    assert (laid[2:8, 100:150] == (200, 180, 160)).all()


def test_the_paper_keeps_its_stains_and_its_grain_and_loses_its_ink():
    mask = drawing(256, 256)
    grain = RNG(1).normal(0, 4, (256, 256, 1))
    clean = np.clip(np.float32((200, 180, 160)) + grain, 0, 255).astype(np.uint8)
    image = np.where(mask[..., None] > 0, np.uint8(40), clean)
    image[220:240, 100:140] = 90
    bare = without_ink(image, mask, RNG(2))
    away = cv2.dilate(mask, np.ones((11, 11), np.uint8)) == 0
    assert (bare[away] == image[away]).all()
    inside = bare[(mask > 0) & (np.arange(256) < 90)].astype(int)  # further than the mean reaches from the stain
    assert np.abs(inside.mean(0) - (200, 180, 160)).max() < 2 and 2 < inside[:, 0].std() < 6


@pytest.mark.parametrize("grey", [0, 255])
def test_pages_of_nothing_but_ink_of_black_or_of_white(grey):
    flat = np.full((40, 64, 3), grey, np.uint8)
    for mask in (np.full((40, 64), 255, np.uint8), np.zeros((40, 64), np.uint8)):
        assert np.isfinite(bare_paper(flat, mask)).all()
        assert (without_ink(flat, mask, RNG(0)) == grey).all()
        for other in (np.full((40, 64), 255, np.uint8), np.zeros((40, 64), np.uint8)):
            laid = ink_on_paper(flat, mask, np.full((40, 64, 3), 150, np.uint8), other, RNG(0))
            assert (laid == laid[0, 0, 0]).all()  # no colour, no edge, where there was neither


def test_paper_is_seen_through_its_ink():
    """Paper that darkens along the page, black ink on it, a corner that is ink alone, and a page of another size."""
    for height, width in ((256, 320), (255, 323)):
        mask = drawing(height, width)
        mask[:60, :60] = 255
        paper = np.linspace(250, 120, width, dtype=np.float32)
        image = np.where(mask > 0, 0, np.broadcast_to(paper, mask.shape)).astype(np.uint8)
        near = bare_paper(cv2.merge([image] * 3), mask)
        assert near.shape == (height, width, 3) and near.dtype == np.float32
        assert np.abs(near[:, 100:-20] - paper[100:-20, None]).max() < 4  # further than a square from corner and edge
        assert (near[:60, :60] > 150).all()


def test_samples_on_other_paper_have_the_truth_of_their_ink(tmp_path):
    for number, grey in enumerate((90, 250)):
        write_page(tmp_path, f"p{number}", drawing(100 + 30 * number, 150))
        image = page(drawing(100 + 30 * number, 150), (grey,) * 3, (grey // 3,) * 3)
        cv2.imwrite(str(tmp_path / "images" / f"p{number}.png"), image)
    pages = read_split(tmp_path, 0.0)
    always, never = (StrokeDataset(pages, 128, 160, "crop", 7, samples_per_page=8, other_paper=share)
                     for share in (1.0, 0.0))
    for key in ((epoch, index) for epoch in (0, 1) for index in range(16)):
        sample, plain = always[key], never[key]
        assert sample["mask"].equal(plain["mask"]) and sample["file"] == plain["file"]
        assert sample["image"].equal(always[key]["image"]) and sample["image"].isfinite().all()
        paper, own = sample["image"][:, 60, 2], plain["image"][:, 60, 2]  # no ink there
        assert (paper - own).abs().min() > 0.5
        # The pages end inside of the piece: what fills it up is no paper, beside which ink would turn light.
        assert (sample["image"][:, sample["mask"][0] == 1] < paper[:, None] - 0.5).all()


def test_another_page_is_none_of_a_pages_copies(tmp_path):
    for number in range(3):
        write_page(tmp_path, f"p{number}")
    pages = read_split(tmp_path, 0.0)
    dataset = StrokeDataset([pages[0], pages[0], *pages[1:], pages[2]], 64, 64, "crop", 7, other_paper=0.5)
    for number, page in enumerate(dataset.pages):
        drawn = [dataset.pages[dataset._another(number, RNG(seed))].image.stem for seed in range(200)]
        others = {"p0", "p1", "p2"} - {page.image.stem}
        assert set(drawn) == others and all(drawn.count(other) > 60 for other in others)
    with pytest.raises(DataError, match="p0.png: is the only page, and --other-paper lays ink on another one's"):
        StrokeDataset([pages[0]] * 3, 64, 64, "crop", 7, other_paper=0.5)


def test_light_ink_on_a_dark_page_is_left_where_it_is():
    mask, blank = drawing(120, 160), np.zeros((120, 160), np.uint8)
    chalk = page(mask, (40, 60, 50), (230, 230, 220))
    assert (ink_on_paper(chalk, mask, page(blank), blank, RNG(0)) == chalk).all()
    assert (ink_on_paper(page(mask), mask, chalk, mask, RNG(0))[mask > 0] < 60).all()  # dark ink on the board


def test_the_mean_of_a_large_picture_is_that_of_a_small_one():
    mask = np.zeros((2048, 2048), np.uint8)
    mask[600:] = 255
    assert np.abs(bare_paper(np.full((2048, 2048, 3), 201, np.uint8), mask) - 201).max() < 0.5
