"""A model's buffers as they were: batch norm's statistics, which a step that does not count must not move."""

import torch
from torch import nn


class SavedBuffers:
    """A copy of all buffers, kept as one flat tensor a dtype, since a kernel for each would cost more than the copy."""

    def __init__(self, model: nn.Module):
        self.buffers = list(model.buffers())
        self.kinds = {buffer.dtype: [b for b in self.buffers if b.dtype == buffer.dtype] for buffer in self.buffers}
        self.flat = {dtype: _flattened(buffers) for dtype, buffers in self.kinds.items()}

    def restore(self, unless: torch.Tensor | None = None) -> None:
        """Put the copy back. unless: a bool tensor () on the device; where it is true, nothing is put back."""
        for dtype, buffers in self.kinds.items():
            values = self.flat[dtype] if unless is None else torch.where(unless, _flattened(buffers), self.flat[dtype])
            torch._foreach_copy_(buffers, _cut(values, buffers))

    def tensors(self) -> list[torch.Tensor]:
        """The copies, in the order of model.buffers()."""
        copies = {dtype: iter(_cut(self.flat[dtype], buffers)) for dtype, buffers in self.kinds.items()}
        return [next(copies[buffer.dtype]) for buffer in self.buffers]


def _flattened(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _cut(flat: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like)]
