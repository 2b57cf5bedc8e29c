"""What --cache-targets gains and costs: epochs of the detection loader with and without it, in one run.

    python -m benchmarks.cache
    python -m benchmarks.cache --data-dir SROIE --workers 2 --rounds 5

Nothing is trained: all that is measured is the loader, so that a training gains this where it waits for its data, and
nothing where it waits for its GPU. Kinds: "overfit" (the same samples in every epoch: image and target maps are kept),
"augmented" (only the decoded page is), "evaluation" (the page at its test size is) and "never again" (keys that no later
epoch asks for: the worst case, on which the cache must switch itself off).

Prints one JSON object as its last line. For each kind, seconds of an epoch: without, cold (the first one on an empty
cache) and hot (once no look-up fails), with cold_cost and hot_gain as medians of paired rounds; spent_share is what the
cache has cost by its own account, of the time of all workers up to the end of the cold epoch. Entries are written to a
temporary folder and read back from memory where the system has kept them there.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from datasets import synthetic
from datasets.augment import DetectionAugmentation, WholePage
from datasets.detection import DetectionDataset, read_split
from utils.args import new_parser, non_negative_int, positive_int
from utils.dataloading import EpochBatches, EveryBatch, Key, make_loader
from utils.errors import exit_cleanly
from utils.geometry import PageSize
from utils.target_cache import DEFAULT_LIMIT_GB, HITS, MISSES, SAVED, SPENT, Store, TargetCache

SIDE, LONG_SIDE = 640, 1280
MOST_EPOCHS = 12  # to become hot
KINDS = {"overfit": (WholePage(SIDE, SIDE), True), "augmented": (DetectionAugmentation(SIDE, SIDE), False),
         "evaluation": (None, False), "never again": (DetectionAugmentation(SIDE, SIDE), True)}


class NeverAgain(DetectionDataset):
    """Every epoch asks for samples of another seed."""

    def __getitem__(self, key: Key) -> dict:
        self.seed = key[0]
        return super().__getitem__(key)


class Epochs:
    """The loader of one kind, with a cache or without, that can be run epoch by epoch."""

    def __init__(self, kind: str, pages: list, workers: int, store: Store | None):
        augment, fixed = KINDS[kind]
        kind_of_dataset = NeverAgain if kind == "never again" else DetectionDataset
        dataset = kind_of_dataset(pages, PageSize(LONG_SIDE), 0, augment, fixed=fixed)
        self.batches = EpochBatches(len(pages), 4, 0) if augment else EveryBatch(len(pages), 1)
        self.loader, self.epoch = make_loader(dataset, self.batches, workers, torch.device("cpu")), 0
        self.cache = TargetCache(store, workers) if store else None
        if self.cache:
            dataset.use_cache(self.cache)
        self.workers = max(workers, 1)

    def run(self) -> float:
        """Seconds of the next epoch."""
        begun = time.perf_counter()
        if isinstance(self.batches, EpochBatches):
            self.batches.set_position(self.epoch)
        for _ in self.loader:
            pass
        self.epoch += 1
        if self.cache:
            self.cache.judge()
        return time.perf_counter() - begun

    @property
    def total(self) -> list[float]:
        return self.cache.counts.sum(0).tolist()


def measure(kind: str, pages: list, workers: int, rounds: int, root: Path) -> dict:
    plain, rows, spent = Epochs(kind, pages, workers, None), [], []
    plain.run()  # starts the workers, fills the system's cache of files
    for number in range(rounds):
        store = Store(root / f"{kind}_{number}", int(DEFAULT_LIMIT_GB * 1e9))
        cached, row = Epochs(kind, pages, workers, store), {}
        cached.cache.state[0] = 1
        cached.run()  # likewise, with the cache off: a cold epoch is not to pay for the start of its workers
        cached.cache.state[0], cached.cache.reason, cached.cache.epochs = 0, "", 0
        for name in ("without", "cold")[:: 1 if number % 2 else -1]:
            row[name] = (plain if name == "without" else cached).run()
        spent.append(cached.total[SPENT] / (row["cold"] * cached.workers))
        rows.append(row)
    filling, hot = 1, []
    while filling < MOST_EPOCHS and not cached.cache.state[0]:
        before = cached.total
        cached.run()
        filling += 1
        if cached.total[MISSES] == before[MISSES] and cached.total[HITS] - before[HITS] >= len(pages):
            break
    for number in range(rounds):
        row = {}
        for name in ("without", "hot")[:: 1 if number % 2 else -1]:
            row[name] = (plain if name == "without" else cached).run()
        hot.append(row)

    def median(name: str, of: list[dict]) -> float:
        return statistics.median(row[name] for row in of)

    return {"without_s": median("without", rows + hot), "cold_s": median("cold", rows), "hot_s": median("hot", hot),
            "cold_cost": statistics.median(row["cold"] / row["without"] - 1 for row in rows),
            "cold_cost_of_each_round": [row["cold"] / row["without"] - 1 for row in rows],
            "hot_gain": statistics.median(row["without"] / row["hot"] for row in hot),
            "spent_share": statistics.median(spent), "epochs_until_hot": filling,
            "saved_s": cached.total[SAVED], "spent_s": cached.total[SPENT], "line": cached.cache.summary()}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.prog = "python -m benchmarks.cache"
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
            report[kind] = measure(kind, pages, args.workers, args.rounds, root / "caches")
            bar.update()
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
