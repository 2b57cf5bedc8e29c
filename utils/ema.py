"""Averages of a model's weights, for evaluation and for inference: exponential, or of the last part of the training."""

import copy

import torch
from torch import nn


class EMA:
    """ema = decay * ema + (1 - decay) * model after every optimizer step.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) at update n (the rule of TensorFlow's
    ExponentialMovingAverage), so that short runs are not held back by the random start. Buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, buffers: list[torch.Tensor] | None = None) -> None:
        """buffers: those to copy, where the model's own have moved on since its step."""
        self.updates += 1
        decay = self.decay_now()
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        mine, theirs = list(self.model.buffers()), list(model.buffers()) if buffers is None else buffers
        if mine:
            torch._foreach_copy_(mine, theirs)

    def restart(self, model: nn.Module, step: int) -> None:
        """Begin anew from `model`, which has taken `step` steps without an average."""
        self.model.load_state_dict(model.state_dict())
        self.updates = 0

    def decay_now(self) -> float:
        """What is kept of the average at update number self.updates."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


class LateAverage(EMA):
    """The mean of the weights after each of the last steps, all after update number `start`, alike (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", 2018, taken every step); before that the weights
    themselves. Buffers are those of the last step, so statistics of batch norm are not averaged.
    """

    def __init__(self, model: nn.Module, start: int):
        super().__init__(model, 0.0)
        self.start = start

    def restart(self, model: nn.Module, step: int) -> None:
        super().restart(model, step)
        self.updates = step

    def decay_now(self) -> float:
        averaged = max(self.updates - self.start - 1, 0)  # before this update
        return averaged / (averaged + 1)


def make_average(model: nn.Module, args, total_steps: int) -> EMA | None:
    """What --average-from or --ema-decay asks for; None for neither."""
    if getattr(args, "average_from", None) is not None:
        return LateAverage(model, max(round(args.average_from * total_steps), 1))
    return EMA(model, args.ema_decay) if args.ema_decay else None
