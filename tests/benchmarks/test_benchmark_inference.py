"""The benchmark of inference.py: its scores by hand, its measurements against what was really taken, one whole report."""

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import inference
from models.dbnet import DBNet, DBNetConfig
from utils.checkpoint import save_checkpoint
from utils.errors import DataError


def square(x, y, side=10):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


@pytest.fixture
def data(tmp_path):
    """Two pages of one word each, the first with a place that counts for nothing, and a detector for whole pages."""
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in ("a_b", "c"):
        Image.new("RGB", (60, 40), "white").save(tmp_path / "data" / "images" / f"{name}.png")
    (tmp_path / "data" / "labels" / "a_b.txt").write_text("0,0,10,0,10,10,0,10,To tal\n30,0,40,0,40,10,30,10,###\n")
    (tmp_path / "data" / "labels" / "c.txt").write_text("0,0,60,0,60,40,0,40,12,50\n")
    config = DBNetConfig("resnet18", "fpn", 16)
    model = DBNet(config)
    torch.nn.init.zeros_(model.prob_head[-1].weight)
    torch.nn.init.constant_(model.prob_head[-1].bias, 4.0)  # the whole page is one box
    (tmp_path / "weights").mkdir()
    save_checkpoint(tmp_path / "weights" / "detection.pt", {
        "task": "detection", "config": asdict(config), "model": model.state_dict(), "ema": None,
        "thresholds": {"thresh": 0.3, "box_thresh": 0.5, "unclip_ratio": 1.5, "long_side": 64}})
    return tmp_path


def test_scores(data):
    labels = data / "data" / "labels"
    found = {"00000_a_b.png": [(square(0, 0), "TOTAL"), (square(30, 0), "passed over"), (square(30, 30), "wrong")],
             "00001_c.png": [(square(0, 0), "too small a part")]}
    assert inference.scores(found, labels) == pytest.approx(
        {"hmean": 2 * 1 / (3 + 2), "precision": 1 / 3, "recall": 1 / 2, "exact": 1 / 2})
    assert inference.scores({"00000_a_b.png": [(square(0, 0), "T0tal")]}, labels)["exact"] == 0


def test_time_and_memory_are_those_of_the_process_and_its_children(tmp_path):
    child = "import time; block = bytearray(150_000_000); time.sleep(1)"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    seconds, memory = inference.watched(command, tmp_path / "log")
    assert seconds > 1 and 150 < memory < 400
    with pytest.raises(DataError, match="ended with status 3: gone"):
        inference.watched([sys.executable, "-c", "print('gone'); raise SystemExit(3)"], tmp_path / "log")


def test_pages_repeat_where_there_are_fewer(data):
    folder = inference.gather(inference.list_images(data / "data" / "images"), 3, data / "pages")
    assert sorted(path.name for path in folder.iterdir()) == ["00000_a_b.png", "00001_c.png", "00002_a_b.png"]


def test_one_whole_report(data, capsys):
    other = data / "other_python"  # stands for the other environment's: reads the word of the second page
    other.write_text(f"""#!{sys.executable}
import json, sys
pages = {{path: [[[[0, 0], [60, 0], [60, 40], [0, 40]], "12,50"]] for path in sys.argv[3:]}}
print(json.dumps({{"pages": pages, "seconds": 0.5}}))
""")
    other.chmod(0o755)
    inference.main(["--data-dir", str(data / "data"), "--weights-dir", str(data / "weights"), "--pages", "2",
                    "--processes", "1", "--rapidocr-python", str(other)])
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    (ours,) = report["ours"]
    assert (ours["pages"], ours["processes"], ours["recall"]) == (2, 1, 0.5)  # a whole page is the second one's truth
    assert ours["pages_per_s"] == pytest.approx(2 / ours["seconds"]) and ours["peak_memory_mb"] > 100
    rapid = report["rapidocr"]
    assert rapid["exact"] == 0.5 and rapid["pages_per_s_without_start"] == pytest.approx(4)
    assert report["times_rapidocr"] == pytest.approx(ours["pages_per_s"] / rapid["pages_per_s"])
    assert {"decoding", "detection", "layout"} <= set(report["stages_ms_per_page"])
    assert np.isfinite(list(report["stages_ms_per_page"].values())).all()
