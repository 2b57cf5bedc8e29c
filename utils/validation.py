"""The loss on validation samples, to be laid beside that of training."""

import time

import torch

from utils.distributed import gather_lists
from utils.engine import Step, split_batch, to_device
from utils.state import autocast

MOST_SAMPLES = 64  # spread over the split: enough to see a turn, cheap beside the evaluation


@torch.no_grad()
def validation_loss(state, loader, step: Step) -> dict[str, float]:
    """Weighted means of the loss parts over `loader` with the weights that are evaluated; {} where it is None.

    loader: the same samples in every epoch, with targets, without augmentation, dealt out over the ranks. step: as in
    training. The time it takes counts as training time.
    """
    if loader is None:
        return {}
    begun, model, rows = time.perf_counter(), state.eval_model, []
    for batch in loader:
        for piece in split_batch(batch, state.micro_split):
            piece = to_device(piece, state.device, state.args.channels_last) | {"step_seed": 0}
            with autocast(state.args.use_amp, state.device):
                parts, weight = step(model, piece)
            rows.append({name: float(value) for name, value in parts.items()} | {"weight": float(weight)})
    rows = gather_lists(rows)
    state.seconds += time.perf_counter() - begun

    def mean(name: str) -> float:
        having = [row for row in rows if name in row]
        return sum(row[name] * row["weight"] for row in having) / sum(row["weight"] for row in having)

    return {name: mean(name) for name in dict.fromkeys(name for row in rows for name in row) if name != "weight"}
