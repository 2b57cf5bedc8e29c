"""train_detection.py as a person runs it: train, stop, resume, test, and what it says to bad input."""

import signal

import cv2
import numpy as np
import pytest
import torch
from runner import last_json, rows, run_script, stop_when, without_time

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
    run_script("train_detection", *flags, "--output-dir", halved, "--resume", "auto", "--num-workers", "1")
    assert without_time(rows(halved / "metrics.jsonl")) == without_time(metrics)
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (straight, halved))
    for part in ("model", "ema"):
        a, b = (c[part] if part == "model" else c[part]["model"] for c in (one, two))
        assert all(torch.equal(a[name], b[name]) for name in a)

    done = run_script("train_detection", "--test-only", "--weights", straight / "best.pt", "--data-dir", data,
                      "--num-workers", "0", "--output-dir", tmp_path / "test")
    scores = last_json(done)
    assert {"hmean", "precision", "recall", "n_images", "n_truth"} <= set(scores)
    assert scores["n_images"] == 3 and scores["n_truth"] == 9
    assert (tmp_path / "test" / "test_metrics.json").is_file()
    assert not {"last.pt", "args.json"} & {p.name for p in (tmp_path / "test").iterdir()}


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


def test_labels_in_another_frame_stop_the_run_before_it_starts(data, tmp_path):
    import shutil
    shutil.copytree(data, tmp_path / "data")
    for label in (tmp_path / "data" / "train" / "labels").iterdir():
        label.write_text("900,900,990,900,990,950,900,950,x\n")
    done = run_script("train_detection", *SMALL, "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run", status=2)
    assert "outside their image" in done.stderr and not (tmp_path / "run").exists()
