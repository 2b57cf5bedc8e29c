"""Memory that was freed stays with the process: on the CPU a step that fetches it anew is a tenth slower, or more."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
HIGHEST = 2**31 - 1  # bytes, of the threshold


def keep_freed_memory(device: torch.device) -> bool:
    """Tell the C library not to give freed memory back to the system; whether it was told. For a script's start.

    glibc returns every large block that is freed, and the system fills each of its pages with zeros when it is wanted
    again, which for activations is in every step (`python -m benchmarks.allocator`). The process then keeps about what
    it needed at its peak, and somewhat more where the sizes of blocks change. Nothing is done for a GPU, whose memory
    torch keeps by itself, and by C libraries without mallopt. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, HIGHEST))
