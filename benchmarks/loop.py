"""What the shared loop costs: steps through utils.engine beside the barest loop, same model, same data, in one run.

    python -m benchmarks.loop
    python -m benchmarks.loop --workload segmentation --side 512 --batch-size 2 --use-amp
    python -m benchmarks.loop --device cuda --rounds 9 --use-amp

Prints one JSON object as its last line. For each workload: the share of step time that the loop adds (the median over
rounds of paired measurements, each way round, with its 95 % interval; and of processor time, which other programs disturb
less: on a shared machine a few per cent of noise need --rounds 40 to come down to half a per cent), images a second
with and without accumulation, and on a GPU its utilisation (the mean of what nvidia-smi says during the steps through
the loop) and peak memory. The loop is measured with what it does in each step: counting, looking for signals,
TensorBoard every 10 steps. Loading data, evaluating and saving are left out: the batches are ready in memory. On a GPU
the default is both workloads at the sizes that people train at: 640 x 640 by twelves for detection, 1536 x 1536 by twos
for segmentation.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from types import SimpleNamespace

import torch
from scipy.stats import binom
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from models.dbnet import DBNet, DBNetConfig
from models.dbnet_loss import db_loss
from models.stroke_losses import StrokeLoss
from models.strokes import StrokeNet, StrokesConfig
from utils.allocator import keep_freed_memory
from utils.args import new_parser, positive_int
from utils.distributed import init_distributed
from utils.engine import to_device, train_one_epoch
from utils.state import autocast, make_state
from utils.tracking import Run

SIZES = {"cuda": {"detection": (640, 12), "segmentation": (1536, 2)},
         "cpu": {"detection": (320, 4), "segmentation": (320, 2)}}
MAPS = {"detection": ("shrink_map", "shrink_mask", "thresh_map", "thresh_mask"), "segmentation": ("mask",)}


def made_batch(workload: str, size: int, side: int, seed: int, pin: bool) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"image": torch.randn(size, 3, side, side, generator=generator)} | {
        name: (torch.rand(size, side, side, generator=generator) > 0.9).float() for name in MAPS[workload]}
    return {"file": ["made"] * size} | {name: t.pin_memory() if pin else t for name, t in tensors.items()}


def make_model_and_step(workload: str, side: int):
    if workload == "detection":
        return DBNet(DBNetConfig("resnet18", "fpn", 64), "none"), lambda model, batch: db_loss(model(batch["image"]), batch)
    loss = StrokeLoss()
    model = StrokeNet(StrokesConfig("unet", "tu-mobilenetv3_large_100", side, side), "none")
    return model, lambda model, batch: (loss(model(batch["image"]), batch["mask"][:, None]),
                                        len(batch["image"]))


class Batches:
    """Stands in for a loader whose data are ready at once, so that only the loop is measured."""

    def __init__(self, batches: list[dict]):
        self.batches = batches
        self.batch_sampler = SimpleNamespace(set_position=lambda epoch, start: None, fillers=set)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Steps:
    """What a run does in each step, without its folder."""

    log_step, wants_pause, pause = Run.log_step, Run.wants_pause, None

    def __init__(self, args, folder: str):
        self.args, self.writer, self.watch = args, SummaryWriter(folder), None
        self.stop_request = SimpleNamespace(number=None)


class Utilisation:
    """with Utilisation() as seen: ...; seen.mean is the GPU's in per cent, None without nvidia-smi or with no reading."""

    def __init__(self, device: torch.device, every_ms: int = 100):
        self.mean, self.process = None, None
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={every_ms}",
                   f"--id={device.index or 0}"]
        self.command = command if device.type == "cuda" and shutil.which("nvidia-smi") else None

    def __enter__(self):
        if self.command:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            readings = [float(line) for line in self.process.communicate()[0].split("\n")[:-1] if line.strip().isdigit()]
            self.mean = statistics.mean(readings) if readings else None


def flags(args, accumulation_steps: int) -> argparse.Namespace:
    return argparse.Namespace(epochs=10**6, lr=1e-4, weight_decay=0.0, optimizer="adamw", scheduler="constant",
                              warmup_epochs=None, step_epochs=1, step_gamma=0.1, gradient_clip_max_norm=5.0, ema_decay=0.0,
                              use_amp=args.use_amp, channels_last=True, compile=False, seed=0, limit_batches=None,
                              accumulation_steps=accumulation_steps, max_bad_steps=0, log_every=10, save_every_steps=None)


def bare_epoch(model, optimizer, step, batches, use_amp: bool, device: torch.device) -> None:
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
    wait_for(device)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function) -> tuple[float, float]:
    """(on the wall, of the processor), which differ where other programs share the machine."""
    begun, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begun, time.process_time() - cpu


def median_interval(values: list[float], level: float = 0.95) -> list[float]:
    """[low, high] of the median, by the order statistics that the sign test leaves: exact for any noise (Conover, 1999,
    section 3.2); with five values or fewer, all of their range, whose level is lower."""
    rank = max(int(binom.ppf((1 - level) / 2, len(values), 0.5)) - 1, 0)
    return [sorted(values)[rank], sorted(values)[-1 - rank]]


def measure(workload: str, args, device: torch.device) -> dict:
    side, size = SIZES["cuda" if device.type == "cuda" else "cpu"][workload]
    side, size = args.side or side, args.batch_size or size
    batches = [made_batch(workload, size, side, seed, device.type == "cuda") for seed in range(args.steps)]
    halves = [{k: v[i : i + size // 2] for k, v in batch.items()} for batch in batches for i in (0, size // 2)]
    model, step = make_model_and_step(workload, side)
    loader, half_loader = Batches(batches), Batches(halves)
    state = make_state(model, flags(args, 1), device, 0, 1, loader, {})
    accumulating = make_state(model, flags(args, 2), device, 0, 1, half_loader, {})
    with tempfile.TemporaryDirectory() as folder:
        run = Steps(state.args, folder)

        def bare():
            bare_epoch(state.model, state.optimizer, step, batches, args.use_amp, device)

        def shared():
            train_one_epoch(state, loader, step, run)
            wait_for(device)

        def with_accumulation():
            train_one_epoch(accumulating, half_loader, step, run)
            wait_for(device)

        for warm in (bare, shared, with_accumulation):
            warm()
        state.optimizer.found_inf = None  # the barest loop steps without it
        rows, cpu_overheads = [], []
        for number in range(args.rounds):  # the order alternates, so that a machine that slows down favours neither
            order = [("bare", bare), ("shared", shared)][:: 1 if number % 2 else -1]
            row = {name: seconds(run) for name, run in order} | {"accumulated": seconds(with_accumulation)}
            rows.append({name: wall for name, (wall, _) in row.items()})
            cpu_overheads.append(row["shared"][1] / row["bare"][1] - 1)
        with Utilisation(device) as seen:
            if device.type == "cuda":
                for _ in range(args.rounds):
                    shared()
        run.writer.close()
    overheads = [row["shared"] / row["bare"] - 1 for row in rows]
    images = args.steps * size
    found = {"side": side, "batch_size": size,
             "bare_s_per_step": statistics.median(row["bare"] for row in rows) / args.steps,
             "overhead_share_median": statistics.median(overheads), "overhead_share_interval": median_interval(overheads),
             "overhead_share_of_each_round": overheads,
             "overhead_share_of_cpu_time_median": statistics.median(cpu_overheads),
             "overhead_share_of_cpu_time_interval": median_interval(cpu_overheads),
             "images_per_s": images / statistics.median(row["shared"] for row in rows),
             "images_per_s_accumulating_2": images / statistics.median(row["accumulated"] for row in rows)}
    if device.type == "cuda":
        found |= {"gpu_utilisation_percent": seen.mean, "gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    return found


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--workload", nargs="+", choices=tuple(MAPS), help="(default: detection; on a GPU both)")
    parser.add_argument("--side", type=positive_int, help="pixels (default: 320; on a GPU 640 and 1536)")
    parser.add_argument("--batch-size", type=positive_int, help="an even number (default: 4 and 2; on a GPU 12 and 2)")
    parser.add_argument("--steps", type=positive_int, default=4, help="in each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="(default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--use-amp", action="store_true")
    args = parser.parse_args(argv)
    if (args.batch_size or 2) % 2:
        parser.error("--batch-size must be even: accumulation goes by halves of it")
    device, _, _ = init_distributed(args.device)
    keep_freed_memory(device)
    workloads = args.workload or (list(MAPS) if device.type == "cuda" else ["detection"])
    report = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "use_amp": args.use_amp,
              "threads": torch.get_num_threads()}
    print(json.dumps(report | {"workloads": {workload: measure(workload, args, device) for workload in workloads}}))


if __name__ == "__main__":
    main()
