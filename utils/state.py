"""What a training holds: model, optimizer, schedule, moving average and counts, made from the flags in one place."""

from dataclasses import dataclass, field
from typing import Any, Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.ema import EMA, make_average
from utils.schedules import make_schedule


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
    total_steps: int  # optimizer steps of the whole run
    deferred: bool = False  # the outcome of a step is read one step later, see settle
    epoch: int = 0  # epochs completed
    batch: int = 0  # micro-batches of the current epoch already learnt from
    step: int = 0  # optimizer steps taken; the x of every curve
    micro_split: int = 1  # pieces a micro-batch is cut into since memory ran out
    bad_steps: int = 0
    skipped_steps: int = 0  # left out by the fp16 scaler
    best_score: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0  # training time, evaluation included
    settled_at: float = 0.0  # clock reading when the last outcome was read
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
            self.ema.restart(self.model, checkpoint["progress"]["step"])
        saved = checkpoint["optimizer"]  # whose groups may come from a run without fused kernels
        self.optimizer.load_state_dict(saved | {"param_groups": [group | {"fused": True} for group in
                                                                 saved["param_groups"]]})
        for parameter, values in self.optimizer.state.items():  # fused kernels take one memory layout for granted
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
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
    ema = make_average(model, args, steps_per_epoch * args.epochs)
    schedule = make_schedule(args.scheduler, steps_per_epoch, args.epochs, args.warmup_epochs, args.step_epochs,
                             args.step_gamma)
    wrapped = model
    if world > 1:
        wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    if args.compile:
        wrapped = torch.compile(wrapped)
    return TrainState(
        model=model, wrapped=wrapped, optimizer=make_optimizer(model, args), schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, init_scale=2.0**12,
                                    enabled=amp_dtype(args.use_amp, device) == torch.float16),
        ema=ema, device=device, args=args, rank=rank, world=world, fields=fields,
        total_steps=steps_per_epoch * args.epochs, deferred=device.type == "cuda")


def without_dropout(model: nn.Module) -> None:
    """Switch off, for good, everything that a model leaves to chance in training: dropout, and whole branches dropped
    (stochastic depth), as a module or as a rate that a module hands to a function."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("dropout", "drop_prob", "_drop_connect_rate"):  # attention; timm's and smp's branches
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def make_optimizer(model: nn.Module, args) -> torch.optim.Optimizer:
    """--optimizer over the trainable parameters; biases and norms (one dimension) are not decayed.

    The kernels are fused ones everywhere: they alone take found_inf, by which learn_window leaves a bad step out.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trainable if p.ndim > 1], "weight_decay": args.weight_decay},
              {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}]
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=True)
        for parameter in trainable:  # it would take over memory that was never written, were the first step left out
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer]
    return kind(groups, lr=args.lr, fused=True)
