"""What the shared loop costs: steps through utils.engine beside the barest loop, same model, same data, in one run.

    python -m benchmarks.loop
    python -m benchmarks.loop --side 640 --batch-size 12 --device cuda --rounds 9

Prints one JSON object as its last line: the share of step time that the loop adds (the median over rounds of paired measurements, each
way round), and images a second with and without accumulation.
"""

import argparse
import json
import statistics
import time
from types import SimpleNamespace

import torch
from torch import nn

from models.dbnet import DBNet, DBNetConfig, db_loss
from utils.args import new_parser, positive_int
from utils.distributed import init_distributed
from utils.engine import autocast, make_state, to_device, train_one_epoch


def made_batch(size: int, side: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    maps = {name: (torch.rand(size, side, side, generator=generator) > 0.9).float()
            for name in ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask")}
    return {"image": torch.randn(size, 3, side, side, generator=generator), "file": ["made"] * size} | maps


class Batches:
    """Stands in for a loader whose data are ready at once, so that only the loop is measured."""

    def __init__(self, batches: list[dict]):
        self.batches = batches
        self.batch_sampler = SimpleNamespace(set_position=lambda epoch, start: None, fillers=set)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class NoRun:
    def after_step(self, state, values, extras):
        pass


def flags(args, accumulation_steps: int) -> argparse.Namespace:
    return argparse.Namespace(epochs=10**6, lr=1e-4, weight_decay=0.0, optimizer="adamw", scheduler="constant",
                              warmup_epochs=None, step_epochs=1, step_gamma=0.1, gradient_clip_max_norm=5.0, ema_decay=0.0,
                              use_amp=args.use_amp, channels_last=True, compile=False, seed=0, limit_batches=None,
                              accumulation_steps=accumulation_steps, max_bad_steps=0)


def step(model, batch):
    return db_loss(model(batch["image"]), batch)


def bare_epoch(model, optimizer, batches, use_amp: bool, device: torch.device) -> None:
    """What anyone would write: no accumulation, no checks, no counting; the same clipping."""
    model.train()
    for batch in batches:
        batch = to_device(batch, device, channels_last=True)
        optimizer.zero_grad(set_to_none=True)
        with autocast(use_amp, device):
            parts, _ = step(model, batch)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(function) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--side", type=positive_int, default=320, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="(default: %(default)s)")
    parser.add_argument("--steps", type=positive_int, default=4, help="in each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--use-amp", action="store_true")
    args = parser.parse_args(argv)
    device, _, _ = init_distributed(args.device)
    batches = [made_batch(args.batch_size, args.side, seed) for seed in range(args.steps)]
    halves = [{k: v[i : i + args.batch_size // 2] for k, v in batch.items()} for batch in batches
              for i in (0, args.batch_size // 2)] if args.batch_size > 1 else batches
    model = DBNet(DBNetConfig("resnet18", "fpn", 64))
    loader, half_loader = Batches(batches), Batches(halves)
    state = make_state(model, flags(args, 1), device, 0, 1, loader, {})
    accumulating = make_state(model, flags(args, 2 if args.batch_size > 1 else 1), device, 0, 1, half_loader, {})

    def bare():
        bare_epoch(state.model, state.optimizer, batches, args.use_amp, device)

    def shared():
        train_one_epoch(state, loader, step, NoRun())

    def with_accumulation():
        train_one_epoch(accumulating, half_loader, step, NoRun())

    for warm in (bare, shared, with_accumulation):
        warm()
    rows = []
    for number in range(args.rounds):  # the order alternates, so that a machine that slows down favours neither
        order = [("bare", bare), ("shared", shared)][:: 1 if number % 2 else -1]
        rows.append({name: seconds(run) for name, run in order} | {"accumulated": seconds(with_accumulation)})
    overheads = [row["shared"] / row["bare"] - 1 for row in rows]
    images = args.steps * args.batch_size
    print(json.dumps({
        "device": str(device), "side": args.side, "batch_size": args.batch_size, "use_amp": args.use_amp,
        "bare_s_per_step": statistics.median(row["bare"] for row in rows) / args.steps,
        "overhead_share_median": statistics.median(overheads), "overhead_share_of_each_round": overheads,
        "images_per_s": images / statistics.median(row["shared"] for row in rows),
        "images_per_s_accumulating_2": images / statistics.median(row["accumulated"] for row in rows)}))


if __name__ == "__main__":
    main()
