"""Reading by CTC: one path through the frames of a line (Graves et al., 2006). The blank has id 0, PARSeq's EOS.

The best path takes the most probable id of each frame, and drops letters: where a frame is torn between two of them, or a
letter between two frames, blank is the most probable everywhere. So a frame is blank only where that is surer than BLANK,
and both cases of a letter count for it together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.charset import EOS

CERTAIN = 30.0  # a logit beside zeros: probability 1 among any number of characters
# Lines of SROIE's validation pages read exactly: the best path 0.879, cases together 0.881, and from 0.5, 0.6, 0.7, 0.8
# and 0.9 on: 0.881, 0.883, 0.885, 0.885, 0.880.
BLANK = 0.7


class Frame(NamedTuple):
    """What a frame may show: the probability of blank, and (id, probability) of characters."""

    blank: float
    characters: list[tuple[int, float]]


def likely(frames: Tensor, used: list[int], least: float) -> list[list[Frame]]:
    """frames (B, F, V) logits, `used` of them no padding in each row -> the frames of each row with the characters that
    have a probability of `least` or more."""
    shares = frames.softmax(-1)  # in 16 bits where they are
    blanks = shares[..., EOS].float().tolist()
    rows, places, ids = (shares[..., EOS + 1 :] >= least).nonzero(as_tuple=True)
    found = [[Frame(blank, []) for blank in row[:end]] for row, end in zip(blanks, used)]
    probabilities = shares[rows, places, ids + EOS + 1].float()
    for row, place, character, probability in zip(*(x.tolist() for x in (rows, places, ids + EOS + 1, probabilities))):
        if place < used[row]:
            found[row][place].characters.append((character, probability))
    return found


def path_logits(frames: Tensor, used: list[int], longest: int, case_pairs: list[tuple[int, int]]) -> Tensor:
    """frames (B, F, V) logits, `used` of them no padding in each row -> logits (B, T, V), T at most `longest`, of which
    argmax up to the first EOS is what was read, as PARSeq.decode gives them. case_pairs: ids of capitals and of their
    small letters.

    A character has the logits of the surest frame of its run, EOS those of the blank frame that is least sure, since a
    character may be missing there.
    """
    ids, sure = choices(frames, case_pairs)
    rows = [best_path(row[:end], certain[:end], frames.shape[1])
            for row, certain, end in zip(ids.tolist(), sure.tolist(), used)]
    width = min(max(map(len, rows), default=0), longest)
    places = torch.tensor([(row + row[-1:] * width)[:width] for row in rows], dtype=torch.int64, device=frames.device)
    places = places.reshape(len(rows), width)
    an_end = F.pad(frames.new_zeros(len(frames), 1, frames.shape[2] - 1), (1, 0), value=CERTAIN)
    chosen = torch.cat([frames, an_end], 1).gather(1, places[..., None].expand(-1, -1, frames.shape[2])).float()
    chosen = cases_together(chosen, case_pairs)
    ends = torch.tensor([len(row) - 1 for row in rows], device=frames.device)
    read = torch.arange(width, device=frames.device) < ends[:, None]  # a blank that was passed over is no more probable
    blank, best = chosen[..., EOS], chosen[..., EOS + 1 :].amax(-1)
    chosen[..., EOS] = torch.where(read, blank.minimum(best - 1e-3), blank)
    return chosen


def choices(frames: Tensor, case_pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The ids (B, F) that frames (B, F, V) show, EOS for blank, and their probabilities (B, F)."""
    shares = frames.softmax(-1)  # in 16 bits where they are: what was chosen gets its score in 32
    best, ids = shares[..., EOS + 1 :].max(-1)
    ids += EOS + 1
    if case_pairs:
        pairs = torch.tensor(case_pairs, device=frames.device)
        of_pairs = shares[..., pairs]  # (B, F, P, 2)
        either, pair = of_pairs.sum(-1).max(-1)
        case = of_pairs.argmax(-1).gather(-1, pair[..., None])[..., 0]
        ids, best = torch.where(either > best, pairs[pair, case], ids), torch.maximum(either, best)
    is_blank = shares[..., EOS] > BLANK
    return torch.where(is_blank, EOS, ids), torch.where(is_blank, shares[..., EOS], best)


def cases_together(logits: Tensor, case_pairs: list[tuple[int, int]]) -> Tensor:
    """(..., V) -> the same, of each letter the more probable case with the probability of both, the other without."""
    capitals, smalls = torch.tensor(case_pairs, dtype=torch.int64, device=logits.device).reshape(-1, 2).T
    of_capitals, of_smalls = logits[..., capitals], logits[..., smalls]
    either, none = torch.logaddexp(of_capitals, of_smalls), torch.minimum(of_capitals, of_smalls) - CERTAIN
    capital = of_capitals >= of_smalls
    logits = logits.index_copy(-1, capitals, torch.where(capital, either, none))
    return logits.index_copy(-1, smalls, torch.where(capital, none, either))


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
