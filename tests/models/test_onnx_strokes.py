"""A stroke model's ONNX file by itself: the same probabilities, and the same ink on pages of any size."""

import json
from argparse import Namespace
from dataclasses import asdict

import cv2
import numpy as np
import onnx
import pytest
import torch
from test_train_segmentation import draw_page

import train_segmentation
from models.onnx_strokes import export, load_onnx
from models.strokes import StrokeNet, StrokesConfig, find_ink, load_model, predict_strokes
from utils.checkpoint import save_checkpoint
from utils.errors import DataError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    config = StrokesConfig("unet", "tu-resnet10t", 64, 96, "crop", False, 3, (32, 16, 8))
    model = StrokeNet(config)
    model.train()(torch.rand(2, 3, 64, 96))  # batch norm's statistics are no longer 0 and 1
    save_checkpoint(folder / "best.pt", {
        "task": "segmentation", "config": asdict(config), "thresholds": {"ink": 0.125}, "model": model.state_dict(),
        "ema": None, "postproc": {"steps": ["close"], "max_gap": 5.0, "deviation_threshold": 2.0}})
    return folder / "best.pt", folder / "strokes.onnx", export(folder / "best.pt", folder / "strokes.onnx", Namespace())


@pytest.mark.parametrize("resize", ["crop", "letterbox"])
def test_pages_of_any_size_give_what_torch_gives(exported, resize):
    weights, path, report = exported
    assert report["largest_difference"] < 1e-4 and report["megabytes"] == pytest.approx(path.stat().st_size / 1e6, abs=0.01)
    (torch_model, checkpoint), (onnx_model, metadata) = load_model(weights), load_onnx(path, threads=1)
    assert onnx_model.config == torch_model.config and metadata["thresholds"] == checkpoint["thresholds"]
    assert metadata["postproc"] == checkpoint["postproc"]
    onnx_model.config.resize = torch_model.config.resize = resize
    rng = np.random.default_rng(0)
    for height, width in ((130, 210), (40, 33)):
        page = rng.integers(0, 255, (height, width, 3), np.uint8)
        ours, theirs = (predict_strokes(model, page) for model in (onnx_model, torch_model))
        assert np.abs(ours - theirs).max() < 1e-4
        assert np.ptp(theirs) > 1e-3  # or agreement would prove nothing
        assert (find_ink(onnx_model, metadata, page) != find_ink(torch_model, checkpoint, page)).mean() < 0.01


def test_a_network_of_a_least_side_is_exported_and_takes_small_pages(tmp_path):
    torch.manual_seed(0)
    config = StrokesConfig("pan", "tu-resnet10t", 128, 128)
    save_checkpoint(tmp_path / "best.pt", {"task": "segmentation", "config": asdict(config), "thresholds": {"ink": 0.5},
                                           "model": StrokeNet(config).state_dict(), "ema": None})
    assert export(tmp_path / "best.pt", tmp_path / "pan.onnx", Namespace())["largest_difference"] < 1e-4
    page = np.random.default_rng(0).integers(0, 255, (40, 170, 3), np.uint8)
    ours, theirs = (predict_strokes(load(tmp_path / name)[0], page)
                    for load, name in ((load_onnx, "pan.onnx"), (load_model, "best.pt")))
    assert ours.shape == (40, 170) and np.abs(ours - theirs).max() < 1e-4


def test_only_scores_an_exported_model_as_the_checkpoint(exported, tmp_path, capsys):
    for folder, picture in zip(("images", "masks"), draw_page(np.random.default_rng(0), 90, 110)):
        (tmp_path / "data" / "test" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / "test" / folder / "page.png"), picture)
    scores = []
    for path in exported[:2]:
        train_segmentation.main(["--test-only", "--weights", str(path), "--data-dir", str(tmp_path / "data"), "--split",
                                 "test", "--device", "cpu", "--num-workers", "0", "--output-dir", str(tmp_path)])
        scores.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert scores[0]["n_images"] == 1 and scores[0]["postproc"] == scores[1]["postproc"] == ["close"]
    assert scores[1]["f1"] == pytest.approx(scores[0]["f1"], abs=0.01)


def test_an_altered_graph_is_told_from_its_network(exported, tmp_path, monkeypatch):
    weights, path, _ = exported
    model = onnx.load(path)
    bias = [tensor for tensor in model.graph.initializer if tensor.name.endswith("segmentation_head.0.bias")]
    bias[0].raw_data = np.float32([-1]).tobytes()
    monkeypatch.setattr("models.onnx_files.make_graph", lambda *args, **kwargs: model)
    with pytest.raises(DataError):
        export(weights, tmp_path / "strokes.onnx", Namespace())
    assert not (tmp_path / "strokes.onnx").exists()
