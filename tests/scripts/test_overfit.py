"""--overfit: a few samples learnt by heart, and an exit status that says whether they were."""

import importlib

import cv2
import numpy as np
import pytest
from runner import rows
from test_train_detection import make_pages
from test_train_recognition import SMALL as SMALL_RECOGNITION
from test_train_recognition import draw
from test_train_yolo import make_marks

from utils.errors import DataError

TRAINING = ("train_detection", "train_recognition", "train_segmentation", "train_yolo")
ON_CPU = ["--device", "cpu", "--num-workers", "0"]
SEGMENTATION = ["--img-height", "64", "--img-width", "64", "--arch", "unet", "--encoder", "tu-mobilenetv3_small_050",
                "--encoder-weights", "none", "--batch-size", "1", "--no-preflight", *ON_CPU]


def main(script, folder, *flags):
    return importlib.import_module(script).main(
        [*map(str, ("--data-dir", folder, "--output-dir", folder / "run", *flags))])


def card(folder):
    return next(line for line in (folder / "run" / "card.md").read_text().splitlines() if "Overfit check" in line)


def make_strokes(folder, count):
    """Pages with broad strokes; there is neither val/ nor test/."""
    for part in ("images", "masks"):
        (folder / "train" / part).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((64, 64), np.uint8)
        mask[10 + 4 * number : 22 + 4 * number, 8:56] = mask[8:56, 20 + 8 * number : 32 + 8 * number] = 255
        cv2.imwrite(str(folder / "train" / "images" / f"{number}.png"), 255 - mask // 2)
        cv2.imwrite(str(folder / "train" / "masks" / f"{number}.png"), mask)
    return folder


def test_samples_that_are_learnt_end_with_status_0(tmp_path, capsys):
    folder = make_strokes(tmp_path, 3)
    flags = "--overfit 2 --epochs 26 --lr 1e-2 --scheduler constant --edge-weight 0".split()
    assert main("train_segmentation", folder, *SEGMENTATION, *flags) == 0
    assert "overfit check: the 2 samples were learnt: best f1" in capsys.readouterr().out
    assert "the first 2 training samples" in card(folder) and "were learnt: best f1" in card(folder)
    scored = [row["file"] for row in rows(folder / "run" / "per_image.jsonl")]
    assert scored == [str(folder / "train" / "images" / f"{number}.png") for number in (0, 1)]
    assert rows(folder / "run" / "metrics.jsonl")[-1]["step"] == 52  # two samples, one by one, 26 times, with no early stop


def write_words(folder):
    (folder / "train" / "images").mkdir(parents=True)
    words = ["AB", "C12", "A3"]
    for number, word in enumerate(words):
        cv2.imwrite(str(folder / "train" / "images" / f"{number}.png"), draw(word))
    (folder / "train" / "labels.tsv").write_text("".join(f"{n}.png\t{word}\n" for n, word in enumerate(words)))


CASES = {
    "train_detection": (lambda folder: make_pages(folder / "train", 3, 0), "hmean", 0.95,
                        ["--encoder", "resnet18", "--encoder-weights", "none", "--pyramid-channels", "16",
                         "--img-height", "96", "--img-width", "128", *ON_CPU]),
    "train_recognition": (write_words, "exact", 0.99, SMALL_RECOGNITION),
    "train_segmentation": (lambda folder: make_strokes(folder, 3), "f1", 0.95, [*SEGMENTATION, "--lr", "1e-6"]),
    "train_yolo": (lambda folder: make_marks(folder, {"train": 3}), "map50", 0.9,
                   ["--model", "yolo11n", "--img-size", "64", *ON_CPU])}


@pytest.mark.parametrize("script", TRAINING)
def test_samples_that_are_not_learnt_end_with_status_1(script, tmp_path, capsys, monkeypatch):
    make, metric, bar, flags = CASES[script]
    make(tmp_path)
    calmed = []
    if script != "train_yolo":  # its networks have no dropout
        monkeypatch.setattr(importlib.import_module(script), "without_dropout", calmed.append)
    assert main(script, tmp_path, *flags, "--overfit", 2, "--epochs", 1) == 1
    assert len(calmed) == {"train_yolo": 0, "train_recognition": 3}.get(script, 1)  # three rates are tried there
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("overfit check:"))
    assert f"NOT learnt: best {metric} " in line and f"asked for {bar}" in line
    assert "NOT learnt" in card(tmp_path) and f"val/{metric}" in rows(tmp_path / "run" / "metrics.jsonl")[0]
    scored = rows(tmp_path / "run" / "per_image.jsonl")
    assert sorted(str(row["file"]).rpartition("/")[2] for row in scored) == ["0.png", "1.png"]


@pytest.mark.parametrize("script", TRAINING)
@pytest.mark.parametrize("flags, words", [
    (["--overfit", "2", "--test-only", "--weights", "best.pt"], "--overfit is a training"),
    (["--overfit", "2", "--resume", "auto", "--output-dir", "run"], "is not resumed"),
    (["--overfit", "0"], "0 is not 1 or more")])
def test_flags_that_do_not_fit_are_refused(script, flags, words, capsys):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).parse_args(flags)
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_crops_by_chance_are_refused(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("train_segmentation").parse_args(["--overfit", "2", "--resize", "crop"])
    assert "--resize crop" in capsys.readouterr().err


def test_a_check_is_not_continued_as_a_training(tmp_path):
    folder = make_strokes(tmp_path, 2)
    assert main("train_segmentation", folder, *SEGMENTATION, "--overfit", 1, "--epochs", 1, "--lr", "1e-6") == 1
    (folder / "train").rename(folder / "val")
    make_strokes(folder, 2)
    with pytest.raises(DataError, match="was an overfit check"):
        main("train_segmentation", folder, *SEGMENTATION, "--epochs", 2, "--resume", "auto")


def test_yolo_sees_its_images_as_they_are():
    args = importlib.import_module("train_yolo").parse_args(["--overfit", "2", "--mixup", "0.5"])
    assert not any((args.mosaic, args.mixup, args.degrees, args.translate, args.scale, args.hsv_v, args.fliplr))
    assert args.box == 7.5 and importlib.import_module("train_yolo").parse_args([]).mosaic == 1.0
