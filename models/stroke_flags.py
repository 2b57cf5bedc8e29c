"""The flags of stroke models, their losses and their post-processing, and which of them do not go together."""

import argparse
import sys
from dataclasses import replace

from models.refine_strokes import STEPS
from models.strokes import ARCHITECTURES, LEAST_SIDE, SIZE_STEP, StrokesConfig, why_not
from utils.args import SWITCH, fraction, given_flags, non_negative_float, positive_float, positive_int, widths

# What a test asks, or is refused with words of its own (overfit); all other flags are a training's.
OF_A_TEST = {"data_dir", "split", "group_regex", "split_fractions", "split_file", "max_bad_fraction", "num_workers",
             "limit_batches", "category", "ink_levels", "line_width", "img_height", "img_width", "resize", "threshold",
             "postproc", "max_gap", "deviation_threshold", "tiles_at_once", "tta", "output_dir", "test_only", "weights",
             "device", "seed", "debug", "hypothesis", "use_amp", "overfit"}
SIZE_FLAGS = {"img_height": "height", "img_width": "width", "resize": "resize"}  # flag: field of StrokesConfig


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--arch", choices=ARCHITECTURES, default="unet", metavar="ARCH",
                       help=f"{', '.join(ARCHITECTURES)} (default: %(default)s)")
    group.add_argument("--encoder", default="tu-mobilenetv3_large_100",
                       help="smp's name, timm's by tu- (default: %(default)s)")
    group.add_argument("--encoder-weights", default="auto", metavar="auto|imagenet|none|PATH",
                       help="auto: ImageNet weights where this machine has them, asking no network")
    group.add_argument("--encoder-depth", type=int, choices=(3, 4, 5), default=5,
                       help="how often the encoder halves its input; less is smaller, faster and sees less around a "
                            "stroke (default: %(default)s)")
    group.add_argument("--decoder-channels", type=widths, default=(), metavar="N,N,...",
                       help="widths of the decoder's stages, coarsest first, one for each of --encoder-depth "
                            "(default: smp's 256,128,64,32,16)")
    group.add_argument("--output-stride", type=int, choices=(8, 16), default=8,
                       help="of --arch deeplabv3: 16 is what torchvision's DeepLabV3-MobileNet predicts at "
                            "(default: %(default)s)")
    group.add_argument("--freeze-bn", action=SWITCH,
                       help="batch norm keeps its statistics, so that a batch of one learns as a large one does")
    group.add_argument("--norm", choices=("batch", "group"), default="batch",
                       help="group: group norm in place of batch norm, for batches of one or two (default: %(default)s)")
    group.add_argument("--grad-checkpointing", action=SWITCH,
                       help="keep few activations and compute the rest twice: less memory, a third more time")
    group.add_argument("--threshold", type=fraction,
                       help="probability that counts as ink (default: swept on validation; the checkpoint's in tests)")


def add_loss_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("loss")
    for name, default, what in (("dice", 1.0, "overlap of each image"), ("focal", 1.0, "pixels that are hard"),
                                ("edge", 1.0, "Sobel gradients"), ("continuity", 0.0, "soft-clDice: gaps in strokes")):
        group.add_argument(f"--{name}-weight", type=non_negative_float, default=default,
                           help=f"{what} (default: %(default)s)")
    group.add_argument("--focal-alpha", type=fraction, default=0.75,
                       help="weight of ink; background has the rest to 1 (default: %(default)s)")
    group.add_argument("--focal-gamma", type=non_negative_float, default=2.0, help="(default: %(default)s)")
    group.add_argument("--cldice-iters", type=positive_int, default=10,
                       help="half the width in pixels of the widest stroke to thin (default: %(default)s)")


def add_postproc_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("post-processing")
    group.add_argument("--postproc", type=steps, metavar="STEP,STEP",
                       help=f"{', '.join(STEPS)}, or none: in training, steps to try after each evaluation, kept in the "
                            "checkpoint where F1, clDice and separation are no worse for them; with --test-only, steps "
                            "to take in place of the checkpoint's")
    group.add_argument("--max-gap", type=positive_float, default=5.0,
                       help="connect: pixels of paper between two ends (default: %(default)s)")
    group.add_argument("--deviation-threshold", type=positive_float, default=2.0,
                       help="straighten: pixels, largest RMS deviation from the line (default: %(default)s)")
    group.add_argument("--tiles-at-once", type=positive_int, default=1,
                       help="tiles in a batch where pages are predicted tile by tile (default: %(default)s)")
    group.add_argument("--tta", action=SWITCH, help="evaluate on the mean over the page as it is and upside down: twice "
                                                    "the work")


def steps(text: str) -> tuple[str, ...]:
    """close,connect: steps of post-processing, in their own order; none: ()."""
    named = () if text == "none" else tuple(text.split(","))
    if unknown := [name for name in named if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(STEPS)}, and none")
    return tuple(step for step in STEPS if step in named)


def needs_no_batch(args: argparse.Namespace) -> bool:
    """Whether the norms do without the statistics of a batch."""
    return args.freeze_bn or args.norm == "group"


def sides(text: str) -> tuple[int, ...]:
    """1024,1536: lengths in pixels, multiples of 32."""
    found = tuple(_whole_number(part, part) for part in text.split(","))
    if odd := [side for side in found if side % 32]:
        raise argparse.ArgumentTypeError(f"{odd[0]} is not a multiple of 32")
    return found


def factors(text: str) -> dict[str, int]:
    """small_text=3,curves=2: how often pages of a category come in an epoch."""
    found = {}
    for part in text.split(","):
        name, sign, number = part.partition("=")
        if not (name and sign):
            raise argparse.ArgumentTypeError(f"{part} is not CATEGORY=N")
        found[name] = _whole_number(number, f"{number} in {part}")
    return found


def _whole_number(text: str, what: str) -> int:
    """A number of 1 or more; argparse would name this function where text is none."""
    try:
        return positive_int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{what} is not a whole number") from None


def of_training(parser: argparse.ArgumentParser) -> set[str]:
    """The flags, by their `dest`, that do nothing with --test-only."""
    return {action.dest for action in parser._actions} - OF_A_TEST


def override_size(config: StrokesConfig, args: argparse.Namespace) -> tuple[StrokesConfig, dict]:
    """(config with the size that --test-only asks for, {flag: value} of what differs from the model's own)."""
    asked = {flag: getattr(args, flag) for flag in SIZE_FLAGS if getattr(args, flag) is not None}
    changed = {flag: value for flag, value in asked.items() if value != getattr(config, SIZE_FLAGS[flag])}
    return replace(config, **{SIZE_FLAGS[flag]: value for flag, value in changed.items()}), changed


def check_stroke_flags(parser: argparse.ArgumentParser, args: argparse.Namespace, argv: list[str] | None = None) -> None:
    """Refuse by parser.error what does not go together. With --test-only, size and --resize become None where the command
    line argv does not name them: they are the model's."""
    if args.img_height % 32 or args.img_width % 32:
        parser.error("--img-height and --img-width must be multiples of 32")
    if args.overfit and args.resize == "crop":
        parser.error("--overfit learns whole pages, and --resize crop cuts them by chance; take letterbox")
    if args.other_paper and args.resize == "letterbox":
        parser.error("--other-paper lays ink on pieces of other pages; add --resize crop")
    if 0 < args.focal_gamma < 1:
        parser.error("--focal-gamma between 0 and 1 has infinite gradients at right predictions; take 0, or 1 or more")
    if not any((args.dice_weight, args.focal_weight, args.edge_weight, args.continuity_weight)):
        parser.error("all loss weights are 0")
    if args.output_stride != parser.get_default("output_stride") and args.arch != "deeplabv3":
        parser.error("--output-stride does nothing without --arch deeplabv3")
    for flag, of in (("focal_alpha", "focal"), ("focal_gamma", "focal"), ("cldice_iters", "continuity")):
        if getattr(args, flag) != parser.get_default(flag) and not getattr(args, f"{of}_weight"):
            parser.error(f"--{flag.replace('_', '-')} does nothing without --{of}-weight")
    for flag, step in (("max_gap", "connect"), ("deviation_threshold", "straighten")):
        if getattr(args, flag) != parser.get_default(flag) and step not in (args.postproc or ()):
            parser.error(f"--{flag.replace('_', '-')} does nothing without --postproc {step}")
    if args.norm == "group" and args.freeze_bn:
        parser.error("--freeze-bn does nothing with --norm group")
    if args.grad_checkpointing and args.arch == "dpt":
        parser.error("--grad-checkpointing does not know --arch dpt")
    if args.multi_scale and args.overfit:
        parser.error("--overfit learns whole pages at one size; leave --multi-scale out")
    least = 1 if args.find_batch_size else args.batch_size  # which may come down to one
    reason = why_not(args.arch, args.encoder, least, args.encoder_weights, needs_no_batch(args),
                     args.encoder_depth, args.decoder_channels)
    if reason and not args.test_only:
        parser.error(reason)
    least = LEAST_SIDE.get(args.arch, SIZE_STEP)
    if min(args.img_height, args.img_width) < least:
        parser.error(f"--arch {args.arch} needs --img-height and --img-width of {least} or more")
    if args.test_only:
        given = given_flags(parser, sys.argv[1:] if argv is None else argv)
        for flag in SIZE_FLAGS.keys() - set(given):
            setattr(args, flag, None)
