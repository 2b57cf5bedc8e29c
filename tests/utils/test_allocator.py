"""Freed memory stays with a process that asked for it, and not with one that did not."""

import subprocess
import sys

import pytest
import torch

from utils.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
from utils.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory(torch.device("cpu"))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):  # the heap grows until the block fits in between what else there is
    torch.ones(10_000_000)  # 40 MB: above glibc's largest threshold for blocks of their own
before = faults()
for _ in range(3):
    torch.ones(10_000_000)
print(faults() - before)
"""


WORKER = """
import resource, torch
from torch.utils.data import Dataset
from utils.dataloading import EveryBatch, make_loader
class Faults(Dataset):
    def __getitem__(self, key):
        for _ in range(40):
            torch.ones(10_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(10_000_000)
        return {"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}
if __name__ == "__main__":
    (batch,) = make_loader(Faults(), EveryBatch(1, 1), 1, torch.device("cpu"))
    print(int(batch["faults"][0]))
"""


def faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_is_fetched_once():
    assert faults("keep") < 50
    assert faults("give-back") >= 3 * 19  # in pages of 2 MB, if the system hands out such; 3 * 9766 of 4 KB


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_loader_workers_keep_theirs():
    """Whatever the device of the training: this process itself did not ask for it."""
    done = subprocess.run([sys.executable, "-c", WORKER], check=True, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < 50


def test_nothing_is_done_for_a_gpu():
    assert not keep_freed_memory(torch.device("cuda"))
