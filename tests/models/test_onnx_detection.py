"""DBNet as ONNX: the file alone reads a page as torch does, and what is no such file is refused."""

import json
from argparse import Namespace
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models import export, onnx_detection, onnx_files
from models.dbnet import DBNet, DBNetConfig, load_model, predict_boxes
from models.onnx_files import check_parity, open_session, read_metadata, set_metadata, write_onnx
from utils.checkpoint import save_checkpoint
from utils.errors import DataError

THRESHOLDS = {"thresh": 0.5, "box_thresh": 0.3, "unclip_ratio": 1.5, "output": "quad", "long_side": 128}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(checkpoint, its ONNX file, what the command said): with deformable convolutions and the heaviest decoder."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    config = DBNetConfig("resnet18", "asf", 8, deformable=True)
    model = DBNet(config)
    for name, weight in model.named_parameters():
        if "offset" in name:
            torch.nn.init.normal_(weight, std=0.02)  # taps that move
    torch.nn.init.zeros_(model.prob_head[-1].bias)  # text everywhere and nowhere
    save_checkpoint(folder / "w.pt", {"task": "detection", "config": asdict(config), "thresholds": THRESHOLDS,
                                      "model": model.state_dict(), "ema": None, "args": {}})
    said = onnx_detection.export(folder / "w.pt", folder / "f.onnx", Namespace())
    return folder / "w.pt", folder / "f.onnx", said


def test_the_file_reads_a_page_as_torch_does(files):
    weights, path, said = files
    assert said["largest_difference"] <= 1e-4 and len(said["sizes"]) >= 4
    assert [p.name for p in path.parent.iterdir() if "f.onnx" in p.name] == ["f.onnx"]  # the weights are inside
    session, metadata = onnx_detection.load_onnx(path, threads=1)
    assert metadata["thresholds"] == THRESHOLDS and metadata["config"]["decoder"] == "asf"
    page = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    ours, scores = onnx_detection.predict_boxes(session, page, metadata["thresholds"])
    theirs, expected = predict_boxes(load_model(weights, torch.device("cpu"))[0], page, torch.device("cpu"), THRESHOLDS)
    assert len(ours) == len(theirs) > 0
    assert np.abs(ours - theirs).max() < 1 and np.abs(scores - expected).max() < 1e-3


def test_the_command_dispatches_on_the_task(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_detection, "export", lambda weights, out, args: {"files": [str(out)]})
    export.main(["--weights", str(files[0]), "--out", str(tmp_path / "x.onnx")])
    assert json.loads(capsys.readouterr().out)["task"] == "detection"
    with pytest.raises(SystemExit) as stop:
        export.main(["--weights", str(files[0]), "--out", str(tmp_path / "x.bin")])
    assert stop.value.code == 2


def test_a_graph_that_differs_is_not_written(files, tmp_path, monkeypatch):
    class Off(onnx_detection.ProbabilityMap):
        def forward(self, image):
            return super().forward(image) + (0 if torch.compiler.is_exporting() else 2e-4)

    monkeypatch.setattr(onnx_detection, "ProbabilityMap", Off)
    monkeypatch.setattr(onnx_files, "make_graph", lambda *_: onnx.load(files[1]))
    with pytest.raises(DataError, match="differs from torch by 0.0002"):
        onnx_detection.export(files[0], tmp_path / "f.onnx", Namespace())
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_ours_is_refused(files, tmp_path):
    with pytest.raises(DataError, match="no such ONNX file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(files[1].read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot read it"):
        open_session(tmp_path / "broken.onnx")
    session = open_session(files[1], threads=1)
    with pytest.raises(DataError, match="for detection, not for recognition"):
        read_metadata(session, "recognition", files[1])
    model = onnx.load(files[1])
    del model.metadata_props[:]
    with pytest.raises(DataError, match="not written by"):
        read_metadata(open_session(model), "detection", files[1])


def test_metadata_keeps_what_json_holds(tmp_path):
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]), ir_version=10,
                                   opset_imports=[onnx.helper.make_opsetid("", 20)])
    set_metadata(model, "recognition", {"charset": "가나 a\n\"", "thresholds": {"t": 0.5}})
    write_onnx(tmp_path / "m.onnx", model)
    session = open_session(tmp_path / "m.onnx")
    assert isinstance(session, onnxruntime.InferenceSession)
    found = read_metadata(session, "recognition", tmp_path / "m.onnx")
    assert found["charset"] == "가나 a\n\"" and found["thresholds"] == {"t": 0.5}
    assert check_parity(session, lambda x: x, [(torch.ones(3),), (torch.ones(5),)]) == 0
    with pytest.raises(DataError, match="differs"):
        check_parity(session, lambda x: x * torch.nan, [(torch.ones(3),)])
    with pytest.raises(DataError, match="the output for"):
        check_parity(session, lambda x: x[:1], [(torch.ones(3),)])
