"""Scores of DBNet on whole pages: ICDAR's protocol and CLEval at some thresholds, and the sweep that chooses them.

Every page is looked at and decoded once. In a sweep thresh, box_thresh and unclip_ratio are then varied over what was
found, and the numbers that are added up over pages are all that is kept of a cell of the grid.
"""

from dataclasses import dataclass
from itertools import product
from typing import Iterable

import numpy as np

from models.dbnet_decode import UNCLIP, Candidates, find_candidates, on_page
from utils.distributed import gather_lists
from utils.metrics.detection import PageMatcher, scores_of_counts, to_shapely
from utils.metrics.detection_cleval import cleval_counts, cleval_scores

THRESHES = (0.2, 0.3, 0.4)
BOX_THRESHES = tuple(round(0.3 + 0.05 * i, 2) for i in range(11))
UNCLIPS = {"quad": (1.2, 1.35, 1.5, 1.75, 2.0), "polygon": (1.5, 1.75, 2.0, 2.25, 2.5)}
NOISE = 0.001  # of hmean
VARIED = ("thresh", "box_thresh", "unclip_ratio")


def default_thresholds(output: str = "quad") -> dict:
    return {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": UNCLIP[output], "output": output}


@dataclass
class PageFound:
    """What stands on a page over each thresh: candidates in pixels of a map at `scale`, and the page's truth.

    page: with height, width, polygons, texts and ignored, in the original's pixels.
    """

    file: str
    page: object
    scale: float
    candidates: dict[float, Candidates]

    def at(self, thresh: float, unclip_ratio: float) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray]:
        """(quads or polygons in the page's pixels, scores)."""
        found, scores = self.candidates[thresh].grown(unclip_ratio)
        return on_page(found, self.scale, self.page.height, self.page.width), scores

    def grid(self, axes: dict[str, tuple]) -> np.ndarray:
        """(threshes, unclip ratios, box threshes, 3) int: tp, n_pred, n_truth of every cell."""
        truth, ignored = to_shapely(self.page.polygons), self.page.ignored
        counts = np.zeros((len(axes["thresh"]), len(axes["unclip_ratio"]), len(axes["box_thresh"]), 3), int)
        for (t, thresh), (u, unclip) in product(enumerate(axes["thresh"]), enumerate(axes["unclip_ratio"])):
            matcher = PageMatcher(*self.at(thresh, unclip), truth, ignored)
            for b, box_thresh in enumerate(axes["box_thresh"]):
                counts[t, u, b] = [matcher.counts(box_thresh)[key] for key in ("tp", "n_pred", "n_truth")]
        return counts

    def counts(self, thresholds: dict) -> dict[str, int]:
        """Of both protocols, additive over pages."""
        found, scores = self.at(thresholds["thresh"], thresholds["unclip_ratio"])
        page, kept = self.page, np.flatnonzero(scores >= thresholds["box_thresh"])
        shapes = to_shapely(found)
        matcher = PageMatcher(shapes, scores, page.polygons, page.ignored)
        return matcher.counts(thresholds["box_thresh"]) | cleval_counts(
            shapes[kept], page.polygons, page.texts, page.ignored)


def find_on_page(prob: np.ndarray, scale: float, page, file: str, threshes: Iterable[float], output: str) -> PageFound:
    """Decode a page's map (H, W); `scale` takes the page's pixels to the map's."""
    return PageFound(file, page, scale, {t: find_candidates(prob, t, output=output) for t in threshes})


def sweep_axes(thresholds: dict) -> dict[str, tuple]:
    """The values that a sweep varies: the usual ones and those that come in."""
    usual = {"thresh": THRESHES, "box_thresh": BOX_THRESHES, "unclip_ratio": UNCLIPS[thresholds.get("output", "quad")]}
    return {name: tuple(sorted({*usual[name], thresholds[name]})) for name in VARIED}


def sweep(found: list[PageFound], thresholds: dict) -> tuple[dict, list[dict]]:
    """(the best thresholds over the pages of all ranks, a row for each cell: thresholds, hmean, precision, recall).

    Of the cells whose hmean is within NOISE of the best the one most like `thresholds` is taken: what is gained on
    one set by less is as often lost on the next.
    """
    axes = sweep_axes(thresholds)
    total = sum(gather_lists([page.grid(axes) for page in found]))
    rows = []
    for (t, thresh), (u, unclip), (b, box_thresh) in product(*(
            enumerate(axes[name]) for name in ("thresh", "unclip_ratio", "box_thresh"))):
        tp, n_pred, n_truth = total[t, u, b].tolist()
        rows.append({"thresh": thresh, "box_thresh": box_thresh, "unclip_ratio": unclip}
                    | scores_of_counts([{"tp": tp, "n_pred": n_pred, "n_truth": n_truth}]))

    def likeness(row: dict) -> tuple:
        same = sum(row[name] == thresholds[name] for name in VARIED)
        return same, -sum(abs(row[name] - thresholds[name]) for name in VARIED), row["hmean"]

    highest = max(row["hmean"] for row in rows)
    best = max((row for row in rows if row["hmean"] >= highest - NOISE), key=likeness)
    return thresholds | {name: best[name] for name in VARIED}, rows


def score_pages(found: list[PageFound], thresholds: dict) -> tuple[dict[str, float], list[dict]]:
    """(scores of both protocols over the pages of all ranks, a row of counts for each page)."""
    rows = gather_lists([{"file": page.file} | page.counts(thresholds) | {"n_ignored": sum(page.page.ignored)}
                         for page in found])
    return scores_of_counts(rows) | cleval_scores(rows), rows
