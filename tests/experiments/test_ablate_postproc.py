"""experiments.ablate_postproc and experiments.baselines on made pages: tables, the rule of enabling, known figures."""

import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from datasets import check_masks
from experiments import ablate_postproc, baselines
from models.strokes import StrokeNet, StrokesConfig, load_model
from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.metrics.segmentation import f1_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("ablate") / "data", np.random.default_rng(0)
    for split in ("val", "test"):
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        for i in range(2):
            mask = np.zeros((90, 120), np.uint8)
            for x0, y0, x1, y1 in rng.integers(4, 86, (4, 4)).tolist():
                cv2.line(mask, (x0, y0), (x1, y1), 255, 2)
            paper = rng.normal(0, 12, (90, 120, 3)) + np.where(mask[..., None] > 0, 90, 190)
            cv2.imwrite(str(folder / split / "images" / f"page{i}.png"), np.clip(paper, 0, 255).astype(np.uint8))
            cv2.imwrite(str(folder / split / "masks" / f"page{i}.png"), mask)
        (folder / split / "categories.tsv").write_text("page0.png\tlong_lines\n")
    return folder


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    config = StrokesConfig("unet", "tu-resnet10t", 64, 96, "crop", False, 3, (16, 8, 8))
    save_checkpoint(tmp_path / "best.pt", {
        "task": "segmentation", "config": asdict(config), "thresholds": {"ink": 0.125},
        "model": StrokeNet(config).state_dict(), "ema": None})
    return tmp_path / "best.pt"


def test_every_step_is_scored_alone_and_left_out(data, weights, capsys, monkeypatch):
    darkness = lambda model, image, tta=False: 1 - image.mean(2).astype(np.float32) / 255  # noqa: E731
    monkeypatch.setattr(ablate_postproc, "predict_strokes", darkness)
    ablate_postproc.main(["--weights", str(weights), "--data-dir", str(data), "--device", "cpu", "--enable",
                          "--steps", "connect,close,separate"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["scores"]) == ["none", "close alone", "connect alone", "separate alone", "all", "all but close",
                                      "all but connect", "all but separate"]
    text = (weights.parent / "postproc.md").read_text()
    assert "## all pages (2)" in text and "## category long_lines (1)" in text and "| none | close alone | " in text
    metrics = {"f1", "iou", "edge_iou_canny", "boundary_iou_1", "boundary_f1_1", "cldice", "pseudo_f", "psnr", "drd",
               "small_text_f1", "curve_f1", "separation", "gap_free", "straightness"}
    assert metrics < set(report["scores"]["none"]) and all(f"| {metric} | " in text for metric in metrics)
    checkpoint = load_model(weights)[1]  # still whole
    assert checkpoint["postproc"] == {"steps": report["kept"], "max_gap": 5.0, "deviation_threshold": 2.0}
    none, close = report["scores"]["none"], report["scores"]["close alone"]
    worse = any(none[m] is not None and close[m] < none[m] for m in ("f1", "cldice", "separation"))
    assert ("close" in report["kept"]) == (not worse)


@pytest.fixture
def classes(data, tmp_path):
    """The test pages in an undivided folder, in masks of 0, 85 and 170, and what of them comes into which split."""
    for split in ("val", "test"):
        for path in (data / split).rglob("*.png"):
            target = tmp_path / "classes" / path.parent.name / f"{split}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture = cv2.imread(str(path))
            if path.parent.name == "masks":
                picture = np.where(picture > 0, 170, 0).astype(np.uint8)
                picture[:4] = 85
            cv2.imwrite(str(target), picture)
    (tmp_path / "classes" / "splits.tsv").write_text("val_page0.png\tval\nval_page1.png\ttrain\n"
                                                     "test_page0.png\ttest\ntest_page1.png\ttest\n")
    return tmp_path / "classes"


def test_the_experiments_read_what_training_reads(data, classes, weights, capsys):
    figures = []
    for flags in ([str(data)], [str(classes), "--ink-levels", "170"]):
        baselines.main(["otsu", "--data-dir", *flags])
        figures.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert figures[0]["n_images"] == figures[1]["n_images"] == 2 and figures[0]["f1"] == figures[1]["f1"]
    ablate_postproc.main(["--weights", str(weights), "--data-dir", str(classes), "--device", "cpu", "--steps", "close",
                          "--ink-levels", "170"])
    assert "## all pages (1)" in capsys.readouterr().out
    check_masks.main([str(classes), "--ink-levels", "170", "--out", str(classes / "check")])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pages"] == 4
    for main, flags in ((baselines.main, ["otsu", "--data-dir"]), (check_masks.main, [])):
        with pytest.raises(DataError, match="--ink-levels 85,170"):
            main([*flags, str(classes)])
    with pytest.raises(DataError, match="is split already; --split-file"):
        baselines.main(["otsu", "--data-dir", str(data), "--split-file", str(classes / "splits.tsv")])


def test_weights_that_are_no_runs_are_left_without_a_table(data, weights, capsys):
    shipped = weights.rename(weights.with_name("shipped.pt"))
    before = set(shipped.parent.iterdir())
    ablate_postproc.main(["--weights", str(shipped), "--data-dir", str(data), "--device", "cpu", "--steps", "close"])
    assert "## all pages (2)" in capsys.readouterr().out and set(shipped.parent.iterdir()) == before


def test_what_is_refused(data, weights, capsys):
    for flags in (["--enable", "--split", "test"], ["--enable", "--split", "train"], ["--enable", "--limit-pages", "5"],
                  ["--enable", "--category", "curves"], ["--steps", "none"], ["--steps", "thicken"]):
        with pytest.raises(SystemExit) as caught:
            ablate_postproc.parse_args(["--weights", str(weights), *flags])
        assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(DataError, match="no such folder"):
        ablate_postproc.main(["--weights", str(weights), "--data-dir", str(data / "nowhere")])
    for flags in (["otsu", "--window", "15"], ["sauvola", "--window", "10"]):
        with pytest.raises(SystemExit):
            baselines.parse_args(flags)


def test_windows_that_show_nothing_or_fit_no_memory_are_refused(data, capsys):
    for window in ("1", "1003", "99999"):
        with pytest.raises(SystemExit) as caught:
            baselines.parse_args(["sauvola", "--window", window])
        assert caught.value.code == 2 and f"--window {window} must be odd, 3 to 1001" in capsys.readouterr().err
    for window in ("3", "1001"):  # of a page of 120 x 90, too
        baselines.main(["sauvola", "--data-dir", str(data), "--window", window])
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["f1"] > 0


def test_flags_of_steps_that_are_not_run_are_refused(weights, capsys):
    for flags, said in ((["--steps", "close", "--max-gap", "5"], "--max-gap is for connect, which --steps leaves out"),
                        (["--steps", "close,connect", "--deviation-threshold", "3"],
                         "--deviation-threshold is for straighten, which --steps leaves out")):
        with pytest.raises(SystemExit) as caught:
            ablate_postproc.parse_args(["--weights", str(weights), *flags])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and said in error and error.count("\n") == 1
    for flags in ([], ["--max-gap", "3"], ["--steps", "connect", "--max-gap", "3"], ["--steps", "close"]):
        ablate_postproc.parse_args(["--weights", str(weights), *flags])
    assert ablate_postproc.parse_args(["--weights", str(weights), "--steps", "close,close"]).steps == ("close",)


def test_baselines_give_the_figures_of_a_plain_loop(data, capsys, tmp_path):
    expected = []
    for name in ("page0", "page1"):
        grey = cv2.imread(str(data / "test" / "images" / f"{name}.png"), 0)
        truth, ink = cv2.imread(str(data / "test" / "masks" / f"{name}.png"), 0) > 127, grey < threshold_otsu(grey)
        tp = (ink & truth).sum()
        expected.append(float(f1_of(tp, ink.sum() - tp, truth.sum() - tp)))
    baselines.main(["otsu", "--data-dir", str(data), "--output-dir", str(tmp_path)])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["f1"] == pytest.approx(np.mean(expected), abs=2e-3) and scores["f1_worst"] == pytest.approx(
        min(expected), abs=2e-3)
    assert scores["categories"]["long_lines"]["n_images"] == 1 and "separation" in scores
    assert json.loads((tmp_path / "baseline_otsu.json").read_text()) == scores
    baselines.main(["sauvola", "--data-dir", str(data), "--category", "long_lines"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n_images"] == 1
