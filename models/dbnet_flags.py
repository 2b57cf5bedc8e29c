"""The flags of text detection beside those that all scripts share, and which of them do not go together."""

import argparse

from models.dbnet_decode import OUTPUTS
from models.dbnet_decoders import DECODERS
from models.dbnet_eval import default_thresholds
from models.deformable import can_deform
from utils.args import SWITCH, fraction, positive_float, positive_int
from utils.geometry import PageSize

# --augment: what is done to a crop's light, beside flip, rotation, scale and crop
AUGMENTATIONS = {"paper": {"light": 0.0, "noise": 0.0, "blur": 0.0}, "full": {}}
# What a test takes from the checkpoint, or has no crops for
OF_TRAINING = ("encoder", "encoder_weights", "decoder", "deformable", "pyramid_channels", "img_height", "img_width",
               "multi_scale", "augment", "scale_range", "rotate", "flip")


def degrees(text: str) -> float:
    """An angle that goes either way: -10 is as good as 10."""
    value = abs(float(text))
    if not value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of degrees")
    return value


def add_page_flags(group) -> None:
    """group: that of the data."""
    group.add_argument("--img-height", type=positive_int, default=640, help="training crop (default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=640, help="training crop (default: %(default)s)")
    sides = group.add_mutually_exclusive_group()
    sides.add_argument("--test-long-side", type=positive_int,
                       help="longer side of a page in evaluation; crops are scaled round it (default: 1280; the "
                            "checkpoint's in tests; with --overfit the crop's shorter side)")
    sides.add_argument("--test-short-side", type=positive_int, help="the shorter side in its place")
    group.add_argument("--multi-scale", action=SWITCH, help="crops of 3/4 to 5/4 of the size, another for each batch")
    group.add_argument("--augment", choices=AUGMENTATIONS, default="full",
                       help="paper: flip, rotation, scale and crop; full: brightness, contrast, blur and noise too")
    group.add_argument("--scale-range", type=positive_float, nargs=2, default=(0.5, 2.0), metavar=("LOW", "HIGH"),
                       help="random scale of training crops (default: 0.5 2.0)")
    group.add_argument("--rotate", type=degrees, default=10.0,
                       help="random rotation in degrees, either way (default: %(default)s)")
    group.add_argument("--flip", type=fraction, default=0.5, help="share of mirrored crops (default: %(default)s)")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--encoder", default="resnet18", help="smp's name, timm's by tu- (default: %(default)s)")
    group.add_argument("--encoder-weights", default="auto", metavar="auto|imagenet|none|PATH",
                       help="auto: ImageNet weights where this machine has them, asking no network")
    group.add_argument("--decoder", choices=DECODERS, default="fpn", help="(default: %(default)s)")
    group.add_argument("--deformable", action=SWITCH, help="deformable convolutions in a resnet (slow on a CPU)")
    group.add_argument("--pyramid-channels", type=positive_int, default=256, help="(default: %(default)s)")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--output", choices=OUTPUTS, help="boxes or outlines (default: quad; the checkpoint's in tests)")
    group.add_argument("--thresh", type=fraction,
                       help="binarization of the map (default: 0.3; the checkpoint's in tests)")
    group.add_argument("--box-thresh", type=fraction, help="lowest box score (default: 0.6; the checkpoint's in tests)")
    group.add_argument("--unclip-ratio", type=positive_float,
                       help="(default: 1.5, for polygons 2.0; the checkpoint's in tests)")
    group.add_argument("--tta", action=SWITCH, help="with --test-only: the mean over three sizes, for models that have "
                                                    "learnt from mirrored pages over mirrored ones too")
    group.add_argument("--sweep", action=SWITCH,
                       help="with --test-only: choose thresholds on --split, which must not be test; writes sweep.json")


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with what does not fit together; sets the default size of pages."""
    if args.img_height % 32 or args.img_width % 32:
        parser.error("--img-height and --img-width must be multiples of 32")
    if args.pyramid_channels % 4:
        parser.error("--pyramid-channels must be divisible by 4")
    if args.scale_range[0] > args.scale_range[1]:
        parser.error("--scale-range: the first value is larger than the second")
    if args.deformable and not can_deform(args.encoder):
        parser.error(f"--deformable is for resnet encoders, which {args.encoder} is not")
    if (args.tta or args.sweep) and not args.test_only:
        parser.error("--tta and --sweep do something with --test-only only; training always sweeps")
    if args.sweep and args.split == "test":
        parser.error("--sweep chooses thresholds, which test is not for: take --split val, then test with what it says")
    if args.overfit and (args.multi_scale or args.test_short_side):
        parser.error("--overfit looks at whole pages at the crop's shorter side, without --multi-scale and "
                     "--test-short-side")
    if args.overfit:
        args.test_long_side = min(args.img_height, args.img_width)
    elif not args.test_only and not args.test_short_side:
        args.test_long_side = args.test_long_side or 1280


def page_size(args: argparse.Namespace) -> PageSize:
    return PageSize(args.test_short_side, "short") if args.test_short_side else PageSize(args.test_long_side)


def thresholds_of(args: argparse.Namespace, stored: dict | None = None) -> dict:
    """The flags where they are given, else what the checkpoint has learnt, else the defaults."""
    stored = stored or {}
    output = args.output or stored.get("output", "quad")
    if output != stored.get("output", "quad"):  # what was tuned for quads is no ratio for polygons
        stored = {name: value for name, value in stored.items() if name != "unclip_ratio"}
    sides = {name: side for name in ("long_side", "short_side") if (side := getattr(args, f"test_{name}"))}
    if sides:
        stored = {name: value for name, value in stored.items() if not name.endswith("_side")} | sides
    given = {name: getattr(args, name) for name in ("thresh", "box_thresh", "unclip_ratio")}
    return default_thresholds(output) | stored | {"output": output} | {k: v for k, v in given.items() if v is not None}
