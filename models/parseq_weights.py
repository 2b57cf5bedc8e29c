"""Weights from elsewhere: a checkpoint with other characters, longer labels or wider images, and the published PARSeq's.

    python -m models.parseq convert parseq-bb5792a6.pt parseq-s.pt
    python -m models.parseq convert korean.ckpt korean.pt --charset korean.txt

IN is a state dict as baudm/parseq publishes it, or a checkpoint that holds one; only tensors and plain values are read,
and nothing in it is run. OUT is a checkpoint of this project, for --weights, --init-from and --recognition-weights.
"""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Mapping

import torch
from torch import Tensor

from models.parseq import ARCHS, PARSeq, PARSeqConfig, build_model
from utils.args import new_parser
from utils.charset import EOS, Charset, read_charset
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint, weights_of
from utils.errors import DataError

NETWORK = ("dim", "depth", "heads", "decoder_heads", "mlp_ratio", "img_height", "patch_height", "patch_width",
           "scale_positions")


def start_from_frequencies(model: PARSeq, frequent: Mapping[str, int]) -> None:
    """Set the biases of a new model's heads so that it begins by predicting how frequent the tokens of its labels are
    (the prior initialisation of Lin et al., "Focal loss", 2017), a tenth of the mass spread over all; in the CTC head,
    four frames of five are blank. With biases of 0 and thousands of characters the first hundred steps teach just this,
    by way of what all images share, and an encoder trained from scratch comes out of them seeing nothing.

    frequent: utils.charset.token_counts of texts in the model's charset.
    """
    counts = torch.zeros(model.charset.size - 2)
    for character, count in frequent.items():
        counts[model.charset.ids[character] if character else EOS] = count
    shares = 0.9 * counts / counts.sum().clamp(min=1) + 0.1 / len(counts)
    with torch.no_grad():
        model.head.bias.copy_(shares.log())
        if model.config.ctc:
            frames = (0.2 * shares / (1 - shares[EOS])).index_fill(0, torch.tensor(EOS), 0.8)  # blank is in EOS's place
            model.ctc_head.bias.copy_(frames.log().repeat(model.config.ctc_frames))


def init_from(model: PARSeq, path: Path) -> str:
    """Start from another checkpoint of this task: what both models have is copied, and the line that is returned says
    what. Raises DataError where the networks themselves differ, naming the flag that would make them alike."""
    checkpoint = load_checkpoint(path, "recognition")
    config = PARSeqConfig(**checkpoint["config"])
    if other := [name for name in NETWORK if getattr(model.config, name) != getattr(config, name)]:
        flags = " ".join(dict.fromkeys(_flag_for(name, config, model.config) for name in other))
        raise DataError(f"{path}: another network: its {other[0]} is {getattr(config, other[0])}, not "
                        f"{getattr(model.config, other[0])}; take {flags}")
    theirs, ours = weights_of(checkpoint), model.state_dict()
    charset = Charset(config.characters)
    taken = {name: _fit(name, ours[name], found, model, charset) for name, found in theirs.items() if name in ours}
    model.load_state_dict(ours | taken)
    known = sum(character in charset.ids for character in model.charset.characters)
    left = [name for name in ours if name not in taken]
    line = f"started from {path}: {known} of {len(model.charset)} characters are known to it"
    if left:
        line += f"; left at random: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}"
    if config.ctc and not model.config.ctc:
        line += "; warning: it reads by its CTC head too, which this run does not have: --ctc-weight 1 keeps it"
        if checkpoint.get("args", {}).get("decoder_weight") == 0:
            line += ", and its decoder was not trained: --decoder-weight 0"
    if config.stretch != model.config.stretch:
        line += (f"; warning: it was trained with{'' if config.stretch else 'out'} --stretch, on letters of other widths: "
                 f"--{'' if config.stretch else 'no-'}stretch suits its weights")
    return line


def _flag_for(name: str, wanted: PARSeqConfig, own: PARSeqConfig) -> str:
    """The flag and its value that give `own` the value of `wanted` for one of NETWORK."""
    if name in ("depth", "img_height"):
        return f"--{name.replace('_', '-')} {getattr(wanted, name)}"
    if name == "scale_positions":
        return "--scale-positions" if wanted.scale_positions else "--no-scale-positions"
    if name.startswith("patch"):
        other_stem = "resnet" in (wanted.stem, own.stem) and wanted.stem != own.stem
        return f"--stem {wanted.stem}" if other_stem else f"--patch-height {wanted.patch_height}"
    archs = [arch for arch, sizes in ARCHS.items() if sizes["dim"] == wanted.dim]
    return f"--arch {archs[0]}" if archs else "its --arch, which is none of today's"


def _fit(name: str, own: Tensor, found: Tensor, model: PARSeq, charset: Charset) -> Tensor:
    """`found` in the shape of `own`; what `found` does not have stays as in `own`."""
    value = own.clone()
    here, there = model.charset.shared_rows(charset)
    if name == "text_embed.embedding.weight":
        value[here] = found[there]
    elif name in ("head.weight", "head.bias"):  # the head has no BOS and no PAD, the last two
        value[here[:-2]] = found[there[:-2]]
    elif name in ("ctc_head.weight", "ctc_head.bias"):  # the same rows once for each frame of a column, blank as EOS
        frames, others = (rows.unflatten(0, (model.config.ctc_frames, -1)) for rows in (value, found))
        frames[:, here[:-2]] = others[:, there[:-2]]
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


# the published model ---------------------------------------------------------------------------------------------------

# The order of the characters in the published weights: all 94, or digits and small letters only.
PUBLISHED_CHARACTERS = ("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
PUBLISHED = {94: PUBLISHED_CHARACTERS, 36: PUBLISHED_CHARACTERS[:36]}
IMAGE_HEIGHT = 32  # cannot be told from the weights: 128 patches of 4 x 8 could be cut from other shapes too
HEAD_WIDTH, DECODER_HEAD_WIDTH = 64, 32  # of one attention head, in every published size


def read_published(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, its names without the wrappers' prefixes. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(f"{path}: holds more than tensors and plain values, and is not read because loading it would run "
                        "code; save its state dict alone, where you trust the file") from None
    except Exception as error:  # a truncated archive raises RuntimeError, EOFError, BadZipFile, ...
        raise DataError(f"{path}: not a file of weights ({(str(error) or type(error).__name__).splitlines()[0][:100]})"
                        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: holds no state dict (names with tensors)")
    for prefix in ("module.", "model."):  # of DataParallel, and of later versions of the publisher's
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def published_config(weights: dict[str, Tensor], path: Path, charset: Path | None) -> PARSeqConfig:
    """Sizes read off the shapes. Raises DataError where the layout is another one, or where the charset is not told."""
    try:
        _, places, dim = weights["pos_queries"].shape
        tokens = weights["encoder.pos_embed"].shape[1]
        patch = tuple(weights["encoder.patch_embed.proj.weight"].shape[2:])
        hidden = weights["encoder.blocks.0.mlp.fc1.weight"].shape[0]
        size = weights["text_embed.embedding.weight"].shape[0] - 3
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: is no published PARSeq (pos_queries, encoder.* and text_embed are looked for: {error})"
                        ) from None
    if charset is None and size not in PUBLISHED:
        raise DataError(f"{path}: was trained on {size} characters, which it does not name; give them by --charset FILE, "
                        "in the order of its training")
    characters = read_charset(charset).characters if charset else PUBLISHED[size]
    if len(characters) != size:
        raise DataError(f"{path}: was trained on {size} characters, and {charset} holds {len(characters)}")
    depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.blocks."))
    try:
        return PARSeqConfig(characters, dim=dim, depth=depth, heads=dim // HEAD_WIDTH,
                            decoder_heads=dim // DECODER_HEAD_WIDTH, mlp_ratio=hidden // dim, img_height=IMAGE_HEIGHT,
                            img_width=tokens * patch[0] // IMAGE_HEIGHT * patch[1], patch_height=patch[0],
                            patch_width=patch[1], max_label_length=places - 1, stretch=True)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def convert(source: Path, out: Path, charset: Path | None = None) -> PARSeqConfig:
    """Write the published weights in `source` as a checkpoint of this project. Raises DataError where they do not fit."""
    weights = read_published(source)
    config = published_config(weights, source, charset)
    model = build_model(config)
    load_weights(model, weights, source)
    save_checkpoint(out, {"task": "recognition", "config": asdict(config), "charset_digest": model.charset.digest,
                          "model": model.state_dict(), "ema": None, "data": {"Weights": f"converted from {source.name}"}})
    return config


def main(argv: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "convert", help="published weights to a checkpoint of this project", allow_abbrev=False)
    command.add_argument("source", type=Path, metavar="IN", help="a published state dict")
    command.add_argument("out", type=Path, metavar="OUT", help="checkpoint to write")
    command.add_argument("--charset", type=Path, metavar="FILE", help="the characters of its training, in their order")
    args = parser.parse_args(argv)
    config = convert(args.source, args.out, args.charset)
    print(f"{args.out}: {config.depth} blocks of width {config.dim}, {len(config.characters)} characters, "
          f"{config.img_height} x {config.img_width} pixels, labels to {config.max_label_length}")
    return 0
