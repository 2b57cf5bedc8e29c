"""YOLO as ONNX: the boxes of the network at every size, in 8 bits nearly so, and what the file knows of itself."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from runner import ENVIRONMENT, ROOT, last_json, run_module
from test_train_yolo import make_marks

import train_yolo
from models import export, yolo
from models.onnx_yolo import OnnxYolo, after_convolutions, load_onnx
from models.openvino_session import OpenvinoSession
from models.yolo_boxes import detect
from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.images import save_image

NAMES = {0: "qr", 1: "signature", 2: "stamp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, pages to calibrate on, and both files exported from it."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    model = yolo.start_model("yolo11n", NAMES)[0].train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # one pass sets the statistics: with those of a new network all signals die away
        model(torch.rand(4, 3, 128, 128))
        for branch in model.model[-1].cv3:
            branch[-1].weight.mul_(0.3)
            branch[-1].bias.fill_(-1.0)
    config = {"yaml": model.yaml, "names": NAMES, "img_size": 128}
    save_checkpoint(folder / "best.pt", {"task": "yolo", "config": config, "args": {}, "model": model.state_dict(),
                                         "ema": None})
    rng = np.random.default_rng(0)
    for number in range(3):
        save_image(folder / f"pages/{number}.png", rng.integers(0, 256, (128, 100 + 14 * number, 3)).astype(np.uint8))
    export.main(["--weights", str(folder / "best.pt"), "--out", str(folder / "marks.onnx"), "--int8",
                 "--calibration-images", str(folder / "pages")])
    return folder


def test_a_written_file_is_read_without_ultralytics(folder):
    code = ("import sys, torch; from pathlib import Path; import models.onnx_yolo; from models.engines import open_model; "
            f"open_model('yolo', Path({str(folder / 'marks.onnx')!r}), torch.device('cpu')); "
            "assert 'ultralytics' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]


def page(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (200, 90), (60, 300)])
def test_boxes_are_those_of_the_network(folder, height, width):
    model, metadata = load_onnx(folder / "marks.onnx", threads=1)
    assert model.names == NAMES and metadata["config"]["img_size"] == 128 and not model.end2end
    torch_model, _ = yolo.load_model(folder / "best.pt", "cpu")
    ours, theirs = (detect(net, page(height, width), 0.05, 0.45, 128) for net in (model, torch_model))
    assert len(theirs) > 3 and len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one["class_id"] == other["class_id"]
        np.testing.assert_allclose(one["box"], other["box"], atol=0.25)
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-3)


def test_only_scores_an_exported_model_as_the_checkpoint(folder, tmp_path, capsys):
    data, scores = make_marks(tmp_path / "data", {"train": 1, "val": 2}), {}
    (data / "data.yaml").write_text((data / "data.yaml").read_text().replace("[qr, signature, stamp]", str(NAMES)))
    for name in ("best.pt", "marks.onnx"):
        train_yolo.main(["--test-only", "--weights", str(folder / name), "--data-dir", str(data), "--split", "val",
                         "--device", "cpu", "--output-dir", str(tmp_path / name)])
        scores[name] = json.loads(capsys.readouterr().out.splitlines()[-1])
        rows = (tmp_path / name / "test_per_image.jsonl").read_text().splitlines()
        assert len(rows) == 2
    assert scores["marks.onnx"]["map50"] == pytest.approx(scores["best.pt"]["map50"], abs=1e-3)
    assert scores["marks.onnx"]["n_truth"] == 6


def test_eight_bits_come_close_and_are_small(folder):
    images = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(2))
    exact, small = (OnnxYolo(folder / name, 1)(images).numpy() for name in ("marks.onnx", "marks.int8.onnx"))
    assert exact.shape == small.shape and not np.array_equal(exact, small)
    assert np.corrcoef(exact[0, 4:].ravel(), small[0, 4:].ravel())[0, 1] > 0.7  # of noise, which is hard
    assert (folder / "marks.int8.onnx").stat().st_size < 0.4 * (folder / "marks.onnx").stat().st_size


def test_boxes_are_decoded_in_floats(folder):
    names = set(after_convolutions(onnx.load(folder / "marks.onnx")))
    kinds = {node.op_type for node in onnx.load(folder / "marks.onnx").graph.node if node.name in names}
    assert "Conv" not in kinds - {"Conv"} and {"Softmax", "Sigmoid", "Concat"} <= kinds


def test_int8_needs_pages_and_other_tasks_do_not_know_them(folder, tmp_path):
    with pytest.raises(DataError, match="needs --calibration-images"):
        export.main(["--weights", str(folder / "best.pt"), "--out", str(tmp_path / "a.onnx"), "--int8"])
    assert not list(tmp_path.iterdir())


def test_openvino_is_not_asked_for_bfloat16_beside_eight_bits(folder, monkeypatch):
    asked = {}

    class Core:
        def compile_model(self, path, device, options):
            asked[path.rsplit("/", 1)[-1]] = options
            return lambda inputs: {"predictions": inputs["images"]}

    monkeypatch.setitem(__import__("sys").modules, "openvino", SimpleNamespace(Core=Core))
    for name in ("marks.onnx", "marks.int8.onnx"):
        model = OnnxYolo(folder / name, 2, partial(OpenvinoSession, use_amp=True))
        assert torch.equal(model(torch.ones(1, 3, 64, 64)), torch.ones(1, 3, 64, 64))
    assert asked == {"marks.onnx": {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2},
                     "marks.int8.onnx": {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2,
                                         "INFERENCE_PRECISION_HINT": "f32"}}


def test_without_openvino_the_way_out_is_said(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(DataError, match="pip install openvino"):
        OpenvinoSession(folder / "marks.onnx")


def test_the_benchmark_times_and_scores_every_engine(folder):
    (folder / "data/val/labels").mkdir(parents=True)
    for number in range(2):
        save_image(folder / f"data/val/images/{number}.png", page(128, 100 + number))
        (folder / f"data/val/labels/{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (folder / "data/data.yaml").write_text("val: val/images\nnames: [qr, signature, stamp]\n")
    report = last_json(run_module("benchmarks.yolo", "--weights", folder / "best.pt", "--onnx", folder / "marks.onnx",
                                  "--sizes", "64", "--rounds", "2", "--threads", "1", "--data-dir", folder / "data"))
    found = report["sizes"]["64"]
    assert {"torch", "torch bfloat16", "onnxruntime marks.onnx"} <= set(found) == set(report["scores"])
    assert all(values["fps"] == pytest.approx(1000 / values["ms"], rel=0.02) for values in found.values())
    scores = report["scores"]
    assert scores["onnxruntime marks.onnx"]["map50"] == pytest.approx(scores["torch"]["map50"], abs=1e-3)
