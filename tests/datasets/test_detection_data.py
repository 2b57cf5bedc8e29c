import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.augment import DetectionAugmentation, WholePage
from datasets.detection import DetectionDataset, Page, crop_sizes, read_split, truth_maps
from datasets.formats.icdar import parse_line
from datasets.recognition import page_crops
from utils.dataloading import SizedBatches
from utils.errors import DataError
from utils.geometry import PageSize, apply_affine
from utils.images import save_image


def make_split(folder, pages=3, size=(120, 200)):
    for i in range(pages):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        image = np.full((*size, 3), 230, np.uint8)
        image[40:70, 30:150] = 20
        save_image(folder / "images" / f"p{i}.png", image)
        (folder / "labels" / f"p{i}.txt").write_text("30,40,150,40,150,70,30,70,27, JALAN, 한글\n", encoding="utf-8")
    return folder


def test_transcriptions_keep_their_commas():
    points, text = parse_line("1,2,3,2,3,4,1,4,27,JALAN DEDAP 13,")
    assert text == "27,JALAN DEDAP 13," and points.tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
    assert parse_line("1,2,3,2,3,4,1,4")[1] == ""


@pytest.mark.parametrize("line", ["1,2,3", "a,2,3,2,3,4,1,4,x", "nan,2,3,2,3,4,1,4,x", "1,2,3,2,inf,4,1,4,x"])
def test_lines_that_are_no_labels(line):
    with pytest.raises(ValueError):
        parse_line(line)


def test_a_split_is_read_with_its_byte_order_mark(tmp_path):
    make_split(tmp_path)
    label = tmp_path / "labels" / "p0.txt"
    label.write_text("\ufeff" + label.read_text(encoding="utf-8") + "\n1,1,9,1,9,9,1,9,###\n", encoding="utf-8")
    label.rename(tmp_path / "labels" / "gt_p0.txt")
    page = read_split(tmp_path, 0.0)[0]
    assert page.texts == ["27, JALAN, 한글", "###"] and page.ignored == [False, True]
    assert (page.height, page.width) == (120, 200)


def breakage(name):
    def missing_label(folder):
        (folder / "labels" / "p1.txt").unlink()

    def missing_image(folder):
        (folder / "images" / "p1.png").unlink()

    def broken_image(folder):
        (folder / "images" / "p1.png").write_bytes(b"no image")

    def broken_line(folder):
        (folder / "labels" / "p1.txt").write_text("1,2,3\n")

    def latin1(folder):
        (folder / "labels" / "p1.txt").write_bytes(b"1,2,3,2,3,4,1,4,caf\xe9\n")

    return {f.__name__: f for f in (missing_label, missing_image, broken_image, broken_line, latin1)}[name]


@pytest.mark.parametrize("name, reason", [
    ("missing_label", "p1.png: has no label"), ("missing_image", "p1.txt: has no image"),
    ("broken_image", "p1.png: not a readable image"), ("broken_line", "p1.txt: line 1: 3 fields"),
    ("latin1", "p1.txt: is not UTF-8")])
def test_bad_pages_are_named_and_left_out_up_to_a_share(tmp_path, capsys, name, reason):
    breakage(name)(make_split(tmp_path))
    with pytest.raises(DataError, match=reason):
        read_split(tmp_path, 0.01)
    assert len(read_split(tmp_path, 0.4)) == 2
    assert "left out" in capsys.readouterr().err


def test_labels_of_a_resized_image_are_refused(tmp_path):
    make_split(tmp_path)
    for label in (tmp_path / "labels").iterdir():
        label.write_text("300,400,1500,400,1500,700,300,700,text\n")
    with pytest.raises(DataError, match="lie outside their image"):
        read_split(tmp_path, 0.0)


def test_points_just_outside_are_clipped(tmp_path):
    make_split(tmp_path)
    (tmp_path / "labels" / "p0.txt").write_text("-1,40,201,40,201,70,-1,70,text\n")
    polygon = read_split(tmp_path, 0.0)[0].polygons[0]
    assert polygon[:, 0].min() == 0 and polygon[:, 0].max() == 200


def test_exif_rotation_gives_one_frame(tmp_path):
    make_split(tmp_path, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(tmp_path / "images" / "p0.png").rotate(90, expand=True)
    image.save(tmp_path / "images" / "p0.png", exif=exif)
    pages = read_split(tmp_path, 0.0)
    assert (pages[0].height, pages[0].width) == (120, 200)
    sample = DetectionDataset(pages, PageSize(320), 0)[(0, 0)]
    shown = sample["image"][0, int(55 * sample["scale"]), int(90 * sample["scale"])]
    assert shown < 0  # the dark bar lies where the label says


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_pictures_and_polygons_move_together(seed):
    """The dark box of the page is where its polygon went, whatever the transform."""
    image = np.full((300, 200, 3), 255, np.uint8)
    polygon = np.float32([[40, 50], [160, 60], [155, 120], [38, 110]])
    cv2.fillPoly(image, [polygon.astype(np.int32)], (0, 0, 0))
    augment = DetectionAugmentation(192, 224, light=0.0, noise=0.0)
    crop, matrix = augment(image, [polygon], 1.0, np.random.default_rng(seed))
    moved = apply_affine(matrix, polygon)
    drawn = np.zeros((192, 224), np.uint8)
    cv2.fillPoly(drawn, [np.round(moved * 16 - 8).astype(np.int32)], 1, shift=4)
    inner, outer = cv2.erode(drawn, np.ones((9, 9))), cv2.dilate(drawn, np.ones((13, 13)))
    assert not inner.any() or crop[inner > 0].mean() < 40
    page = apply_affine(np.linalg.inv(np.vstack([matrix, [0, 0, 1]])), moved)
    assert np.allclose(page[:, :2], polygon, atol=1e-3)
    on_page = np.full((300, 200), 255, np.uint8)
    covered = cv2.warpAffine(on_page, matrix, (224, 192)) == 255
    inland = cv2.erode(covered.astype(np.uint8), np.ones((9, 9)), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outside = (outer == 0) & inland.astype(bool)
    assert not outside.any() or crop[outside].min() > 150


def test_samples_are_functions_of_their_key(tmp_path):
    pages = read_split(make_split(tmp_path), 0.0)
    dataset = DetectionDataset(pages, PageSize(320), 7, DetectionAugmentation(96, 128))
    first, again, other = dataset[(1, 0)], dataset[(1, 0)], dataset[(2, 0)]
    assert first["image"].shape == (3, 96, 128) and first["shrink_map"].shape == (96, 128)
    assert (first["image"] == again["image"]).all() and not (first["image"] == other["image"]).all()


def test_truth_maps_have_the_frame_of_the_sample(tmp_path):
    pages = read_split(make_split(tmp_path), 0.0)
    sample = DetectionDataset(pages, PageSize(320), 0)[(0, 0)]
    prob, scale = truth_maps(pages[0], PageSize(320))
    assert prob.shape == tuple(sample["image"].shape[1:]) and scale == sample["scale"]


@pytest.mark.parametrize("height, width", [(320, 320), (320, 384), (384, 320)])
def test_a_whole_page_is_what_evaluation_sees(tmp_path, height, width):
    pages = read_split(make_split(tmp_path), 0.0)
    learnt = DetectionDataset(pages, PageSize(320), 7, WholePage(height, width))
    shown = DetectionDataset(pages, PageSize(320), 7)[(0, 0)]
    first, other = learnt[(1, 0)], learnt[(2, 0)]
    assert first["image"].shape == (3, height, width) and all((first[name] == other[name]).all() for name in (
        "image", "shrink_map", "thresh_map"))
    h, w = shown["image"].shape[1:]
    assert (first["image"][:, :h, :w] == shown["image"]).all()
    truth, _ = truth_maps(pages[0], PageSize(320))
    assert (np.asarray(first["shrink_map"])[:h, :w] == truth).all() and truth.any()


def test_labels_without_three_points_are_named_and_ignored(tmp_path, capsys):
    make_split(tmp_path)
    (tmp_path / "labels" / "p1.txt").write_text("5,5,5,5,9,9,5,5,line\n30,40,150,40,150,70,30,70,word\n"
                                                "1,1,1,1,1,1,1,1,###\n")
    pages = read_split(tmp_path, 0.0)
    said = capsys.readouterr().err
    assert "1 labels have fewer than 3 distinct points" in said and "p1.png number 1 ('line')" in said
    assert pages[1].ignored == [True, False, True] and len(pages[1].polygons) == 3
    assert "distinct" not in said.replace("fewer than 3 distinct points", "")


def test_labels_without_area_are_named_and_ignored(tmp_path, capsys):
    """Also those that have three points, but on a line, or closer together than a pixel."""
    make_split(tmp_path)
    (tmp_path / "labels" / "p1.txt").write_text("5,5,40,5,70,5,90,5,flat\n30,40,150,40,150,70,30,70,word\n"
                                                "9,9,9.5,9,9.5,9.5,9,9.5,dot\n")
    page = read_split(tmp_path, 0.0)[1]
    said = capsys.readouterr().err
    assert page.ignored == [True, False, True]
    assert "2 labels have" in said and "number 1 ('flat')" in said and "number 3 ('dot')" in said and "area" in said


@pytest.mark.parametrize("text, ignored", [
    ("###", True), ("### ", True), (" ###", True), ("\t###", True), ("*", True), (" * ", True), ("Latin,###", True),
    ("Korean, ###", True), ("####1234", False), ("#", False), ("5 * 3", False), ("a,*", False), ("Latin###", False)])
def test_do_not_care_with_blanks_and_after_a_language(tmp_path, text, ignored):
    """`..., ###` is often written by hand, and ICDAR-MLT's lines are `...,Latin,###`."""
    make_split(tmp_path, 1)
    (tmp_path / "labels" / "p0.txt").write_text(f"30,40,150,40,150,70,30,70,{text}\n")
    page, = read_split(tmp_path, 0.0)
    assert page.ignored == [ignored]
    assert len(list(page_crops(page))) == (not ignored)  # lines for recognition too


def test_crops_are_placed_round_text_that_counts(tmp_path):
    """As in the paper's code: "do not care" text is no anchor, unless there is nothing else."""
    save_image(tmp_path / "page.png", np.zeros((2000, 2000, 3), np.uint8))
    far, near = (np.float32([[x, x], [x + 60, x], [x + 60, x + 30], [x, x + 30]]) for x in (1800, 100))
    augment = DetectionAugmentation(64, 64, (1.0, 1.0), 0, 0, light=0.0, noise=0.0, blur=0.0)

    def shares(texts):
        page = Page(tmp_path / "page.png", 2000, 2000, [far, near], texts)
        dataset = DetectionDataset([page], PageSize(2000), 0, augment)
        samples = [dataset[(epoch, 0)] for epoch in range(30)]
        return (np.mean([sample["shrink_map"].any() for sample in samples]),
                np.mean([not sample["shrink_mask"].all() for sample in samples]))

    learnt, ignored = shares(["###", "word"])
    assert learnt > 0.6 and ignored < 0.2
    assert sum(shares(["###", "*"])) > 0.6  # all crops round text that is ignored, since there is no other


def test_multi_scale_batches_depend_on_nothing_but_seed_epoch_and_batch(tmp_path):
    pages = read_split(make_split(tmp_path, 6), 0.0)
    dataset = DetectionDataset(pages, PageSize(320), 7, DetectionAugmentation(128, 96))
    expected = crop_sizes(128, 96)
    alone = SizedBatches(expected, len(dataset), 2, seed=5)
    sizes = set()
    for epoch in range(20):
        alone.set_position(epoch)
        whole = list(alone)
        for keys in whole:
            assert len({key[2:] for key in keys}) == 1 and all(side % 32 == 0 for side in keys[0][2:])
            sizes.add(keys[0][2:])
        alone.set_position(epoch, 2)
        assert list(alone) == whole[2:]  # resumed
        ranks = [SizedBatches(expected, len(dataset), 1, 5, rank, 2) for rank in range(2)]
        for rank in ranks:
            rank.set_position(epoch)
        assert [[*a, *b] for a, b in zip(*ranks)] == whole
    assert len(sizes) > 2 and sizes <= set(expected) and expected[2] == (128, 96)
    sample = dataset[(3, 1, 160, 96)]
    assert sample["image"].shape == (3, 160, 96) and sample["thresh_map"].shape == (160, 96)
    assert alone.largest_key() == (0, 0, *max(expected)) == (0, 0, 160, 128)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_inverse_of_a_transform_gives_the_page_back(seed):
    """Where the crop has seen the page, warping it back by the inverse matrix shows the page as it was."""
    xs, ys = np.meshgrid(np.arange(220), np.arange(180))
    smooth = np.stack([127 + 100 * np.sin(xs / 25 + i) * np.cos(ys / 31) for i in range(3)], -1).astype(np.uint8)
    augment = DetectionAugmentation(256, 256, (0.8, 1.5), light=0.0, noise=0.0, blur=0.0)
    crop, matrix = augment(smooth, [], 1.0, np.random.default_rng(seed))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    centred = inverse.copy()  # warpAffine counts from the pixels' centres
    centred[:, 2] += centred[:, :2] @ (0.5, 0.5) - 0.5
    back = cv2.warpAffine(crop, centred, (220, 180))
    seen = cv2.warpAffine(np.full((256, 256), 255, np.uint8), centred, (220, 180))
    seen = cv2.erode(seen, np.ones((7, 7)), borderType=cv2.BORDER_CONSTANT, borderValue=0) == 255
    assert not seen.any() or np.abs(back.astype(int) - smooth)[seen].max() < 12


def test_light_and_noise_change_the_picture_and_not_the_place():
    image = np.full((200, 200, 3), 128, np.uint8)
    paper = DetectionAugmentation(96, 96, light=0.0, noise=0.0, blur=0.0)
    levels = []
    for seed in range(30):
        crop, matrix = DetectionAugmentation(96, 96)(image, [], 1.0, np.random.default_rng(seed))
        plain, same = paper(image, [], 1.0, np.random.default_rng(seed))
        assert np.array_equal(matrix, same) and set(np.unique(plain)) <= {128, *range(256)}
        levels.append((crop[48, 48].mean(), crop.std() - plain.std()))
    assert np.ptp([level for level, _ in levels]) > 20  # brightness
    assert max(noise for _, noise in levels) > 1
