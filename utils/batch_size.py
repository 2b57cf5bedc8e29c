"""--find-batch-size: the largest micro-batch that fits into memory, found by trying, before the training starts."""

import copy
import gc
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from utils.buffers import SavedBuffers
from utils.distributed import from_rank_zero, lowest_over_ranks, restart_count
from utils.engine import Step, backward_window, out_of_memory, take_step
from utils.errors import DataError
from utils.files import read_object
from utils.state import make_state


def find_batch_size(model: nn.Module, args, device: torch.device, rank: int, world: int, loader, step: Step,
                    *evaluation) -> str:
    """Choose --batch-size and --accumulation-steps anew: their product, the effective batch, stays as asked.

    The micro-batch becomes the largest divisor of the effective batch that fits. It is tried on copies of the model,
    so that the training that follows is the one that starts with these two flags. args and the loader are changed; a
    run that is resumed takes what it found when it started. evaluation: loaders whose batches become no larger than
    that either. Returns a line for the console and the card. Raises DataError
    on a CPU, and where a single sample does not fit.
    """
    if not reports_lack_of_memory(device):
        raise DataError("--find-batch-size needs a GPU: a CPU never says that memory has run out, the system swaps or ends "
                        "the process; choose --batch-size and --accumulation-steps by hand")
    effective = args.batch_size * args.accumulation_steps
    found = from_rank_zero(_found_before(args, effective))
    if found:
        line = f"taken from the run's start: micro-batch {found}"
    else:
        fits = largest_that_fits(lambda size: _fits(model, args, device, rank, world, loader, step, size), effective)
        fits = lowest_over_ranks(fits)
        if not fits:
            raise DataError("--find-batch-size: not even a single sample fits into memory; use a smaller image size or "
                            "model, or --use-amp")
        found = max(size for size in range(1, fits + 1) if effective % size == 0)
        line = (f"{fits} fit into memory" + (" (more were not asked for)" if fits == effective else "")
                + f"; micro-batch {found}" + ("" if found == fits else f", the largest that divides {effective}"))
    args.batch_size = loader.batch_sampler.batch_size = found
    args.accumulation_steps = effective // found
    for other in filter(None, evaluation):
        other.batch_sampler.batch_size = min(other.batch_sampler.batch_size, found)
    line += (f" x accumulation {args.accumulation_steps}" + (f" x {world} processes" if world > 1 else "")
             + f" = effective batch {effective * world}, as asked; learning rate {args.lr:g}, as asked")
    if rank == 0:
        print(f"batch size: {line}")
    return line


def reports_lack_of_memory(device: torch.device) -> bool:
    return device.type == "cuda"


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest size from 1 to `most` for which fits(size), found by doubling, then bisecting; 0 where there is none."""
    good, size = 0, 1
    while fits(size):
        good = size
        if size == most:
            return most
        size = min(2 * size, most)
    bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _fits(model, args, device, rank, world, loader, step, size: int) -> bool:
    fitted = True
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _try(model, args, device, rank, world, loader, step, size)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        fitted = False
    gc.collect()  # what the attempt has left, or the next one would find less memory than a training does
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fitted


def _try(model, args, device, rank, world, loader, step, size: int) -> None:
    """Two optimizer steps of `size` copies of the largest sample. The second has the most in memory: optimizer state and,
    where steps accumulate, gradients beside the activations; and the buckets in which DDP sends gradients."""
    state = make_state(copy.deepcopy(model), args, device, rank, 1, loader, {})
    buckets = [torch.empty_like(p) for p in state.model.parameters() if p.requires_grad] if world > 1 else []
    batch = loader.collate_fn([largest_sample(loader)] * size) | {"filler": False}
    state.model.train()
    for _ in range(2):
        window = [batch] * (1 if size == args.batch_size * args.accumulation_steps else 2)
        take_step(state, *backward_window(state, window, step), SavedBuffers(state.model))
    del buckets


def largest_sample(loader) -> dict:
    """A sample whose every value is as large as any in the dataset's, be they of different samples.

    Its dataset's largest() gives samples of which each is the largest in something; without it, the batches know the key
    of one that is as large as any.
    """
    dataset = loader.dataset
    samples = dataset.largest() if hasattr(dataset, "largest") else [dataset[loader.batch_sampler.largest_key()]]
    return {key: max((sample[key] for sample in samples), key=_size) for key in samples[0]}


def _size(value) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return getattr(value, "size", None) or (len(value) if hasattr(value, "__len__") else 0)


def _found_before(args, effective: int) -> int | None:
    """The micro-batch in a resumed run's args.json, if it is one of the same effective batch."""
    folder = Path(args.resume).parent if args.resume not in (None, "auto") else args.output_dir
    if not (args.resume or restart_count()) or folder is None or not (folder / "args.json").is_file():
        return None
    stored = read_object(folder / "args.json")
    if not stored.get("find_batch_size") or stored.get("batch_size", 0) * stored.get("accumulation_steps", 0) != effective:
        return None
    return stored["batch_size"]
