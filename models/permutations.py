"""The orders in which PARSeq learns to read a label, and what each lets a character see. Masks are boolean and say what
is visible; K permutations of labels of n characters."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_permutations(length: int, config, seed: int) -> Tensor:
    """Reading orders (K, length + 2) of the places 0 (BOS), 1 to length, length + 1 (the last one, EOS), on the CPU.

    Rows: left to right, right to left, then random orders, each followed by its mirror image. BOS is always first and
    EOS last, but for right to left, where EOS comes first: so EOS learns the full and the empty context. One character
    has one order; under five, the orders are drawn without repetition from all that exist.
    """
    if length == 1:
        return torch.arange(3)[None]
    generator = torch.Generator().manual_seed(seed)
    wanted = config.perm_num // 2 - 1
    if length < 5:
        every = itertools.permutations(range(length))
        pool = [order for order in every if order < order[::-1]][1:]  # one of each mirrored pair, but left to right
        chosen = torch.randperm(len(pool), generator=generator)[:wanted].tolist()
        drawn = torch.tensor([pool[i] for i in chosen], dtype=torch.long).view(-1, length)
    else:  # one random number for each place the model has, so that a shorter batch sees the same order of its places
        drawn = torch.rand(wanted, max(config.max_label_length, length), generator=generator)[:, :length].argsort(1)
    half = torch.cat([torch.arange(length)[None], drawn])
    both = torch.stack([half, half.flip(1)], dim=1).flatten(0, 1)
    orders = F.pad(F.pad(both + 1, (1, 0), value=0), (0, 1), value=length + 1)
    orders[1, 1:] = torch.arange(length + 1, 0, -1)
    return orders


def visible_keys(orders: Tensor) -> Tensor:
    """(K, n + 2) reading orders -> (K, n + 1, n + 1) bool: the query of place q + 1 sees place k, if read before."""
    rank = orders.argsort(1)
    return rank[:, None, :-1] < rank[:, 1:, None]
