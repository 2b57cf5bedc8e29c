"""An exponential moving average of a model's weights, for evaluation and for inference."""

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
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers()):
            mine.copy_(theirs)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
