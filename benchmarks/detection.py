"""Text detection against the plain ways of doing it (detection_plain.py), all in one run on this machine.

    python -m benchmarks.detection
    python -m benchmarks.detection --rounds 20 --step-side 640

Prints one JSON object as its last line; progress goes to stderr. Each ratio is the median over rounds in which both
ways take turns, measured in processor time of one process with one thread, so that other work on the machine disturbs
it little: "times" is how often as fast as the plain way. "growth_ms" is by number of words and by side.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
import torch
from tqdm import tqdm

import train_detection
from benchmarks import detection_plain as plain
from benchmarks.data import loader_rate, stage_times
from benchmarks.data import detection as training_data
from datasets import synthetic
from datasets.db_targets import make_targets
from models.dbnet import DBNet, DBNetConfig
from models.dbnet_decode import decode_boxes
from utils.allocator import keep_freed_memory
from utils.args import new_parser, positive_int
from utils.errors import exit_cleanly
from utils.metrics.detection import PageMatcher

WORDS, SIDES = (10, 100, 1000), (640, 1280, 2560)


def made_quads(count: int, side: int, seed: int = 0) -> np.ndarray:
    """(count, 4, 2) float32 words, tilted by up to 10 degrees, in a grid over a square page."""
    rng, columns = np.random.default_rng(seed), int(np.ceil(np.sqrt(count / 3)))
    rows = -(-count // columns)
    cell = np.array([side / columns, side / rows])
    quads = []
    for number in range(count):
        centre = (np.array([number % columns, number // columns]) + 0.5) * cell
        size = rng.uniform(0.6, 0.95) * cell[0], np.clip(rng.uniform(0.3, 0.7) * cell[1], 9, 60)
        quads.append(cv2.boxPoints((tuple(centre), size, rng.uniform(-10, 10))))
    return np.float32(quads)


def made_map(quads: np.ndarray, side: int) -> np.ndarray:
    """(side, side) float32: what a network would give for the words, their kernels with soft edges."""
    prob = make_targets(list(quads), [False] * len(quads), side, side)["shrink_map"]
    return cv2.GaussianBlur(prob, (5, 5), 1) * np.float32(0.95)


def take_turns(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time of each function in each round, after one round that is not counted."""
    spent = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in list(functions.items())[:: 1 if number % 2 else -1]:
            begun = time.process_time()
            function()
            if number:
                spent[name].append(1000 * (time.process_time() - begun))
    return spent


def compare(fast: Callable[[], object], slow: Callable[[], object], rounds: int) -> dict:
    spent = take_turns({"ours": fast, "plain": slow}, rounds)
    ratios = [b / max(a, 1e-6) for a, b in zip(spent["ours"], spent["plain"])]
    return {"ours_ms": statistics.median(spent["ours"]), "plain_ms": statistics.median(spent["plain"]),
            "times": statistics.median(ratios), "times_of_each_round": ratios}


def measure_targets(rounds: int, words: int = 60, side: int = 640, skew: float = 0.0) -> dict:
    """skew: standard deviation in pixels that corners are moved by; without, words are rectangles, which are faster."""
    quads = made_quads(words, side)
    quads = list(quads + np.random.default_rng(2).normal(0, skew, quads.shape).astype(np.float32))
    ours, theirs = make_targets(quads, [False] * words, side, side), plain.targets(quads, side, side)
    return compare(lambda: make_targets(quads, [False] * words, side, side), lambda: plain.targets(quads, side, side),
                   rounds) | {"words": words, "side": side, "mean_difference": {
                       name: float(np.abs(ours[name] - theirs[name]).mean()) for name in ours}}


def measure_matching(rounds: int, boxes: int = 200) -> dict:
    truth = made_quads(boxes, 1280)
    found = truth + np.random.default_rng(1).normal(0, 3, truth.shape).astype(np.float32)
    scores, ignored = np.ones(boxes), [False] * boxes

    def ours() -> list:
        return PageMatcher(found, scores, truth, ignored).matches(0.5)

    # the plain loop takes seconds: its rounds are few
    return compare(ours, lambda: plain.match(found, truth), min(rounds, 3)) | {
        "boxes": boxes, "equal": ours() == plain.match(found, truth)}


def measure_decode(rounds: int, boxes: int = 300, side: int = 1280) -> dict:
    prob = made_map(made_quads(boxes, side), side)
    ours, theirs = decode_boxes(prob, box_thresh=0.5)[0], plain.decode(prob, box_thresh=0.5)
    theirs = theirs + np.float32(0.5)  # it counts from the pixels' centres
    nearest = theirs[np.linalg.norm(ours.mean(1)[:, None] - theirs.mean(1)[None], axis=2).argmin(1)]
    corners = min_over_turns(ours, nearest)
    return compare(lambda: decode_boxes(prob, box_thresh=0.5), lambda: plain.decode(prob, box_thresh=0.5), rounds) | {
        "side": side, "found": [len(ours), len(theirs)], "largest_corner_distance": float(corners.max())}


def min_over_turns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) largest distance of corresponding corners of (N, 4, 2) quads, whichever corner they begin with."""
    return np.min([np.linalg.norm(a - np.roll(b, turn, 1), axis=2).max(1) for turn in range(4)], axis=0)


def measure_step(rounds: int, side: int, batch_size: int) -> dict:
    """An optimizer step with our network and loss, and with the same network and loss written as in the papers."""
    torch.manual_seed(0)
    model = DBNet(DBNetConfig()).train()
    twin = plain.PlainDBNet(model)
    maps = make_targets(list(made_quads(60, side)), [False] * 60, side, side)
    batch = {name: torch.from_numpy(np.stack([value] * batch_size)) for name, value in maps.items()}
    batch["image"] = torch.randn(batch_size, 3, side, side)
    optimizers = {name: torch.optim.AdamW(net.parameters(), 1e-4) for name, net in (("ours", model), ("plain", twin))}

    def step(name: str, loss: Callable[[], torch.Tensor]) -> None:
        optimizers[name].zero_grad(set_to_none=True)
        loss().backward()
        optimizers[name].step()

    spent = take_turns({"ours": lambda: step("ours", lambda: train_detection.step(model, batch)[0]["loss"]),
                        "plain": lambda: step("plain", lambda: plain.loss(twin(batch["image"]), batch))}, rounds)
    shares = [a / b - 1 for a, b in zip(spent["ours"], spent["plain"])]
    return {"side": side, "batch_size": batch_size, "ours_ms": statistics.median(spent["ours"]),
            "plain_ms": statistics.median(spent["plain"]), "overhead_share": statistics.median(shares),
            "overhead_share_of_each_round": shares}


def measure_samples(pages: int, seconds: float) -> dict:
    """A training sample's processor time (decode, augment, targets), and what loader processes feed."""
    with tempfile.TemporaryDirectory() as folder:
        synthetic.main(["--out", folder, "--pages", str(pages), "--splits", "1,0,0"])
        source = training_data(Path(folder))
        return {"cpu_ms_per_sample": stage_times(source, seconds),
                "samples_per_s": {str(workers): loader_rate(source, workers, seconds) for workers in (1, 2)}}


def growth(rounds: int) -> dict:
    """Milliseconds by number of words (at 1280 px) and by side (100 words)."""
    cases = {"words": [(words, 1280) for words in WORDS], "side": [(100, side) for side in SIDES]}
    report: dict = {}
    for axis, sizes in cases.items():
        for words, side in sizes:
            quads = made_quads(words, side)
            prob, nothing = made_map(quads, side), [False] * words
            spent = take_turns({"targets": lambda: make_targets(list(quads), nothing, side, side),
                                "decode": lambda: decode_boxes(prob),
                                "matching": lambda: PageMatcher(quads, np.ones(words), quads, nothing).counts(0.5)},
                               rounds)
            for name, values in spent.items():
                report.setdefault(name, {}).setdefault(axis, {})[str(words if axis == "words" else side)] = \
                    statistics.median(values)
    return report


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=positive_int, default=10, help="of each comparison (default: %(default)s)")
    parser.add_argument("--step-side", type=positive_int, default=640, help="of a training step (default: %(default)s)")
    parser.add_argument("--step-batch", type=positive_int, default=2, help="images in it (default: %(default)s)")
    parser.add_argument("--step-rounds", type=positive_int, default=5, help="(default: %(default)s)")
    parser.add_argument("--pages", type=positive_int, default=12, help="made, for the loader (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_int, default=5, help="of each loader (default: %(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))  # as the scripts and their workers do
    parts = {"targets": lambda: measure_targets(args.rounds),
             "targets_of_skewed_quads": lambda: measure_targets(args.rounds, skew=2.0),
             "matching": lambda: measure_matching(args.rounds),
             "decode": lambda: measure_decode(args.rounds), "growth_ms": lambda: growth(min(args.rounds, 5)),
             "samples": lambda: measure_samples(args.pages, args.seconds),
             "step": lambda: measure_step(args.step_rounds, args.step_side, args.step_batch)}
    report: dict = {"rounds": args.rounds}
    with contextlib.redirect_stdout(sys.stderr), tqdm(parts.items(), disable=None) as bar:
        for name, measure in bar:
            bar.set_description(name)
            report[name] = measure()
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
