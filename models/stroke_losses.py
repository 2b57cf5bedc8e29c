"""Losses for stroke masks: from logits and soft masks, in float32 whatever comes in, image by image, then the mean."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

EDGE_FLOOR = 1e-3  # the least length of an edge loss's gradient vector


def dice_loss(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - dice, image by image, then the mean; logits and target (B, 1, H, W), target in [0, 1].

    The overlap is the sum of min(p, t): p * t for hard masks, and 1 at p = t for soft ones, where the product would ask
    for something sharper than the truth (Wang et al., Dice Semimetric Losses, 2023, arXiv 2303.16296). `smooth`, in
    pixels, gives an empty prediction of an empty mask its 0.
    """
    p, t = _probabilities(logits, target)
    overlap = torch.minimum(p, t).sum((1, 2, 3))
    return (1 - (2 * overlap + smooth) / (p.sum((1, 2, 3)) + t.sum((1, 2, 3)) + smooth)).mean()


def focal_loss(logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.75, gamma: float = 2.0) -> torch.Tensor:
    """Mean over pixels of weight * |t - p| ** gamma * cross-entropy (Lin et al., 2017, arXiv 1708.02002; for soft t the
    form of Li et al., 2020, arXiv 2006.04388). alpha is the weight of ink, 1 - alpha that of background. gamma is 0, or
    at least 1: between them the gradient is infinite where p = t.
    """
    p, t = _probabilities(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        entropy = F.binary_cross_entropy_with_logits(logits.float(), t, reduction="none")
    weight = alpha * t + (1 - alpha) * (1 - t)
    return (weight * (t - p).abs() ** gamma * entropy).mean()


def edge_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over pixels of how far the Sobel gradients of probability and truth lie apart; 4 at a missed step of 1.

    The gradients are compared as vectors: by their lengths alone, paper round ink and ink round paper are the same.
    """
    p, t = _probabilities(logits, target)
    return (_sobel_length(p - t) - EDGE_FLOOR).mean()


def continuity_loss(logits: torch.Tensor, target: torch.Tensor, iterations: int = 10) -> torch.Tensor:
    """1 - soft-clDice, image by image, then the mean (Shit et al., 2021, arXiv 2003.07311).

    A gap in a stroke costs its share of the skeleton, however thin the stroke is. `iterations` is the half width, in
    pixels, of the widest stroke that is thinned to its skeleton.
    """
    p, t = _probabilities(logits, target)
    skeleton_p, skeleton_t = soft_skeleton(p, iterations), soft_skeleton(t, iterations)
    precision = ((skeleton_p * t).sum((1, 2, 3)) + 1) / (skeleton_p.sum((1, 2, 3)) + 1)
    recall = ((skeleton_t * p).sum((1, 2, 3)) + 1) / (skeleton_t.sum((1, 2, 3)) + 1)
    return (1 - 2 * precision * recall / (precision + recall)).mean()


def soft_skeleton(image: torch.Tensor, iterations: int) -> torch.Tensor:
    """What opening removes from (B, 1, H, W) in [0, 1], gathered over `iterations` erosions."""
    skeleton = F.relu(image - _open(image))
    for _ in range(iterations):
        image = _erode(image)
        ridge = F.relu(image - _open(image))
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton


@dataclass
class StrokeLoss:
    """The weighted sum of the four losses; a weight of 0 leaves the loss out, and at least one must be above 0."""

    dice: float = 1.0
    focal: float = 1.0
    edge: float = 1.0
    continuity: float = 0.0
    focal_alpha: float = 0.75
    focal_gamma: float = 2.0
    cldice_iters: int = 10

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """logits, target (B, 1, H, W) -> {"loss": the sum, and each loss in it unweighted}, 0-dim float32."""
        parts = {}
        if self.dice:
            parts["dice"] = dice_loss(logits, target)
        if self.focal:
            parts["focal"] = focal_loss(logits, target, self.focal_alpha, self.focal_gamma)
        if self.edge:
            parts["edge"] = edge_loss(logits, target)
        if self.continuity:
            parts["continuity"] = continuity_loss(logits, target, self.cldice_iters)
        return {"loss": sum(getattr(self, name) * value for name, value in parts.items())} | parts


def _probabilities(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 whatever came in: sums over a page of 1536 x 1536 pixels overflow float16."""
    return logits.float().sigmoid(), target.float()


def _sobel_length(image: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) -> length of the Sobel gradient, float32, EDGE_FLOOR where flat; the border is repeated."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=image.device)
    with torch.autocast(image.device.type, enabled=False):
        gradient = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), torch.stack([kernel, kernel.T])[:, None])
    return (gradient.square().sum(1, keepdim=True) + EDGE_FLOOR**2).sqrt()  # the root of 0 has no gradient


def _erode(image: torch.Tensor) -> torch.Tensor:
    return -torch.maximum(F.max_pool2d(-image, (3, 1), 1, (1, 0)), F.max_pool2d(-image, (1, 3), 1, (0, 1)))


def _open(image: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(_erode(image), 3, 1, 1)
