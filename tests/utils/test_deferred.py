"""On a GPU the outcome of a step is read one step later. The CPU takes the same way here, and must end in the same bits."""

import contextlib
import copy
import math

import pytest
import torch
from test_engine import CPU, NoRun, Toy, arguments, token_step
from torch import nn

import utils.engine
import utils.state
from utils.buffers import SavedBuffers
from utils.dataloading import EpochBatches, make_loader
from utils.engine import backward_window, learn_window, settle, take_step, train_one_epoch
from utils.errors import NonFiniteLoss
from utils.state import make_state

SIZE = 14  # samples: 7 micro-batches of 2, 4 windows an epoch, the last one short


def new_state(deferred, middle=(nn.BatchNorm1d(8), nn.Dropout(0.3)), **changes):
    args = arguments(**(dict(accumulation_steps=2, max_bad_steps=9) | changes))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), *copy.deepcopy(middle), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(SIZE), EpochBatches(SIZE, args.batch_size, args.seed), 0, CPU)
    state = make_state(model, args, CPU, 0, 1, loader, {})
    assert not state.deferred and state.total_steps == 12
    state.deferred = deferred
    return state, loader


class BadSteps:
    """token_step, with a loss or gradients that are not finite in the windows that start at these (epoch, batch)."""

    def __init__(self, state, bad, gradient_only=False):
        self.state, self.bad, self.gradient_only = state, bad, gradient_only

    def __call__(self, model, batch):
        parts, weight = token_step(model, batch)
        if (self.state.epoch, self.state.batch) not in self.bad:
            return parts, weight
        if self.gradient_only:
            parts["loss"].register_hook(lambda gradient: gradient * math.nan)
            return parts, weight
        return {"loss": parts["loss"] * math.nan}, weight


def result(state):
    """Everything that a step may move, without the counts of what was left out."""
    stored = state.state_dict()
    progress = {name: stored["progress"][name] for name in ("epoch", "batch", "step")}
    return [stored["model"], stored["ema"], stored["optimizer"]["state"], progress]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def trained(deferred, bad=(), gradient_only=False, epochs=3, **changes):
    state, loader = new_state(deferred, **changes)
    run = NoRun()
    means = [train_one_epoch(state, loader, BadSteps(state, bad, gradient_only), run) for _ in range(epochs)]
    return state, means, run


def without_bad_windows(bad, **changes):
    """What is to come out, by hand: the good windows alone are learnt from, each with the seed of its place."""
    state, loader = new_state(False, **changes)
    for state.epoch in range(3):
        loader.batch_sampler.set_position(state.epoch)
        batches = [batch | {"filler": False} for batch in loader]
        for state.batch in range(0, len(batches), 2):
            if (state.epoch, state.batch) not in bad:
                settle(state, learn_window(state, batches[state.batch : state.batch + 2], 0.0, token_step, NoRun()), NoRun())
    state.epoch, state.batch = 3, 0
    return state


class Seen(nn.Module):
    """A buffer that adds up what has come by, in whatever pieces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(8, dtype=torch.float64))

    def forward(self, x):
        self.total += x.detach().sum(0)
        return x


FIRST, LAST_OF_AN_EPOCH, TWO_IN_A_ROW = {(0, 0)}, {(1, 6), (2, 6)}, {(1, 2), (1, 4)}


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("bad", [set(), FIRST, LAST_OF_AN_EPOCH, TWO_IN_A_ROW])
def test_a_bad_step_moves_nothing_and_when_it_is_noticed_changes_nothing(bad, optimizer, gradient_only):
    expected = without_bad_windows(bad, optimizer=optimizer)
    at_once, means, _ = trained(False, bad, gradient_only, optimizer=optimizer)
    later, later_means, run = trained(True, bad, gradient_only, optimizer=optimizer)
    assert same(result(at_once), result(expected)) and same(result(later), result(expected))
    assert expected.step == 12 - len(bad) and later.bad_steps == at_once.bad_steps == len(bad)
    assert means == later_means and len(run.values) == later.step


def test_the_batch_that_is_kept_is_the_bad_one_also_when_it_is_noticed_later(capsys):
    _, _, at_once = trained(False, {(1, 2)}, epochs=2)
    state, _, run = trained(True, {(1, 2)}, epochs=2)
    named = [batch["file"] for batch in run.kept]
    assert named == [batch["file"] for batch in at_once.kept] and len(named) == 2
    said = capsys.readouterr().out
    assert all(name in said for files in named for name in files) and said.count("step 5: not finite: loss;") == 2


def test_too_many_bad_steps_stop_the_run_later_too():
    state, loader = new_state(True, max_bad_steps=1)
    with pytest.raises(NonFiniteLoss, match="2 such steps"):
        train_one_epoch(state, loader, BadSteps(state, {(0, 0), (0, 2)}), NoRun())
    assert state.step == 0


def test_a_pause_finds_every_outcome_known():
    """What is saved within an epoch is what a run on the CPU saves there."""
    class Saver(NoRun):
        saved = ()

        def wants_pause(self, state):
            return (state.step + 1) % 3 == 0

        def pause(self, state):
            self.saved = (*self.saved, state.state_dict()["progress"]["sums"], [v.clone() for v in flat(state)])

    def flat(state):
        return [*state.model.state_dict().values(), *state.ema.model.state_dict().values()]

    runs = []
    for deferred in (False, True):
        state, loader = new_state(deferred)
        runs.append(Saver())
        train_one_epoch(state, loader, token_step, runs[-1])
    assert len(runs[0].saved) == 2 and same(list(runs[0].saved), list(runs[1].saved))


def test_memory_that_runs_out_while_an_outcome_is_under_way_changes_nothing():
    drawn = []

    def step(model, batch):
        if len(batch["file"]) > 1 and state.batch == 2:
            drawn.append(torch.rand(3).tolist())
            if len(drawn) == 2:  # the window's second micro-batch
                raise RuntimeError("CUDA error: out of memory")
        elif len(drawn) == 2:
            drawn.append(torch.rand(3).tolist())  # the first piece of the second attempt
        return token_step(model, batch)

    state, loader = new_state(True, middle=[nn.Tanh(), Seen()])  # batch norm would see the pieces
    train_one_epoch(state, loader, step, NoRun())
    healed = result(state)
    assert state.micro_split == 2
    assert drawn[0] == drawn[2] != drawn[1]  # each attempt draws the same numbers
    state, loader = new_state(True, middle=[nn.Tanh(), Seen()])
    train_one_epoch(state, loader, token_step, NoRun())
    assert healed[3] == result(state)[3]
    for part in (0, 1):
        ours, theirs = (list((r[part].get("model") or r[part]).values()) for r in (healed, result(state)))
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs)) and len(ours) == 5


def test_other_runtime_errors_are_not_taken_for_lack_of_memory():
    state, loader = new_state(False)

    def step(model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train_one_epoch(state, loader, step, NoRun())
    assert state.micro_split == 1


def test_a_step_asks_nothing_of_the_device(monkeypatch):
    """On the meta device there are no values: .item(), .tolist() and a condition on a tensor raise there."""
    class Asked:
        def __init__(self, model, args):
            self.param_groups, self.model = [{"params": list(model.parameters())}], model

        def zero_grad(self, set_to_none):
            self.model.zero_grad(set_to_none=set_to_none)

        def step(self):
            self.asked = self.found_inf.device.type

    monkeypatch.setattr(utils.state, "make_optimizer", Asked)
    monkeypatch.setattr(utils.engine, "autocast", lambda *_: contextlib.nullcontext())
    args = arguments(ema_decay=0.0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(), EpochBatches(11, 2, 3), 0, CPU)
    state = make_state(model, args, torch.device("meta"), 0, 1, loader, {})
    batches = [batch | {"filler": False} for batch in loader]
    for step in (token_step, lambda model, batch: (token_step(model, batch)[0], 2)):  # the weight a tensor, or a number
        row = take_step(state, *backward_window(state, batches[:2], step), SavedBuffers(model))
        assert row.device.type == "meta" and row.shape == (3,) and state.optimizer.asked == "meta"


def scaled_state(deferred):
    state, loader = new_state(deferred)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
    return state, loader


@pytest.mark.parametrize("deferred", [False, True])
def test_a_step_that_overflows_in_float16_is_counted_and_moves_nothing(deferred):
    bad = {(0, 2), (2, 0)}
    state, loader = scaled_state(deferred)
    run = NoRun()
    for _ in range(3):
        train_one_epoch(state, loader, BadSteps(state, bad, gradient_only=True), run)
    expected = without_bad_windows(bad)
    assert state.skipped_steps == 2 and state.bad_steps == 0 and state.step == expected.step == 10
    for ours, theirs in zip(result(state)[0].values(), result(expected)[0].values()):
        assert torch.allclose(ours.double(), theirs.double(), atol=1e-12)
    assert state.ema.updates == 10
    # four windows an epoch; the scale is halved by a bad one, and doubled by three good ones in a row
    assert state.scaler.get_scale() == 2.0**4 / 2 * 2 * 2 / 2 * 2


def test_the_scaler_is_saved_and_restored():
    state, loader = scaled_state(False)
    train_one_epoch(state, loader, BadSteps(state, {(0, 0), (0, 4)}, gradient_only=True), NoRun())
    again, _ = scaled_state(False)
    again.load_state_dict(state.state_dict())
    assert again.scaler.get_scale() == 2.0**4 / 4 and again.skipped_steps == 2
    assert again.scaler.state_dict() == state.scaler.state_dict()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_checkpoint_of_other_kernels_and_another_layout_is_continued(channels_last):
    """Fused kernels read weights and their state in memory's order, and take it to be one order."""
    loader = make_loader(Toy(), EpochBatches(11, 2, 3), 0, CPU)
    batch = {"x": torch.randn(4, 3, 3, 3), "y": torch.randn(4, 2), "length": torch.ones(4), "file": list("abcd"),
             "filler": False}

    def state(**changes):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        return make_state(model, arguments(**changes), CPU, 0, 1, loader, {})

    def learn(state):
        settle(state, learn_window(state, [batch], 0.0, token_step, NoRun()), NoRun())

    straight = state()
    learn(straight)
    stored = copy.deepcopy(straight.state_dict())
    for group in stored["optimizer"]["param_groups"]:
        group["fused"] = None
    learn(straight)
    resumed = state(channels_last=channels_last)
    resumed.load_state_dict(stored)
    assert all(group["fused"] for group in resumed.optimizer.param_groups)
    learn(resumed)
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters()):
        assert torch.allclose(ours, theirs, atol=1e-6)
