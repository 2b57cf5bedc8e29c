"""The training loop of the plain-PyTorch scripts: one dataclass, one function.

What it promises: gradient accumulation and several ranks give the step that one large batch gives; a run that was
stopped and resumed continues bit for bit; a skipped step moves neither the schedule nor the moving average.
"""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from utils.distributed import any_rank, is_distributed, sum_over_ranks
from utils.ema import EMA
from utils.errors import DataError, NonFiniteLoss
from utils.schedules import describe_schedule, make_schedule

Step = Callable[[nn.Module, dict], tuple[dict[str, torch.Tensor], Any]]


@dataclass
class TrainState:
    """Everything a checkpoint needs, and nothing that can be rebuilt from the flags."""

    model: nn.Module
    wrapped: nn.Module  # the model, or the DistributedDataParallel or compiled module round it
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    scaler: torch.amp.GradScaler
    ema: EMA | None
    device: torch.device
    args: Any
    rank: int
    world: int
    fields: dict  # task, config, thresholds, charset, ... as the checkpoint carries them
    epoch: int = 0  # epochs completed
    batch: int = 0  # micro-batches of the current epoch already learnt from
    step: int = 0  # optimizer steps taken; the x of every curve
    micro_split: int = 1  # pieces a micro-batch is cut into since memory ran out
    bad_steps: int = 0
    skipped_steps: int = 0  # left out by the fp16 scaler
    best_score: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0  # training time, evaluation included
    sums: dict[str, float] = field(default_factory=dict)  # weighted sums of the loss parts in this epoch

    @property
    def eval_model(self) -> nn.Module:
        """The moving average where one is kept, else the model; in evaluation mode."""
        return (self.ema.model if self.ema else self.model).eval()

    @property
    def amp_dtype(self) -> torch.dtype | None:
        return amp_dtype(self.args.use_amp, self.device)

    def state_dict(self) -> dict:
        return self.fields | {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"name": self.args.scheduler, "step": self.step},
            "scaler": self.scaler.state_dict(),
            # Every window reseeds from (seed, epoch, batch), so the seed and the position below are the whole state.
            "rng": {"seed": self.args.seed},
            "progress": {name: getattr(self, name) for name in PROGRESS} | {"sums": dict(self.sums),
                                                                                        "world": self.world},
        }

    def load_state_dict(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["model"])
        if self.ema and checkpoint["ema"]:
            self.ema.load_state_dict(checkpoint["ema"])
        elif self.ema:
            self.ema = EMA(self.model, self.ema.decay)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:
            self.scaler.load_state_dict(checkpoint["scaler"])
        for name in PROGRESS:
            setattr(self, name, checkpoint["progress"][name])
        self.sums = dict(checkpoint["progress"]["sums"])
        for name in set(self.fields) - {"args", "config"}:
            self.fields[name] = checkpoint.get(name, self.fields[name])


PROGRESS = ("epoch", "batch", "step", "micro_split", "bad_steps", "skipped_steps", "best_score", "best_epoch", "seconds")


def amp_dtype(use_amp: bool, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes in it, float16 on older GPUs, None without --use-amp."""
    if not use_amp:
        return None
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return torch.float16
    return torch.bfloat16


def autocast(use_amp: bool, device: torch.device):
    dtype = amp_dtype(use_amp, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def seed_everything(args) -> None:
    """Seed torch, and ask for deterministic kernels where the flags want them."""
    torch.manual_seed(args.seed)
    if args.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    elif torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def make_state(model: nn.Module, args, device: torch.device, rank: int, world: int, loader, fields: dict) -> TrainState:
    """Model on its device, optimizer, schedule, scaler, moving average and DDP, as the flags say.

    loader: the training loader, for the number of steps in an epoch. fields: plain values that the checkpoint carries
    beside the weights: config, thresholds, charset, ...
    """
    steps_per_epoch = -(-min(len(loader), args.limit_batches or len(loader)) // args.accumulation_steps)
    model = model.to(device)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = EMA(model, args.ema_decay) if args.ema_decay else None
    schedule = make_schedule(args.scheduler, steps_per_epoch, args.epochs, args.warmup_epochs, args.step_epochs,
                             args.step_gamma)
    wrapped = model
    if world > 1:
        wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    if args.compile:
        wrapped = torch.compile(wrapped)
    if rank == 0:
        print(describe_schedule(schedule, args.lr, steps_per_epoch * args.epochs))
    return TrainState(
        model=model, wrapped=wrapped, optimizer=make_optimizer(model, args, device), schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, init_scale=2.0**12,
                                    enabled=amp_dtype(args.use_amp, device) == torch.float16),
        ema=ema, device=device, args=args, rank=rank, world=world, fields=fields)


def without_dropout(model: nn.Module) -> None:
    """Switch off, for good, everything that a model leaves to chance in training: dropout, and whole branches dropped
    (stochastic depth), as a module or as a rate that a module hands to a function."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("dropout", "drop_prob", "_drop_connect_rate"):  # attention; timm's and smp's branches
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def make_optimizer(model: nn.Module, args, device: torch.device) -> torch.optim.Optimizer:
    """--optimizer over the trainable parameters; biases and norms (one dimension) are not decayed."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trainable if p.ndim > 1], "weight_decay": args.weight_decay},
              {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}]
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=args.lr, momentum=0.9)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer]
    return kind(groups, lr=args.lr, fused=True if device.type == "cuda" else None)


def train_one_epoch(state: TrainState, loader, step: Step, run) -> dict[str, float]:
    """Learn from the rest of the epoch; returns the weighted means of the loss parts over the whole epoch.

    step(model, batch) -> (parts, weight): parts are means over `weight` samples (or tokens) and hold "loss".
    run: utils.tracking.Run; it logs, saves between steps, and says when a signal asks to stop.
    """
    args, started = state.args, time.perf_counter()
    before = state.seconds
    state.model.train()
    loader.batch_sampler.set_position(state.epoch, state.batch)
    total = -(-len(loader) // args.accumulation_steps)
    if args.limit_batches:
        total = min(total, -(-args.limit_batches // args.accumulation_steps))
    bar = tqdm(total=total, initial=state.batch // args.accumulation_steps, desc=f"epoch {state.epoch + 1}/{args.epochs}",
               unit="step", disable=state.rank != 0 or None, leave=False, dynamic_ncols=True)
    with contextlib.closing(bar):
        for window, waited in windows(loader, args.accumulation_steps, args.limit_batches, state.batch):
            begun = time.perf_counter()
            state.wrapped.train()
            values, norm = learn_window(state, window, step, run)
            state.batch += len(window)
            state.seconds = before + time.perf_counter() - started
            if values is not None:
                for name, value in values.items():
                    state.sums[name] = state.sums.get(name, 0.0) + value * (1 if name == "weight" else values["weight"])
                bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
            bar.update()
            images = sum(len(batch["file"]) for batch in window) * state.world
            run.after_step(state, values, {"grad_norm": norm, "data_wait": waited,
                                           "images_per_s": images / (time.perf_counter() - begun + waited)})
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


def learn_window(state: TrainState, window: list[dict], step: Step, run) -> tuple[dict[str, float] | None, float]:
    """One optimizer step from the micro-batches of `window`; (means of the parts and "weight", gradient norm).

    When memory runs out, the window is run again from its start in smaller pieces. Returns None for the means when the
    step was skipped because something was not finite; run.keep_bad_batch(state, window) then keeps what it was.
    """
    buffers = [buffer.clone() for buffer in state.model.buffers()]
    while True:
        try:
            names, sums = backward_window(state, window, step)
            break
        except torch.OutOfMemoryError:
            state.optimizer.zero_grad(set_to_none=True)
            for buffer, saved in zip(state.model.buffers(), buffers):
                buffer.copy_(saved)
            _shrink_micro_batch(state, max(len(batch["file"]) for batch in window), run)
    sums = sum_over_ranks(sums)
    state.scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    # DDP has averaged over the ranks; what is wanted is the sum divided by the weight of the whole window.
    torch._foreach_mul_(gradients, (state.world / sums[0]).to(gradients[0].dtype))
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.args.gradient_clip_max_norm or float("inf"))
    # One read-back a step: everything the host must know to decide whether the step is taken.
    weight, *totals, norm = torch.cat([sums, norm.double().reshape(1)]).tolist()
    values = {"weight": weight} | {name: total / weight for name, total in zip(names, totals)}
    if not np.isfinite(values["loss"]) or (not state.scaler.is_enabled() and not np.isfinite(norm)):
        for buffer, saved in zip(state.model.buffers(), buffers):
            buffer.copy_(saved)  # batch norm's statistics would stay what a bad batch has made of them
        state.scaler.update()  # it refuses to unscale twice without
        _skip_bad_step(state, window, values, norm, run)
        return None, norm
    scale = state.scaler.get_scale()
    rate = state.schedule(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = state.args.lr * rate
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.is_enabled() and state.scaler.get_scale() < scale:
        state.skipped_steps += 1
        return None, norm
    state.step += 1
    if state.ema:
        state.ema.update(state.model)
    return values, norm


def backward_window(state: TrainState, window: list[dict], step: Step) -> tuple[list[str], torch.Tensor]:
    """Gradients of sum(loss * weight); returns the parts' names and a float64 vector (weight, part * weight, ...)."""
    torch.manual_seed(window_seed(state.args.seed, state.epoch, state.batch, state.rank))
    state.optimizer.zero_grad(set_to_none=True)
    pieces = [piece for batch in window for piece in split_batch(batch, state.micro_split)]
    shared_seed = window_seed(state.args.seed, state.epoch, state.batch, 0)
    names, sums = [], torch.zeros(1, dtype=torch.float64, device=state.device)
    for number, piece in enumerate(pieces, start=1):
        piece = to_device(piece, state.device, state.args.channels_last) | {"step_seed": shared_seed}
        waits = is_distributed() and number < len(pieces)
        with state.wrapped.no_sync() if waits else contextlib.nullcontext():
            with autocast(state.args.use_amp, state.device):
                parts, weight = step(state.wrapped, piece)
            weight = torch.as_tensor(weight, dtype=torch.float64, device=state.device) * (not piece["filler"])
            state.scaler.scale(parts["loss"] * weight.to(parts["loss"].dtype)).backward()
        names = list(parts)
        row = torch.stack([torch.ones_like(weight), *(parts[name].detach().double() for name in names)]) * weight
        sums = row if number == 1 else sums + row
    return names, sums


def window_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(1, np.uint64)[0] >> 1)


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


def _is_per_sample(value, size: int) -> bool:
    return isinstance(value, (torch.Tensor, list)) and len(value) == size


def _shrink_micro_batch(state: TrainState, size: int, run) -> None:
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    if state.micro_split >= size:
        raise DataError("out of memory with a single sample at a time; use a smaller image size or model, "
                        "or --use-amp") from None
    state.micro_split *= 2
    if is_distributed():
        # The other ranks wait in a reduction that this one will never join: all of them must start again.
        run.keep_micro_split(state.micro_split)
        raise DataError(f"out of memory on rank {state.rank}: start again with --resume auto, or let torchrun do it by "
                        f"--max-restarts; micro-batches will then go in {state.micro_split} pieces") from None
    tqdm.write(f"out of memory: this window is run again, and the run goes on, in pieces of "
               f"{-(-size // state.micro_split)} samples")


def _skip_bad_step(state: TrainState, window: list[dict], values: dict[str, float], norm: float, run) -> None:
    state.bad_steps += 1
    bad = [name for name, value in values.items() if not np.isfinite(value)] or [f"gradient norm ({norm})"]
    files = [str(name) for batch in window for name in batch["file"]]
    kept = run.keep_bad_batch(state, window)
    message = (f"step {state.step}: not finite: {', '.join(bad)}; files: {', '.join(files[:16])}"
               f"{' ...' if len(files) > 16 else ''}{f'; the batch is kept in {kept}' if kept else ''}")
    tqdm.write(message)
    if any_rank(state.bad_steps > state.args.max_bad_steps):
        raise NonFiniteLoss(message + f" ({state.bad_steps} such steps; --max-bad-steps {state.args.max_bad_steps})")
