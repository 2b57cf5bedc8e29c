import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.dataloading import EpochBatches, EveryBatch, default_collate, loader_arguments, make_loader, sample_rng


@given(size=st.integers(1, 40), batch=st.integers(1, 5), world=st.integers(1, 4), epoch=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_ranks_share_one_global_order(size, batch, world, epoch):
    single = EpochBatches(size, batch * world, seed=1)
    ranks = [EpochBatches(size, batch, seed=1, rank=r, world=world) for r in range(world)]
    for batches in (single, *ranks):
        batches.set_position(epoch)
    whole = list(single)
    assert [len(list(r)) for r in ranks] == [len(whole)] * world == [len(r) for r in ranks]
    for number, keys in enumerate(whole):
        shares = [list(r)[number] for r in ranks]
        assert all(shares)  # no rank is left without a batch, or the others would wait for it
        real = [key for r, share in zip(ranks, shares) if number not in r.fillers() for key in share]
        assert sorted(real) == sorted(keys)
        assert min(map(len, shares)) >= ranks[0].smallest_batch


def test_a_later_start_is_the_rest_of_the_same_epoch():
    batches = EpochBatches(23, 4, seed=5)
    batches.set_position(2)
    whole = list(batches)
    batches.set_position(2, 3)
    assert list(batches) == whole[3:]
    batches.set_position(3)
    assert list(batches) != whole


@given(size=st.integers(0, 30), batch=st.integers(1, 5), world=st.integers(1, 4))
def test_evaluation_sees_every_sample_once(size, batch, world):
    ranks = [EveryBatch(size, batch, r, world) for r in range(world)]
    keys = [key for r in ranks for part in r for key in part]
    assert sorted(keys) == [(0, i) for i in range(size)]
    assert all(len(list(r)) == len(r) for r in ranks)


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, key):
        epoch, index = key
        return {"x": torch.from_numpy(sample_rng(0, epoch, index).standard_normal(3)), "file": f"{epoch}/{index}"}


def test_samples_do_not_depend_on_the_number_of_workers():
    def epoch(workers, number):
        batches = EpochBatches(9, 2, seed=0)
        loader = make_loader(Noise(), batches, workers, torch.device("cpu"))
        batches.set_position(number)
        return torch.cat([batch["x"] for batch in loader])

    assert torch.equal(epoch(0, 1), epoch(2, 1))
    assert not torch.equal(epoch(0, 1), epoch(0, 2))


def test_loader_arguments_fit_together():
    """num_workers 0 with prefetch_factor crashed once."""
    assert set(loader_arguments(0, torch.device("cpu"))) == {"num_workers", "pin_memory"}
    assert loader_arguments(2, torch.device("cpu"))["persistent_workers"]


class Threads(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, key):
        return {"threads": torch.tensor([cv2.getNumThreads(), torch.get_num_threads()]), "file": "x"}


def test_workers_run_on_one_thread_each():
    cv2.setNumThreads(4)
    loader = make_loader(Threads(), EveryBatch(2, 1), 2, torch.device("cpu"))
    seen = [batch["threads"][0].tolist() for batch in loader]
    cv2.setNumThreads(-1)
    assert seen == [[1, 1]] * 2  # what OpenCV says after setNumThreads(0): none but the caller's


def test_every_loader_gets_its_arguments_from_one_function():
    """A DataLoader made elsewhere would have its own ideas about workers, pinned memory and threads."""
    root = Path(__file__).resolve().parents[2]
    rooms = ("models", "datasets", "utils", "experiments")
    files = [*root.glob("*.py"), *(path for room in rooms for path in (root / room).rglob("*.py"))]
    makers = {path.name for path in files if re.search(r"\bDataLoader\(", path.read_text(encoding="utf-8"))}
    assert makers == {"dataloading.py"}


def test_pinned_memory_is_for_gpus():
    assert loader_arguments(0, torch.device("cuda"))["pin_memory"]
    assert not loader_arguments(0, torch.device("cpu"))["pin_memory"]


def test_collate_stacks_arrays_and_lists_the_rest():
    batch = default_collate([{"a": np.zeros(2, np.float32), "b": torch.ones(1), "c": "x"}] * 3)
    assert batch["a"].shape == (3, 2) and batch["b"].shape == (3, 1) and batch["c"] == ["x"] * 3
    with pytest.raises(RuntimeError):
        default_collate([{"a": np.zeros(2)}, {"a": np.zeros(3)}])
