"""DBNet's loss (Liao et al., AAAI 2020): probability by balanced BCE, threshold by L1, their difference by dice."""

import torch
import torch.nn.functional as F

STEEPNESS = 50.0  # k of the differentiable binarization
PROB_WEIGHT, THRESH_WEIGHT, BINARY_WEIGHT = 5.0, 10.0, 1.0
HARD_NEGATIVES = 3


def db_loss(out: dict[str, torch.Tensor], batch: dict) -> tuple[dict[str, torch.Tensor], int]:
    """({"loss", "prob", "thresh", "binary"} means over images, number of images), in float32.

    Each term is taken image by image, so that accumulation and ranks change nothing. The weights are the paper's
    (alpha 1, beta 10) times the 5 that the authors' code gives the probability map.
    """
    with torch.autocast(out["prob"].device.type, enabled=False):
        prob, thresh = out["prob"].float(), out["thresh"].float()
        shrink, mask = batch["shrink_map"], batch["shrink_mask"]
        parts = {"prob": balanced_bce(prob, shrink, mask).mean(),
                 "thresh": masked_l1(thresh.sigmoid(), batch["thresh_map"], batch["thresh_mask"]).mean(),
                 "binary": dice_loss((STEEPNESS * (prob.sigmoid() - thresh.sigmoid())).sigmoid(), shrink, mask).mean()}
        loss = PROB_WEIGHT * parts["prob"] + THRESH_WEIGHT * parts["thresh"] + BINARY_WEIGHT * parts["binary"]
    return {"loss": loss} | parts, len(prob)


def probability_loss(out: dict[str, torch.Tensor], batch: dict) -> tuple[dict[str, torch.Tensor], int]:
    """db_loss as far as the network answers in evaluation mode: ({"prob"}, number of images)."""
    with torch.autocast(out["prob"].device.type, enabled=False):
        return {"prob": balanced_bce(out["prob"].float(), batch["shrink_map"], batch["shrink_mask"]).mean()}, \
            len(out["prob"])


def balanced_bce(logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) binary cross-entropy over the text pixels and the hardest background pixels, three to one.

    A page with little or no text keeps at least 1/64 of its pixels as background, or it would teach nothing: the
    well-known form returns exactly 0 on a blank page. All (B, H, W); target and mask are 0 or 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * mask
    positive, negative = (target * mask).flatten(1), ((1 - target) * mask).flatten(1)
    loss = loss.flatten(1)
    n_positive, n_negative = positive.sum(1), negative.sum(1)
    hard = torch.minimum((HARD_NEGATIVES * n_positive).clamp(min=loss.shape[1] // 64), n_negative).long()
    # The loss of the processor is at hand, and a part of it is found faster than all of it is sorted; a GPU must not be
    # waited for to know how large the part is.
    sum_largest = sum_largest_by_selection if logits.device.type == "cpu" else sum_largest_by_sorting
    return ((loss * positive).sum(1) + sum_largest(loss * negative, hard)) / (n_positive + hard).clamp(min=1)


def sum_largest_by_selection(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(B, N) values, (B,) int64 counts -> (B,) sums of so many of the largest in each row."""
    return torch.stack([row.topk(count, sorted=False).values.sum() for row, count in zip(values, counts.tolist())])


def sum_largest_by_sorting(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The same without reading `counts` back."""
    ranks = torch.arange(values.shape[1], device=values.device)
    ordered = values.sort(dim=1, descending=True).values
    return ordered.where(ranks < counts[:, None], 0).sum(1)


def masked_l1(value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) mean absolute difference inside the mask; 0 where it is empty."""
    return ((value - target).abs() * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def dice_loss(value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) 1 - (2 |X and Y| + 1) / (|X| + |Y| + 1) inside the mask: on a blank page what is found is still punished."""
    value, target = (value * mask).flatten(1), (target * mask).flatten(1)
    return 1 - (2 * (value * target).sum(1) + 1) / (value.sum(1) + target.sum(1) + 1)
