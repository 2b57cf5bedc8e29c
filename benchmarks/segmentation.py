"""Strokes: what metrics, post-processing, tiled prediction and data cost, beside plain ways in the same run (docmarks).

    python -m benchmarks.segmentation
    python -m benchmarks.segmentation --side 512 --rounds 1 --pages 2

Prints one JSON object as its last line; times in milliseconds are the least of --rounds, on one thread. "plain" is how
scikit-image and SciPy do the same without the shared skeleton, the cropped thinning and OpenCV. Peak memory of a
prediction is what Python's and PyTorch's allocations add, by resident size.
"""

import json
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from scipy import ndimage
from skimage.morphology import closing, skeletonize, thin

from datasets.augment_segmentation import StrokeAugmentation
from datasets.segmentation import StrokeDataset, read_split
from models.refine_strokes import STEPS, refine_predictions
from models.strokes import StrokeNet, StrokesConfig, predict_tiled, predict_whole
from utils.args import new_parser, positive_int
from utils.dataloading import EpochBatches, make_loader
from utils.metrics.segmentation import count_image, measure_image
from utils.metrics.segmentation_pixels import boundary_counts, drd_counts
from utils.skeleton import branches_of, skeleton_of


def drawn_page(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(truth (side, side) bool, probability (side, side) float32): wavy strokes, seen with blur and noise."""
    rng, mask = np.random.default_rng(seed), np.zeros((side, side), np.uint8)
    for _ in range(side * side // 3000):
        points = rng.integers(0, side, (1, 2)) + np.cumsum(rng.integers(-12, 13, (6, 2)), 0)
        cv2.polylines(mask, [points.astype(np.int32)], False, 1, int(rng.integers(1, 3)))
    seen = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0) + rng.normal(0, 0.06, mask.shape)
    return mask > 0, np.clip(seen, 0, 1).astype(np.float32)


def fastest(function, rounds: int) -> float:
    """Milliseconds of the fastest of `rounds` calls, after one to warm up."""
    function()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def plain_metrics(prediction: np.ndarray, truth: np.ndarray) -> None:
    """F1, Canny edges, boundaries at 1 and 2 px, clDice and pseudo-F, as scikit-image and SciPy have them."""
    count_image(prediction, truth)
    square = np.ones((3, 3), bool)
    for mask in (prediction, truth):
        skeletonize(mask)
        contour = mask & ~ndimage.binary_erosion(mask, square)
        mask & ~ndimage.binary_erosion(mask, square, 2)
        ndimage.distance_transform_edt(~contour)


def metrics(side: int, rounds: int) -> dict:
    truth, probability = drawn_page(side)
    prediction = probability >= 0.5
    skeleton = skeleton_of(truth)
    found = {"all": fastest(lambda: measure_image(prediction, truth), rounds),
             "pixels_and_edges": fastest(lambda: count_image(prediction, truth), rounds),
             "boundaries": fastest(lambda: boundary_counts(prediction, truth), rounds),
             "drd": fastest(lambda: drd_counts(prediction, truth), rounds),
             "one_skeleton": fastest(lambda: skeleton_of(truth), rounds),
             "branches": fastest(lambda: branches_of(skeleton), rounds),
             "plain_part_of_it": fastest(lambda: plain_metrics(prediction, truth), rounds),
             "plain_thin": fastest(lambda: thin(truth), 1)}
    return {"side": side, "ink": float(truth.mean()), "ms": found}


def postprocessing(side: int, rounds: int) -> dict:
    _, probability = drawn_page(side)
    mask = probability >= 0.5
    times = {step: fastest(lambda: refine_predictions(mask, probability, [step]), rounds) for step in STEPS}
    times["plain_closing"] = fastest(lambda: closing(mask, np.ones((3, 3), bool)), rounds)
    return {"side": side, "ms": times}


def tiling(side: int, tile: int, rounds: int) -> dict:
    """The same small network over a page in tiles, one and four at once, and over the whole page."""
    torch.manual_seed(0)
    model = StrokeNet(StrokesConfig("unet", "tu-resnet18", tile, tile, "crop", False, 4, (128, 64, 32, 16))).eval()
    whole = StrokeNet(StrokesConfig("unet", "tu-resnet18", side, side, "letterbox", False, 4, (128, 64, 32, 16))).eval()
    whole.load_state_dict(model.state_dict())
    page = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    ways = {"tiles": lambda: predict_tiled(model, page),
            "tiles_by_four": lambda: predict_tiled(model, page, tiles_at_once=4),
            "tiles_half_overlap": lambda: predict_tiled(model, page, 0.5), "whole": lambda: predict_whole(whole, page)}
    with torch.inference_mode():
        return {"side": side, "tile": tile,
                "ms": {name: fastest(way, rounds) for name, way in ways.items()},
                "added_mb": {name: added_memory(way) for name, way in ways.items()}}


def added_memory(function) -> float:
    """Megabytes that a call adds to the process at its peak, sampled while it runs."""
    process, peak, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return max(peak[0] - before, 0) / 1e6


def data(pages: int, side: int) -> dict:
    """Training samples a second, decoding and augmentation included, with 2 workers."""
    with tempfile.TemporaryDirectory() as name:
        for part in ("images", "masks"):
            (Path(name) / part).mkdir()
        for number in range(pages):
            truth, seen = drawn_page(side, number)
            cv2.imwrite(f"{name}/images/{number}.jpg", cv2.merge([255 - (seen * 200).astype(np.uint8)] * 3))
            cv2.imwrite(f"{name}/masks/{number}.png", truth.astype(np.uint8) * 255)
        rates = {}
        for resize, size in (("letterbox", side), ("crop", 256)):
            dataset = StrokeDataset(read_split(Path(name), 0.0), size, size, resize, 0, StrokeAugmentation(), 4)
            loader = make_loader(dataset, EpochBatches(len(dataset), 2, 0), 2, torch.device("cpu"))
            for epoch in (0, 1):  # workers start in the first
                loader.batch_sampler.set_position(epoch)
                begun = time.perf_counter()
                for _ in loader:
                    pass
            rates[f"{resize}_{size}"] = len(dataset) / (time.perf_counter() - begun)
    return {"pages": pages, "page_side": side, "workers": 2, "samples_per_s": rates}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--side", type=positive_int, default=1536, help="of the page, in pixels (default: %(default)s)")
    parser.add_argument("--tile", type=positive_int, default=512, help="multiple of 32 (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="calls of which the fastest counts")
    parser.add_argument("--pages", type=positive_int, default=8, help="pages for the data (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.tile % 32:
        parser.error("--tile must be a multiple of 32")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    report = {"metrics": metrics(args.side, args.rounds),
              "postprocessing": [postprocessing(side, args.rounds) for side in (args.side, 2 * args.side)],
              "prediction": tiling(args.side, args.tile, args.rounds), "data": data(args.pages, args.side)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
