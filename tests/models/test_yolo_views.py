"""Several looks at one page: in other sizes and in tiles, joined without doubles and without cut boxes."""

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo_boxes import TILE_OVERLAP, detect, look_at


class FindsBlack(nn.Module):
    """One box round all that is black in what it sees, as sure as it is large, if it is at least 6 pixels wide."""

    names, stride, end2end = {0: "stamp"}, torch.tensor([32]), False

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(1)), []

    def forward(self, pixels):
        self.seen.append(tuple(pixels.shape[2:]))
        rows, columns = np.nonzero(pixels[0, 0].numpy() < 0.2)
        if not len(rows) or np.ptp(columns) < 6:
            return (torch.zeros(1, 5, 1),)
        x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        return (torch.tensor([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9]]).float().T[None],)


@pytest.mark.parametrize(("size", "tile"), [((100, 100), 40), ((90, 41), 40), ((41, 200), 64), ((1000, 700), 333)])
def test_tiles_cover_the_page_and_overlap(size, tile):
    parts = look_at(size, tile)
    assert parts[0] == (0, 0, size[1], size[0]) and len(set(parts)) == len(parts) > 1
    covered = np.zeros(size, int)
    for x1, y1, x2, y2 in parts[1:]:
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]
        assert x2 - x1 == min(tile, size[1]) and y2 - y1 == min(tile, size[0])
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    # Whatever is smaller than the overlap lies whole in some tile.
    side = int(tile * TILE_OVERLAP) - 1
    for y in range(0, size[0] - side, 7):
        for x in range(0, size[1] - side, 7):
            assert any(x1 <= x and y1 <= y and x + side <= x2 and y + side <= y2 for x1, y1, x2, y2 in parts[1:])


def test_a_page_no_larger_than_a_tile_is_looked_at_once():
    assert look_at((40, 60), 60) == look_at((40, 60), 0) == [(0, 0, 60, 40)]


def test_a_small_mark_on_a_large_page_is_found_in_a_tile():
    image = np.full((1000, 800, 3), 255, np.uint8)
    image[600:640, 500:540] = 0
    model = FindsBlack()
    assert detect(model, image, 0.25, 0.45, 128) == []  # 5 pixels are left of it
    (mark,) = detect(model, image, 0.25, 0.45, 128, tile=256)
    np.testing.assert_allclose(mark["box"], [500, 600, 540, 640], atol=2.5)


def test_a_mark_that_tiles_cut_is_reported_once_and_whole():
    image = np.full((600, 600, 3), 255, np.uint8)
    image[100:500, 100:500] = 0
    (mark,) = detect(FindsBlack(), image, 0.25, 0.45, 320, tile=320)
    np.testing.assert_allclose(mark["box"], [100, 100, 500, 500], atol=3)


def test_tta_looks_three_times_and_fuses():
    image = np.full((320, 320, 3), 255, np.uint8)
    image[100:200, 50:150] = 0
    model = FindsBlack()
    (mark,) = detect(model, image, 0.25, 0.45, 320, tta=True)
    assert model.seen == [(288, 288), (320, 320), (352, 352)]
    np.testing.assert_allclose(mark["box"], [50, 100, 150, 200], atol=2)
    assert mark["confidence"] == pytest.approx(0.9)
    assert [set(mark)] == [{"class_name", "class_id", "confidence", "box"}]


class SeesOnce(FindsBlack):
    """Sure at one size alone."""

    def forward(self, pixels):
        (answer,) = super().forward(pixels)
        answer[:, 4] *= pixels.shape[2] == 320
        return (answer,)


@pytest.mark.parametrize(("conf", "expected"), [(0.25, [0.3]), (0.31, [])])
def test_what_one_look_of_three_sees_is_a_third_as_sure(conf, expected):
    image = np.full((320, 320, 3), 255, np.uint8)
    image[100:200, 50:150] = 0
    assert [mark["confidence"] for mark in detect(SeesOnce(), image, conf, 0.45, 320)] == pytest.approx([0.9])
    assert [mark["confidence"] for mark in detect(SeesOnce(), image, conf, 0.45, 320, tta=True)] == pytest.approx(expected)


@pytest.mark.parametrize(("size", "sizes"), [(512, [480, 512, 544]), (1024, [960, 1024, 1088]), (32, [32, 32, 64])])
def test_sizes_of_tta(size, sizes):
    model = FindsBlack()
    detect(model, np.full((size, size, 3), 255, np.uint8), img_size=size, tta=True)
    assert model.seen == [(side, side) for side in sizes]
