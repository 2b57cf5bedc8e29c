"""Reading by CTC: the best path through the frames of a line (Graves et al., 2006). The blank has id 0, PARSeq's EOS."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.charset import EOS

CERTAIN = 30.0  # a logit beside zeros: probability 1 among any number of characters


def best_path_logits(frames: Tensor, used: list[int], longest: int) -> Tensor:
    """frames (B, F, V) logits, `used` of them no padding in each row -> logits (B, T, V), T at most `longest`, of which
    argmax up to the first EOS is what was read, as PARSeq.decode gives them.

    A character has the logits of the surest frame of its run, EOS those of the blank frame that is least sure, since a
    character may be missing there.
    """
    sure, ids = frames.float().softmax(-1).max(-1)
    rows = [best_path(row[:end], certain[:end], frames.shape[1])
            for row, certain, end in zip(ids.tolist(), sure.tolist(), used)]
    width = min(max(map(len, rows), default=0), longest)
    places = torch.tensor([(row + row[-1:] * width)[:width] for row in rows], dtype=torch.int64, device=frames.device)
    places = places.reshape(len(rows), width)
    an_end = F.pad(frames.new_zeros(len(frames), 1, frames.shape[2] - 1), (1, 0), value=CERTAIN)
    return torch.cat([frames, an_end], 1).gather(1, places[..., None].expand(-1, -1, frames.shape[2]))


def best_path(ids: list[int], sure: list[float], an_end: int) -> list[int]:
    """The frames that stand for the characters of a path, and for its end: `an_end` where it has no blank."""
    chosen: list[int] = []
    last_id, end = EOS, an_end
    for frame, (found, probability) in enumerate(zip(ids, sure)):
        if found == EOS:
            end = frame if end == an_end or probability < sure[end] else end
        elif found != last_id:
            chosen.append(frame)
        elif probability > sure[chosen[-1]]:
            chosen[-1] = frame
        last_id = found
    return [*chosen, end]
