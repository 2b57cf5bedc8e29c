"""The sweep against decoding anew for every cell, and test-time augmentation on a network that copies its input."""

from itertools import product
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from models.dbnet import averaged_map
from models.dbnet_decode import decode, on_page
from models.dbnet_eval import NOISE, default_thresholds, find_on_page, score_pages, sweep, sweep_axes
from utils.geometry import PageSize
from utils.metrics.detection import PageMatcher, scores_of_counts


def made_page(seed, output):
    """(map, page, scale): words of different strength and truths that are larger or smaller than they are found."""
    rng = np.random.default_rng(seed)
    prob, polygons = rng.uniform(0, 0.1, (160, 200)).astype(np.float32), []
    for x, y in product((30, 90, 150), (30, 80, 130)):
        kernel = cv2.boxPoints(((x, y), (30, 10), rng.uniform(-10, 10)))
        cv2.fillPoly(prob, [kernel.astype(np.int32)], rng.uniform(0.35, 0.9))
        polygons.append(np.float32(cv2.boxPoints(((x, y), (rng.uniform(30, 50), rng.uniform(14, 30)), 0))) * 2)
    texts = ["word", "###", *["line"] * 7]
    return prob, SimpleNamespace(height=320, width=400, polygons=polygons, texts=texts,
                                 ignored=[text == "###" for text in texts]), 0.5


@pytest.mark.parametrize("output", ["quad", "polygon"])
def test_the_sweep_equals_decoding_every_cell_anew(output):
    thresholds = default_thresholds(output) | {"long_side": 200}
    made = [made_page(seed, output) for seed in range(3)]
    axes = sweep_axes(thresholds)
    found = [find_on_page(prob, scale, page, f"{i}.png", axes["thresh"], output)
             for i, (prob, page, scale) in enumerate(made)]
    best, rows = sweep(found, thresholds)
    assert len(rows) == np.prod([len(values) for values in axes.values()])
    for row in rows[::23]:
        cell = thresholds | {name: row[name] for name in axes}
        counts = []
        for prob, page, scale in made:
            polygons, scores = decode(prob, cell)
            polygons = on_page(polygons, scale, page.height, page.width)
            counts.append(PageMatcher(polygons, scores, page.polygons, page.ignored).counts(row["box_thresh"]))
        assert scores_of_counts(counts) == pytest.approx({name: row[name] for name in ("hmean", "precision", "recall")})
    assert best["long_side"] == 200 and best["output"] == output
    tuned, per_page = score_pages(found, best)
    usual, _ = score_pages(found, thresholds)
    highest = max(row["hmean"] for row in rows)
    assert highest >= tuned["hmean"] >= highest - NOISE and tuned["hmean"] >= usual["hmean"] - NOISE
    assert {"cleval_hmean", "cleval_page_hmean"} <= set(tuned) and per_page[0]["n_ignored"] == 1
    assert [row["file"] for row in per_page] == ["0.png", "1.png", "2.png"]


def test_of_equal_cells_the_one_that_came_in_stays():
    prob = np.zeros((64, 64), np.float32)
    page = SimpleNamespace(height=64, width=64, polygons=[], texts=[], ignored=[])
    thresholds = default_thresholds() | {"thresh": 0.33}
    found = [find_on_page(prob, 1.0, page, "blank.png", sweep_axes(thresholds)["thresh"], "quad")]
    best, _ = sweep(found, thresholds)
    assert best == thresholds
    scores, rows = score_pages(found, best)
    assert scores["hmean"] == 0 and scores["cleval_page_hmean"] == 1 and rows[0]["n_pred"] == rows[0]["n_truth"] == 0


class Copy(torch.nn.Module):
    """A 'network' whose logits are the picture's brightness, or, mirrored, that of its mirror image's."""

    def forward(self, image):
        return {"prob": 4 * image[:, 0]}


@pytest.mark.parametrize("mirrored", [False, True])
def test_averaged_maps_stay_in_their_frame(mirrored):
    page = np.zeros((170, 230, 3), np.uint8)
    page[40:80, 150:210] = 255
    size = PageSize(230)
    prob = averaged_map(Copy(), page, size, torch.device("cpu"), mirrored)
    assert prob.shape == size.fit(page)[0].shape[:2] == (192, 256)
    quads, _ = decode(prob, default_thresholds() | {"unclip_ratio": 1e-6, "thresh": 0.5})
    quads = on_page(quads, size.scale(170, 230), 170, 230)
    assert len(quads) == 1 and np.abs(quads[0] - [[150, 40], [210, 40], [210, 80], [150, 80]]).max() < 1.5
