from argparse import Namespace

import pytest
import torch
from torch import nn

from utils.ema import EMA, LateAverage, make_average


def walk(average, model, steps, generator):
    """Random steps of a model, with its weights after each."""
    path = []
    for _ in range(steps):
        with torch.no_grad():
            model.weight.add_(torch.randn(model.weight.shape, generator=generator))
        average.update(model)
        path.append(model.weight.detach().clone())
    return path


def test_a_late_average_is_the_mean_of_the_last_steps():
    model, generator = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    average = LateAverage(model, start=6)
    path = walk(average, model, 6, generator)
    torch.testing.assert_close(average.model.weight, path[-1])  # nothing is averaged yet
    path += walk(average, model, 4, generator)
    torch.testing.assert_close(average.model.weight.detach(), torch.stack(path[6:]).mean(0))


def test_a_resumed_average_goes_on_as_if_it_had_not_stopped():
    model, generator = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    average = LateAverage(model, start=2)
    path = walk(average, model, 5, generator)
    again = LateAverage(model, start=2)
    again.load_state_dict(average.state_dict())
    path += walk(again, model, 3, generator)
    torch.testing.assert_close(again.model.weight.detach(), torch.stack(path[2:]).mean(0))
    late = LateAverage(nn.Linear(3, 2), start=2)  # asked for only when the run was resumed at step 8
    late.restart(model, 8)
    torch.testing.assert_close(late.model.weight, model.weight)
    assert late.updates == 8


@pytest.mark.parametrize("share, start", [(0.75, 75), (0.0, 1), (1.0, 100)])
def test_the_share_of_the_run(share, start):
    average = make_average(nn.Linear(1, 1), Namespace(average_from=share, ema_decay=0.0), 100)
    assert isinstance(average, LateAverage) and average.start == start


def test_neither_and_the_exponential_one():
    assert make_average(nn.Linear(1, 1), Namespace(average_from=None, ema_decay=0.0), 100) is None
    average = make_average(nn.Linear(1, 1), Namespace(average_from=None, ema_decay=0.9), 100)
    assert type(average) is EMA and average.decay == 0.9
