"""What PARSeq learns by: cross entropy over permutations of the reading order, and CTC on the encoder."""

from pathlib import Path
from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.charset import EOS, Charset


class Caseless(NamedTuple):
    """Samples whose labels do not tell capitals from small letters: for them both are one answer.

    samples (B,) bool; pairs (2, P) int64: the ids of the capitals and of their small letters.
    """

    samples: Tensor
    pairs: Tensor


def caseless_samples(files: Sequence[str], folders: Sequence[str], charset: Charset, device) -> Caseless | None:
    """What parseq_loss is told of a batch: the samples whose file lies in one of `folders` are caseless."""
    if not folders:
        return None
    # By parts of the path: ./DIR/ is DIR, and DIR2 is not in it.
    inside = [any(Path(name).is_relative_to(folder) for folder in folders) for name in files]
    return Caseless(torch.tensor(inside, device=device),
                    torch.tensor(charset.case_pairs, dtype=torch.int64, device=device).reshape(-1, 2).T)


def log_probabilities(logits: Tensor, samples: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
    """(N, ..., V) logits -> their log-softmax float32. Where samples (N,) bool is true, each letter of a pair has the
    probability of either."""
    log_probs = logits.float().log_softmax(-1)
    if samples is None:
        return log_probs
    letters, others = torch.cat([pairs, pairs.flip(0)], 1)
    own, either = log_probs[..., letters], torch.logaddexp(log_probs[..., letters], log_probs[..., others])
    return log_probs.index_copy(-1, letters, torch.where(samples.reshape(-1, *[1] * (logits.ndim - 1)), either, own))


def parseq_loss(outputs: dict, ctc_weight: float = 0.0, decoder_weight: float = 1.0,
                caseless: Caseless | None = None) -> tuple[dict[str, Tensor], int | Tensor]:
    """(parts, weight) of what PARSeq.forward returns: decoder_weight times the cross entropy of all permutations, a mean
    over their tokens, and ctc_weight times the CTC loss, about one character's. weight is the number of tokens over all
    permutations; where the decoder was left out, of characters and ends. Labels that the CTC frames cannot hold count 0
    there (datasets.recognition.fit_labels names them at the start). Computed in float32."""
    folded, pairs = caseless or (None, None)
    parts, weight = {}, 0
    logits = outputs["logits"] if "logits" in outputs else outputs["ctc_logits"]
    with torch.autocast(logits.device.type, enabled=False):
        if "logits" in outputs:
            rows = None if folded is None else folded[outputs["samples"]]
            parts["cross_entropy"] = F.nll_loss(log_probabilities(logits, rows, pairs), outputs["targets"])
            weight = len(outputs["targets"])
        if ctc_weight:
            labels = outputs["labels"]
            lengths = (labels == EOS).int().argmax(1)
            log_probs = log_probabilities(outputs["ctc_logits"], folded, pairs).transpose(0, 1)
            total = F.ctc_loss(log_probs, labels, outputs["ctc_lengths"], lengths, EOS, "sum", zero_infinity=True)
            if "logits" in outputs:
                parts["ctc"] = total * outputs["perm_num"] / weight
            else:
                weight = lengths.sum() + len(lengths)
                parts["ctc"] = total / weight
    weights = {"cross_entropy": decoder_weight, "ctc": ctc_weight}
    return {"loss": sum(weights[name] * value for name, value in parts.items())} | parts, weight
