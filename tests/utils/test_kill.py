"""A run killed at any moment and resumed ends as the run that was never stopped."""

import argparse
import multiprocessing
import os
import random
import select
import signal
import time

import pytest
import torch
from runner import equal, outcome
from test_engine import CPU, Toy, arguments, token_step
from torch import nn

from utils.dataloading import EpochBatches, make_loader
from utils.engine import train_one_epoch
from utils.files import read_jsonl
from utils.signals import obey_parent_alone
from utils.state import make_state
from utils.tracking import Run, clear_run

EPOCHS = 8
OPTIONS = dict(epochs=EPOCHS, batch_size=2, accumulation_steps=2, resume="auto", overwrite=False, notes="", device="cpu",
               patience=0, log_every=1, save_every_steps=1)


def slow_step(model, batch):
    time.sleep(0.004)
    return token_step(model, batch)


def train(folder, workers=0):
    args = argparse.Namespace(**(vars(arguments(**OPTIONS)) | {"output_dir": folder}))
    torch.manual_seed(args.seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)).double()
    loader = make_loader(Toy(24), EpochBatches(24, args.batch_size, args.seed), workers, CPU)
    state = make_state(model, args, CPU, 0, 1, loader, {"config": {}, "thresholds": {}})
    run = Run("detection", args, 0, best="score", defaults={}, facts={})
    with run.recording(state):
        while state.epoch < args.epochs:
            means = train_one_epoch(state, loader, slow_step, run)
            score = float(next(state.eval_model.parameters()).abs().sum())
            score = score if state.epoch == 2 else -score  # the best is early: a resumed run must remember it
            run.finish_epoch(state, means, {"score": score}, [{"file": "x"}])


def in_a_child(folder, kill_after=None, signal_number=signal.SIGKILL, workers=0, kill=os.kill) -> int:
    """train() in a forked process (the imports are paid for once); its exit status, negative after a signal.

    kill_after: seconds, or a condition to wait for. kill: os.killpg for its loader workers too."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            train(folder, workers)
            status = 0
        except SystemExit as left:
            status = left.code
        finally:
            os._exit(status)
    if callable(kill_after):
        while not kill_after():
            time.sleep(0.002)
    elif kill_after is not None:
        time.sleep(kill_after)
    if kill_after is not None:
        kill(pid, signal_number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(what an undisturbed run leaves, its seconds)."""
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # what torch imports at first use is imported before any fork
    folder = tmp_path_factory.mktemp("straight")
    begun = time.monotonic()
    assert in_a_child(folder) == 0
    return outcome(folder), time.monotonic() - begun


def test_25_kills_change_nothing(straight, tmp_path):
    expected, seconds = straight
    moments, kills, resumed = random.Random(0), 0, 0
    while kills < 25:
        status = in_a_child(tmp_path, moments.uniform(0.1, 0.6) * seconds)
        assert status in (0, -signal.SIGKILL)
        kills += status == -signal.SIGKILL
        resumed += (tmp_path / "last.pt").is_file()
        if status == 0:  # it finished: hold it against the straight run and start over
            assert equal(outcome(tmp_path), expected)
            clear_run(tmp_path)
    assert in_a_child(tmp_path) == 0
    assert equal(outcome(tmp_path), expected) and resumed > 12


def rows(folder) -> int:
    return len(read_jsonl(folder / "metrics.jsonl"))


def test_sigterm_and_other_worker_counts_change_nothing(straight, tmp_path):
    expected, _ = straight
    assert in_a_child(tmp_path, lambda: rows(tmp_path) == 2, signal.SIGTERM, workers=2) == 143
    assert "Stopped" in (tmp_path / "card.md").read_text(encoding="utf-8")
    assert in_a_child(tmp_path, lambda: rows(tmp_path) == 4, signal.SIGINT, workers=1) == 130
    assert in_a_child(tmp_path) == 0
    assert equal(outcome(tmp_path), expected)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_of_a_run_is_one_to_the_run(straight, tmp_path, number, status):
    """As `timeout`, Ctrl-C and batch systems send it; the workers must live to finish the step."""
    expected, _ = straight
    def within_an_epoch():
        return rows(tmp_path) == 2 and not time.sleep(0.02)

    assert in_a_child(tmp_path, within_an_epoch, number, workers=2, kill=os.killpg) == status
    assert "Stopped" in (tmp_path / "card.md").read_text(encoding="utf-8")
    assert in_a_child(tmp_path) == 0
    assert equal(outcome(tmp_path), expected)


def working(ready):
    obey_parent_alone()
    ready.set()
    time.sleep(60)


def test_a_worker_ends_for_its_parent_alone():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=working, args=(ready,))
    worker.start()
    assert ready.wait(20)
    stranger = context.Process(target=os.kill, args=(worker.pid, signal.SIGTERM))
    stranger.start()
    stranger.join()
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def clogged(ready):
    """As a loader's worker that hands over a batch: both ends of its pipe are open here, so that a write waits for ever."""
    obey_parent_alone()
    _, write = os.pipe()
    ready.set()
    os.write(write, bytes(1 << 20))


def parent_of_a_clogged_worker(ready):
    multiprocessing.get_context("fork").Process(target=clogged, args=(ready,)).start()
    time.sleep(60)


def test_no_worker_outlives_a_parent_that_was_killed():
    context = multiprocessing.get_context("fork")
    ready, (read, write) = context.Event(), os.pipe()  # of which the worker holds the last end
    parent = context.Process(target=parent_of_a_clogged_worker, args=(ready,))
    parent.start()
    assert ready.wait(20)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    os.close(write)
    assert select.select([read], [], [], 20)[0]
    os.close(read)
