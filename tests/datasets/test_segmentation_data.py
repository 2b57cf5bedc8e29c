"""Stroke pages: what is paired, what is refused, and that picture and mask stay together all the way."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.augment_segmentation import StrokeAugmentation, bled, elastic_map, faded, paper_of, stained
from datasets.segmentation import (StrokeDataset, StrokePages, collate_pages, crop_corner, load_truth,
                                   oversampled, place, read_split)
from utils.dataloading import EpochBatches, EveryBatch, SizedBatches, make_loader
from utils.errors import DataError

CALM = StrokeAugmentation(light=0.0, noise=0.0)


def drawing(height=120, width=160):
    mask = np.zeros((height, width), np.uint8)
    cv2.line(mask, (10, 15), (width - 20, height - 30), 255, 2)
    cv2.circle(mask, (width // 2, height // 2), min(height, width) // 4, 255, 2)
    return mask


def write_page(folder, name, mask=None, suffix=".png", mask_suffix=".png"):
    mask = drawing() if mask is None else mask
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / (name + suffix)), 255 - cv2.merge([mask] * 3))
    cv2.imwrite(str(folder / "masks" / (name + mask_suffix)), mask)


@pytest.fixture
def split(tmp_path):
    for i in range(4):
        write_page(tmp_path, f"page{i}", drawing(100 + 10 * i, 160), suffix=".jpg" if i % 2 else ".png")
    return tmp_path


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_whose_ink_is_only_in_the_alpha_channel_is_not_read_as_empty(tmp_path, mode):
    path, ink = tmp_path / "m.png", drawing()
    blank, whole = np.zeros_like(ink), np.full_like(ink, 255)

    def write(colour, alpha):
        Image.fromarray(np.dstack([colour] * (len(mode) - 1) + [alpha]), mode).save(path)

    write(blank, ink)
    with pytest.raises(DataError, match="m.png: is drawn in its alpha channel alone"):
        load_truth(path)
    for colour, alpha, truth in ((ink, whole, ink), (ink, ink, ink), (blank, whole, blank)):
        write(colour, alpha)
        assert np.array_equal(load_truth(path), truth > 0)


# ---- the index


def test_pages_are_paired_by_stem(split):
    pages = read_split(split, 0.0)
    assert [page.image.name for page in pages] == ["page0.png", "page1.jpg", "page2.png", "page3.jpg"]
    assert [page.mask.name for page in pages] == [f"page{i}.png" for i in range(4)]
    assert all(page.categories == () for page in pages)


def spoil_no_mask(split):
    (split / "masks" / "page1.png").unlink()


def spoil_no_image(split):
    write_page(split, "page9")
    (split / "images" / "page9.png").unlink()


def spoil_size(split):
    cv2.imwrite(str(split / "masks" / "page1.png"), drawing(50, 80))


def spoil_unreadable(split):
    (split / "images" / "page1.jpg").write_bytes(b"not a picture")


def spoil_namesake(split):
    write_page(split, "page1", drawing(110, 160), suffix=".png")


def spoil_tag_line(split):
    (split / "categories.tsv").write_text("page0.png\tcurves\npage1.jpg curves\n")


def spoil_tagged_file(split):
    (split / "categories.tsv").write_text("page0.png\tcurves\npage7.png\tcurves\n")


@pytest.mark.parametrize("spoil, words", [
    (spoil_no_mask, ["images/page1.jpg", "has no mask"]), (spoil_no_image, ["masks/page9.png", "has no image"]),
    (spoil_size, ["masks/page1.png", "80 x 50", "160 x 110"]), (spoil_unreadable, ["page1.jpg", "not a readable"]),
    (spoil_namesake, ["page1.", "same name"]), (spoil_tag_line, ["categories.tsv, line 2", "tab"]),
    (spoil_tagged_file, ["categories.tsv, line 2", "page7.png"])])
def test_bad_samples_stop_the_run_or_are_left_out(split, capsys, spoil, words):
    spoil(split)
    with pytest.raises(DataError) as caught:
        read_split(split, 0.0)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    left = read_split(split, 0.9)
    reported = capsys.readouterr().err
    assert all(word in reported for word in words)
    assert "page0.png" in [page.image.name for page in left] and "page9" not in [page.image.stem for page in left]


def test_pages_and_lines_of_categories_are_judged_apart(split, capsys):
    """Many good lines do not make room for bad pages, nor many good pages for bad lines."""
    table = split / "categories.tsv"
    table.write_text("file\ttags\n" + "".join(f"page{i}.png\tcurves\n\n" for i in range(4)))
    spoil_no_mask(split)
    with pytest.raises(DataError, match=r"page1.jpg: has no mask .*\(1 of 4 samples are bad"):
        read_split(split, 0.24)
    assert len(read_split(split, 0.25)) == 3 and "1 of 4 samples are left out" in capsys.readouterr().err
    table.write_text("file\ttags\npage0.png\tcurves\n\npage7.png\tcurves\n")
    with pytest.raises(DataError, match=r"line 4: names page7.png.*\(1 of 2 samples are bad"):
        read_split(split, 0.25)
    assert len(read_split(split, 0.5)) == 3


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_a_missing_or_empty_folder_is_named(split, missing):
    for path in (split / missing).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{missing}: holds no images"):
        read_split(split, 0.9)
    (split / missing).rmdir()
    with pytest.raises(DataError, match=f"{missing}: no such folder"):
        read_split(split, 0.9)


def test_categories_choose_pages(split):
    (split / "categories.tsv").write_text("file\ttags\npage0.png\tsmall_text, curves\npage2.png\tcurves\npage3.jpg\t\n")
    assert [page.categories for page in read_split(split, 0.0)] == [("small_text", "curves"), (), ("curves",), ()]
    assert [page.image.stem for page in read_split(split, 0.0, "curves")] == ["page0", "page2"]
    with pytest.raises(DataError, match="long_lines.*curves, small_text"):
        read_split(split, 0.0, "long_lines")


def test_a_category_without_a_table_is_an_error(split):
    with pytest.raises(DataError, match="no tags there"):
        read_split(split, 0.0, "curves")


def test_exif_turns_picture_and_mask_once(tmp_path):
    write_page(tmp_path, "turned")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(255 - np.rot90(drawing())).convert("RGB").save(tmp_path / "images" / "turned.jpg", exif=exif,
                                                                     quality=95)
    (tmp_path / "images" / "turned.png").unlink()
    page = collate_pages([StrokePages(read_split(tmp_path, 0.0))[(0, 0)]])
    dark = page["pixels"][0][..., 0] < 128
    assert dark.shape == (120, 160) and np.mean(dark != page["truth"][0]) < 0.01


# ---- masks


@pytest.mark.parametrize("values, suffix", [((0, 255), ".png"), ((0, 1), ".png"), ((0, 255), ".jpg")])
def test_masks_of_0_and_255_and_of_0_and_1_and_jpeg_masks(tmp_path, values, suffix):
    path = tmp_path / f"mask{suffix}"
    block = np.zeros((40, 40), np.uint8)
    block[8:24, 16:32] = 1
    cv2.imwrite(str(path), np.where(block, values[1], values[0]).astype(np.uint8))
    truth = load_truth(path)
    assert truth.dtype == bool and np.array_equal(truth, block > 0)


def test_an_empty_mask_is_a_truth_and_a_mask_of_class_numbers_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "empty.png"), np.zeros((5, 5), np.uint8))
    assert not load_truth(tmp_path / "empty.png").any()
    cv2.imwrite(str(tmp_path / "classes.png"), np.full((5, 5), 3, np.uint8))
    with pytest.raises(DataError, match="classes.png.*brightest value is 3"):
        load_truth(tmp_path / "classes.png")


# ---- placing


@pytest.mark.parametrize("height, width", [(300, 200), (90, 400), (64, 64), (33, 47)])
def test_letterbox_keeps_the_shape_of_things_and_the_amount_of_ink(height, width):
    truth = np.zeros((height, width), bool)
    truth[height // 3 : height // 3 + 2, 5 : width - 5] = True  # a line two pixels thin
    image = np.full((height, width, 3), 200, np.uint8)
    placed, mask = place(image, truth, 64, 96, "letterbox", np.random.default_rng(0))
    scale = min(64 / height, 96 / width)
    assert placed.shape == (64, 96, 3) and mask.shape == (64, 96)
    assert mask.sum() / 255 == pytest.approx(truth.sum() * scale**2, rel=0.15)
    columns = mask[:, int(10 * scale) : int((width - 10) * scale)].sum(0)
    assert (columns > 0).all()  # nowhere broken, however thin
    filled = (placed > 0).any(2)
    assert abs(filled.any(1).sum() - height * scale) <= 1 and abs(filled.any(0).sum() - width * scale) <= 1


@pytest.mark.parametrize("height, width", [(300, 200), (40, 400), (30, 20)])
def test_crops_are_native_and_padded(height, width):
    rng = np.random.default_rng(1)
    image = rng.integers(1, 255, (height, width, 3), dtype=np.uint8)
    truth = image[..., 0] > 200
    for _ in range(5):
        crop, mask = place(image, truth, 64, 96, "crop", rng)
        assert crop.shape == (64, 96, 3) and set(np.unique(mask)) <= {0, 255}
        inside = (crop > 0).all(2)
        assert np.array_equal(mask[inside] > 0, crop[..., 0][inside] > 200)
        assert inside.sum() == min(height, 64) * min(width, 96) and not mask[~inside].any()
        piece = crop[: min(height, 64), : min(width, 96)]
        _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(image, piece, cv2.TM_SQDIFF))
        assert np.array_equal(image[y : y + piece.shape[0], x : x + piece.shape[1]], piece)  # in the page, unscaled


def test_crops_stay_on_the_page_and_mostly_hold_ink():
    truth = np.zeros((500, 600), bool)
    truth[100:103, 50:60] = True
    rng, hits = np.random.default_rng(2), 0
    for _ in range(200):
        top, left = crop_corner(truth, 64, 96, rng)
        assert 0 <= top <= 436 and 0 <= left <= 504
        hits += truth[top : top + 64, left : left + 96].any()
    assert hits > 120  # anywhere on the page would hit it about ten times
    assert crop_corner(np.zeros((500, 600), bool), 64, 96, rng) < (437, 505)
    assert crop_corner(truth[:30, :30], 64, 96, rng) == (0, 0)


# ---- augmentation


def test_picture_and_mask_are_bent_alike():
    mask = drawing(128, 160)
    image = cv2.merge([mask] * 3)
    changed = 0
    for seed in range(12):
        bent, bent_mask = CALM._bend(*CALM._turn(image, mask, np.random.default_rng(seed)), np.random.default_rng(seed))
        assert bent.shape == image.shape and bent_mask.shape == mask.shape
        assert np.abs(bent[..., 0].astype(int) - bent_mask).max() <= 1
        changed += not np.array_equal(bent_mask, mask)
    assert changed == 12


def test_the_elastic_map_without_displacement_is_the_matrix():
    matrix = CALM._matrix(90, 120, np.random.default_rng(4))
    mask = drawing(90, 120)
    map_x, map_y = elastic_map(np.linalg.inv(matrix), 90, 120, 0.0, np.random.default_rng(0))
    warped = cv2.warpPerspective(mask, matrix, (120, 90)).astype(int)
    difference = cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR) - warped
    assert np.abs(difference).max() <= 20 and np.abs(difference).mean() < 1  # they round differently


def test_thin_strokes_survive_the_augmentation():
    mask = np.zeros((256, 256), np.uint8)
    cv2.line(mask, (60, 60), (190, 180), 255, 1)
    for seed in range(10):
        bent = StrokeAugmentation()(cv2.merge([mask] * 3), mask, np.random.default_rng(seed))[1]
        pieces, _, stats, _ = cv2.connectedComponentsWithStats((bent > 30).astype(np.uint8))
        assert pieces == 2 and stats[1, cv2.CC_STAT_AREA] > 80


@given(st.integers(0, 2**32), st.sampled_from([(32, 32), (64, 96), (130, 40)]))
@settings(max_examples=40, deadline=None)
def test_augmentation_keeps_types_and_depends_on_its_generator_only(seed, size):
    mask = drawing(*size)
    image = cv2.merge([255 - mask] * 3)
    first, second = (StrokeAugmentation()(image.copy(), mask.copy(), np.random.default_rng(seed)) for _ in range(2))
    assert first[0].shape == image.shape and first[0].dtype == np.uint8 and first[1].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


# ---- samples


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_a_training_sample(split, resize):
    dataset = StrokeDataset(read_split(split, 0.0), 64, 96, resize, 7, StrokeAugmentation())
    sample = dataset[(0, 1)]
    assert sample["image"].shape == (3, 64, 96) and sample["image"].dtype == torch.float32
    assert sample["mask"].shape == (1, 64, 96) and sample["mask"].dtype == torch.float32
    assert 0 <= sample["mask"].min() and sample["mask"].max() <= 1 and sample["file"].endswith("page1.jpg")
    assert torch.equal(sample["image"], dataset[(0, 1)]["image"])
    assert not torch.equal(sample["image"], dataset[(1, 1)]["image"])
    assert not torch.equal(sample["mask"], dataset[(1, 1)]["mask"])


def test_soft_masks_reach_the_loss(split):
    mask = StrokeDataset(read_split(split, 0.0), 64, 64, "letterbox", 7)[(0, 0)]["mask"]
    assert ((mask > 0.05) & (mask < 0.95)).any()


def test_any_number_of_workers_gives_the_same_batches(split):
    dataset = StrokeDataset(read_split(split, 0.0), 64, 64, "crop", 7, StrokeAugmentation())
    epochs = []
    for workers in (0, 2):
        loader = make_loader(dataset, EpochBatches(4, 2, 7), workers, torch.device("cpu"))
        loader.batch_sampler.set_position(3)
        epochs.append(list(loader))
    for alone, together in zip(*epochs, strict=True):
        assert alone["file"] == together["file"] and len(alone["file"]) == 2
        assert torch.equal(alone["image"], together["image"]) and torch.equal(alone["mask"], together["mask"])


def test_pages_for_evaluation_are_whole_and_native(split):
    (split / "categories.tsv").write_text("page2.png\tcurves\n")
    loader = make_loader(StrokePages(read_split(split, 0.0)), EveryBatch(4, 3), 0, torch.device("cpu"), collate_pages)
    batches = list(loader)
    assert [len(batch["file"]) for batch in batches] == [3, 1]
    assert [pixels.shape for pixels in batches[0]["pixels"]] == [(100, 160, 3), (110, 160, 3), (120, 160, 3)]
    assert all(np.array_equal(truth, drawing(*truth.shape) > 0) for batch in batches for truth in batch["truth"])
    assert batches[0]["categories"] == [(), (), ("curves",)]


# ---- which pages, how often, how large


def test_pages_are_seen_as_often_as_asked_and_decoded_once(split, monkeypatch):
    pages = read_split(split, 0.0)
    dataset = StrokeDataset(pages, 64, 64, "crop", 7, StrokeAugmentation(), samples_per_page=3, cache=True)
    assert len(dataset) == 3 * len(pages) == 12
    files = [dataset[(0, index)]["file"] for index in range(12)]
    assert all(files.count(str(page.image)) == 3 for page in pages)
    assert not torch.equal(dataset[(0, 1)]["image"], dataset[(0, 5)]["image"])  # the same page, another crop
    plain = StrokeDataset(pages, 64, 64, "crop", 7, StrokeAugmentation(), samples_per_page=3)
    assert torch.equal(plain[(2, 5)]["image"], dataset[(2, 5)]["image"])
    monkeypatch.setattr("datasets.segmentation.load_image", None)
    assert dataset[(1, 5)]["image"].shape == (3, 64, 64)  # from memory
    with pytest.raises(TypeError):
        plain[(1, 5)]


def test_oversampling_repeats_the_pages_of_a_category(split):
    (split / "categories.tsv").write_text("page0.jpg\tcurves\npage2.png\tcurves,small_text\n")
    pages = read_split(split, 0.0)
    often = oversampled(pages, {"curves": 2, "small_text": 5})
    assert [often.count(page) for page in pages] == [2, 1, 5, 1]
    assert oversampled(pages, {}) == pages
    with pytest.raises(DataError, match="no page is tagged squiggles"):
        oversampled(pages, {"squiggles": 2})


def test_a_batch_has_one_scale_drawn_from_seed_epoch_and_batch(split):
    dataset = StrokeDataset(read_split(split, 0.0), 64, 96, "letterbox", 7)
    sides = (64, 96, 128, 192)
    sizes = [(side,) for side in sides]
    batches = SizedBatches(sizes, 40, 2, 7)
    drawn = []
    for epoch in range(3):
        batches.set_position(epoch)
        drawn.append([{side for _, _, side in batch} for batch in batches])
        assert all(len(found) == 1 for found in drawn[-1])
    assert set.union(*drawn[0]) == set(sides) and drawn[0] != drawn[1]
    batches.set_position(1, 5)
    assert [{side for _, _, side in batch} for batch in batches] == drawn[1][5:]  # resumed
    other_rank = SizedBatches(sizes, 40, 1, 7, 1, 2)
    other_rank.set_position(1)
    assert [{side for _, _, side in batch} for batch in other_rank] == drawn[1]
    assert [dataset[(0, 1, side)]["image"].shape[1:] for side in sides] == [(32, 64), (64, 96), (96, 128), (128, 192)]
    plain, same = EpochBatches(9, 2, 7), SizedBatches([], 9, 2, 7)
    assert list(plain) == list(same)


# ---- wear


def test_wear_leaves_ink_in_place_and_is_drawn_from_the_generator():
    mask = drawing(128, 160)
    image = cv2.merge([np.where(mask > 0, 60, 210).astype(np.uint8)] * 3)
    paper = paper_of(image)
    assert np.abs(paper.astype(int) - 210).max() < 20  # no stroke left
    for change in (lambda i, r: faded(i, paper, r), lambda i, r: bled(i, paper, r), stained):
        first, second, other = (change(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, second) and not np.array_equal(first, other)
        assert first.shape == image.shape and first.dtype == np.uint8
    light = faded(image, paper, np.random.default_rng(3))[..., 0].astype(int)
    assert light[mask > 0].mean() > 80 and np.abs(light[mask == 0] - 210).mean() < 8  # ink fades, paper does not
    behind = bled(image, paper, np.random.default_rng(3))[..., 0].astype(int)
    darkened = (210 - behind)[mask == 0]
    assert 0.02 < (darkened > 10).mean() < 0.9 and darkened.max() < 0.65 * 150 + 10  # lighter than the ink itself


def test_ink_from_behind_gives_black_borders_no_colour():
    image = np.full((128, 128, 3), 255, np.uint8)
    image[20:24, 10:100], image[64:] = 60, 0  # what a piece cut at a page's end is filled up with
    behind = bled(image, paper_of(image), np.random.default_rng(0))
    assert (behind == behind[..., :1]).all() and (behind[64:] == 0).all()


def test_the_largest_key_is_of_the_largest_side():
    assert SizedBatches([(64,), (160,), (96,)], 5, 2, 0).largest_key() == (0, 0, 160)
    assert SizedBatches([], 5, 2, 0).largest_key() == (0, 0)
