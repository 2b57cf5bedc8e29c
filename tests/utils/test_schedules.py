import math
from argparse import Namespace

import pytest
import torch

from utils.schedules import describe_schedule, make_schedule, scale_rate


def test_onecycle_equals_torch():
    total, epochs = 200, 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, pct_start=0.075, div_factor=25,
                                                    final_div_factor=1e4, cycle_momentum=False)
    ours = make_schedule("onecycle", total // epochs, epochs)
    assert 0.1 * ours(0) == pytest.approx(optimizer.param_groups[0]["lr"])
    for step in range(1, total - 1):
        optimizer.step()
        reference.step()
        if step >= 14:  # torch's course begins and ends one step earlier than ours
            assert 0.1 * ours(step + 1) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours(total) == pytest.approx(1 / 250_000)


@pytest.mark.parametrize("name, middle", [("cosine", 0.5), ("poly", 0.5**0.9), ("constant", 1.0)])
def test_values_by_hand(name, middle):
    factor = make_schedule(name, 10, 4)
    assert factor(0) == 1.0 and factor(20) == pytest.approx(middle)


def test_step_drops_by_epoch():
    factor = make_schedule("step", 10, 9, step_epochs=3, step_gamma=0.5)
    assert [factor(s) for s in (0, 29, 30, 59, 60)] == [1, 1, 0.5, 0.5, 0.25]


def test_warmup_rises_in_a_line_to_the_start_of_the_course():
    factor = make_schedule("cosine", 10, 4, warmup_epochs=1)
    assert [factor(s) for s in (0, 4)] == [pytest.approx(1 / 11), pytest.approx(5 / 11)] and factor(10) == 1.0
    assert factor(39) < 0.01


def test_a_schedule_that_never_decays_is_named():
    """StepLR(100) in a run of 29 epochs, as it happened."""
    assert "does not decay" in describe_schedule(make_schedule("step", 5, 29, step_epochs=100), 1e-3, 145)
    assert "does not decay" not in describe_schedule(make_schedule("cosine", 5, 29), 1e-3, 145)


@pytest.mark.parametrize("name", ["cosine", "poly", "step", "onecycle", "constant"])
def test_the_shortest_run(name):
    factor = make_schedule(name, 1, 1)
    assert math.isfinite(factor(0)) and 0 < factor(0) <= 1


def test_the_rate_follows_the_effective_batch_only_where_asked():
    args = Namespace(lr=7e-4, batch_size=448, accumulation_steps=2, scale_lr=False)
    schedule, line = scale_rate(lambda step: 0.5, args, 4, 256)
    assert schedule(3) == 0.5 and "3584 a step (448 x 2 accumulated x 4 processes); highest rate 0.0007" in line
    assert "--scale-lr would make it 0.0049" in line
    args.scale_lr = True
    schedule, line = scale_rate(lambda step: 0.5, args, 4, 256)
    assert schedule(3) == pytest.approx(0.5 * 448 * 2 * 2 / 256) and "0.0049 = 0.0007 x 7 by --scale-lr" in line
