"""experiments.doubtful on drawn pages: the figure by hand, the order, and what is said of a page that cannot be read."""

import json

import cv2
import numpy as np
import pytest
import torch

from experiments import doubtful
from models.strokes import PaintedTruth, StrokesConfig
from utils.errors import DataError


def test_the_figure_by_hand():
    probability = np.array([[0.2, 0.1, 0.6, 1.0, 0.5]])
    strokes = np.array([[True, True, True, True, False]])
    # With a threshold of 0.2 they are 0.5, 0.25, 0.75 and 1; the last one is no stroke.
    assert doubtful.doubt(probability, strokes, 0.2) == pytest.approx((1 + 0.75 + 0.75 + 0) / 4)
    assert doubtful.doubt(probability, np.zeros_like(strokes), 0.2) == 0


def test_a_scan_is_not_replaced_by_the_list(tmp_path, capsys):
    scan = tmp_path / "a.png"
    cv2.imwrite(str(scan), np.full((96, 128, 3), 250, np.uint8))
    before = scan.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        doubtful.main(["--weights", "w.pt", "--images", str(tmp_path), "--out", str(scan)])
    assert stopped.value.code == 2 and "a.png must end in .tsv" in capsys.readouterr().err
    assert scan.read_bytes() == before


def test_the_help_promises_one_device(capsys):
    said = doubtful.make_parser().format_help()
    assert "cuda:N" in said and "several" not in said


class Darkness(PaintedTruth):
    """What is dark is ink: grey strokes are doubtful."""

    def forward(self, image):
        return torch.logit(1 - self.brightness(image), eps=1e-6)


def test_pages_are_ranked_the_most_doubtful_first(tmp_path, capsys, monkeypatch):
    for name, grey in (("black", 10), ("faint", 120), ("light", 60), ("blank", 250)):
        page = np.full((96, 128, 3), 250, np.uint8)
        cv2.line(page, (20, 40), (100, 60), (grey,) * 3, 5)
        cv2.imwrite(str(tmp_path / f"{name}.png"), page)
    model = Darkness(StrokesConfig(height=96, width=128)).eval()
    monkeypatch.setattr(doubtful, "load_any", lambda task, path, device: (model, {"thresholds": {"ink": 0.5}}))
    flags = ["--weights", "w.pt", "--images", str(tmp_path), "--out", str(tmp_path / "out.tsv"), "--device", "cpu"]
    doubtful.main(flags)
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    assert [line.split("/")[-1].split(".png\t")[0] for line in lines] == ["faint", "light", "black", "blank"]
    assert 1 >= float(lines[0].split("\t")[1]) > 0.8 and lines[-1].endswith("\t0.0000")
    *shown, last = capsys.readouterr().out.splitlines()
    assert len(shown) == 4 and "faint.png" in shown[0] and json.loads(last)["pages"] == 4
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="broken.png: not a readable image"):
        doubtful.main(flags)
    doubtful.main([*flags, "--max-bad-fraction", "0.5"])
    assert "1 of 5 samples are left out" in capsys.readouterr().err
