"""--find-batch-size: the largest micro-batch that fits, and a training that is as if it had been given by hand."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from test_engine import CPU, NoRun, Toy, arguments, flat, token_step
from torch import nn

from utils import batch_size
from utils.batch_size import find_batch_size, largest_sample, largest_that_fits
from utils.dataloading import EpochBatches, make_loader
from utils.engine import train_one_epoch
from utils.errors import DataError
from utils.state import make_state


@pytest.mark.parametrize("most", [1, 2, 3, 7, 12, 64])
def test_the_largest_that_fits_is_found_in_few_attempts(most):
    for limit in range(most + 3):
        asked = []

        def fits(size):
            asked.append(size)
            return size <= limit

        assert largest_that_fits(fits, most) == min(limit, most)
        assert max(asked) <= most and len(asked) == len(set(asked)) <= 2 * most.bit_length()


@pytest.fixture
def memory(monkeypatch):
    """memory(samples): a step that runs out of memory above so many."""
    monkeypatch.setattr(batch_size, "reports_lack_of_memory", lambda device: True)

    def limited(samples):
        def step(model, batch):
            step.seen.append((len(batch["file"]), model.training, any(p.grad is not None for p in model.parameters())))
            if len(batch["file"]) > samples:
                raise torch.OutOfMemoryError("injected")
            return token_step(model, batch)

        step.seen = []
        return step

    return limited


def new_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten(), nn.Dropout(0.3),
                         nn.Linear(8, 2)).double()


def new_args(**changes):
    return arguments(**(dict(resume=None, output_dir=None, find_batch_size=True, epochs=2) | changes))


def new_loader(args):
    return make_loader(Toy(), EpochBatches(11, args.batch_size, args.seed), 0, CPU)


def trained(args, model, loader, step):
    state = make_state(model, args, CPU, 0, 1, loader, {})
    for _ in range(2):
        train_one_epoch(state, loader, step, NoRun())
    return state


@pytest.mark.parametrize("asked, fits, micro, line", [
    ((4, 3), 5, 4, "5 fit into memory; micro-batch 4, the largest that divides 12 x accumulation 3 = effective batch 12"),
    ((12, 1), 3, 3, "3 fit into memory; micro-batch 3 x accumulation 4"),
    ((2, 3), 99, 6, "6 fit into memory (more were not asked for); micro-batch 6 x accumulation 1"),
    ((7, 1), 6, 1, "6 fit into memory; micro-batch 1, the largest that divides 7 x accumulation 7")])
def test_the_effective_batch_stays_as_asked(asked, fits, micro, line, memory, capsys):
    args = new_args(batch_size=asked[0], accumulation_steps=asked[1])
    loader = new_loader(args)
    fact = find_batch_size(new_model(), args, CPU, 0, 1, loader, memory(fits))
    assert (args.batch_size, args.accumulation_steps) == (micro, asked[0] * asked[1] // micro)
    assert loader.batch_sampler.batch_size == micro and len(loader) == -(-11 // micro)
    assert line in fact and "learning rate 0.05, as asked" in fact and capsys.readouterr().out == f"batch size: {fact}\n"


def test_the_training_is_that_of_the_batch_size_given_by_hand(memory):
    """Nothing of the attempts is left in model, generators or loader."""
    args, step = new_args(batch_size=6), memory(2)
    model, loader = new_model(), new_loader(args)
    before = [value.clone() for value in model.state_dict().values()]
    torch.manual_seed(77)
    following = torch.rand(3)
    torch.manual_seed(77)
    find_batch_size(model, args, CPU, 0, 1, loader, step)
    assert torch.equal(torch.rand(3), following)
    assert all(map(torch.equal, model.state_dict().values(), before))
    found = trained(args, model, loader, step)
    by_hand = new_args(batch_size=2, accumulation_steps=3)
    expected = trained(by_hand, new_model(), new_loader(by_hand), token_step)
    assert args.batch_size == 2 and found.micro_split == 1 and found.total_steps == expected.total_steps
    assert torch.equal(flat(found.model), flat(expected.model)) and found.step == expected.step == 4
    assert torch.equal(flat(found.ema.model), flat(expected.ema.model))


def test_an_attempt_holds_what_a_training_holds(memory):
    """In training mode, a second step on top of the first one's optimizer state, a second micro-batch on gradients."""
    args, step = new_args(batch_size=4), memory(4)
    find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), step)
    assert step.seen == [*[(1, True, False), (1, True, True)] * 2, *[(2, True, False), (2, True, True)] * 2,
                         *[(4, True, False)] * 2]  # 4 fill the effective batch by themselves


def test_not_one_sample(memory):
    args = new_args()
    with pytest.raises(DataError, match="not even a single sample"):
        find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), memory(0))


def test_other_errors_are_not_taken_for_lack_of_memory(memory):
    def step(model, batch):
        raise RuntimeError("shapes do not fit")

    args = new_args()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), step)


def test_a_cpu_is_refused():
    args = new_args()
    with pytest.raises(DataError, match="needs a GPU.*by hand"):
        find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), token_step)


@pytest.mark.parametrize("stored, found", [
    ('{"find_batch_size": true, "batch_size": 3, "accumulation_steps": 4}', 3),
    ('{"find_batch_size": true, "batch_size": 3, "accumulation_steps": 5}', 2),  # another effective batch was asked for
    ('{"find_batch_size": false, "batch_size": 3, "accumulation_steps": 4}', 2)])
def test_a_resumed_run_keeps_what_it_found_when_it_started(stored, found, memory, tmp_path):
    (tmp_path / "args.json").write_text(stored)
    for resume in ("auto", str(tmp_path / "last.pt")):
        args = new_args(batch_size=12, resume=resume, output_dir=tmp_path)
        step = memory(2)
        line = find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), step)
        assert args.batch_size == found and args.batch_size * args.accumulation_steps == 12
        assert ("taken from the run's start" in line) == (found == 3) == (not step.seen)
    args = new_args(batch_size=12, output_dir=tmp_path)  # not resumed: --overwrite starts anew
    find_batch_size(new_model(), args, CPU, 0, 1, new_loader(args), memory(2))
    assert args.batch_size == 2


def test_the_largest_sample_has_the_largest_of_everything():
    class Ragged:
        def largest(self):
            return [{"crop": torch.zeros(3, 9), "tokens": [1], "file": "a", "level": 1},
                    {"crop": torch.zeros(3, 2), "tokens": [1, 2, 3], "file": "b", "level": 2}]

    sample = largest_sample(SimpleNamespace(dataset=Ragged()))
    assert sample["crop"].shape == (3, 9) and sample["tokens"] == [1, 2, 3]
    assert largest_sample(new_loader(new_args()))["file"] == "sample 0"


def test_the_flag_is_for_training_alone(capsys):
    from utils.args import add_data_flags, add_run_flags, add_training_flags, new_parser, parse_training_args
    parser = new_parser("")
    add_data_flags(parser, "detection")
    add_training_flags(parser, epochs=1, batch_size=1, lr=1, weight_decay=0, optimizer="sgd", scheduler="cosine", clip=1,
                       patience=0)
    add_run_flags(parser, "detection")
    assert isinstance(parse_training_args(parser, ["--find-batch-size"]), argparse.Namespace)
    with pytest.raises(SystemExit):
        parse_training_args(parser, ["--find-batch-size", "--test-only", "--weights", "x.pt"])
    assert "--find-batch-size does nothing with --test-only" in capsys.readouterr().err
