"""Trains the toy model of the loop's tests as one rank of many; rank 0 writes what came out."""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "utils")]

from test_engine import NoRun, Toy, arguments, token_step  # noqa: E402

from utils.dataloading import EpochBatches, EveryBatch, make_loader  # noqa: E402
from utils.distributed import any_rank, gather_lists, init_distributed, leave_distributed  # noqa: E402
from utils.engine import train_one_epoch  # noqa: E402
from utils.errors import exit_cleanly  # noqa: E402
from utils.state import make_state  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--accumulation-steps", type=int)
    own = parser.parse_args()
    torch.set_num_threads(1)
    device, rank, world = init_distributed("cpu")
    args = arguments(batch_size=own.batch_size, accumulation_steps=own.accumulation_steps)
    torch.manual_seed(rank)  # ranks that start apart are brought together by DDP
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(), EpochBatches(11, args.batch_size, args.seed, rank, world), 0, device)
    state = make_state(model, args, device, rank, world, loader, {})
    reductions = []

    def reduce_and_count(_, bucket):
        reductions.append(bucket)
        return allreduce_hook(None, bucket)

    if world > 1:
        state.wrapped.register_comm_hook(None, reduce_and_count)
    means = [train_one_epoch(state, loader, token_step, NoRun()) for _ in range(3)]
    seen = gather_lists([index for keys in EveryBatch(11, 3, rank, world) for _, index in keys])
    assert any_rank(rank == world - 1) and not any_rank(False)
    if rank == 0:
        torch.save({"model": model.state_dict(), "ema": state.ema.model.state_dict(), "means": means,
                    "step": state.step, "seen": sorted(seen), "reductions": len(reductions)}, own.out)
    leave_distributed()


if __name__ == "__main__":
    exit_cleanly(main)
