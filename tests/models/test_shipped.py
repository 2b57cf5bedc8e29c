"""The weights that come with the repository: whole, listed, small, described, and able to read."""

import cv2
import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from datasets.pages.source import SyntheticPages
from models.engines import open_model
from models.language import read_arpa
from models.reader import WEIGHTS, DocumentReader
from models.skew import put_level
from utils.checkpoint import load_checkpoint
from utils.files import file_hash
from utils.geometry import min_area_quad
from utils.text_crops import crop_line
from utils.weights import LANGUAGE, MODELS, read_hashes

MEGABYTES = {"detection": 30, "recognition": 25, "segmentation": 15, "yolo": 12}


@pytest.mark.parametrize("model", MODELS)
def test_each_file_is_listed_small_and_described(model):
    path = WEIGHTS / f"{model}.pt"
    assert read_hashes(WEIGHTS)[path.name] == file_hash(path)
    assert path.stat().st_size < MEGABYTES[model] * 1e6
    checkpoint = load_checkpoint(path, model)
    assert "optimizer" not in checkpoint and checkpoint["ema"] is None
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for heading in ("Data", "Command", "Commit", "Metrics", "Limits"):
        assert f"**{heading}" in card, heading


def test_the_language_model_is_listed_small_and_described():
    path = WEIGHTS / LANGUAGE
    assert read_hashes(WEIGHTS)[path.name] == file_hash(path) and path.stat().st_size < 2e6
    language = read_arpa(path)
    assert language.order == 5 and language.perplexity(["TOTAL AMOUNT 12.50", "THANK YOU"]) < 4
    card = (WEIGHTS / "language.md").read_text(encoding="utf-8")
    for heading in ("Data", "Command", "Metrics", "Limits"):
        assert f"**{heading}" in card, heading


@pytest.mark.parametrize("degrees", [0, -17])
def test_they_read_a_made_receipt(degrees):
    """Far below what they reach: that they are the right files, read in the right way, and on a page that lies askew."""
    page = SyntheticPages(3, 20, "receipt", 700, 1000, split="test")[1]
    image, matrix = put_level(page.image, degrees)
    record = DocumentReader().read(image)
    found = record["pages"][0]
    assert record["tasks"] == ["marks", "text", "strokes"] and found["error"] is None
    back = cv2.invertAffineTransform(matrix)
    centres = [back[:, :2] @ np.mean(text["polygon"], 0) + back[:, 2] for text in found["text"]]
    lines = [line for line in page.lines if line.text != "###" and line.kind == "print"]
    distances = []
    for line in lines:
        inside = [text["text"] for text, centre in zip(found["text"], centres)
                  if cv2.pointPolygonTest(line.polygon, tuple(map(float, centre)), False) >= 0]
        distances.append(min((Levenshtein.normalized_distance(text, line.text) for text in inside), default=1.0))
    assert len(lines) > 10 and np.mean(distances) < 0.5


def test_a_line_on_its_side_is_read_as_the_line_that_it_is():
    """Squeezed to a few pixels it is a colon, or a comma, read with more certainty than what it says."""
    page = SyntheticPages(3, 20, "receipt", 700, 1000, split="test")[1]
    lines = [line for line in page.lines if line.text != "###" and line.kind == "print" and len(line.text) > 4]
    crops = [crop_line(page.image, min_area_quad(line.polygon)) for line in lines]
    read = open_model("recognition", WEIGHTS / "recognition.pt", torch.device("cpu"))
    upright = [text for text, _ in read(crops)]
    assert len(crops) > 10
    for turn in (1, -1):
        turned = [text for text, _ in read([np.ascontiguousarray(np.rot90(crop, turn)) for crop in crops])]
        assert sum(a == b for a, b in zip(upright, turned)) >= 0.8 * len(crops)
