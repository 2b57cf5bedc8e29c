"""What PARSeq learns by: cross entropy over permutations of the reading order, and CTC on the encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.charset import EOS


def parseq_loss(outputs: dict, ctc_weight: float = 0.0,
                decoder_weight: float = 1.0) -> tuple[dict[str, Tensor], int | Tensor]:
    """(parts, weight) of what PARSeq.forward returns: decoder_weight times the cross entropy of all permutations, a mean
    over their tokens, and ctc_weight times the CTC loss, about one character's. weight is the number of tokens over all
    permutations; where the decoder was left out, of characters and ends. Labels that the CTC frames cannot hold count 0
    there. Computed in float32."""
    parts, weight = {}, 0
    logits = outputs["logits"] if "logits" in outputs else outputs["ctc_logits"]
    with torch.autocast(logits.device.type, enabled=False):
        if "logits" in outputs:
            parts["cross_entropy"] = F.cross_entropy(logits.float(), outputs["targets"])
            weight = len(outputs["targets"])
        if ctc_weight:
            labels = outputs["labels"]
            lengths = (labels == EOS).int().argmax(1)
            log_probs = outputs["ctc_logits"].float().log_softmax(-1).transpose(0, 1)
            total = F.ctc_loss(log_probs, labels, outputs["ctc_lengths"], lengths, EOS, "sum", zero_infinity=True)
            if "logits" in outputs:
                parts["ctc"] = total * outputs["perm_num"] / weight
            else:
                weight = lengths.sum() + len(lengths)
                parts["ctc"] = total / weight
    weights = {"cross_entropy": decoder_weight, "ctc": ctc_weight}
    return {"loss": sum(weights[name] * value for name, value in parts.items())} | parts, weight
