"""--find-batch-size in each plain-PyTorch script: refused on a CPU; where memory runs out, the run that follows is the one
that is started with the batch size found."""

import shlex

import pytest
import torch
from runner import equal, outcome
from tiny import FLAGS, SHARED, make_data

import train_detection
import train_recognition
import train_segmentation
from utils import batch_size
from utils.errors import DataError

SCRIPTS = {"detection": train_detection, "recognition": train_recognition, "segmentation": train_segmentation}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "data"
    make_data(folder)
    return folder


def start(task, data, folder, *more):
    flags = f"{FLAGS[task]} {SHARED} --epochs 1 --limit-batches 4 --data-dir {data / task} --output-dir {folder}"
    SCRIPTS[task].main([*shlex.split(flags), *more])


@pytest.mark.parametrize("task", SCRIPTS)
def test_a_cpu_is_refused_in_one_line(task, data, tmp_path):
    with pytest.raises(DataError, match="^--find-batch-size needs a GPU: .*by hand$"):
        start(task, data, tmp_path / "run", "--find-batch-size")
    assert not (tmp_path / "run").exists()


def test_the_run_is_that_of_the_batch_size_found(data, tmp_path, monkeypatch, capsys):
    task, step = "recognition", train_recognition.step

    def limited(model, batch, *weights, **named):
        if len(batch["file"]) > 2 and batch["file"][0] == "blank":
            raise torch.OutOfMemoryError("injected")
        return step(model, batch, *weights, **named)

    start(task, data, tmp_path / "given", "--batch-size", "2", "--accumulation-steps", "3")
    monkeypatch.setattr(batch_size, "reports_lack_of_memory", lambda device: True)
    monkeypatch.setattr(train_recognition, "step", limited)
    capsys.readouterr()
    asked = ("--find-batch-size", "--batch-size", "6", "--accumulation-steps", "1")
    start(task, data, tmp_path / "found", *asked)
    line = "2 fit into memory; micro-batch 2 x accumulation 3 = effective batch 6, as asked; learning rate 0.0007, as asked"
    assert f"batch size: {line}" in capsys.readouterr().out
    assert f"* **Batch size:** {line}" in (tmp_path / "found" / "card.md").read_text(encoding="utf-8")
    assert equal(outcome(tmp_path / "found"), outcome(tmp_path / "given"))
    start(task, data, tmp_path / "found", *asked, "--resume", "auto")  # it keeps what it found
    assert "taken from the run's start: micro-batch 2" in capsys.readouterr().out
