"""Train and test stroke segmentation: which pixels of a page are ink (docmarks).

    python train_segmentation.py --img-height 1536 --img-width 1536 --batch-size 1 --accumulation-steps 2 --use-amp
    python train_segmentation.py --output-dir runs/segmentation/first --resume auto
    python train_segmentation.py --test-only --weights runs/segmentation/first/best.pt --split test

Data: DIR/{train,val,test}/{images,masks}, paired by name, ink = 255; categories.tsv (file, tab, tags) if you like.
Pages are predicted and scored at their own resolution. best.pt and --patience follow the mean F1 on validation at the
best of the swept thresholds, which the checkpoint keeps.
"""

import sys
from dataclasses import asdict
from functools import partial
from operator import attrgetter

import numpy as np
from tqdm import tqdm

from datasets.augment_segmentation import StrokeAugmentation
from datasets.checks import check_segmentation
from datasets.segmentation import StrokeDataset, StrokePages, collate_pages, read_split
from datasets.splits import read_splits, splits_to_read
from models.strokes import (ARCHITECTURES, PaintedTruth, StrokeLoss, StrokeNet, StrokesConfig, coarse_warning,
                            load_model, predict_strokes, why_not)
from utils.args import (add_data_flags, add_run_flags, add_training_flags, fraction, grey_levels, new_parser,
                        non_negative_float, parse_training_args, positive_float, positive_int)
from utils.checkpoint import init_from
from utils.dataloading import EpochBatches, EveryBatch, make_loader
from utils.distributed import init_distributed, leave_distributed
from utils.engine import autocast, make_state, seed_everything, train_one_epoch, without_dropout
from utils.errors import DataError, exit_cleanly
from utils.files import fingerprint
from utils.metrics.segmentation import StrokeScorer, count_image, summarise
from utils.tracking import Run, report_test, timed


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "segmentation")
    group.add_argument("--img-height", type=positive_int, default=1536, help="training size (default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=1536, help="training size (default: %(default)s)")
    group.add_argument("--resize", choices=("letterbox", "crop"), default="letterbox",
                       help="letterbox: the whole page scaled to fit; crop: pieces at native resolution, predicted "
                            "tile by tile (default: %(default)s)")
    group.add_argument("--category", help="train, validate or test only on pages with this tag in categories.tsv")
    group.add_argument("--ink-levels", type=grey_levels, metavar="G,G",
                       help="greys of the masks that are ink, such as 85,170 (default: 255, or 1 in masks of 0 and 1)")
    group.add_argument("--line-width", type=positive_float, help="pixels, for lines in JSON that state no width")
    group = parser.add_argument_group("model")
    group.add_argument("--arch", choices=ARCHITECTURES, default="unet", metavar="ARCH",
                       help=f"{', '.join(ARCHITECTURES)} (default: %(default)s)")
    group.add_argument("--encoder", default="tu-mobilenetv3_large_100",
                       help="smp's name, timm's by tu- (default: %(default)s)")
    group.add_argument("--encoder-weights", default="auto", metavar="auto|imagenet|none|PATH",
                       help="auto: ImageNet weights where this machine has them, asking no network")
    group.add_argument("--freeze-bn", action="store_true",
                       help="batch norm keeps its statistics, so that a batch of one learns as a large one does")
    group.add_argument("--threshold", type=fraction,
                       help="probability that counts as ink (default: swept on validation; the checkpoint's in tests)")
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
    add_training_flags(parser, epochs=150, batch_size=2, lr=2e-4, weight_decay=1e-4, optimizer="adamw",
                       scheduler="cosine", clip=1.0, patience=15)
    add_run_flags(parser, "segmentation")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    if args.img_height % 32 or args.img_width % 32:
        parser.error("--img-height and --img-width must be multiples of 32")
    if args.overfit and args.resize == "crop":
        parser.error("--overfit learns whole pages, and --resize crop cuts them by chance; take letterbox")
    if 0 < args.focal_gamma < 1:
        parser.error("--focal-gamma between 0 and 1 has infinite gradients at right predictions; take 0, or 1 or more")
    if not any((args.dice_weight, args.focal_weight, args.edge_weight, args.continuity_weight)):
        parser.error("all loss weights are 0")
    for flag, of in (("focal_alpha", "focal"), ("focal_gamma", "focal"), ("cldice_iters", "continuity")):
        if getattr(args, flag) != parser.get_default(flag) and not getattr(args, f"{of}_weight"):
            parser.error(f"--{flag.replace('_', '-')} does nothing without --{of}-weight")
    reason = why_not(args.arch, args.encoder, args.batch_size, args.encoder_weights, args.freeze_bn)
    if reason and not args.test_only:
        parser.error(reason)
    return args


def read_pages(args, names):
    read = partial(read_split, category=args.category, ink_levels=args.ink_levels or (), line_width=args.line_width)
    return read_splits(args, read, names, path=attrgetter("image"))


def build_data(args, pages, device, rank, world):
    dataset = StrokeDataset(pages["train"], args.img_height, args.img_width, args.resize, args.seed,
                            None if args.overfit else StrokeAugmentation())
    batches = EpochBatches(len(dataset), args.batch_size, args.seed, rank, world)
    if reason := why_not(args.arch, args.encoder, batches.smallest_batch, args.encoder_weights, args.freeze_bn):
        raise DataError(f"{reason} (the last batch of an epoch of {len(dataset)} pages holds one)")
    scored = pages["train" if args.overfit else "val"]
    return make_loader(dataset, batches, args.num_workers, device), page_loader(args, scored, device, rank, world)


def page_loader(args, pages, device, rank, world):
    """Pages differ in size, so they go one by one."""
    batches = EveryBatch(len(pages), 1, rank, world)
    return make_loader(StrokePages(pages), batches, args.num_workers, device, collate_pages)


def make_step(args):
    loss = StrokeLoss(args.dice_weight, args.focal_weight, args.edge_weight, args.continuity_weight, args.focal_alpha,
                      args.focal_gamma, args.cldice_iters)

    def step(model, batch):
        return loss(model(batch["image"]), batch["mask"]), len(batch["image"])

    return step


def evaluate(model, loader, device, args, threshold):
    """(scores, counts of each page, threshold) over the pages of all ranks; without a threshold the best is found."""
    scorer = StrokeScorer(threshold)
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="page", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        for pixels, truth, categories, file in zip(batch["pixels"], batch["truth"], batch["categories"], batch["file"]):
            with autocast(args.use_amp, device):
                probability = predict_strokes(model, pixels)
            scorer.add(probability, truth, file=file, categories=list(categories))
    return scorer.finish()


def truth_score(pages, config):
    """Mean f1 of the truth itself, painted as a picture and sent through prediction at this size."""
    model, counts = PaintedTruth(config).eval(), []
    for page in pages:
        truth = page.truth()
        painted = np.repeat(truth[..., None].astype(np.uint8) * 255, 3, axis=2)
        counts.append(count_image(predict_strokes(model, painted) >= 0.5, truth))
    return summarise(counts)["f1"]


def test(args, device, rank, world):
    model, checkpoint = load_model(args.weights, device)
    threshold = checkpoint["thresholds"]["ink"] if args.threshold is None else args.threshold
    pages = read_pages(args, (args.split,))[args.split]
    scores, per_image, _ = evaluate(model, page_loader(args, pages, device, rank, world), device, args, threshold)
    if rank == 0:
        report_test(args, scores, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    pages = read_pages(args, splits_to_read(args))
    train_loader, val_loader = build_data(args, pages, device, rank, world)
    config = StrokesConfig(args.arch, args.encoder, args.img_height, args.img_width, args.resize, args.freeze_bn)
    model = StrokeNet(config, args.encoder_weights)
    if args.overfit:
        without_dropout(model)
    if rank == 0 and (warning := coarse_warning(args.arch)):
        print(warning, file=sys.stderr)
    facts = {"Encoder starts from": model.encoder_source,
             "Data": ", ".join(f"{name} {len(some)} pages ({fingerprint(page.mask for page in some)})"
                               for name, some in pages.items())}
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from, "segmentation")
    if not args.no_preflight and rank == 0:
        facts["Preflight"] = check_segmentation(pages, partial(truth_score, config=config), args.img_height,
                                                args.img_width, args.resize)
    fields = {"config": asdict(config), "thresholds": {"ink": 0.5}}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    run = Run("segmentation", args, rank, best="f1", defaults=vars(make_parser().parse_args([])), facts=facts)
    step = make_step(args)
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, step, run)
            (scores, per_image, threshold), seconds = timed(evaluate, state.eval_model, val_loader, device, args,
                                                            args.threshold)
            state.fields["thresholds"] = {"ink": threshold}
            run.finish_epoch(state, means, scores, per_image, seconds)
    return run.verdict()


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main)
