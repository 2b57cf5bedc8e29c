"""Two processes over gloo give what one process gives with the same effective batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "scripts"))

from runner import ENVIRONMENT, last_json, rows, without_time  # noqa: E402
from test_train_detection import SMALL, make_pages  # noqa: E402


def torchrun(*command, timeout=300):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           *map(str, command)], cwd=ROOT, env=ENVIRONMENT | {"TOKENIZERS_PARALLELISM": "0"}, text=True,
                          capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.mark.parametrize("batch_size, accumulation", [(2, 1), (1, 2)])
def test_two_ranks_equal_one_process(tmp_path, batch_size, accumulation):
    """11 samples in windows of 4: the last window is ragged, and its tokens weigh differently on each rank."""
    worker = ROOT / "tests" / "distributed" / "worker.py"
    torchrun(worker, "--out", tmp_path / "two.pt", "--batch-size", batch_size, "--accumulation-steps", accumulation)
    subprocess.run([sys.executable, str(worker), "--out", str(tmp_path / "one.pt"), "--batch-size", "4",
                    "--accumulation-steps", "1"], check=True, timeout=120, env=os.environ)
    two, one = (torch.load(tmp_path / name, weights_only=True) for name in ("two.pt", "one.pt"))
    assert two["step"] == one["step"] == two["reductions"] == 9  # gradients travel once a step, however it accumulates
    assert two["seen"] == one["seen"] == list(range(11))
    for part in ("model", "ema"):
        assert all(torch.allclose(two[part][name], one[part][name], atol=1e-12) for name in one[part])
    for ours, theirs in zip(two["means"], one["means"]):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-12)


def test_a_script_under_torchrun(tmp_path):
    for seed, (split, count) in enumerate((("train", 4), ("val", 3))):
        make_pages(tmp_path / "data" / split, count, seed)
    done = torchrun("train_detection.py", *SMALL, "--data-dir", tmp_path / "data", "--epochs", "1", "--device", "cpu",
                    "--output-dir", tmp_path / "run", "--batch-size", "1")
    assert done.stdout.count("epoch 1/1:") + done.stderr.count("epoch 1/1:") == 1
    assert (tmp_path / "run" / "best.pt").is_file()
    scores = last_json(torchrun("train_detection.py", "--test-only", "--weights", tmp_path / "run" / "best.pt",
                                "--data-dir", tmp_path / "data", "--split", "val", "--num-workers", "0"))
    assert scores["n_images"] == 3 and scores["n_truth"] == 9


def fragile(folder, *flags, restarts=0):
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           "--max-restarts", str(restarts), str(ROOT / "tests" / "distributed" / "fragile.py"), "--out",
                           str(folder), *flags], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=280)


def outcome(folder):
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    return checkpoint["model"], checkpoint["ema"]["model"], without_time(rows(folder / "metrics.jsonl"))


def test_a_lost_rank_is_restarted_and_changes_nothing(tmp_path):
    assert fragile(tmp_path / "whole").returncode == 0
    # One restart is what it takes; gloo has been seen to abort a rank that had finished, and that must not matter.
    done = fragile(tmp_path / "broken", "--die", restarts=3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed in" in done.stdout + done.stderr
    for ours, theirs in zip(outcome(tmp_path / "broken")[:2], outcome(tmp_path / "whole")[:2]):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert outcome(tmp_path / "broken")[2] == outcome(tmp_path / "whole")[2]


def test_memory_that_runs_out_on_one_rank_restarts_all_in_smaller_pieces(tmp_path):
    """Without dropout, which is drawn anew for other pieces, the weights are those of the undisturbed run."""
    subprocess.run([sys.executable, str(ROOT / "tests" / "distributed" / "fragile.py"), "--out", str(tmp_path / "whole"),
                    "--dropout", "0", "--batch-size", "4"], check=True, timeout=120, env=ENVIRONMENT, capture_output=True)
    done = fragile(tmp_path / "small", "--dropout", "0", "--out-of-memory", restarts=3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "out of memory on rank 1" in done.stderr and "--max-restarts" in done.stderr
    assert json.loads((tmp_path / "small" / "micro_split.json").read_text()) == 2
    small = torch.load(tmp_path / "small" / "last.pt", weights_only=True)
    assert small["progress"]["micro_split"] == 2
    for name, theirs in torch.load(tmp_path / "whole" / "last.pt", weights_only=True)["model"].items():
        assert torch.allclose(small["model"][name], theirs, atol=1e-12)
    assert "in 2 pieces" in (tmp_path / "small" / "card.md").read_text(encoding="utf-8")


def test_a_signal_to_one_rank_stops_all(tmp_path):
    """Agreed by all ranks: otherwise the others wait for ever in their next reduction."""
    assert fragile(tmp_path / "run", "--stop-early").returncode != 0
    progress = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]
    assert progress["step"] == 8
    assert "**Status:** Stopped" in (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
