"""One process or many under torchrun: the same code, and decisions that all ranks take together."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from utils.elastic import restart_count
from utils.errors import DataError, ManyDevices


def init_distributed(device: str) -> tuple[torch.device, int, int]:
    """(device, rank, world) of this process; joins the others when torchrun started it.

    device: 'auto' (the GPU where there is one), 'cpu', 'cuda', 'cuda:N' or N, or several of these with commas between,
    of which each process of this machine takes its own; where there are no processes yet ManyDevices is raised. Tensors
    on the CPU travel by gloo and those on a GPU by NCCL, so that a flag can be agreed upon without waiting for the GPU.
    """
    names = device_names(device)
    for name in names:
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise DataError(f"--device {device}: this machine or this build of torch has no usable GPU; try --device cpu")
        if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
            raise DataError(f"--device {device}: is none of auto, cpu, cuda, cuda:N or N, nor a list of them (0,1)")
        if name.startswith("cuda:") and not (name[5:].isdigit() and int(name[5:]) < torch.cuda.device_count()):
            raise DataError(f"--device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    if len({torch.device(name).type for name in names}) > 1:
        raise DataError(f"--device {device}: GPUs and the CPU cannot work together")
    if len({torch.device(name).index for name in names}) < len(names) and names[0] != "cpu":
        raise DataError(f"--device {device}: a GPU cannot be taken twice")
    if "WORLD_SIZE" not in os.environ:
        if len(names) > 1:
            raise ManyDevices(f"--device {device}: several devices are for train_*.py and inference.py, which start a "
                              "process for each; here name one", len(names))
        return torch.device(names[0]), 0, 1
    device = _own_device(names)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        # torchrun keeps its store when it starts lost ranks again, with the addresses of the dead still in it.
        store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(minutes=30)))
        store = dist.PrefixStore(f"attempt_{restart_count()}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    return torch.device(device), dist.get_rank(), dist.get_world_size()


def device_names(device: str) -> list[str]:
    """--device as torch's names: '0,1' is ['cuda:0', 'cuda:1'], 'auto' the GPU or the CPU."""
    if device == "auto":
        return ["cuda" if torch.cuda.is_available() else "cpu"]
    return [f"cuda:{name}" if name.isdigit() else name for name in device.split(",")]


def _own_device(names: list[str]) -> str:
    """This process's of those that its machine's processes are to take."""
    place, places = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if len(names) == 1:
        return names[0] if names[0] == "cpu" else f"cuda:{place}"
    if len(names) != places:
        raise DataError(f"--device {','.join(names)}: {len(names)} devices for the {places} processes of this machine")
    return names[place]


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all ranks, in place, on the device the tensor lives on."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def any_rank(flag: bool) -> bool:
    """True on every rank when it is true on one."""
    return bool(sum_over_ranks(torch.tensor(float(flag))) > 0)


def lowest_over_ranks(value: int) -> int:
    """The lowest of all ranks' numbers, on every rank."""
    box = torch.tensor(value)
    if is_distributed():
        dist.all_reduce(box, dist.ReduceOp.MIN)
    return int(box)


def from_rank_zero(value: Any) -> Any:
    """Rank 0's value on every rank (plain Python values)."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_lists(items: list) -> list:
    """All ranks' lists joined, in rank order, on every rank."""
    if not is_distributed():
        return list(items)
    boxes: list = [None] * dist.get_world_size()
    dist.all_gather_object(boxes, items)
    return [item for box in boxes for item in box]


def barrier() -> None:
    if is_distributed():
        dist.barrier()


def wait_for_all() -> None:
    """A barrier that does not lose its patience: shares of documents may differ by hours."""
    if is_distributed():
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
        dist.barrier(group=patient)


def share_out(sizes: list[int], rank: int, world: int) -> list[int]:
    """Numbers of the items that are this rank's, in order: each item has one rank, and the shares are of like size."""
    loads, mine = [0] * world, []
    for item in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        least = loads.index(min(loads))
        loads[least] += sizes[item] + 1
        mine += [item] * (least == rank)
    return sorted(mine)


def leave_distributed() -> None:
    """Wait for the others, so that none is still talking to a rank that has gone, and leave."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
