"""Weights from elsewhere: a checkpoint with other characters, longer labels or wider images."""

from pathlib import Path

from torch import Tensor

from models.parseq import PARSeq, PARSeqConfig
from utils.charset import Charset
from utils.checkpoint import load_checkpoint, weights_of
from utils.errors import DataError

NETWORK = ("dim", "depth", "heads", "decoder_heads", "mlp_ratio", "img_height", "patch_height", "patch_width")


def init_from(model: PARSeq, path: Path) -> str:
    """Start from another checkpoint of this task: what both models have is copied, and the line that is returned says
    what. Raises DataError where the networks themselves differ."""
    checkpoint = load_checkpoint(path, "recognition")
    config = PARSeqConfig(**checkpoint["config"])
    for name in NETWORK:
        mine, other = getattr(model.config, name), getattr(config, name)
        if mine != other:
            raise DataError(f"{path}: another network: its {name} is {other}, not {mine}; "
                            "take its --arch and --img-height")
    theirs, ours = weights_of(checkpoint), model.state_dict()
    charset = Charset(config.characters)
    taken = {name: _fit(name, ours[name], found, model, charset) for name, found in theirs.items()
             if name in ours and not (name.startswith("ctc_head") and charset != model.charset)}
    model.load_state_dict(ours | taken)
    known = sum(character in charset.ids for character in model.charset.characters)
    left = [name for name in ours if name not in taken]
    return (f"started from {path}: {known} of {len(model.charset)} characters are known to it"
            + (f"; left at random: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}" if left else ""))


def _fit(name: str, own: Tensor, found: Tensor, model: PARSeq, charset: Charset) -> Tensor:
    """`found` in the shape of `own`; what `found` does not have stays as in `own`."""
    value = own.clone()
    here, there = model.charset.shared_rows(charset)
    if name == "text_embed.embedding.weight":
        value[here] = found[there]
    elif name in ("head.weight", "head.bias"):  # the head has no BOS and no PAD, the last two
        value[here[:-2]] = found[there[:-2]]
    elif name == "pos_queries":
        shared = min(own.shape[1], found.shape[1])
        value[:, :shared] = found[:, :shared]
    elif name == "encoder.pos_embed":  # a column of patches keeps its place, however wide the image
        grid, other = (x.unflatten(1, (model.config.rows, -1)) for x in (value, found))
        shared = min(grid.shape[2], other.shape[2])
        grid[:, :, :shared] = other[:, :, :shared]
    else:
        return found
    return value
