"""train_detection.py as a person runs it: train, stop, resume, test, and what it says to bad input."""

import json
import signal

import cv2
import numpy as np
import pytest
import torch
from runner import last_json, rows, run_script, stop_when, without_time

import train_detection
from utils.errors import DataError
from utils.images import save_image

SMALL = ["--encoder", "resnet18", "--pyramid-channels", "16", "--img-height", "96", "--img-width", "96",
         "--test-long-side", "160", "--batch-size", "2", "--num-workers", "0", "--scale-range", "0.8", "1.2"]


def make_pages(folder, count, seed):
    rng = np.random.default_rng(seed)
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    for number in range(count):
        image, lines = np.full((160, 120, 3), 235, np.uint8), []
        for y in (20, 60, 100):
            x, width = int(rng.integers(5, 30)), int(rng.integers(50, 80))
            cv2.putText(image, "TOTAL 12", (x, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1)
            lines.append(f"{x},{y},{x + width},{y},{x + width},{y + 20},{x},{y + 20},TOTAL, 12")
        save_image(folder / "images" / f"{number}.png", image)
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    for seed, (split, count) in enumerate((("train", 5), ("val", 2), ("test", 3))):
        make_pages(folder / split, count, seed)
    return folder


def test_train_resume_and_test(data, tmp_path):
    flags = [*SMALL, "--data-dir", data, "--epochs", "3", "--ema-decay", "0.9", "--deterministic", "--seed", "1",
             "--accumulation-steps", "2"]
    run_script("train_detection", *flags, "--output-dir", tmp_path / "straight")
    straight = tmp_path / "straight"
    for name in ("last.pt", "best.pt", "args.json", "metrics.jsonl", "per_image.jsonl", "card.md"):
        assert (straight / name).is_file(), name
    assert list((straight / "tensorboard").iterdir())
    card = (straight / "card.md").read_text(encoding="utf-8")
    assert "**Status:** Completed" in card and "--ema-decay: 0.9" in card and "val/hmean" in card
    assert "train 5 pages" in card and "truth scores" in card
    metrics = rows(straight / "metrics.jsonl")
    assert [row["epoch"] for row in metrics] == [1, 2, 3] and metrics[-1]["step"] == 6  # 5 pages: 2 windows an epoch

    # the same run, stopped by a signal after the first epoch and resumed
    halved = tmp_path / "halved"
    status = stop_when("train_detection", [*flags, "--output-dir", halved], (halved / "last.pt").is_file)
    assert status == 143 and "**Status:** Stopped" in (halved / "card.md").read_text(encoding="utf-8")
    done = run_script("train_detection", "--output-dir", halved, "--resume", "auto", "--num-workers", "1")
    assert "flags changed" not in done.stdout  # those that are not given are the run's own
    assert without_time(rows(halved / "metrics.jsonl")) == without_time(metrics)
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (straight, halved))
    for part in ("model", "ema"):
        a, b = (c[part] if part == "model" else c[part]["model"] for c in (one, two))
        assert all(torch.equal(a[name], b[name]) for name in a)

    before = (straight / "args.json").read_bytes()
    with pytest.raises(DataError, match="trained with another channels"):
        train_detection.main(["--output-dir", str(straight), "--resume", "auto", "--pyramid-channels", "32", "--device", "cpu"])
    assert (straight / "args.json").read_bytes() == before

    done = run_script("train_detection", "--test-only", "--weights", straight / "best.pt", "--data-dir", data,
                      "--num-workers", "0", "--output-dir", tmp_path / "test")
    scores = last_json(done)
    assert {"hmean", "precision", "recall", "n_images", "n_truth"} <= set(scores)
    assert scores["n_images"] == 3 and scores["n_truth"] == 9
    assert (tmp_path / "test" / "test_metrics.json").is_file()
    assert not {"last.pt", "args.json"} & {p.name for p in (tmp_path / "test").iterdir()}


def test_curved_text_several_sizes_and_a_sweep(data, tmp_path):
    """The flags of outlines, crops of several sizes, pages by their shorter side, and what a test makes of them."""
    run_script("train_detection", *SMALL[:-9], "--batch-size", "2", "--num-workers", "0", "--data-dir", data, "--epochs",
               "1", "--output", "polygon", "--multi-scale", "--test-short-side", "96", "--augment", "paper", "--decoder",
               "asf", "--deformable", "--use-amp", "--output-dir", tmp_path / "run")
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["thresholds"]["output"] == "polygon" and best["thresholds"]["short_side"] == 96
    assert "long_side" not in best["thresholds"] and best["config"]["deformable"]
    grid = json.loads((tmp_path / "run" / "sweep.json").read_text())
    row = rows(tmp_path / "run" / "metrics.jsonl")[0]
    assert max(cell["hmean"] for cell in grid) - 0.001 <= row["val/hmean"] >= row["val/default_hmean"] - 0.001
    assert {"val/cleval_hmean", "val/default_recall", "val/unclip_ratio"} <= set(row)

    flags = ["--test-only", "--weights", tmp_path / "run" / "best.pt", "--data-dir", data, "--num-workers", "0"]
    scores = last_json(run_script("train_detection", *flags, "--split", "val", "--tta", "--sweep", "--output-dir",
                                  tmp_path / "val"))
    assert scores["hmean"] >= scores["default_hmean"] - 0.001 and scores["n_images"] == 2 and scores["n_ignored"] == 0
    assert len(json.loads((tmp_path / "val" / "sweep.json").read_text())) == len(grid)
    scores = last_json(run_script("train_detection", *flags, "--output", "quad", "--test-long-side", "128",
                                  "--output-dir", tmp_path / "test"))
    assert scores["unclip_ratio"] == 1.5 and scores["box_thresh"] == best["thresholds"]["box_thresh"]


def test_a_used_folder_is_refused_and_a_finished_run_can_be_lengthened(data, tmp_path):
    flags = [*SMALL, "--data-dir", data, "--output-dir", tmp_path / "run", "--limit-batches", "1", "--no-preflight"]
    run_script("train_detection", *flags, "--epochs", "1")
    refused = run_script("train_detection", *flags, "--epochs", "1", status=2)
    assert "already holds a run" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    done = run_script("train_detection", *flags, "--epochs", "2", "--resume", "auto")
    assert "--epochs 1 -> 2" in done.stdout and len(rows(tmp_path / "run" / "metrics.jsonl")) == 2
    run_script("train_detection", *flags, "--epochs", "1", "--overwrite")
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 1


def test_a_killed_run_goes_on_from_its_last_whole_file(data, tmp_path):
    flags = [*SMALL, "--data-dir", data, "--output-dir", tmp_path / "run", "--epochs", "3", "--save-every-steps", "1",
             "--deterministic"]
    assert stop_when("train_detection", flags, (tmp_path / "run" / "last.pt").is_file, signal.SIGKILL) == -9
    run_script("train_detection", *flags, "--resume", "auto")
    assert [row["epoch"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("flags, reason", [
    (["--data-dir", "nowhere"], "python -m datasets.synthetic"),
    (["--no-such-flag"], "unrecognized arguments: --no-such-flag; train_detection.py --help lists the flags"),
    (["--test-only"], "--test-only needs --weights"),
    (["--test-only", "--weights", "none.pt"], "none.pt: no such checkpoint"),
    (["--img-height", "100"], "multiples of 32"),
    (["--resume", "auto"], "needs --output-dir"),
    (["--epochs", "0"], "0 is not 1 or more"),
])
def test_bad_usage_is_one_line_and_status_two(tmp_path, flags, reason):
    done = run_script("train_detection", *flags, cwd=tmp_path, status=2)
    assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags, reason", [
    (["--deformable", "--encoder", "efficientnet-b3"], "--deformable is for resnet encoders"),
    (["--tta"], "do something with --test-only only"),
    (["--test-only", "--weights", "w.pt", "--sweep"], "test is not for"),
    (["--test-long-side", "640", "--test-short-side", "640"], "not allowed with"),
    (["--overfit", "2", "--multi-scale"], "without --multi-scale"),
    *((["--rotate", value], f"--rotate: {value} is not a number of degrees") for value in ("nan", "inf")),
    (["--test-only", "--weights", "w.pt", "--encoder", "resnet50", "--decoder=asf", "--deformable"],
     "--encoder, --decoder, --deformable do nothing with --test-only, which takes the model"),
    (["--test-only", "--weights", "w.pt", "--multi-scale", "--img-height", "320"], "--img-height, --multi-scale do nothing"),
    (["--test-only", "--weights", "w.pt", "--encoder", "resnet18"], "--encoder does nothing"),  # though it is the default
    (["--test-only", "--weights", "w.pt", "--no-deformable"], "--deformable does nothing"),
])
def test_flags_that_do_not_go_together(flags, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        train_detection.parse_args(flags)
    assert stop.value.code == 2 and reason in capsys.readouterr().err


def test_a_rotation_goes_either_way():
    assert train_detection.parse_args(["--rotate", "-10"]).rotate == train_detection.parse_args([]).rotate == 10


def test_the_experiment_of_october_and_its_three_hypotheses_are_a_flag_each():
    """The user's baseline, then: a lower box threshold, a cosine schedule, more augmentation."""
    baseline = ("--encoder resnet34 --decoder pan --optimizer adam --lr 1e-3 --weight-decay 1e-4 --batch-size 4 --epochs 29 "
                "--gradient-clip-max-norm 5.0 --seed 42 --scheduler step --step-epochs 100 --augment paper").split()
    plain = vars(train_detection.parse_args(baseline))
    for flag, value in (("--box-thresh", "0.3"), ("--scheduler", "cosine"), ("--augment", "full")):
        changed = vars(train_detection.parse_args([*baseline, flag, value]))
        assert {name for name in plain if changed[name] != plain[name]} == {flag[2:].replace("-", "_")}


def test_labels_in_another_frame_stop_the_run_before_it_starts(data, tmp_path):
    import shutil
    shutil.copytree(data, tmp_path / "data")
    for label in (tmp_path / "data" / "train" / "labels").iterdir():
        label.write_text("900,900,990,900,990,950,900,950,x\n")
    done = run_script("train_detection", *SMALL, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run", status=2)
    assert "outside their image" in done.stderr and not (tmp_path / "run").exists()
