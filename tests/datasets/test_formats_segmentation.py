"""Stroke masks by named greys and by shapes, and greys that would be read as something else than they mean."""

import argparse
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.formats.stroke_shapes import draw, read_drawing
from datasets.segmentation import StrokeDataset, StrokePages, load_truth, read_split
from utils.args import grey_levels
from utils.errors import DataError
from utils.images import save_image


def classes(height=40, width=60):
    """0 background, 85 and 170 strokes, 255 something else."""
    mask = np.zeros((height, width), np.uint8)
    mask[5:9, 5:50], mask[15:19, 5:50], mask[25:29, 5:50] = 85, 170, 255
    return mask


def write_page(folder, name="a", mask=None, size=(40, 60)):
    save_image(folder / "images" / f"{name}.png", np.full((*size, 3), 230, np.uint8))
    (folder / "masks").mkdir(exist_ok=True)
    if isinstance(mask, np.ndarray):
        save_image(folder / "masks" / f"{name}.png", mask)
    elif mask is not None:
        (folder / "masks" / f"{name}.json").write_text(json.dumps(mask), encoding="utf-8")
    return folder


def labelme(*shapes, height=40, width=60):
    return {"version": "5.4.1", "flags": {}, "imagePath": "..\\a.png", "imageData": None, "imageHeight": height,
            "imageWidth": width, "shapes": list(shapes)}


def shape(points, kind="polygon", **more):
    return {"label": "stroke", "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def drawn(tmp_path, *shapes, line_width=None, **size):
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps(labelme(*shapes, **size)), encoding="utf-8")
    return draw(read_drawing(path, line_width))


# ---- named greys


def test_named_greys_are_ink_and_the_others_are_not(tmp_path):
    page, = read_split(write_page(tmp_path, mask=classes()), 0.0, ink_levels=[85, 170])
    assert np.array_equal(page.truth(), np.isin(classes(), (85, 170)))
    sample = StrokeDataset([page], 40, 60, "letterbox", 0)[(0, 0)]
    assert np.array_equal(sample["mask"][0].numpy() > 0, page.truth())
    assert np.array_equal(StrokePages([page])[(0, 0)]["truth"], page.truth())


@given(st.sets(st.integers(0, 255), min_size=1, max_size=16), st.data())
@settings(max_examples=40, deadline=None)
def test_any_greys_can_be_named(tmp_path_factory, greys, data):
    path = tmp_path_factory.mktemp("mask") / "m.png"
    ink = data.draw(st.lists(st.sampled_from(sorted(greys)), min_size=1, unique=True))
    mask = np.random.default_rng(0).choice(sorted(greys), (9, 11)).astype(np.uint8)
    save_image(path, mask)
    assert np.array_equal(load_truth(path, ink), np.vectorize(lambda value: value in ink)(mask))


def test_masks_of_classes_are_not_read_as_if_bright_were_ink(tmp_path):
    with pytest.raises(DataError, match="a.png: holds the greys 0, 85, 170, 255; name those .*--ink-levels"):
        read_split(write_page(tmp_path, mask=classes()), 1.0)


def test_smooth_masks_need_no_names_and_cannot_have_any(tmp_path):
    smooth = cv2.GaussianBlur(classes(), (0, 0), 3)
    folder = write_page(tmp_path, mask=smooth)
    assert len(read_split(folder, 0.0)) == 1
    page, = read_split(folder, 0.0, ink_levels=[int(smooth.max())])
    with pytest.raises(DataError, match="a.png: holds .* greys, too many for a mask of classes"):
        page.truth()


def test_greys_that_no_mask_holds(tmp_path):
    folder = write_page(write_page(tmp_path, mask=classes()), "b", np.zeros((40, 60), np.uint8))
    with pytest.raises(DataError, match="no mask holds grey 84 or 171 of --ink-levels; they hold 0, 85, 170, 255"):
        read_split(folder, 0.0, ink_levels=[84, 171])
    pages = read_split(folder, 0.0, ink_levels=[170])
    assert [bool(page.truth().any()) for page in pages] == [True, False]  # an empty page is one


def test_greys_on_the_command_line():
    assert grey_levels("85,170") == [85, 170] and grey_levels("0") == [0]
    for text in ("85,256", "-1", "", "85,,170", "dark"):
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            grey_levels(text)


def test_flags_that_would_do_nothing(tmp_path):
    write_page(tmp_path / "grey", mask=classes())
    with pytest.raises(DataError, match="no shapes in JSON, which --line-width is for"):
        read_split(tmp_path / "grey", 0.0, ink_levels=[85], line_width=3.0)
    write_page(tmp_path / "json", mask=labelme(shape([[1, 1], [9, 1], [9, 9]])))
    with pytest.raises(DataError, match="no grey masks, which --ink-levels is for"):
        read_split(tmp_path / "json", 0.0, ink_levels=[85])


# ---- shapes


def test_a_polygon_on_the_grid_fills_just_its_pixels(tmp_path):
    mask = drawn(tmp_path, shape([[10, 10], [20, 10], [20, 25], [10, 25]]))
    expected = np.zeros((40, 60), bool)
    expected[10:25, 10:20] = True
    assert mask.dtype == bool and np.array_equal(mask, expected)
    assert np.array_equal(drawn(tmp_path, shape([[20, 25], [10, 10]], "rectangle")), expected)


def inside_by_definition(ring, height, width):
    """The obvious even-odd rule, pixel by pixel."""
    mask = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        x, y = column + 0.5, row + 0.5
        for (ax, ay), (bx, by) in zip(ring, [*ring[1:], ring[0]]):
            if (ay <= y) != (by <= y) and x >= ax + (y - ay) * (bx - ax) / (by - ay):
                mask[row, column] ^= True
    return mask


# Quarters of a pixel are exact in floating point, and meet centres and corners of pixels often.
@given(st.lists(st.tuples(st.integers(-40, 100), st.integers(-40, 100)), min_size=3, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_polygon_is_filled_by_the_even_odd_rule(tmp_path_factory, points):
    ring = [(x / 4, y / 4) for x, y in points]
    mask = drawn(tmp_path_factory.mktemp("polygon"), shape([list(point) for point in ring]), height=12, width=16)
    expected = inside_by_definition(ring, 12, 16)
    assert np.mean(mask != expected) <= 0.01  # a centre just on a slanted side may be rounded to either side


def test_polygons_that_share_sides_leave_no_gap_and_do_not_overlap(tmp_path):
    corners, centre = [[3.2, 2.7], [50.1, 5.5], [55.9, 36.3], [8.4, 33.3]], [31.6, 17.7]
    whole = drawn(tmp_path, shape(corners))
    parts = [drawn(tmp_path, shape([a, b, centre])) for a, b in zip(corners, corners[1:] + corners[:1])]
    assert np.array_equal(np.sum(parts, axis=0), whole.astype(int))


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 40)), min_size=2, max_size=6), st.floats(0.5, 9))
@settings(max_examples=60, deadline=None)
def test_a_line_covers_the_pixels_within_half_its_width(tmp_path_factory, points, width):
    """Against the obvious: the distance of every pixel's centre to every segment."""
    mask = drawn(tmp_path_factory.mktemp("line"), shape([list(p) for p in points], "linestrip", width=width))
    ys, xs = np.mgrid[0:40, 0:60] + 0.5
    nearest = np.full(mask.shape, np.inf)
    for (ax, ay), (bx, by) in zip(points, points[1:]):
        dx, dy = bx - ax, by - ay
        t = np.clip(((xs - ax) * dx + (ys - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(xs - ax - t * dx, ys - ay - t * dy))
    # the round ends are polygons of many corners, so pixels just at the rim may go either way
    assert mask[nearest < width / 2 * 0.99 - 0.01].all() and not mask[nearest > width / 2 + 0.01].any()


def test_a_closed_line_leaves_its_inside_free(tmp_path):
    mask = drawn(tmp_path, shape([[10, 10], [50, 10], [50, 30], [10, 30], [10, 10]], "linestrip", width=3))
    assert mask[10, 30] and mask[20, 10] and not mask[20, 30]


def test_circles_lines_widths_from_the_flag_and_shapes_that_take_ink_away(tmp_path):
    circle = drawn(tmp_path, shape([[30, 20], [30, 30]], "circle"))
    assert circle.sum() == pytest.approx(np.pi * 100, rel=0.02)
    line = shape([[10, 20], [50, 20]], "line")
    assert drawn(tmp_path, line, line_width=4)[18:22, 10:50].all() and drawn(tmp_path, line, line_width=4).sum() < 180
    assert drawn(tmp_path, line | {"width": 2}, line_width=9).sum() < 100  # a shape's own width comes first
    hole = shape([[20, 10], [40, 10], [40, 30], [20, 30]], label="_background_")
    mask = drawn(tmp_path, shape([[0, 0], [60, 40]], "rectangle"), hole)
    assert mask.sum() == 60 * 40 - 20 * 20 and not mask[20, 30]
    assert drawn(tmp_path, hole, shape([[0, 0], [60, 40]], "rectangle")).all()  # in their order


def test_shapes_beyond_the_image_dots_and_no_shapes(tmp_path):
    assert drawn(tmp_path, shape([[-50, -50], [200, -50], [200, 200], [-50, 200]])).all()
    assert not drawn(tmp_path).any()
    assert drawn(tmp_path, shape([[5, 5], [5, 5]], "linestrip", width=4)).sum() == pytest.approx(np.pi * 4, abs=2)
    assert not drawn(tmp_path, shape([[5, 5], [5, 5]], "circle")).any()


@pytest.mark.parametrize("bad, reason", [
    (shape([[1, 1], [2, 2]]), "shape 1 is a polygon without 3 points"), (shape([]), "without 3 points"),
    (shape([[1, 1], [2, None], [3, 3]]), "no numbers of pixels"), (shape([[1, 1], [2], [3, 3]]), "shape 1 "),
    (shape([[1, 1], [1e300, 2], [3, 3]]), "no numbers of pixels"),
    (shape([[1, 1], [9, 9]], "line", width=1e300), "of width 1e+300"),
    (shape([[1, 1], [9, 9]], "linestrip"), 'without "width"; add it, or name one for all by --line-width'),
    (shape([[1, 1], [9, 9]], "line", width=0), "of width 0"), (shape([[1, 1], [9, 9]], "line", width="x"), "shape 1 "),
    (shape([[1, 1], [9, 9]], "mask"), "is a mask; polygon, rectangle"), (7, "shape 1 "),
])
def test_shapes_that_cannot_be_drawn_make_bad_samples(tmp_path, capsys, bad, reason):
    write_page(write_page(tmp_path, "a", labelme(bad)), "b", labelme(shape([[1, 1], [9, 1], [9, 9]])))
    with pytest.raises(DataError) as error:
        read_split(tmp_path, 0.0)
    assert "masks/a.json: " in str(error.value) and reason in str(error.value) and "\n" not in str(error.value)
    assert [page.image.stem for page in read_split(tmp_path, 0.5)] == ["b"]
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("content, reason", [
    ("{", "not readable as JSON"), ("[]", "is no LabelMe file"), ('{"shapes": []}', "is no LabelMe file"),
    ('{"shapes": 5, "imageHeight": 40, "imageWidth": 60}', "is no LabelMe file"),
    ('{"shapes": [], "imageHeight": 400000, "imageWidth": 600000}', "states an image of 600000 x 400000 pixels"),
    ('{"shapes": [], "imageHeight": 0, "imageWidth": 60}', "states an image of 60 x 0"),
    ('{"shapes": [], "imageHeight": 60, "imageWidth": 40}', ".* is 40 x 60 pixels, its image 60 x 40"),
])
def test_files_that_are_no_drawings(tmp_path, content, reason):
    write_page(tmp_path)
    (tmp_path / "masks" / "a.json").write_text(content)
    with pytest.raises(DataError, match=f"masks/a.json: {reason}"):
        read_split(tmp_path, 1.0)


def test_drawings_beside_the_images_and_masks_of_both_kinds(tmp_path):
    write_page(tmp_path, "a", np.where(classes() > 0, 255, 0).astype(np.uint8))
    write_page(tmp_path, "b")
    square = labelme(shape([[10, 10], [20, 10], [20, 20], [10, 20]]))
    (tmp_path / "images" / "b.json").write_text(json.dumps(square), encoding="utf-8")
    pages = read_split(tmp_path, 0.0)
    assert [page.mask.name for page in pages] == ["a.png", "b.json"]
    assert [int(page.truth().sum()) for page in pages] == [540, 100]
    (tmp_path / "masks" / "b.json").write_text(json.dumps(square), encoding="utf-8")
    with pytest.raises(DataError, match="masks/b.json: is a second mask beside .*images/b.json"):
        read_split(tmp_path, 1.0)


def test_only_drawings_and_no_folder_of_masks(tmp_path):
    write_page(tmp_path)
    (tmp_path / "masks").rmdir()
    line = labelme(shape([[10, 20], [50, 20]], "linestrip"))
    (tmp_path / "images" / "a.json").write_text(json.dumps(line), encoding="utf-8")
    page, = read_split(tmp_path, 0.0, line_width=3.0)
    assert page.truth()[20, 30] and page.line_width == 3.0
