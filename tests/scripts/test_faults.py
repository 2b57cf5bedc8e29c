"""Faults that cost days, injected into small data: each script stops before its first step and names them."""

import re
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import train_detection
import train_recognition
import train_segmentation
import train_yolo
from utils.errors import DataError, exit_cleanly
from utils.images import load_image, save_image

WORDS = ("TOTAL", "12,900", "Seoul", "cash", "QR", "date 3.1")
SCRIPTS = {
    "detection": (train_detection, "--encoder-weights none --pyramid-channels 16 --img-height 64 --img-width 64 "
                                   "--test-long-side 320 --batch-size 2"),
    "recognition": (train_recognition, "--arch parseq-ti --img-height 16 --img-width 64 --max-label-length 8 "
                                       "--charset data --batch-size 8"),
    "segmentation": (train_segmentation, "--img-height 256 --img-width 256 --arch linknet --encoder-weights none "
                                         "--encoder tu-mobilenetv3_small_050"),
    "yolo": (train_yolo, "--model yolo11n --img-size 64 --batch-size 2")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Pages of six words for all four tasks: labels/ for detection, masks/, marks/ for YOLO; square, so that no turn
    takes a label out of its image."""
    folder, rng = tmp_path_factory.mktemp("pages"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for number in range(count):
            page, lines, marks = np.full((220, 220, 3), 230, np.uint8), [], []
            for row, word in enumerate(WORDS):
                x, y = int(rng.integers(8, 90)), 12 + 33 * row + int(rng.integers(0, 8))
                before = page.copy()
                cv2.putText(page, word, (x, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1)
                ys, xs = np.nonzero((page != before).any(2))
                x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                lines.append(f"{x1},{y1},{x2},{y1},{x2},{y2},{x1},{y2},{word}")
                marks.append(f"{row % 3} {(x1 + x2) / 440} {(y1 + y2) / 440} {(x2 - x1) / 220} {(y2 - y1) / 220}")
            place = folder / split
            save_image(place / "images" / f"{number}.png", page)
            save_image(place / "masks" / f"{number}.png", (page[..., 0] < 128).astype(np.uint8) * 255)
            for part, rows in (("labels", lines), ("marks", marks)):
                (place / part).mkdir(exist_ok=True)
                (place / part / f"{number}.txt").write_text("\n".join(rows))
    return folder


@pytest.fixture
def data(pages, tmp_path):
    """make(task): a copy of the pages as that task wants them."""
    def make(task: str) -> Path:
        folder = tmp_path / task
        shutil.copytree(pages, folder)
        if task == "yolo":
            for split in ("train", "val", "test"):
                shutil.rmtree(folder / split / "labels")
                (folder / split / "marks").rename(folder / split / "labels")
            (folder / "data.yaml").write_text("names: [qr, signature, stamp]\ntrain: train/images\nval: val/images\n"
                                              "test: test/images\n")
        return folder
    return make


def start(task: str, folder: Path, *more) -> None:
    script, flags = SCRIPTS[task]
    script.main([*flags.split(), "--data-dir", str(folder), "--output-dir", str(folder / "run"), "--num-workers", "0",
                 "--device", "cpu", "--epochs", "1", "--limit-batches", "1", *map(str, more)])


def complaint(task: str, folder: Path, capsys, *more) -> str:
    """The one line with which a script refuses, its status being 2 and no run folder there."""
    with pytest.raises(SystemExit) as leaving:
        exit_cleanly(lambda: start(task, folder, *more))
    assert leaving.value.code == 2 and not (folder / "run").exists()
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(error) == 1 and error[0].startswith("error: ")
    return error[0]


def each_label(folder: Path, split: str, change) -> None:
    """Replace the points of ICDAR labels: change (4, 2) -> (4, 2)."""
    for path in (folder / split / "labels").iterdir():
        rows = [line.split(",", 8) for line in path.read_text().splitlines()]
        moved = [change(np.float64(row[:8]).reshape(4, 2)).ravel().tolist() for row in rows]
        path.write_text("\n".join(",".join(map(str, points)) + f",{row[8]}" for points, row in zip(moved, rows)))


def photograph(folder: Path, tag: int) -> None:
    """Images stored turned, with the EXIF tag that brings them upright; labels and masks stay as they are."""
    for path in folder.rglob("images/*.png"):
        image = np.rot90(load_image(path), {3: 2, 6: 1}[tag])
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(np.ascontiguousarray(image)).save(path, exif=exif)


TURN = {3: lambda points: 220 - points, 6: lambda points: np.stack([points[:, 1], 220 - points[:, 0]], 1)}


# ---- EXIF rotation on one side only


@pytest.mark.parametrize("tag", [3, 6])
def test_labels_of_photographs_before_their_exif_rotation(data, capsys, tag):
    folder = data("detection")
    photograph(folder, tag)
    for split in ("train", "val", "test"):
        each_label(folder, split, TURN[tag])
    assert "without their EXIF rotation, which is applied on one side only" in complaint("detection", folder, capsys)


def test_photographs_that_lost_their_exif_tag(data, capsys):
    folder = data("detection")
    each_label(folder, "val", TURN[3])
    error = complaint("detection", folder, capsys)
    assert "the labels of val do not lie on their images: they are turned by 180 degrees" in error


def test_lines_for_recognition_are_cut_from_the_same_frame(data, capsys):
    folder = data("recognition")
    each_label(folder, "train", TURN[3])
    assert "they are turned by 180 degrees" in complaint("recognition", folder, capsys)


def test_labels_that_leave_their_images_are_named_as_precisely(data, capsys):
    folder = data("detection")
    for path in folder.rglob("images/*.png"):  # now 160 wide: labels turned by 90 degrees reach outside
        save_image(path, load_image(path)[:, :160])
    for split in ("train", "val", "test"):
        each_label(folder, split, lambda points: np.minimum(points, (160, 220))[:, ::-1])
    error = complaint("detection", folder, capsys)
    assert "label points lie outside their image" in error and "the labels are with x and y swapped" in error


@pytest.mark.parametrize("tag, words", [(3, "turned by 180 degrees"), (6, "turned by (90|270) degrees")])
def test_masks_without_the_exif_rotation(data, capsys, tag, words):
    folder = data("segmentation")
    photograph(folder, tag)
    for path in folder.rglob("masks/*.png"):
        cv2.imwrite(str(path), np.rot90(cv2.imread(str(path), 0), {3: 2, 6: 1}[tag]))
    error = complaint("segmentation", folder, capsys)
    assert re.search(words, error) and "EXIF rotation" in error


def test_masks_of_another_shape_without_the_exif_rotation(data, capsys):
    folder = data("segmentation")
    for path in [*folder.rglob("images/*.png"), *folder.rglob("masks/*.png")]:
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), np.rot90(image[:160]) if path.parent.name == "masks" else image[:160])
    error = complaint("segmentation", folder, capsys)
    assert "the mask is 160 x 220 pixels, its image 220 x 160: is the EXIF rotation applied on one side only?" in error


def test_marks_without_the_exif_rotation(data, capsys):
    folder = data("yolo")
    photograph(folder, 3)
    for path in folder.rglob("labels/*.txt"):
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("\n".join(f"{c} {1 - float(x)} {1 - float(y)} {w} {h}" for c, x, y, w, h in rows))
    assert "without their EXIF rotation" in complaint("yolo", folder, capsys)


# ---- another size, another order


@pytest.mark.parametrize("factor, words", [(0.5, "scaled by 2.0"), (1.6, "scaled by 0.6")])
def test_labels_of_resized_images(data, capsys, factor, words):
    folder = data("detection")
    for split in ("train", "val", "test"):
        each_label(folder, split, lambda points: points * factor)
    error = complaint("detection", folder, capsys)
    assert "belong to resized images" in error and words in error


def test_masks_of_resized_images(data, capsys):
    folder = data("segmentation")
    for path in folder.rglob("masks/*.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path), 0), (110, 110)))
    error = complaint("segmentation", folder, capsys)
    assert "the mask is 110 x 110 pixels, its image 220 x 220: was one of them resized?" in error


def test_swapped_x_and_y(data, capsys):
    folder = data("detection")
    for split in ("train", "val", "test"):
        each_label(folder, split, lambda points: points[:, ::-1])
    assert "they are with x and y swapped" in complaint("detection", folder, capsys)


def test_swapped_x_and_y_of_marks(data, capsys):
    folder = data("yolo")
    for path in folder.rglob("labels/*.txt"):
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("\n".join(f"{c} {y} {x} {h} {w}" for c, x, y, w, h in rows))
    assert "they are with x and y swapped" in complaint("yolo", folder, capsys)


def test_a_corner_in_place_of_the_centre(data, capsys):
    folder = data("yolo")
    for path in folder.rglob("labels/*.txt"):
        rows = [list(map(float, line.split())) for line in path.read_text().splitlines()]
        path.write_text("\n".join(f"{c:g} {x - w / 2} {y - h / 2} {w} {h}" for c, x, y, w, h in rows))
    error = complaint("yolo", folder, capsys, "--max-bad-fraction", 1)  # those that now leave their image
    assert "give a box's corner where its centre is expected" in error


def test_inverted_masks(data, capsys):
    folder = data("segmentation")
    for path in folder.rglob("masks/*.png"):
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), 0))
    error = complaint("segmentation", folder, capsys)
    assert "ink must be 255, not 0: invert the masks" in error and "masks" in error


# ---- labels of which nothing can be learnt


def outlines(points: int):
    """change(line): the quad as a polygon of 2 * `points` points, along its upper and back along its lower edge."""
    def change(line):
        *numbers, word = line.split(",", 8)
        quad, steps = np.float64(numbers).reshape(4, 2), np.linspace(0, 1, points)[:, None]
        edges = [quad[0] + steps * (quad[1] - quad[0]), quad[2] + steps * (quad[3] - quad[2])]
        return ",".join(f"{value:.1f}" for value in np.concatenate(edges).ravel()) + f",{word.replace(',', '.')}"
    return change


def each_line(folder: Path, split: str, change) -> None:
    for path in (folder / split / "labels").iterdir():
        path.write_text("\n".join(map(change, path.read_text().splitlines())))


@pytest.mark.parametrize("points", [3, 7])
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("val",)])
def test_polygons_that_are_read_as_quads(data, capsys, points, splits):
    """Their first four points lie on a line, or make a triangle."""
    folder = data("detection")
    for split in splits:
        each_line(folder, split, outlines(points))
    error = complaint("detection", folder, capsys)
    assert f"of {splits[0]}" in error and "ten numbers or more" in error and "--polygon-labels" in error
    if len(splits) == 3:
        start("detection", folder, "--polygon-labels")
        assert "train: truth scores 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("skew", [0, 6])
def test_corners_that_are_not_in_order(data, capsys, skew):
    folder = data("detection")
    each_label(folder, "train", lambda points: (points + [[0, 0], [0, skew], [0, 0], [0, 0]])[[0, 1, 3, 2]])
    error = complaint("detection", folder, capsys)
    assert "of train" in error and "corners are not in order" in error


def test_labels_without_area_or_too_small_for_a_kernel(data, capsys):
    folder = data("detection")
    each_label(folder, "val", lambda points: points / 220)
    error = complaint("detection", folder, capsys)
    assert "0 of 18 labels of val" in error and "have an area" in error and "in pixels" in error
    each_label(folder, "val", lambda points: points * 220)
    error = complaint("detection", folder, capsys, "--test-long-side", 32)
    assert "0 of 36 labels of train" in error and "--test-long-side 32" in error


def test_a_training_set_of_which_no_label_counts(data, capsys):
    folder = data("detection")
    for split in ("val", "train"):  # a validation set without text is possible, if of little use
        each_line(folder, split, lambda line: ",".join([*line.split(",")[:8], "Latin", "### "]))
        if split == "val":
            start("detection", folder)
            shutil.rmtree(folder / "run")
            capsys.readouterr()
    assert "of 36 labels none counts" in complaint("detection", folder, capsys)


def test_a_price_list_is_no_list_of_polygons(data, capsys):
    """Transcriptions that begin with two numbers are no fault while the quads before them are sound."""
    folder = data("detection")
    for split in ("train", "val", "test"):
        each_line(folder, split, lambda line: ",".join([*line.split(",")[:8], "12,900"]))
    start("detection", folder)
    assert "train: truth scores 1.000" in capsys.readouterr().out


# ---- a file in two splits


@pytest.mark.parametrize("task", SCRIPTS)
def test_the_same_page_in_two_splits_under_another_name(data, capsys, task):
    folder = data(task)
    for part in ("images", "labels", "masks"):
        for path in (folder / "train" / part).glob("2.*"):
            shutil.copy(path, folder / "test" / part / f"other{path.suffix}")
    error = complaint(task, folder, capsys)
    assert "splits share 1 files" in error
    assert "test/images/other.png (test) has the content of" in error and "train/images/2.png (train)" in error


def test_the_same_folder_as_two_splits(data, capsys):
    folder = data("yolo")
    (folder / "data.yaml").write_text("names: [qr, signature, stamp]\ntrain: train/images\nval: train/images\n")
    assert "splits share 6 files" in complaint("yolo", folder, capsys)


# ---- and what is said without stopping


def test_decomposed_labels_are_named_and_read_composed(tmp_path, capsys):
    for split, words in (("train", ["합계", "총액"]), ("val", ["합계", "총액"])):
        for number, word in enumerate(words):
            image = np.full((16, 40, 3), 255 - number - 5 * len(split), np.uint8)
            save_image(tmp_path / split / "images" / f"{number}.png", image)
        rows = [f"{n}.png\t{unicodedata.normalize('NFD', word) if n else word}\n" for n, word in enumerate(words)]
        (tmp_path / split / "labels.tsv").write_text("".join(rows), "utf-8")
    start("recognition", tmp_path)
    out = capsys.readouterr().out
    assert "preflight: warning: 2 labels are not NFC: their characters are taken apart (NFD)" in out
    assert "train/images/1.png" in out and "2 kept, 0 with unknown" in out
    assert "NFD" in (tmp_path / "run" / "card.md").read_text("utf-8")
    assert '"truth": "총액"' in (tmp_path / "run" / "per_image.jsonl").read_text("utf-8")


def test_decomposed_labels_of_pages(data, capsys):
    folder = data("detection")
    label = folder / "train" / "labels" / "3.txt"
    label.write_text(label.read_text().replace("TOTAL", "e\u0301te\u0301"), "utf-8")
    start("detection", folder)
    out = capsys.readouterr().out
    assert "1 labels are not NFC" in out and "train/images/3.png" in out


@pytest.mark.parametrize("task", SCRIPTS)
def test_sound_data_passes_and_the_card_says_so(data, capsys, task):
    if task == "yolo":  # whose training is tested elsewhere
        args = train_yolo.parse_args([*SCRIPTS["yolo"][1].split(), "--data-dir", str(data("yolo"))])
        card = train_yolo.describe(args, *train_yolo.read_data(args), "random weights", 24, 0, 1)["Preflight"]
    else:
        folder = data(task)
        start(task, folder)
        card = (folder / "run" / "card.md").read_text("utf-8")
    out = capsys.readouterr().out
    for words in ("no file and no content in two splits (files: train 6, val 3, test 3)", "train: truth scores",
                  "val: truth scores", "test: truth scores", "took "):
        assert words in card and words in out


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_what_a_training_starts_from_is_printed_before_its_first_step(data, capsys, task):
    folder = data(task)
    start(task, folder)
    out = capsys.readouterr().out
    assert "Encoder starts from: random weights" in out and "Data: train 6 pages" in out
    assert out.index("Encoder starts from") < out.index("run folder: ")
    shutil.copy(folder / "run" / "best.pt", folder / "first.pt")
    start(task, folder, "--overwrite", "--init-from", folder / "first.pt")
    out = capsys.readouterr().out
    assert re.search(r"Weights: started from .*first.pt: (\d+) of \1 tensors taken", out)


def test_without_preflight_a_training_starts_all_the_same(data, capsys):
    folder = data("detection")
    each_label(folder, "train", TURN[3])
    start("detection", folder, "--no-preflight")
    assert "preflight:" not in capsys.readouterr().out and (folder / "run" / "best.pt").is_file()


def test_an_undivided_folder_is_split_and_trained_on(data, capsys):
    folder = data("detection") / "train"
    for count in (0, 1):
        start("detection", folder, "--split-fractions", "0.5,0.25,0.25", *(["--overwrite"] if count else []))
    out = capsys.readouterr()
    assert "splits.tsv: train 3 files of 3 groups" in out.out and "each file is a group of its own" in out.err
    train_detection.main(["--test-only", "--weights", str(folder / "run" / "best.pt"), "--data-dir", str(folder),
                          "--num-workers", "0", "--device", "cpu"])
    assert '"n_images": 1' in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(DataError, match="gives no file to dev"):
        train_detection.main(["--test-only", "--weights", str(folder / "run" / "best.pt"), "--data-dir", str(folder),
                              "--split", "dev", "--device", "cpu"])
