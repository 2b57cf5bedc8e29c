from types import SimpleNamespace

import pytest
import torch

from utils.validation import validation_loss


def state_of(micro_split=1):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    return SimpleNamespace(eval_model=model, micro_split=micro_split, device=torch.device("cpu"), seconds=1.0,
                           args=SimpleNamespace(channels_last=False, use_amp=False))


def step(model, batch):
    loss = model(batch["image"]).mean()
    return {"loss": loss} | ({"pairs": loss * 0 + len(batch["file"])} if len(batch["file"]) > 1 else {}), len(batch["file"])


def batch(*values):
    return {"image": torch.tensor(values)[:, None], "file": [str(value) for value in values]}


@pytest.mark.parametrize("micro_split", [1, 2])
def test_the_mean_is_over_samples_whatever_the_batches(micro_split):
    state = state_of(micro_split)
    losses = validation_loss(state, [batch(1.0, 2.0, 3.0), batch(10.0)], step)
    assert losses["loss"] == pytest.approx(2 * (1 + 2 + 3 + 10) / 4)
    assert losses["pairs"] == (3 if micro_split == 1 else 2)  # a part that some batches do not have
    assert state.seconds > 1.0 and state.eval_model.weight.grad is None


def test_no_loader_no_loss():
    assert validation_loss(state_of(), None, step) == {}
