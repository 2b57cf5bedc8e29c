"""The training loop of the plain-PyTorch scripts: one function over one dataclass (utils.state.TrainState).

What it promises: gradient accumulation and several ranks give the step that one large batch gives; a run that was
stopped and resumed continues bit for bit; a skipped step moves neither the schedule nor the moving average.

No step waits for the device: whether a step is taken is decided there, and what came of it is read while the device is
at work on the next one. See learn_window and settle.
"""

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.buffers import SavedBuffers
from utils.distributed import any_rank, sum_over_ranks
from utils.errors import DataError, NonFiniteLoss
from utils.state import TrainState, autocast

Step = Callable[[nn.Module, dict], tuple[dict[str, torch.Tensor], Any]]


def train_one_epoch(state: TrainState, loader, step: Step, run) -> dict[str, float]:
    """Learn from the rest of the epoch; returns the weighted means of the loss parts over the whole epoch.

    step(model, batch) -> (parts, weight): parts are means over `weight` samples (or tokens) and hold "loss".
    run: utils.tracking.Run; it logs, saves between steps, and says when a signal asks to stop.
    """
    args, started = state.args, time.perf_counter()
    before, state.settled_at = state.seconds, started
    state.wrapped.train()
    loader.batch_sampler.set_position(state.epoch, state.batch)
    total = -(-len(loader) // args.accumulation_steps)
    if args.limit_batches:
        total = min(total, -(-args.limit_batches // args.accumulation_steps))
    bar = tqdm(total=total, initial=state.batch // args.accumulation_steps, desc=f"epoch {state.epoch + 1}/{args.epochs}",
               unit="step", disable=state.rank != 0 or None, leave=False, dynamic_ncols=True)
    pending = None
    with contextlib.closing(bar):
        for window, waited in windows(loader, args.accumulation_steps, args.limit_batches, state.batch):
            pending = learn_window(state, window, waited, step, run, pending)
            state.batch += len(window)
            bar.update()
            pausing = run.wants_pause(state)
            if pausing or not state.deferred:
                settle(state, pending, run)
                pending = None
            state.seconds = before + time.perf_counter() - started
            if state.sums:
                bar.set_postfix_str(f"loss {state.sums['loss'] / state.sums['weight']:.4f}", refresh=False)
            if pausing:
                run.pause(state)
        if pending:
            settle(state, pending, run)
    state.seconds = before + time.perf_counter() - started
    means = {name: value / state.sums["weight"] for name, value in state.sums.items() if name != "weight"}
    if not means:
        raise NonFiniteLoss("not one step of this epoch could be taken")
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
    return means


def windows(loader, accumulation_steps: int, limit: int | None, done: int) -> Iterator[tuple[list[dict], float]]:
    """Lists of micro-batches that make one optimizer step, the short last one included, and the seconds waited."""
    if limit and done >= limit:  # stopped and resumed just there
        return
    window, waited, mark = [], 0.0, time.perf_counter()
    fillers = loader.batch_sampler.fillers()
    for number, batch in enumerate(loader, start=done + 1):
        batch["filler"] = number - 1 in fillers
        waited += time.perf_counter() - mark
        window.append(batch)
        if len(window) == accumulation_steps or number == limit:
            yield window, waited
            window, waited = [], 0.0
        if number == limit:
            return
        mark = time.perf_counter()
    if window:
        yield window, waited


@dataclass
class Pending:
    """A window whose step is on its way through the device."""

    window: list[dict]
    waited: float  # seconds, for its data
    names: list[str]  # of the loss parts
    row: torch.Tensor  # (2 + parts,) float64 on the CPU, being copied: gradient norm, weight, part * weight, ...
    copied: torch.cuda.Event | None  # None on the CPU, where nothing is ever on its way


def learn_window(state: TrainState, window: list[dict], waited: float, step: Step, run,
                 previous: Pending | None = None) -> Pending:
    """Ask the device for one optimizer step from the micro-batches of `window`, without waiting for it.

    When memory runs out, the window is run again from its start in smaller pieces. previous: the window before, where
    its outcome has not been read yet; it must be known before this window's step, for the schedule.
    A step whose loss or gradient is not finite is left out on the device: weights, optimizer state and buffers stay as
    they are. settle() learns of it and does the same for the schedule and the moving average.
    """
    buffers = SavedBuffers(state.model)
    while True:
        try:
            names, sums = backward_window(state, window, step)
            break
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            state.optimizer.zero_grad(set_to_none=True)
            buffers.restore()
        # Outside of the handler, whose exception would hold on to the activations.
        _shrink_micro_batch(state, max(len(batch["file"]) for batch in window), run)
    if previous:
        settle(state, previous, run, buffers)
    row = take_step(state, names, sums, buffers).to("cpu", non_blocking=True)
    copied = torch.cuda.Event() if state.device.type == "cuda" else None
    if copied:
        copied.record()
    return Pending(window, waited, names, row, copied)


def take_step(state: TrainState, names: list[str], sums: torch.Tensor, buffers: SavedBuffers) -> torch.Tensor:
    """The optimizer's step, unless something is not finite; returns the row of Pending, on the device."""
    sums = sum_over_ranks(sums) if state.world > 1 else sums
    state.scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    # DDP has averaged over the ranks; what is wanted is the sum divided by the weight of the whole window.
    factor = state.world / sums[0]
    norm = torch.nn.utils.get_total_norm(gradients) * factor
    limit = state.args.gradient_clip_max_norm or float("inf")
    # Both in one pass over the gradients; the rest is torch.nn.utils.clip_grad_norm_.
    torch._foreach_mul_(gradients, (factor * (limit / (norm + 1e-6)).clamp(max=1)).to(gradients[0].dtype))
    finite = torch.isfinite(norm) & torch.isfinite(sums[1 + names.index("loss")])
    for group in state.optimizer.param_groups:
        group["lr"] = state.args.lr * state.schedule(state.step)
    state.optimizer.found_inf = (~finite).float()  # fused kernels then leave weights and state alone
    state.optimizer.step()
    state.scaler.update()
    buffers.restore(unless=finite)  # batch norm's statistics would stay what a bad batch has made of them
    return torch.cat([norm.double().reshape(1), sums])


def settle(state: TrainState, pending: Pending, run, buffers: SavedBuffers | None = None) -> dict[str, float] | None:
    """Read what came of a step, and let everything that the host keeps follow it: counts, schedule, moving average.

    Returns the means of the loss parts and "weight"; None where the step was left out. run.keep_bad_batch(state, window)
    then keeps what it was. buffers: the model's after that step, where a later window has moved them on since.
    """
    if pending.copied:
        pending.copied.synchronize()
    norm, weight, *totals = pending.row.tolist()
    values = {"weight": weight} | {name: total / weight for name, total in zip(pending.names, totals)}
    now = time.perf_counter()
    images = sum(len(batch["file"]) for batch in pending.window) * state.world
    seconds = now - state.settled_at
    extras = {"grad_norm": norm, "data_wait": pending.waited, "images_per_s": images / seconds, "images": images,
              "seconds": seconds, "window": pending.window}
    state.settled_at = now
    if not np.isfinite(values["loss"]) or not (np.isfinite(norm) or state.scaler.is_enabled()):
        _note_bad_step(state, pending.window, values, norm, run)
        return None
    if not np.isfinite(norm):  # in float16: the scaler has lowered its factor and tries again
        state.skipped_steps += 1
        return None
    state.step += 1
    if state.ema:
        state.ema.update(state.model, buffers.tensors() if buffers else None)
    for name, value in values.items():
        state.sums[name] = state.sums.get(name, 0.0) + value * (1 if name == "weight" else weight)
    run.log_step(state, values, extras)
    return values


def backward_window(state: TrainState, window: list[dict], step: Step) -> tuple[list[str], torch.Tensor]:
    """Gradients of sum(loss * weight); returns the parts' names and a float64 vector (weight, part * weight, ...)."""
    seed_device(window_seed(state.args.seed, state.epoch, state.batch, state.rank), state.device)
    state.optimizer.zero_grad(set_to_none=True)
    pieces = [piece for batch in window for piece in split_batch(batch, state.micro_split)]
    shared_seed = window_seed(state.args.seed, state.epoch, state.batch, 0)
    names, sums = [], torch.zeros(1, dtype=torch.float64, device=state.device)
    for number, piece in enumerate(pieces, start=1):
        piece = to_device(piece, state.device, state.args.channels_last) | {"step_seed": shared_seed}
        waits = state.world > 1 and number < len(pieces)
        with state.wrapped.no_sync() if waits else contextlib.nullcontext():
            with autocast(state.args.use_amp, state.device):
                parts, weight = step(state.wrapped, piece)
            weight = _on_device(weight, state.device) * (not piece["filler"])
            state.scaler.scale(parts["loss"] * weight.to(parts["loss"].dtype)).backward()
        names = list(parts)
        row = torch.stack([torch.ones_like(weight), *(parts[name].detach().double() for name in names)]) * weight
        sums = row if number == 1 else sums + row
    return names, sums


def window_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(1, np.uint64)[0] >> 1)


def seed_device(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, for the generators that a step draws from alone: it would look for all other kinds
    of devices in each step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def split_batch(batch: dict, pieces: int) -> list[dict]:
    """Cut every tensor and list of len(batch["file"]) samples into at most `pieces` parts of equal size."""
    size = len(batch["file"])
    part = -(-size // pieces)
    return [{key: value[begin : begin + part] if _is_per_sample(value, size) else value for key, value in batch.items()}
            for begin in range(0, size, part)]


def to_device(batch: dict, device: torch.device, channels_last: bool = False) -> dict:
    def move(value):
        if not isinstance(value, torch.Tensor):
            return value
        layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
        return value.to(device, non_blocking=True, memory_format=layout)

    return {key: move(value) for key, value in batch.items()}


def _on_device(weight, device: torch.device) -> torch.Tensor:
    """A number or tensor as float64; a number is written there by a kernel, since copying it would wait for the device."""
    if isinstance(weight, torch.Tensor):
        return weight.to(device, torch.float64)
    return torch.full((), float(weight), dtype=torch.float64, device=device)


def _is_per_sample(value, size: int) -> bool:
    return isinstance(value, (torch.Tensor, list)) and len(value) == size


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's memory has run out: PyTorch's own error, or that of a library which asks for some itself."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in (
        "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"))


def _shrink_micro_batch(state: TrainState, size: int, run) -> None:
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    if state.micro_split >= size:
        raise DataError("out of memory with a single sample at a time; use a smaller image size or model, "
                        "or --use-amp")
    state.micro_split *= 2
    if state.world > 1:
        # The other ranks wait in a reduction that this one will never join: all of them must start again.
        run.keep_micro_split(state.micro_split)
        raise DataError(f"out of memory on rank {state.rank}: start again with --resume auto, or let torchrun do it by "
                        f"--max-restarts; micro-batches will then go in {state.micro_split} pieces")
    tqdm.write(f"out of memory: this window is run again, and the run goes on, in pieces of "
               f"{-(-size // state.micro_split)} samples")


def _note_bad_step(state: TrainState, window: list[dict], values: dict[str, float], norm: float, run) -> None:
    state.bad_steps += 1
    bad = [name for name, value in values.items() if not np.isfinite(value)] or [f"gradient norm ({norm})"]
    files = [str(name) for batch in window for name in batch["file"]]
    kept = run.keep_bad_batch(state, window)
    message = (f"step {state.step}: not finite: {', '.join(bad)}; files: {', '.join(files[:16])}"
               f"{' ...' if len(files) > 16 else ''}{f'; the batch is kept in {kept}' if kept else ''}")
    tqdm.write(message)
    if any_rank(state.bad_steps > state.args.max_bad_steps):
        raise NonFiniteLoss(message + f" ({state.bad_steps} such steps; --max-bad-steps {state.args.max_bad_steps})")
