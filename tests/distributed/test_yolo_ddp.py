"""train_yolo.py under torchrun: two ranks train one model in one run folder, and share the evaluation."""

import json
from pathlib import Path

import cv2
import pytest
from runner import last_json, rows, run_script
from test_ddp import ROOT, torchrun
from test_train_yolo import SMALL, make_marks  # on the path by test_ddp

from models.yolo_boxes import in_turns
from models.yolo_loop import mean_over_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Of three shapes, which ultralytics pads to one within each batch of validation."""
    folder = make_marks(tmp_path_factory.mktemp("marks"), {"train": 6, "val": 5, "test": 3})
    for number, width in ((1, 200), (3, 200), (4, 30)):
        file = str(folder / f"val/images/{number}.png")
        cv2.imwrite(file, cv2.resize(cv2.imread(file), (width, 90)))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = torchrun(ROOT / "tests/distributed/yolo_rank.py", folder, "--data-dir", data, *SMALL, "--batch-size", "1",
                    "--epochs", "2", "--close-mosaic", "1", "--device", "cpu", "--output-dir", folder / "run")
    return folder, done


def test_two_ranks_end_with_the_same_weights_and_share_the_samples(trained):
    folder, done = trained
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["weights"] == ranks[1]["weights"] and ranks[0]["evaluated"] == ranks[1]["evaluated"]
    for epoch in (0, 1):
        first, second = ([name for when, names in rank["seen"] if when == epoch for name in names] for rank in ranks)
        assert len(first) == len(second) == 3 and sorted(first + second) == [f"{number}.png" for number in range(6)]


def test_there_is_one_run_folder_with_all_that_one_process_leaves(trained):
    folder, done = trained
    run = folder / "run"
    assert [row["epoch"] for row in rows(run / "metrics.jsonl")] == [1, 2]
    assert [Path(row["file"]).name for row in rows(run / "per_image.jsonl")] == [f"{number}.png" for number in range(5)]
    assert len((run / "ultralytics" / "results.csv").read_text().splitlines()) == 3
    assert (done.stdout + done.stderr).count("epoch 2/2:") == 1 and done.stdout.count("run folder:") == 1
    card = (run / "card.md").read_text(encoding="utf-8")
    assert "**Status:** Completed" in card and "nbs 4 at batch 2: 2 batches" in card
    assert {path.name for path in (run / "ultralytics" / "weights").iterdir()} == {"best.pt"}
    assert (run / "ultralytics" / "confusion_matrix.png").is_file()


def test_it_is_resumed_with_more_epochs_and_tested_by_two_as_by_one(trained, data):
    folder, _ = trained
    torchrun("train_yolo.py", "--data-dir", data, *SMALL, "--batch-size", "1", "--epochs", "3", "--close-mosaic", "1",
             "--device", "cpu", "--output-dir", folder / "run", "--resume", "auto")
    assert [row["epoch"] for row in rows(folder / "run" / "metrics.jsonl")] == [1, 2, 3]
    test = ["--test-only", "--weights", folder / "run" / "best.pt", "--data-dir", data, "--device", "cpu"]
    by_two = last_json(torchrun("train_yolo.py", *test, "--output-dir", folder / "two"))
    by_one = last_json(run_script("train_yolo", *test, "--output-dir", folder / "one"))
    assert by_two == by_one
    assert rows(folder / "two" / "test_per_image.jsonl") == rows(folder / "one" / "test_per_image.jsonl")


def test_more_ranks_than_validation_images_are_refused(tmp_path):
    data = make_marks(tmp_path / "data", {"train": 2, "val": 1})
    with pytest.raises(AssertionError, match="2 processes need as many images to be scored on"):
        torchrun("train_yolo.py", "--data-dir", data, *SMALL, "--epochs", "1", "--device", "cpu", "--output-dir",
                 tmp_path / "run")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_come_back_in_the_first_order(count, world):
    items = list(range(count))
    assert in_turns([items[rank::world] for rank in range(world)], count) == items


def test_means_over_ranks_weigh_what_each_has_summed(monkeypatch):
    assert mean_over_ranks({"box": 6.0, "cls": 3.0}, 4) == {"box": 1.5, "cls": 0.75}
    others = [({"box": 2.0, "cls": 1.0}, 6), ({}, 0)]  # a rank that had nothing to add up
    monkeypatch.setattr("models.yolo_loop.gather_lists", lambda mine: [*others, *mine])
    assert mean_over_ranks({"box": 6.0, "cls": 3.0}, 2) == {"box": 1.0, "cls": 0.5}
