"""The toy run as one rank of two, in a real run folder; with --die rank 1 is lost once, in the middle of an epoch."""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "utils")]

from test_engine import Toy, arguments, token_step  # noqa: E402

from utils.dataloading import EpochBatches, make_loader  # noqa: E402
from utils.distributed import init_distributed, leave_distributed  # noqa: E402
from utils.engine import train_one_epoch  # noqa: E402
from utils.errors import exit_cleanly  # noqa: E402
from utils.state import make_state  # noqa: E402
from utils.tracking import Run  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--out-of-memory", action="store_true", help="rank 1 has room for one sample at a time")
    parser.add_argument("--stop-early", action="store_true", help="rank 1 alone gets a SIGTERM")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--batch-size", type=int, default=2)
    own = parser.parse_args()
    torch.set_num_threads(1)
    device, rank, world = init_distributed("cpu")
    options = dict(epochs=4, batch_size=own.batch_size,
                   resume=None, overwrite=False, notes="", device="cpu", patience=0, log_every=1,
                   save_every_steps=1, output_dir=own.out)
    args = argparse.Namespace(**(vars(arguments()) | options))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(own.dropout), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(), EpochBatches(11, args.batch_size, args.seed, rank, world), 0, device)
    state = make_state(model, args, device, rank, world, loader, {"config": {}})

    def step(model, batch):
        if own.out_of_memory and rank == 1 and len(batch["file"]) > 1:
            raise torch.OutOfMemoryError("injected")
        if state.step == 7 and rank == 1:
            if own.die and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            if own.stop_early:
                os.kill(os.getpid(), signal.SIGTERM)
        return token_step(model, batch)

    run = Run("detection", args, rank, best="score", defaults={}, facts={}, world=world)
    with run.recording(state):
        while state.epoch < args.epochs:
            means = train_one_epoch(state, loader, step, run)
            run.finish_epoch(state, means, {"score": means["loss"]}, [{"file": "x"}])
    leave_distributed()


exit_cleanly(main)
