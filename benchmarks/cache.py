"""What --cache-targets gains and costs: epochs of the detection loader with and without it, in one run.

    python -m benchmarks.cache
    python -m benchmarks.cache --data-dir SROIE --workers 2 --rounds 5

Nothing is trained: all that is measured is the loader, so that a training gains this where it waits for its data, and
nothing where it waits for its GPU. Kinds: "overfit" (the same samples in every epoch: image and target maps are kept),
"augmented" (only the decoded page is), "evaluation" (the page at its test size is) and "never again" (keys that no later
epoch asks for: the worst case, on which the cache must switch itself off).

Prints one JSON object as its last line. For each kind: seconds of an epoch of the loader without the cache, cold (the
first one on an empty cache) and hot (once no look-up fails), and hot_gain, the median of paired rounds. cold_cost is the
share by which the cache makes a cold epoch longer, with its 95 % interval: each sample is made twice without the cache
and once with it, in turns of a few samples, so that what else the machine does meets all three, and what storing pushes
out of the processor's caches is missed by the one that stored; the turns of the others are no time that goes by for the
cache. noise is the same share of one without the cache to the other. spent_share is what the cache has cost by its own
account. Entries are written to a temporary folder and read back from memory where the system has kept them there. An
epoch of less than seven seconds is over before the cache may spend anything: ask for enough --pages.
"""

import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets import synthetic
from datasets.augment import DetectionAugmentation, WholePage
from datasets.detection import DetectionDataset, read_split
from utils.args import new_parser, non_negative_int, positive_int
from utils.bootstrap import intervals
from utils.dataloading import EpochBatches, EveryBatch, Key, make_loader
from utils.errors import exit_cleanly
from utils.geometry import PageSize
from utils.target_cache import DEFAULT_LIMIT_GB, HITS, MISSES, SAVED, SPENT, Store, TargetCache

SIDE, LONG_SIDE = 640, 1280
MOST_EPOCHS = 12  # to become hot
CACHED = 2  # of three data sets that make the same samples, the one with the cache
BLOCK, ORDERS = 10, list(itertools.permutations(range(3)))  # samples in a turn, and whose turn it is
KINDS = {"overfit": (WholePage(SIDE, SIDE), True), "augmented": (DetectionAugmentation(SIDE, SIDE), False),
         "evaluation": (None, False), "never again": (DetectionAugmentation(SIDE, SIDE), True)}


class NeverAgain(DetectionDataset):
    """Every epoch asks for samples of another seed."""

    def __getitem__(self, key: Key) -> dict:
        self.seed = key[0]
        return super().__getitem__(key)


def dataset_of(kind: str, pages: list) -> DetectionDataset:
    augment, fixed = KINDS[kind]
    kind_of_dataset = NeverAgain if kind == "never again" else DetectionDataset
    return kind_of_dataset(pages, PageSize(LONG_SIDE), 0, augment, fixed=fixed)


class Epochs:
    """The loader of one kind, with a cache or without, that can be run epoch by epoch."""

    def __init__(self, kind: str, pages: list, workers: int, store: Store | None):
        dataset = dataset_of(kind, pages)
        self.batches = EpochBatches(len(pages), 4, 0) if dataset.augment else EveryBatch(len(pages), 1)
        self.loader = make_loader(dataset, self.batches, workers, torch.device("cpu"))
        self.cache = TargetCache(store, workers) if store else None
        if self.cache:
            dataset.use_cache(self.cache)

    def run(self, epoch: int) -> float:
        """Seconds of this epoch, whose samples are the same with a cache and without."""
        begun = time.perf_counter()
        if isinstance(self.batches, EpochBatches):
            self.batches.set_position(epoch)
        for _ in self.loader:
            pass
        if self.cache:
            self.cache.judge()
        return time.perf_counter() - begun

    @property
    def total(self) -> list[float]:
        return self.cache.counts.sum(0).tolist()


def epoch_times(kind: str, pages: list, workers: int, rounds: int, root: Path) -> dict:
    plain, without, cold, hot = Epochs(kind, pages, workers, None), [], [], []
    plain.run(0)  # starts the workers, fills the system's cache of files
    for number in range(rounds):
        store = Store(root / f"{kind}_{number}", int(DEFAULT_LIMIT_GB * 1e9))
        cached = Epochs(kind, pages, workers, store)
        cached.cache.state[0] = 1
        cached.run(0)  # likewise, with the cache off: a cold epoch is not to pay for the start of its workers
        cached.cache.state[0], cached.cache.reason, cached.cache.epochs = 0, "", 0
        for epochs, seconds in ((plain, without), (cached, cold))[:: 1 if number % 2 else -1]:
            seconds.append(epochs.run(1))
    last = 1
    while last < MOST_EPOCHS and not cached.cache.state[0]:
        before = cached.total
        last += 1
        cached.run(last)
        if cached.total[MISSES] == before[MISSES] and cached.total[HITS] - before[HITS] >= len(pages):
            break
    filled_in = last
    for number in range(rounds):
        last += 1
        for epochs, seconds in ((plain, without), (cached, hot))[:: 1 if number % 2 else -1]:
            seconds.append(epochs.run(last))
    return {"without_s": statistics.median(without), "cold_s": statistics.median(cold), "hot_s": statistics.median(hot),
            "hot_gain": statistics.median(a / b for a, b in zip(without[rounds:], hot)), "epochs_until_hot": filled_in,
            "saved_s": cached.total[SAVED], "spent_s": cached.total[SPENT], "line": cached.cache.summary()}


def cold_cost(kind: str, pages: list, rounds: int, root: Path) -> dict:
    """Of `rounds` cold epochs, block by block in this process."""
    table, spent = np.zeros((rounds, len(pages), 3)), 0.0
    for number in range(rounds):
        datasets = [dataset_of(kind, pages) for _ in range(3)]
        cache = TargetCache(Store(root / f"{kind}_{number}_by_block", int(DEFAULT_LIMIT_GB * 1e9)), 0)
        datasets[CACHED].use_cache(cache)
        for dataset in datasets[:CACHED]:
            dataset[1, 0]
        for turn, first in enumerate(range(0, len(pages), BLOCK)):
            block = range(first, min(first + BLOCK, len(pages)))
            for which in ORDERS[(turn + number) % len(ORDERS)]:
                for position in block:
                    begun = time.perf_counter()
                    datasets[which][1, position]
                    table[number, position, which] = time.perf_counter() - begun
                if cache.process and which != CACHED:  # asked once, it counts what goes by, of which it may spend a share
                    cache.since += table[number, block, which].sum()
        spent += cache.counts.sum(0)[SPENT].item()
    times = table.reshape(-1, 3)

    def shares(rows: np.ndarray) -> dict[str, float]:
        plain, again, cached = times[rows].sum(0).tolist()
        return {"cold_cost": 2 * cached / (plain + again) - 1, "noise": again / plain - 1}

    found = intervals(shares, [str(row % len(pages)) for row in range(len(times))])
    return {name: value for name, (value, _, _) in found.items()} | {
        f"{name}_interval": edges for name, (_, *edges) in found.items()} | {
        "spent_share": spent / times[:, 0].sum().item()}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="detection data, whose train/ is read (default: made pages)")
    parser.add_argument("--pages", type=positive_int, default=40, help="read, and made if need be (default: %(default)s)")
    parser.add_argument("--workers", type=non_negative_int, default=1, help="loader processes (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    report = {"pages": args.pages, "workers": args.workers}
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr),
          tqdm(total=len(KINDS), disable=None) as bar):
        root = Path(folder)
        if not args.data_dir:
            synthetic.main(["--out", str(root), "--pages", str(args.pages), "--splits", "1,0,0"])
        pages = read_split((args.data_dir or root / "detection") / "train", 0.01)[: args.pages]
        for kind in KINDS:
            bar.set_description(kind)
            report[kind] = (epoch_times(kind, pages, args.workers, args.rounds, root / "caches")
                            | cold_cost(kind, pages, args.rounds, root / "caches"))
            bar.update()
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
