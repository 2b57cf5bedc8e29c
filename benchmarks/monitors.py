"""What the monitors that are always on cost: the same steps with and without them, in one run.

    python -m benchmarks.monitors
    python -m benchmarks.monitors --side 640 --batch-size 12 --device cuda --seconds 30

Prints one JSON object as its last line. overhead_share is what the monitor used, as a share of the time of the steps
beside it: the processor time of its thread, which is the most that it can take from a training that needs every core,
and what a step spends on counting. overhead_share_of_each_round is by the clock, the same steps with and without, whose
noise on a busy machine is far larger. The interval between looks is that of a training.
"""

import argparse
import json
import statistics
import tempfile
import time
import timeit
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.tensorboard import SummaryWriter

from models.dbnet import DBNet, DBNetConfig
from models.dbnet_loss import db_loss
from utils.allocator import keep_freed_memory
from utils.args import new_parser, positive_float, positive_int
from utils.distributed import init_distributed
from utils.engine import train_one_epoch
from utils.errors import exit_cleanly
from utils.monitor import INTERVAL
from utils.state import make_state
from utils.watching import Watch


FLAGS = {"epochs": 10**6, "lr": 1e-4, "weight_decay": 0.0, "optimizer": "adamw", "scheduler": "constant",
         "warmup_epochs": None, "step_epochs": 1, "step_gamma": 0.1, "gradient_clip_max_norm": 5.0, "ema_decay": 0.0,
         "channels_last": True, "compile": False, "seed": 0, "limit_batches": None, "accumulation_steps": 1,
         "max_bad_steps": 0}


def step(model, batch):
    return db_loss(model(batch["image"]), batch)


class OneBatch:
    """A loader whose data are ready at once."""

    def __init__(self, size: int, side: int):
        generator = torch.Generator().manual_seed(0)
        self.batch = {"image": torch.randn(size, 3, side, side, generator=generator), "file": ["made"] * size} | {
            name: (torch.rand(size, side, side, generator=generator) > 0.9).float()
            for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask")}
        self.batch_sampler = SimpleNamespace(set_position=lambda epoch, start: None, fillers=set)

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield dict(self.batch)


class Unwatched:
    """The least that the loop asks of a run."""

    def log_step(self, state, values, extras):
        pass

    def wants_pause(self, state):
        return False


class Watched(Unwatched):
    """What utils.tracking.Run does for its monitor in each step."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def log_step(self, state, values, extras):
        self.watch.step(state.step, extras["images"], extras["seconds"], extras["data_wait"], extras["window"])


def seconds_per_step(state, loader, run, seconds: float) -> float:
    """Over whole epochs for `seconds` at least."""
    begun, first = time.perf_counter(), state.step
    while (elapsed := time.perf_counter() - begun) < seconds or state.step == first:
        train_one_epoch(state, loader, step, run)
    return elapsed / (state.step - first)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--side", type=positive_int, default=320, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=11.0,
                        help="of each measurement; the monitor looks every %g s (default: %%(default)s)" % INTERVAL)
    parser.add_argument("--rounds", type=positive_int, default=4, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--use-amp", action="store_true")
    args = parser.parse_args(argv)
    device, _, _ = init_distributed(args.device)
    keep_freed_memory(device)
    loader = OneBatch(args.batch_size, args.side)
    state = make_state(DBNet(DBNetConfig("resnet18", "fpn", 64)), argparse.Namespace(use_amp=args.use_amp, **FLAGS),
                       device, 0, 1, loader, {})
    train_one_epoch(state, loader, step, Unwatched())
    rows, looks, work, watched = [], 0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        for number in range(args.rounds):  # the order alternates, so that a machine that slows down favours neither
            row = {}
            for name in ("without", "with")[:: 1 if number % 2 else -1]:
                if name == "without":
                    row[name] = seconds_per_step(state, loader, Unwatched(), args.seconds)
                    continue
                watch, begun = Watch(argparse.Namespace(device=str(device)), Path(folder), writer, {}), time.perf_counter()
                row[name] = seconds_per_step(state, loader, Watched(watch), args.seconds)
                watch.close()
                watched += time.perf_counter() - begun
                looks, work = looks + len(watch.monitor.samples), work + watch.monitor.seconds_of_work
            rows.append(row)
        watch = Watch(argparse.Namespace(device=str(device)), Path(folder), writer, {})
        count = min(timeit.repeat(lambda: watch.step(1, 4, 0.1, 0.0, []), number=2000, repeat=5)) / 2000
        watch.close()
    step_s = statistics.median(row["without"] for row in rows)
    by_clock = [row["with"] / row["without"] - 1 for row in rows]
    print(json.dumps({
        "device": str(device), "side": args.side, "batch_size": args.batch_size, "interval_s": INTERVAL,
        "step_s": step_s, "looks": looks, "look_cpu_ms": 1000 * work / looks if looks else None,
        "count_us_per_step": 1e6 * count, "overhead_share": work / watched + count / step_s,
        "overhead_share_median_by_clock": statistics.median(by_clock), "overhead_share_of_each_round": by_clock}))


if __name__ == "__main__":
    exit_cleanly(main)
