"""How sure a reading is: one temperature for all logits, fitted on validation (Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017), so that of readings with a score of 0.9 about nine in ten are right."""

from typing import Iterable

import numpy as np
import torch
from torch import Tensor

from models.parseq import PARSeq
from models.parseq_autoregressive import reading_length
from utils.charset import one_space
from utils.distributed import gather_lists
from utils.metrics.recognition import fold_by
from utils.state import autocast

TEMPERATURES = np.geomspace(0.4, 6, 28).tolist()
MOST_CROPS = 512
FEWEST = 20  # right readings, and wrong ones, below which there is nothing to fit


def log_scores(logits: Tensor, temperatures: list[float]) -> Tensor:
    """(B, T, V) logits -> (B, len(temperatures)): the logarithm of each row's score at each temperature."""
    logits = logits.float()
    below = logits - logits.amax(-1, keepdim=True)
    counted = reading_length(logits.argmax(-1))
    return torch.stack([torch.where(counted, -(below / t).logsumexp(-1), 0.0).sum(1) for t in temperatures], dim=1)


def fit_temperature(scores: np.ndarray, exact: np.ndarray) -> float:
    """The temperature of TEMPERATURES under which whether readings are exact is least surprising.

    scores: (N, len(TEMPERATURES)) logarithms; exact: (N,) 0 or 1. 1.0 where there are too few right or wrong ones."""
    if min(exact.sum(), len(exact) - exact.sum()) < FEWEST:
        return 1.0
    scores = np.minimum(scores, -1e-6)  # a score of exactly 1 that is wrong would cost infinitely much
    surprise = -(exact[:, None] * scores + (1 - exact)[:, None] * np.log(-np.expm1(scores))).mean(0)
    return float(TEMPERATURES[int(surprise.argmin())])


@torch.no_grad()
def calibrate(model: PARSeq, batches: Iterable[dict], device: torch.device, args) -> float:
    """Fit the temperature on the first MOST_CROPS crops of all ranks, set model.temperature to it, and return it.

    batches: with "image", "width" and "text"; args: --decode, --refine-iters, --fold, --use-amp."""
    rows: list[tuple[list[float], bool]] = []
    for batch in batches:
        with autocast(args.use_amp, device):
            logits = model.read_logits(batch["image"].to(device), batch["width"].to(device), args.decode,
                                       args.refine_iters)
        ids = logits.argmax(-1).tolist()
        rows += [(scores, fold_by(one_space(model.charset.decode(row)), args.fold) == fold_by(truth, args.fold))
                 for scores, row, truth in zip(log_scores(logits, TEMPERATURES).tolist(), ids, batch["text"])]
        if len(rows) >= MOST_CROPS:
            break
    rows = gather_lists(rows)
    model.temperature = fit_temperature(np.array([scores for scores, _ in rows]),
                                        np.array([exact for _, exact in rows], float))
    return model.temperature
