"""Learning-rate schedules as plain functions of the optimizer step, so that a resumed run needs no stored schedule."""

import math
from typing import Callable

SCHEDULES = ("cosine", "poly", "step", "onecycle", "constant")


def make_schedule(name: str, steps_per_epoch: int, epochs: int, warmup_epochs: float | None = None,
                  step_epochs: int = 30, step_gamma: float = 0.1) -> Callable[[int], float]:
    """factor(step): what the base rate is multiplied with at optimizer step `step` (0 is the first).

    cosine    half a cosine from 1 to 0 (Loshchilov and Hutter, 2017, without restarts)
    poly      (1 - t) ** 0.9 (DBNet; Liao et al., 2020)
    step      times step_gamma every step_epochs epochs
    onecycle  cosine up from 1/25 during the warm-up, cosine down to 1/250000 (Smith and Topin, 2018; the values of
              torch.optim.lr_scheduler.OneCycleLR); the warm-up is 7.5 % of the run unless said otherwise
    The other schedules warm up linearly and start their own course after it; without warmup_epochs they do not warm up.
    """
    total = max(steps_per_epoch * epochs, 1)
    if warmup_epochs is None:
        warmup_epochs = 0.075 * epochs if name == "onecycle" else 0.0
    warmup = min(round(warmup_epochs * steps_per_epoch), total - 1)

    def after_warmup(step: int) -> float:
        t = min((step - warmup) / max(total - warmup, 1), 1.0)
        if name == "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        if name == "poly":
            return (1 - t) ** 0.9
        if name == "step":
            return step_gamma ** (step // (step_epochs * steps_per_epoch))
        if name == "onecycle":
            return _cosine_between(1.0, 1 / 250_000, t)
        return 1.0

    def factor(step: int) -> float:
        if step >= warmup:
            return after_warmup(step)
        if name == "onecycle":
            return _cosine_between(1 / 25, 1.0, step / warmup)
        return (step + 1) / (warmup + 1)

    return factor


def simulated_steps(total_steps: int) -> list[int]:
    """At most 201 steps of a run, evenly apart, the first and the last among them."""
    return sorted({round(i * (max(total_steps, 1) - 1) / 200) for i in range(201)})


def describe_schedule(factor: Callable[[int], float], lr: float, total_steps: int) -> str:
    """One line about the rates the run will see, with a warning where it never decays."""
    rates = [lr * factor(step) for step in simulated_steps(total_steps)]
    line = f"learning rate: first {rates[0]:.3g}, highest {max(rates):.3g}, last {rates[-1]:.3g} over {total_steps} steps"
    if total_steps > 1 and rates[-1] > 0.5 * rates[0] and rates[-1] > 0.5 * max(rates):
        line += "\nwarning: the last rate is over half of the highest: this schedule does not decay within the run"
    return line


def scale_rate(schedule: Callable[[int], float], args, world: int, reference: int) -> tuple[Callable[[int], float], str]:
    """(schedule, a line about the effective batch and the rate): with --scale-lr, --lr is taken as meant for `reference`
    samples a step, and multiplied by batch / reference, accumulation, and the square root of the processes."""
    crops = args.batch_size * args.accumulation_steps
    factor = crops * math.sqrt(world) / reference
    line = f"{crops * world} a step ({args.batch_size} x {args.accumulation_steps} accumulated x {world} processes); "
    if not args.scale_lr:
        return schedule, line + f"highest rate {args.lr:.3g} (--scale-lr would make it {args.lr * factor:.3g})"
    line += f"highest rate {args.lr * factor:.3g} = {args.lr:g} x {factor:.3g} by --scale-lr"
    return lambda step: factor * schedule(step), line


def _cosine_between(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2
