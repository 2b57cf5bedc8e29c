"""Train and test DBNet on pages with text boxes (docmarks).

    python train_detection.py --data-dir data/detection --encoder resnet18 --decoder fpn --epochs 100 --use-amp
    python train_detection.py --output-dir runs/detection/first --resume auto
    python train_detection.py --test-only --weights runs/detection/first/best.pt --split test

Data: DIR/{train,val,test}/{images,labels}; a label line is x1,y1,x2,y2,x3,y3,x4,y4,transcription (### = do not care).
best.pt and --patience follow the hmean on validation at the best of the swept thresholds, which the checkpoint keeps.
"""

from dataclasses import asdict
from functools import partial

from torch import nn
from tqdm import tqdm

from datasets.augment import DetectionAugmentation, WholePage
from datasets.checks import check_detection
from datasets.db_targets import text_kernels
from datasets.detection import DetectionDataset, read_split, truth_maps
from datasets.splits import read_splits, splits_to_read
from models.dbnet import DECODERS, DBNet, DBNetConfig, clip_quads, db_loss, decode_boxes, load_model, probability_map
from utils.args import (add_data_flags, add_run_flags, add_training_flags, fraction, new_parser, parse_training_args,
                        positive_float, positive_int)
from utils.checkpoint import init_from
from utils.dataloading import EpochBatches, EveryBatch, make_loader
from utils.distributed import gather_lists, init_distributed, leave_distributed
from utils.engine import autocast, make_state, seed_everything, train_one_epoch, without_dropout
from utils.errors import exit_cleanly
from utils.files import fingerprint
from utils.metrics.detection import PageMatcher, scores_of_counts
from utils.tracking import Run, report_test, timed

THRESHES = (0.2, 0.3, 0.4)
BOX_THRESHES = tuple(round(0.3 + 0.05 * i, 2) for i in range(11))


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "detection")
    group.add_argument("--polygon-labels", action="store_true",
                       help="lines of labels/*.txt are x1,y1,...,xn,yn,TEXT with polygons of any length")
    group.add_argument("--img-height", type=positive_int, default=640, help="training crop (default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=640, help="training crop (default: %(default)s)")
    group.add_argument("--test-long-side", type=positive_int,
                       help="longer side of a page in evaluation; crops are scaled round it (default: 1280; the "
                            "checkpoint's in tests; with --overfit the crop's shorter side)")
    group.add_argument("--scale-range", type=positive_float, nargs=2, default=(0.5, 2.0), metavar=("LOW", "HIGH"),
                       help="random scale of training crops (default: 0.5 2.0)")
    group.add_argument("--rotate", type=float, default=10.0, help="random rotation in degrees (default: %(default)s)")
    group.add_argument("--flip", type=fraction, default=0.5, help="share of mirrored crops (default: %(default)s)")
    group = parser.add_argument_group("model")
    group.add_argument("--encoder", default="resnet18", help="smp's name, timm's by tu- (default: %(default)s)")
    group.add_argument("--encoder-weights", default="auto", metavar="auto|imagenet|none|PATH",
                       help="auto: ImageNet weights where this machine has them, asking no network")
    group.add_argument("--decoder", choices=DECODERS, default="fpn", help="(default: %(default)s)")
    group.add_argument("--pyramid-channels", type=positive_int, default=256, help="(default: %(default)s)")
    group.add_argument("--thresh", type=fraction, help="binarization of the map (default: 0.3; the checkpoint's in tests)")
    group.add_argument("--box-thresh", type=fraction, help="lowest box score (default: 0.6; the checkpoint's in tests)")
    group.add_argument("--unclip-ratio", type=positive_float, help="(default: 1.5; the checkpoint's in tests)")
    add_training_flags(parser, epochs=100, batch_size=12, lr=1e-3, weight_decay=1e-4, optimizer="adamw",
                       scheduler="cosine", clip=5.0, patience=0)
    add_run_flags(parser, "detection")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    if args.img_height % 32 or args.img_width % 32:
        parser.error("--img-height and --img-width must be multiples of 32")
    if args.pyramid_channels % 4:
        parser.error("--pyramid-channels must be divisible by 4")
    if args.scale_range[0] > args.scale_range[1]:
        parser.error("--scale-range: the first value is larger than the second")
    if args.overfit:
        args.test_long_side = min(args.img_height, args.img_width)
    elif not args.test_only:
        args.test_long_side = args.test_long_side or 1280
    return args


def read_pages(args, names):
    return read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), names)


def build_data(args, pages, device, rank, world):
    augment = (WholePage(args.img_height, args.img_width) if args.overfit else
               DetectionAugmentation(args.img_height, args.img_width, tuple(args.scale_range), args.rotate, args.flip))
    train_set = DetectionDataset(pages["train"], args.test_long_side, args.seed, augment)
    batches = EpochBatches(len(train_set), args.batch_size, args.seed, rank, world)
    scored = pages["train" if args.overfit else "val"]
    return make_loader(train_set, batches, args.num_workers, device), test_loader(args, scored, device, rank, world)


def test_loader(args, pages, device, rank, world):
    """Pages differ in size, so they go one by one."""
    dataset = DetectionDataset(pages, args.test_long_side, args.seed)
    return make_loader(dataset, EveryBatch(len(dataset), 1, rank, world), args.num_workers, device)


def thresholds_of(args, stored=None):
    """The flags where they are given, else what the checkpoint has learnt, else the defaults."""
    stored = stored or {"thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5, "long_side": args.test_long_side}
    given = {name: getattr(args, name) for name in ("thresh", "box_thresh", "unclip_ratio")}
    given["long_side"] = args.test_long_side
    return stored | {name: value for name, value in given.items() if value is not None}


def step(model, batch):
    return db_loss(model(batch["image"]), batch)


def evaluate(model: nn.Module, loader, device, args, thresholds, sweep):
    """(scores, counts of each page, thresholds) over the pages of all ranks.

    With `sweep`, thresh and box_thresh are varied and the best pair is what the scores are for; the scores at the
    thresholds that came in are kept as "default_*".
    """
    threshes = sorted({*THRESHES, thresholds["thresh"]} if sweep else {thresholds["thresh"]})
    rows = []
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="page", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        page, scale = batch["page"][0], batch["scale"][0]
        with autocast(args.use_amp, device):
            prob = probability_map(model, batch["image"][0].to(device))
        matchers = {}
        for thresh in threshes:
            lowest = min(BOX_THRESHES[0], thresholds["box_thresh"]) if sweep else thresholds["box_thresh"]
            quads, scores = decode_boxes(prob, thresh, lowest, thresholds["unclip_ratio"])
            quads = clip_quads(quads / scale, page.height, page.width)
            matchers[thresh] = PageMatcher(quads, scores, page.polygons, page.ignored)
        rows.append({"file": batch["file"][0], "matchers": matchers})
    rows = gather_lists(rows)

    def score(thresh, box_thresh):
        return scores_of_counts([row["matchers"][thresh].counts(box_thresh) for row in rows])

    scores = default = score(thresholds["thresh"], thresholds["box_thresh"])
    if sweep:
        grid = [(score(t, b), t, b) for t in threshes for b in sorted({*BOX_THRESHES, thresholds["box_thresh"]})]
        best, thresh, box_thresh = max(grid, key=lambda cell: cell[0]["hmean"])
        if best["hmean"] > default["hmean"]:
            scores, thresholds = best, thresholds | {"thresh": thresh, "box_thresh": box_thresh}
        scores = scores | {f"default_{name}": value for name, value in default.items()}
    per_image = [{"file": row["file"]} | row["matchers"][thresholds["thresh"]].counts(thresholds["box_thresh"])
                 for row in rows]
    totals = {"n_images": len(rows), "n_truth": sum(row["n_truth"] for row in per_image)}
    return scores | totals, per_image, thresholds


def truth_score(pages, long_side):
    """hmean of the truth drawn as a shrink map and decoded again; text too small to learn is not asked for."""
    counts = []
    for page in pages:
        prob, scale = truth_maps(page, long_side)
        quads, scores = decode_boxes(prob)
        ignored = [skip or not text_kernels(polygon * scale) for polygon, skip in zip(page.polygons, page.ignored)]
        counts.append(PageMatcher(quads / scale, scores, page.polygons, ignored).counts(0.6))
    return scores_of_counts(counts)["hmean"] if any(c["n_truth"] for c in counts) else 1.0


def test(args, device, rank, world):
    model, checkpoint = load_model(args.weights, device)
    thresholds = thresholds_of(args, checkpoint["thresholds"])
    args.test_long_side = thresholds["long_side"]
    pages = read_pages(args, (args.split,))[args.split]
    scores, per_image, _ = evaluate(model, test_loader(args, pages, device, rank, world), device, args, thresholds, False)
    if rank == 0:
        report_test(args, scores, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    pages = read_pages(args, splits_to_read(args))
    train_loader, val_loader = build_data(args, pages, device, rank, world)
    config = DBNetConfig(args.encoder, args.decoder, args.pyramid_channels)
    model = DBNet(config, args.encoder_weights)
    facts = {"Encoder starts from": model.encoder_source,
             "Data": ", ".join(f"{name} {len(loader.dataset)} pages ({fingerprint(p.path for p in loader.dataset.pages)})"
                               for name, loader in (("train", train_loader), ("val", val_loader)))}
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from, "detection")
    if args.overfit:
        without_dropout(model)
    if not args.no_preflight and rank == 0:
        truth = partial(truth_score, long_side=args.test_long_side)
        facts["Preflight"] = check_detection(pages, truth, args.test_long_side)
    fields = {"config": asdict(config), "thresholds": thresholds_of(args)}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    run = Run("detection", args, rank, best="hmean", defaults=vars(make_parser().parse_args([])), facts=facts)
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, step, run)
            # The sweep starts from the flags each time, so that "default" means the same in every epoch.
            (scores, per_image, state.fields["thresholds"]), seconds = timed(
                evaluate, state.eval_model, val_loader, device, args, thresholds_of(args), True)
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
