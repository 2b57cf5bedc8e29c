"""The loop's promises: accumulation is exact, resume is exact, memory failures and bad steps leave no trace."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from utils.dataloading import EpochBatches, make_loader
from utils.engine import learn_window, settle, split_batch, to_device, train_one_epoch, windows
from utils.errors import DataError, NonFiniteLoss
from utils.state import amp_dtype, make_state, seed_everything, without_dropout

CPU = torch.device("cpu")


class Toy(torch.utils.data.Dataset):
    """Ragged token sequences: the weight of a sample is its length."""

    def __init__(self, size=11):
        rng = np.random.default_rng(0)
        self.x, self.y = rng.standard_normal((size, 5)), rng.standard_normal((size, 2))
        self.length = rng.integers(1, 7, size)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, key):
        _, index = key
        return {"x": torch.tensor(self.x[index]), "y": torch.tensor(self.y[index]),
                "length": torch.tensor(float(self.length[index])), "file": f"sample {index}"}


def token_step(model, batch):
    error = (model(batch["x"]) - batch["y"]).square().mean(1)
    weight = batch["length"].sum()
    return {"loss": (error * batch["length"]).sum() / weight}, weight


def arguments(**changes):
    values = dict(epochs=3, batch_size=2, accumulation_steps=1, lr=0.05, weight_decay=0.01, optimizer="adamw",
                  scheduler="cosine", warmup_epochs=None, step_epochs=30, step_gamma=0.1, gradient_clip_max_norm=1.0,
                  ema_decay=0.9, use_amp=False, channels_last=False, compile=False, seed=3, limit_batches=None,
                  max_bad_steps=1, log_every=1, overfit=None)
    return argparse.Namespace(**(values | changes))


class NoRun:
    def __init__(self):
        self.values = []

    def log_step(self, state, values, extras):
        self.values.append(values)
        self.extras = extras

    def wants_pause(self, state):
        return False

    def keep_bad_batch(self, state, window):
        self.kept = window
        return "here.pt"


def learn(state, window, step, run):
    """A step and its outcome, one right after the other."""
    return settle(state, learn_window(state, window, 0.0, step, run), run)


def new_state(args, dropout=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(), EpochBatches(11, args.batch_size, args.seed), 0, CPU)
    return make_state(model, args, CPU, 0, 1, loader, {}), loader


def trained(args, epochs=3, dropout=0.0, step=token_step):
    state, loader = new_state(args, dropout)
    run = NoRun()
    means = [train_one_epoch(state, loader, step, run) for _ in range(epochs)]
    return state, means, run


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("batch_size, accumulation", [(1, 4), (2, 2)])
def test_accumulation_equals_the_large_batch(batch_size, accumulation):
    whole, means, _ = trained(arguments(batch_size=4))
    parts, part_means, _ = trained(arguments(batch_size=batch_size, accumulation_steps=accumulation))
    assert whole.step == parts.step == 9  # 11 samples: 4 + 4 + 3, three epochs
    assert torch.allclose(flat(whole.model), flat(parts.model), atol=1e-12)
    assert torch.allclose(flat(whole.ema.model), flat(parts.ema.model), atol=1e-12)
    assert means[-1]["loss"] == pytest.approx(part_means[-1]["loss"], abs=1e-12)


def test_gradient_is_that_of_the_token_weighted_mean():
    args = arguments(batch_size=11, gradient_clip_max_norm=0, optimizer="sgd", weight_decay=0.0, scheduler="constant")
    state, loader = new_state(args)
    before = flat(state.model)
    batch = next(iter(loader)) | {"filler": False}
    error = (state.model(batch["x"]) - batch["y"]).square().mean(1)
    loss = (error * batch["length"]).sum() / batch["length"].sum()
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(state.model.parameters()))])
    values = learn(state, [batch], token_step, run := NoRun())
    assert torch.allclose(flat(state.model), before - args.lr * gradient, atol=1e-12)
    assert values["loss"] == pytest.approx(loss.item()) and run.extras["grad_norm"] == pytest.approx(gradient.norm().item())


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_clipping_is_that_of_torch(limit):
    args = arguments(batch_size=11, gradient_clip_max_norm=limit, optimizer="sgd", weight_decay=0.0, scheduler="constant")
    state, loader = new_state(args)
    before, batch = flat(state.model), next(iter(loader)) | {"filler": False}
    token_step(state.model, batch)[0]["loss"].backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), limit)
    expected = before - args.lr * torch.cat([p.grad.reshape(-1) for p in state.model.parameters()])
    learn(state, [batch], token_step, run := NoRun())
    assert torch.allclose(flat(state.model), expected, atol=1e-12)
    assert run.extras["grad_norm"] == pytest.approx(norm.item())


def test_resume_within_an_epoch_is_exact():
    args = arguments(accumulation_steps=2)
    straight, straight_means, _ = trained(args, dropout=0.5)

    class Saver(NoRun):
        def wants_pause(self, state):
            return state.epoch == 1 and state.step + 1 == 5

        def pause(self, state):
            if state.step == 5:
                self.saved = {k: v for k, v in torch.load(self.buffer(state), weights_only=True).items()}

        def buffer(self, state):
            import io
            stream = io.BytesIO()
            torch.save(state.state_dict(), stream)
            stream.seek(0)
            return stream

    state, loader = new_state(args, 0.5)
    saver = Saver()
    for _ in range(3):
        train_one_epoch(state, loader, token_step, saver)
    resumed, loader = new_state(args, 0.5)
    torch.manual_seed(999)  # a resumed process starts with another generator state
    resumed.load_state_dict(saver.saved)
    assert resumed.epoch == 1 and resumed.batch > 0
    means = [train_one_epoch(resumed, loader, token_step, NoRun()) for _ in range(2)]
    assert torch.equal(flat(straight.model), flat(resumed.model))
    assert torch.equal(flat(straight.ema.model), flat(resumed.ema.model))
    assert means == straight_means[1:]


def test_out_of_memory_runs_the_window_again_in_pieces():
    args = arguments(batch_size=4, accumulation_steps=2)
    straight, means, _ = trained(args)
    failed = []

    def step(model, batch):
        if len(batch["file"]) > 2:
            failed.append(len(batch["file"]))
            if len(failed) % 2 == 0:  # the second micro-batch of a window: gradients of the first are there already
                raise torch.OutOfMemoryError("injected")
        return token_step(model, batch)

    healed, healed_means, _ = trained(args, step=step)
    assert healed.micro_split == 2 and failed
    again, _ = new_state(args)
    again.load_state_dict(healed.state_dict())
    assert again.micro_split == 2  # for the rest of the run, also after a resume
    assert torch.allclose(flat(straight.model), flat(healed.model), atol=1e-12)
    assert means[-1]["loss"] == pytest.approx(healed_means[-1]["loss"], abs=1e-12)


def test_out_of_memory_with_one_sample_gives_advice():
    def step(model, batch):
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(DataError, match="single sample"):
        trained(arguments(), step=step)


def test_a_bad_step_changes_nothing_and_names_its_files(capsys):
    state, loader = new_state(arguments(batch_size=3))
    batches = [batch | {"filler": False} for batch in loader]

    def step(model, batch):
        parts, weight = token_step(model, batch)
        return {"loss": parts["loss"] * float("nan"), "fine": parts["loss"]}, weight

    before, schedule = flat(state.model), state.step
    run = NoRun()
    values = learn(state, [batches[0]], step, run)
    assert values is None and state.bad_steps == 1 and state.step == schedule
    assert torch.equal(before, flat(state.model))
    said = capsys.readouterr().out
    assert "not finite: loss;" in said and batches[0]["file"][0] in said and "here.pt" in said
    assert run.kept == [batches[0]]
    with pytest.raises(NonFiniteLoss, match="max-bad-steps 1"):
        learn(state, [batches[1]], step, run)


def test_a_bad_step_leaves_batch_norm_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(), EpochBatches(11, 4, 3), 0, CPU)
    state = make_state(model, arguments(batch_size=4), CPU, 0, 1, loader, {})
    batch = next(iter(loader)) | {"filler": False}
    batch["x"] = batch["x"] * float("nan")
    before = [buffer.clone() for buffer in model.buffers()]
    assert learn(state, [batch], token_step, NoRun()) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers()))


def test_nothing_is_left_of_an_epoch_that_was_stopped_at_its_limit():
    loader = make_loader(Toy(), EpochBatches(11, 2, 3), 0, CPU)
    assert len(list(windows(loader, 1, 3, 0))) == 3 and list(windows(loader, 1, 3, 3)) == []


def test_split_batch_keeps_every_sample_once():
    batch = {"x": torch.arange(7), "file": list("abcdefg"), "step_seed": 5}
    pieces = split_batch(batch, 4)
    assert [len(p["file"]) for p in pieces] == [2, 2, 2, 1] and all(p["step_seed"] == 5 for p in pieces)
    assert torch.equal(torch.cat([p["x"] for p in pieces]), batch["x"])
    assert split_batch(batch, 1)[0]["file"] == batch["file"]


def test_limit_batches_flushes_a_short_window():
    state, _, run = trained(arguments(batch_size=1, accumulation_steps=2, limit_batches=3), epochs=1)
    assert state.step == 2 and len(run.values) == 2


def test_amp_on_the_cpu_is_bfloat16_and_off_without_the_flag():
    assert amp_dtype(True, CPU) is torch.bfloat16 and amp_dtype(False, CPU) is None


def test_amp_computes_in_bfloat16_and_learns_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    loader = make_loader(Toy(), EpochBatches(11, 4, 3), 0, CPU)
    state = make_state(model, arguments(use_amp=True, batch_size=4), CPU, 0, 1, loader, {})
    seen = []

    def step(model, batch):
        out = model(batch["x"].float())
        seen.append(out.dtype)
        loss = (out.float() - batch["y"].float()).square().mean()
        seen.append(loss.dtype)
        return {"loss": loss}, len(out)

    before = flat(model)
    train_one_epoch(state, loader, step, NoRun())
    assert set(seen) == {torch.bfloat16, torch.float32} and flat(model).dtype == torch.float32
    assert state.step == 3 and not torch.equal(before, flat(model)) and not state.scaler.is_enabled()


def test_the_flags_for_speed_reach_torch(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    loader = make_loader(Toy(), EpochBatches(11, 2, 3), 0, CPU)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    state = make_state(model, arguments(channels_last=True, compile=True), CPU, 0, 1, loader, {})
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) and compiled == [model]
    assert all(group["fused"] for group in state.optimizer.param_groups)

    class Pinned(torch.Tensor):
        asked = None

        def to(self, *arguments, **options):
            Pinned.asked = options
            return super().to(*arguments, **options)

    moved = to_device({"image": torch.zeros(2, 3, 4, 4).as_subclass(Pinned), "file": ["a", "b"]}, CPU, True)
    assert Pinned.asked["non_blocking"] and moved["image"].is_contiguous(memory_format=torch.channels_last)
    assert to_device({"x": torch.zeros(2)}, CPU)["x"].shape == (2,)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_is_asked_for_speed_or_for_repeatable_kernels(deterministic, monkeypatch):
    said = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: said.update(precision=name))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, warn_only: said.update(deterministic=on))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    seed_everything(argparse.Namespace(seed=0, deterministic=deterministic))
    assert said == ({"deterministic": True} if deterministic else {"precision": "high"})
    assert torch.backends.cudnn.benchmark is not deterministic


def test_without_dropout_nothing_is_left_to_chance():
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    branch = nn.Identity()
    branch.drop_prob = 0.5
    model = nn.ModuleList([nn.Dropout(0.5), nn.Dropout2d(0.5), attention, branch]).train()
    x = torch.randn(2, 8, 8)

    def outputs(seed):
        torch.manual_seed(seed)
        return torch.stack([model[0](x), model[1](x[None])[0], attention(x, x, x)[0]])

    assert not torch.equal(outputs(0), outputs(1))
    without_dropout(model)
    assert torch.equal(outputs(0), outputs(1)) and branch.drop_prob == 0.0
    assert model.training and torch.equal(model[0](x), x)
