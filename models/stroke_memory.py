"""Large pictures on little memory: norms that do not need a batch, and activations that are computed twice."""

import contextlib
import math
from functools import partial
from typing import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

GROUPS = 32
BatchNorm = nn.modules.batchnorm._BatchNorm


def use_group_norm(module: nn.Module) -> None:
    """Put group norm (Wu and He, 2018, arXiv 1803.08494) in the place of every batch norm inside; scale and shift are
    kept. As many groups as divide the channels, up to 32. An activation that timm has built into the norm stays."""
    for name, child in module.named_children():
        if isinstance(child, BatchNorm):
            norm = nn.GroupNorm(math.gcd(child.num_features, GROUPS), child.num_features, child.eps)
            norm.load_state_dict({"weight": child.weight, "bias": child.bias})
            inside = [part for part in (getattr(child, "drop", None), getattr(child, "act", None)) if part is not None]
            setattr(module, name, nn.Sequential(norm, *inside) if inside else norm)
        else:
            use_group_norm(child)


def forward_in_pieces(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """network(image) of an smp network, whose encoder and decoder each keep only what goes in, and are run again for
    the backward pass (Chen et al., 2016, arXiv 1604.06174). Gradients and running statistics are those of network()."""
    twice = partial(checkpoint, use_reentrant=False,
                    context_fn=lambda: (contextlib.nullcontext(), statistics_kept(network)))
    return network.segmentation_head(twice(network.decoder, twice(network.encoder, image)))


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm takes no part of what it sees into its running statistics; it has seen it before."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm) and norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
