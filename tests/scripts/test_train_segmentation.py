"""train_segmentation.py as its users run it: train, be stopped, resume, test, and what it says to bad input."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train_segmentation
from models.strokes import load_model
from utils.errors import DataError
from utils.metrics.segmentation import f1_of

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--img-height 64 --img-width 96 --arch linknet --encoder tu-mobilenetv3_small_050 --encoder-weights none "
        "--epochs 4 --lr 5e-3 --num-workers 0 --device cpu --deterministic").split()
USERS_COMMAND = ("--img-height 1536 --img-width 1536 --batch-size 1 --accumulation-steps 2 --lr 2e-4 --epochs 150 "
                 "--patience 15 --use-amp --gradient-clip-max-norm 1.0 --output-dir models-ultra-high-res")


def start(*flags, cwd=ROOT):
    return subprocess.Popen([sys.executable, str(ROOT / "train_segmentation.py"), *map(str, flags)], cwd=cwd, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*flags, cwd=ROOT, status=0):
    process = start(*flags, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out, err


def draw_page(rng, height, width):
    mask = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in rng.integers(4, min(height, width) - 4, (4, 4)).tolist():
        cv2.line(mask, (x0, y0), (x1, y1), 255, 3)
    paper = rng.normal(0, 10, (height, width, 3)) + np.where(mask[..., None] > 0, 60, 200)
    return np.clip(paper, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("strokes") / "data", np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        for i in range(count):
            image, mask = draw_page(rng, 70 + 10 * i, 110)
            cv2.imwrite(str(folder / split / "images" / f"page{i}.jpg"), image)
            cv2.imwrite(str(folder / split / "masks" / f"page{i}.png"), mask)
        (folder / split / "categories.tsv").write_text("page0.jpg\tcurves\npage1.jpg\tsmall_text,curves\n")
    return folder


@pytest.fixture(scope="module")
def finished(data):
    folder = data.parent / "finished"
    run("--data-dir", data, "--output-dir", folder, "--notes", "Does it learn?", *TINY)
    return folder


def read_rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds" and not name.startswith("perf/")}
            for row in rows]


def test_a_run_leaves_its_whole_folder(finished):
    for name in ("last.pt", "best.pt", "args.json", "metrics.jsonl", "per_image.jsonl", "card.md", "tensorboard"):
        assert (finished / name).exists(), name
    rows = read_rows(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows[-1]["step"] == 12  # 5 pages by twos, 4 times
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert rows[-1]["train/loss"] == pytest.approx(sum(rows[-1][f"train/{part}"] for part in ("dice", "focal", "edge")))
    card = (finished / "card.md").read_text()
    assert "**Status:** Completed" in card and "Does it learn?" in card and "val/f1" in card and "truth scores" in card


def test_the_best_checkpoint_follows_f1_and_keeps_its_threshold(finished):
    best = max(read_rows(finished), key=lambda row: row["val/f1"])
    model, checkpoint = load_model(finished / "best.pt")
    assert checkpoint["progress"]["epoch"] == best["epoch"]
    assert checkpoint["thresholds"] == {"ink": best["val/threshold"]}
    assert (model.config.height, model.config.width, model.config.arch) == (64, 96, "linknet")
    records = [json.loads(line) for line in (finished / "per_image.jsonl").read_text().splitlines()]
    f1 = [float(f1_of(record["tp"], record["fp"], record["fn"])) for record in records]
    assert len(f1) == 2 and np.mean(f1) == pytest.approx(best["val/f1"])


def test_a_stopped_and_resumed_run_is_the_run_that_was_never_stopped(data, finished):
    folder = data.parent / "stopped"
    flags = ("--data-dir", data, "--output-dir", folder, *TINY)
    process, deadline = start(*flags), time.monotonic() + 200
    while not (folder / "card.md").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # the run is open and about to take its first steps
    _, err = process.communicate(timeout=200)
    assert process.returncode == 143 and "--resume auto" in err
    assert torch.load(folder / "last.pt", weights_only=True)["progress"]["step"] < 12
    assert "resumed in" in run(*flags, "--resume", "auto")[0]
    assert read_rows(folder) == read_rows(finished)
    before = (folder / "args.json").read_bytes()
    with pytest.raises(DataError, match="trained with another arch"):
        train_segmentation.main([*map(str, flags), "--resume", "auto", "--arch", "unet", "--device", "cpu"])
    assert (folder / "args.json").read_bytes() == before
    ours, theirs = (torch.load(path / "last.pt", weights_only=True) for path in (folder, finished))
    assert all(torch.equal(value, theirs["model"][name]) for name, value in ours["model"].items())
    assert ours["thresholds"] == theirs["thresholds"] and ours["progress"]["step"] == theirs["progress"]["step"]


def test_test_only_prints_one_json_line_and_writes_it(data, finished):
    out, _ = run("--test-only", "--weights", finished / "best.pt", "--data-dir", data, "--num-workers", "0")
    scores = json.loads(out.splitlines()[-1])
    assert {"f1", "iou", "precision", "recall", "f1_micro", "edge_iou_canny", "n_images"} <= set(scores)
    assert scores["n_images"] == 3 and 0 <= scores["f1_worst"] <= scores["f1"] <= 1
    assert scores == json.loads((finished / "test_metrics.json").read_text())
    records = [json.loads(line) for line in (finished / "test_per_image.jsonl").read_text().splitlines()]
    truths = [cv2.imread(str(path), 0) > 0 for path in sorted((data / "test" / "masks").iterdir())]
    assert [record["tp"] + record["fn"] for record in records] == [int(truth.sum()) for truth in truths]
    assert [record["categories"] for record in records] == [["curves"], ["small_text", "curves"], []]
    model_threshold = load_model(finished / "best.pt")[1]["thresholds"]["ink"]
    assert scores["threshold"] == model_threshold


def test_test_only_of_a_category_a_split_and_a_threshold(data, finished, tmp_path, capsys):
    flags = ["--test-only", "--weights", finished / "best.pt", "--data-dir", data, "--num-workers", "0", "--output-dir",
             tmp_path, "--device", "cpu"]
    train_segmentation.main([*map(str, flags), "--category", "small_text", "--split", "val", "--threshold", "0.75",
                             "--tta", "--postproc", "close,straighten"])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["postproc"] == ["close", "straighten"] and set(scores["categories"]) == {"small_text", "curves"}
    assert scores["n_images"] == 1 and scores["threshold"] == 0.75
    assert json.loads((tmp_path / "test_metrics.json").read_text()) == scores


def test_test_only_at_another_size_says_so_and_scores_it(data, finished, tmp_path, capsys):
    flags = ["--test-only", "--weights", finished / "best.pt", "--data-dir", data, "--num-workers", "0", "--output-dir",
             tmp_path, "--device", "cpu"]
    found = {}
    for given in ("", "--img-height 64 --img-width 96 --resize letterbox", "--img-height 192", "--resize crop"):
        train_segmentation.main([*map(str, flags), *given.split()])
        *before, line = capsys.readouterr().out.splitlines()
        found[given] = json.loads(line)
        changed = {"--img-height 192": {"img_height": 192}, "--resize crop": {"resize": "crop"}}.get(given)
        assert found[given].get("overrides") == changed
        assert before == ([f"{finished / 'best.pt'}: tested with {given} in place of its own"] if changed else [])
    own, same, *others = found.values()
    assert own["f1"] == same["f1"] and all(own["f1"] != other["f1"] for other in others)


def test_native_crops_and_every_loss(data, tmp_path):
    flags = ("--resize crop --continuity-weight 0.5 --cldice-iters 3 --ema-decay 0.9 --freeze-bn --use-amp "
             "--batch-size 1 --accumulation-steps 2 --epochs 1 --limit-batches 2 --arch unet --encoder-depth 3 "
             "--decoder-channels 32,16,8 --samples-per-page 2 --cache-pages --other-paper 0.5 "
             "--postproc connect,close --max-gap 4").split()
    train_segmentation.main([*map(str, ("--data-dir", data, "--output-dir", tmp_path / "run", *TINY, *flags))])
    row = read_rows(tmp_path / "run")[0]
    assert np.isfinite(row["train/continuity"]) and row["step"] == 1
    model, checkpoint = load_model(tmp_path / "run" / "best.pt")
    assert model.config.resize == "crop" and model.config.freeze_bn
    assert (model.config.encoder_depth, model.config.decoder_channels) == (3, (32, 16, 8))
    # Kept or not, the steps that were tried go with their settings, in the order in which they are taken.
    assert checkpoint["postproc"]["max_gap"] == 4 and set(checkpoint["postproc"]["steps"]) <= {"close", "connect"}


def test_the_users_command_as_it_stands(tmp_path):
    args = train_segmentation.parse_args(shlex.split(USERS_COMMAND))
    assert (args.img_height, args.img_width, args.batch_size, args.accumulation_steps) == (1536, 1536, 1, 2)
    assert (args.arch, args.encoder, args.dice_weight, args.focal_weight) == ("unet", "tu-mobilenetv3_large_100", 1, 1)
    assert (args.edge_weight, args.continuity_weight, args.resize) == (1, 0, "letterbox")
    _, err = run(*shlex.split(USERS_COMMAND), cwd=tmp_path, status=2)
    assert err.startswith("error: data/segmentation: no such folder") and "python -m datasets.synthetic" in err
    assert err.count("\n") == 1 and not (tmp_path / "models-ultra-high-res").exists()


def test_defaults():
    args = train_segmentation.parse_args([])
    assert (args.img_height, args.img_width, args.batch_size, args.lr) == (1536, 1536, 2, 2e-4)
    assert (args.epochs, args.patience, args.gradient_clip_max_norm) == (150, 15, 1.0)
    assert (args.optimizer, args.scheduler, args.encoder_weights) == ("adamw", "cosine", "auto")


@pytest.mark.parametrize("flags, words", [
    ("--img-height 1000", "multiples of 32"), ("--arch unetplusplus --encoder mit_b0", "mit_b0"),
    ("--arch linknet --encoder mit_b1", "mit_b1"), ("--arch deeplabv3plus --encoder tu-hrnet_w18", "tu-hrnet_w18"),
    ("--arch deeplabv3plus --batch-size 1", "--freeze-bn"), ("--arch upernet --batch-size 1", "one image at a time"),
    ("--arch upernet --find-batch-size", "one image at a time"),
    ("--focal-gamma 0.5", "--focal-gamma"), ("--output-stride 16", "--arch deeplabv3"), 
    ("--cldice-iters 3", "--continuity-weight"),
    ("--focal-alpha 0.9 --focal-weight 0", "--focal-weight"), ("--arch unett", "--arch"), ("--archh unet", "--archh"),
    ("--other-paper 0.5", "--other-paper lays ink on pieces of other pages; add --resize crop"),
    ("--dice-weight 0 --focal-weight 0 --edge-weight 0", "all loss weights are 0"),
    ("--dice-weight -1", "--dice-weight"), ("--postproc thicken", "thicken"), ("--max-gap 9", "--postproc connect"),
    ("--postproc connect --deviation-threshold 3", "--postproc straighten"),
    ("--arch fpn --decoder-channels 64,32,16,16,16", "unet"), ("--decoder-channels 64,32", "5"),
    ("--decoder-channels 64,0", "0 is not 1 or more"),
    ("--oversample small_text=x", "x in small_text=x is not a whole number"),
    ("--oversample small_text=0", "0 is not 1 or more"),
    ("--multi-scale 1000,x", "x is not a whole number"), ("--multi-scale 1024,1000", "1000 is not a multiple of 32"),
    ("--arch pan --batch-size 2 --img-height 96", "--arch pan needs --img-height and --img-width of 128 or more"),
    ("--test-only --weights w.pt --dice-weight 1 --oversample curves=2", "--oversample, --dice-weight do nothing"),
    ("--test-only --weights w.pt --multi-scale 1024", "--multi-scale does nothing with --test-only"),
    ("--test-only --weights w.pt --no-freeze-bn", "--freeze-bn does nothing with --test-only"),
    ("--test-only --weights w.pt --img-height 100", "multiples of 32")])
def test_flags_that_do_not_fit_are_refused(capsys, flags, words):
    with pytest.raises(SystemExit) as caught:
        train_segmentation.parse_args(shlex.split(flags))
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_what_is_refused_with_one_image_is_allowed_with_two_or_with_frozen_norms():
    assert train_segmentation.parse_args(["--arch", "upernet", "--batch-size", "2"]).arch == "upernet"
    assert train_segmentation.parse_args(["--arch", "upernet", "--batch-size", "1", "--freeze-bn"]).freeze_bn


def bad_call(data, tmp_path, *flags):
    with pytest.raises(DataError) as caught:
        train_segmentation.main([*map(str, ("--data-dir", data, "--output-dir", tmp_path / "run", *TINY, *flags))])
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_a_last_batch_of_one_page_is_refused_where_it_cannot_be_learnt_from(data, tmp_path):
    message = bad_call(data, tmp_path, "--arch", "upernet")
    assert "5 samples holds one" in message


def test_strokes_too_thin_for_the_size_stop_before_the_first_step(data, tmp_path):
    message = bad_call(data, tmp_path, "--img-height", 32, "--img-width", 32)
    assert "preflight" in message and "--resize crop" in message


def copy_with(data, folder, change):
    for split in ("train", "val"):
        for path in (data / split).rglob("*.*"):
            target = folder / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    change(folder)
    return folder


def test_inverted_masks_stop_before_the_first_step(data, tmp_path):
    def invert(folder):
        for path in folder.rglob("masks/*.png"):
            cv2.imwrite(str(path), 255 - cv2.imread(str(path), 0))

    assert "invert the masks" in bad_call(copy_with(data, tmp_path / "data", invert), tmp_path)


def test_bad_input_is_one_line_and_status_2(data, tmp_path):
    folder = copy_with(data, tmp_path / "data", lambda folder: (folder / "train/masks/page2.png").unlink())
    _, err = run("--data-dir", folder, "--output-dir", tmp_path / "run", *TINY, status=2)
    assert err.startswith("error: ") and "images/page2.jpg: has no mask" in err and err.count("\n") == 1


def test_what_init_from_takes_is_said_before_training(data, finished, tmp_path):
    out, _ = run("--data-dir", data, "--output-dir", tmp_path / "run", *TINY, "--epochs", 1, "--limit-batches", 1,
                 "--init-from", finished / "best.pt")
    line = [line for line in out.splitlines() if "started from " in line]
    total = len(torch.load(finished / "best.pt", weights_only=True)["model"])
    assert line == [f"Weights: started from {finished / 'best.pt'}: {total} of {total} tensors taken"]
    _, err = run("--data-dir", data, "--output-dir", tmp_path / "other", *TINY, "--encoder", "tu-resnet10t", "--init-from",
                 finished / "best.pt", status=2)
    assert "--arch linknet --encoder tu-mobilenetv3_small_050" in err and err.count("\n") == 1


def test_a_coarse_architecture_is_warned_about(data, tmp_path):
    _, err = run("--data-dir", data, "--output-dir", tmp_path / "run", *TINY, "--arch", "fpn", "--epochs", 1,
                 "--limit-batches", 1)
    assert "warning: --arch fpn predicts at stride 4" in err
