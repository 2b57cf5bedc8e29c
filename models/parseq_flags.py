"""The flags of text recognition beside those that all scripts share, and the config that they make."""

import argparse
import math
import sys
from pathlib import Path
from typing import Callable

import numpy as np

from models.parseq import ARCHS, DECODES, READING, STEMS, PARSeqConfig
from models.text_encoder import ResidualStem
from utils.args import SWITCH, non_negative_float, non_negative_int, positive_int
from utils.errors import DataError
from utils.metrics.recognition import FOLDS

LR_BATCH = 256  # crops, for which the published rate of 7e-4 is meant


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model (in a test, the checkpoint's)")
    group.add_argument("--arch", choices=ARCHS, default="parseq-s", help="(default: %(default)s)")
    group.add_argument("--stem", choices=STEMS, default="patch",
                       help="patch: as published; conv: a few convolutions, and resnet: many over the whole height, learn "
                            "from random weights on a small budget; resnet makes the fewest tokens")
    group.add_argument("--depth", type=positive_int, default=12, help="encoder blocks (default: %(default)s)")
    group.add_argument("--patch-height", type=int, choices=(4, 8),
                       help="4: as published; 8: half the tokens, for long lines on a small budget (default: 4)")
    group.add_argument("--img-height", type=positive_int, default=32, help="(default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=128,
                       help="of the widest crops; narrower ones are padded to multiples of 64, wider ones squashed "
                            "(default: %(default)s)")
    group.add_argument("--stretch", action=SWITCH,
                       help="make every crop --img-width wide, as the published model has it; its weights want that")
    group.add_argument("--max-label-length", type=positive_int, default=25, help="characters (default: %(default)s)")
    group.add_argument("--perm-num", type=positive_int, default=6,
                       help="reading orders learnt in each step, mirrored pairs (default: %(default)s)")
    group.add_argument("--scale-positions", action=SWITCH,
                       help="multiply positions in the context by sqrt(width), like the embeddings")
    group.add_argument("--ctc-weight", type=non_negative_float, default=0.0,
                       help="weight of a CTC loss on the encoder: shows it where to look, and can read by itself "
                            "(--decode ctc) (default: %(default)s)")
    group.add_argument("--decoder-weight", type=non_negative_float, default=1.0,
                       help="weight of the decoder's loss; 0 with --ctc-weight 1: encoder and CTC head alone, which learn "
                            "to read in a fraction of the time (default: %(default)s)")
    group.add_argument("--decode", choices=DECODES,
                       help="ar: character after character; nar: all at once; ctc: by the CTC head (default: ar, or "
                            "ctc with --decoder-weight 0; the checkpoint's in tests)")
    group.add_argument("--refine-iters", type=non_negative_int,
                       help="passes that read each character again, given the others (default: 1; the checkpoint's in "
                            "tests)")
    group.add_argument("--language-model", type=Path, metavar="PATH",
                       help="in a test of a model that reads by CTC, what lines are like (python -m "
                            "experiments.language_model writes it); inference asks it only where it doubts")
    group.add_argument("--fold", choices=FOLDS, nargs="*", default=[],
                       help="in evaluation, differences that count as none: of case, of full and half width, of spaces")
    group.add_argument("--scale-lr", action=SWITCH,
                       help=f"--lr is for {LR_BATCH} crops a step, and grows with the batch, with accumulation, and with "
                            "the square root of the processes, as published")


def config_of(args: argparse.Namespace, characters: str) -> PARSeqConfig:
    """Raises ValueError for sizes that cannot work, or whose CTC frames could not hold the longest label."""
    patch = (args.img_height, ResidualStem.patch_width) if args.stem == "resnet" else (args.patch_height or 4, 8)
    config = PARSeqConfig(characters, **ARCHS[args.arch], depth=args.depth, img_height=args.img_height,
                          img_width=args.img_width, patch_height=patch[0], patch_width=patch[1],
                          max_label_length=args.max_label_length, perm_num=args.perm_num, stem=args.stem,
                          ctc=args.ctc_weight > 0, scale_positions=args.scale_positions, stretch=args.stretch)
    frames = int(config.frames_in(config.img_width))
    if config.ctc and frames < config.max_label_length:  # here and not in PARSeqConfig: older checkpoints are still read
        wide = math.ceil(config.max_label_length * config.img_width / frames / config.bucket) * config.bucket
        raise ValueError(f"{frames} CTC frames, of the widest crops, are too few for labels of {config.max_label_length} "
                         f"characters: --img-width {wide} or --max-label-length {frames}")
    return config


def ctc_frames_of(args: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray] | None:
    """f(widths in pixels of resized crops) -> their CTC frames, where a CTC head is trained."""
    return config_of(args, "a").frames_in if args.ctc_weight else None


def set_reading(args: argparse.Namespace, reading: dict) -> None:
    """--decode and --refine-iters where they are not given."""
    for name, value in reading.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def set_test_reading(args: argparse.Namespace, model) -> None:
    """How a test reads: as the flags say or, where they do not, as the model does. Raises DataError where that is by a
    part that the model has not, or that was not trained."""
    set_reading(args, model.reading)
    by_ctc_alone = args.decode == "ctc" and not args.refine_iters
    if args.decode == "ctc" and not model.config.ctc:
        raise DataError(f"{args.weights}: has no CTC head to --decode ctc by; --ctc-weight trains one")
    if args.language_model and not by_ctc_alone:
        raise DataError(f"{args.weights}: does not read by CTC alone, which {args.language_model} is for; leave it out, or "
                        "--decode ctc --refine-iters 0")
    if not by_ctc_alone and not getattr(model, "decoder_trained", True):  # an exported model does not say
        raise DataError(f"{args.weights}: its decoder was not trained (--decoder-weight 0), and cannot read; "
                        "--decode ctc --refine-iters 0 reads by its CTC head")


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with what does not fit together; sets how to read, unless a checkpoint says it."""
    if not args.test_only:
        set_reading(args, {"decode": "ctc", "refine_iters": 0} if args.decoder_weight == 0 else READING)
        if args.decode == "ctc" and args.ctc_weight == 0:
            parser.error("--decode ctc needs a CTC head: --ctc-weight 1")
        if args.decoder_weight == 0 and (args.decode != "ctc" or args.refine_iters):
            parser.error("--decoder-weight 0 leaves a decoder that cannot read: --decode ctc --refine-iters 0")
    if args.mix and (args.overfit or args.test_only):
        parser.error("--mix is for a whole training; it does nothing with --overfit and --test-only (an empty --mix takes "
                     "out that of --from-run)")
    if args.font_dir and args.from_run and not args.mix:
        args.font_dir = None  # came with the lines it was for
    if args.font_dir and not any(source.startswith("made") for source in args.mix):
        parser.error("--font-dir is for lines made by --mix made:WEIGHT")
    if args.caseless and args.test_only:
        parser.error("--caseless is for training; in a test --fold case forgives differences of case")
    known = [args.data_dir, *(Path(source.rpartition(":")[0]) for source in args.mix)]
    if strange := [folder for folder in args.caseless if Path(folder) not in known]:
        parser.error(f"--caseless {strange[0]}: is neither --data-dir nor a folder of --mix (an empty --caseless takes out "
                     "those of --from-run)")
    if args.test_only and args.charset != parser.get_default("charset"):
        print(f"warning: --charset {args.charset} does nothing in a test, which reads the characters of its --weights",
              file=sys.stderr)
    if args.language_model and not args.test_only:
        parser.error("--language-model is for reading, with --test-only; in training it does nothing")
    if args.patch_height and args.stem == "resnet":
        parser.error("--patch-height is not for --stem resnet, whose tokens are as high as the image")
    try:
        config_of(args, "a")
    except ValueError as error:
        parser.error(str(error))
