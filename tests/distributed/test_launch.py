"""--device 0,1: the command starts its processes itself, as torchrun would."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from runner import ENVIRONMENT, ROOT, last_json, rows, run_module, run_script
from test_ddp import torchrun
from test_inference import make_weights, page
from test_train_yolo import SMALL, make_marks

from utils.distributed import device_names, init_distributed
from utils.errors import DataError, ManyDevices

OTHER = "error: another process of this run has ended; its own message says why, and --resume auto goes on"
BROKEN = "error: b.png: is broken"
CHILD = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from utils.errors import DataError, exit_cleanly
from utils.distributed import init_distributed, leave_distributed, sum_over_ranks
import torch

def work():
    while True:
        torch.zeros(100_000).add_(1)

def main():
    device, rank, world = init_distributed("cpu,cpu")
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what.startswith("busy"):
        threading.Thread(target=work, daemon=True).start()  # as gloo's, which outlive the work
    if rank == 1 and what in ("bad", "busy and bad"):
        raise DataError("b.png: is broken")
    if rank == 1 and what == "busy and wrong":
        raise ZeroDivisionError("nobody foresaw this")
    if rank == 1 and what == "lost":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and what == "stopped":
        os.kill(os.getppid(), signal.SIGTERM)
    if what == "stopped":
        signal.pause()
    print(rank, world, float(sum_over_ranks(torch.tensor(rank + 1.0))), os.environ["OMP_NUM_THREADS"], flush=True)
    leave_distributed()
    return 4 if what == "four" else 0

exit_cleanly(main, in_parallel={allowed})
"""


def start(folder, *words, allowed=True, **environment):
    (folder / "child.py").write_text(CHILD.format(root=str(ROOT), allowed=allowed))
    return subprocess.run([sys.executable, folder / "child.py", *words], text=True, capture_output=True, timeout=120,
                          env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"} | environment)


def test_each_device_has_a_process_and_they_find_each_other(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 0 and sorted(done.stdout.split("\n")) == ["", "0 2 3.0 1", "1 2 3.0 1"], done.stderr


@pytest.mark.parametrize("what, statuses, said", [
    ("four", [4], set()), ("bad", [2], {BROKEN, OTHER}),
    ("busy", [0], set()), ("busy and bad", [2], {BROKEN, OTHER}),
    ("lost", [2, 128 + signal.SIGKILL], {OTHER}),  # the lost one's own, or that of the one which waited for it
    ("stopped", [128 + signal.SIGTERM], set()),
])
def test_the_exit_status_is_a_processes_own_and_nothing_is_said_but_what_they_say(tmp_path, what, statuses, said):
    done = start(tmp_path, what)
    assert done.returncode in statuses
    assert set(done.stderr.splitlines()) <= said
    assert (BROKEN in said) == (BROKEN in done.stderr)


def test_an_error_that_nobody_foresaw_has_its_traceback_and_status_1(tmp_path):
    done = start(tmp_path, "busy and wrong")
    assert done.returncode in (1, 2)  # its own, or that of the process which waited for it
    assert "ZeroDivisionError: nobody foresaw this" in done.stderr and "line " in done.stderr


def test_nothing_is_left_among_temporary_files(tmp_path):
    (tmp_path / "temporary").mkdir()
    done = start(tmp_path, TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 0 and not list((tmp_path / "temporary").glob("*elastic*"))


def test_a_script_that_works_alone_refuses_several(tmp_path):
    done = start(tmp_path, allowed=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "--device cpu,cpu: several devices are for train_*.py and inference.py" in done.stderr


def test_training_by_itself_is_training_under_torchrun(tmp_path):
    data = make_marks(tmp_path / "data", {"train": 4, "val": 3})
    flags = ["--data-dir", data, *SMALL, "--batch-size", "1", "--epochs", "1", "--device", "cpu,cpu"]
    done = run_script("train_yolo", *flags, "--output-dir", tmp_path / "own")
    torchrun("train_yolo.py", *flags, "--output-dir", tmp_path / "torchrun")
    assert done.stdout.count("run folder:") == 1
    own, theirs = (torch.load(tmp_path / run / "last.pt", weights_only=True)["model"] for run in ("own", "torchrun"))
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    card = (tmp_path / "own" / "card.md").read_text(encoding="utf-8")
    assert "--device cpu,cpu" in card and "at batch 2" in card
    test = ["--test-only", "--weights", tmp_path / "own" / "best.pt", "--data-dir", data, "--split", "val"]
    by_two = last_json(run_script("train_yolo", *test, "--device", "cpu,cpu", "--output-dir", tmp_path / "two"))
    assert by_two == last_json(run_script("train_yolo", *test, "--device", "cpu", "--output-dir", tmp_path / "one"))
    assert rows(tmp_path / "two" / "test_per_image.jsonl") == rows(tmp_path / "one" / "test_per_image.jsonl")


def test_documents_are_shared_out(tmp_path):
    weights, source = make_weights(tmp_path / "weights"), tmp_path / "scans"
    source.mkdir()
    for name in "abc":
        page().save(source / f"{name}.png")
    for devices, out in (("cpu,cpu", "two"), ("cpu", "one")):
        done = run_script("inference", "--source", source, "--output", tmp_path / out, "--weights-dir", weights, "--tasks",
                          "text", "--device", devices, "--workers", "1", "--no-overlays")
        assert ("on cpu, 2 processes" in done.stdout) == (out == "two")
    for name in ("a.json", "b.json", "c.json", "results.json"):
        assert json.loads((tmp_path / "two" / name).read_text()) == json.loads((tmp_path / "one" / name).read_text())


def test_names_of_devices():
    assert device_names("0,1") == device_names("cuda:0,1") == ["cuda:0", "cuda:1"]
    assert device_names("2") == ["cuda:2"] and device_names("cpu") == ["cpu"]
    assert device_names("auto") == ["cuda" if torch.cuda.is_available() else "cpu"]


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_gpus_by_number(four_gpus):
    assert init_distributed("3") == (torch.device("cuda:3"), 0, 1)
    assert init_distributed("auto")[0] == torch.device("cuda")
    with pytest.raises(ManyDevices) as wanted:
        init_distributed("0,2,3")
    assert wanted.value.count == 3


@pytest.mark.parametrize("device, message", [
    ("4", "there are 4 GPUs, counted from 0"), ("0,4", "there are 4 GPUs"), ("1,1", "cannot be taken twice"),
    ("0,cpu", "cannot work together"), ("0,", "is none of auto, cpu, cuda"), ("", "is none of auto"),
    ("cuda:x", "there are 4 GPUs"), ("0,auto", "is none of auto"), ("-1", "is none of auto"),
])
def test_devices_that_are_refused(four_gpus, device, message):
    with pytest.raises(DataError, match=message):
        init_distributed(device)


@pytest.mark.parametrize("device, place, own", [("1,3", 0, "cuda:1"), ("1,3", 1, "cuda:3"), ("auto", 1, "cuda:1"),
                                                ("cuda", 1, "cuda:1")])
def test_each_process_takes_its_own_gpu(four_gpus, monkeypatch, device, place, own):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": str(place), "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr("utils.distributed.dist.is_initialized", lambda: True)
    monkeypatch.setattr("utils.distributed.dist.get_rank", lambda: place)
    monkeypatch.setattr("utils.distributed.dist.get_world_size", lambda: 2)
    assert init_distributed(device) == (torch.device(own), place, 2) and taken == [own]
    with pytest.raises(DataError, match="3 devices for the 2 processes of this machine"):
        init_distributed("0,1,2")


def test_a_tool_of_one_process_says_so(tmp_path):
    done = run_module("benchmarks.monitors", "--device", "cpu,cpu", status=2)
    assert "here name one" in done.stderr
