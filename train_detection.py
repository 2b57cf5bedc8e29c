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
from datasets.detection import DetectionDataset, crop_sizes, read_split, truth_maps
from datasets.splits import read_splits, splits_to_read
from models.dbnet import DBNet, DBNetConfig, averaged_map, load_model, probability_map
from models.dbnet_decode import UNCLIP, decode_boxes, on_page
from models.dbnet_eval import default_thresholds, find_on_page, score_pages, sweep, sweep_axes
from models.dbnet_flags import (AUGMENTATIONS, OF_TRAINING, add_model_flags, add_page_flags, check_flags, page_size,
                                thresholds_of)
from models.dbnet_loss import db_loss, probability_loss
from models.pictures import page_pictures
from utils.allocator import keep_freed_memory
from utils.args import SWITCH, add_data_flags, add_run_flags, add_training_flags, new_parser, parse_training_args
from utils.batch_size import find_batch_size
from utils.checkpoint import init_from
from utils.dataloading import EveryBatch, SizedBatches, make_loader
from utils.debugging import debug_session
from utils.distributed import init_distributed, leave_distributed
from utils.engine import train_one_epoch
from utils.errors import exit_cleanly
from utils.files import fingerprint, write_json
from utils.frames import spread
from utils.images import load_image
from utils.metrics.detection import PageMatcher, scores_of_counts
from utils.state import autocast, make_state, seed_everything, without_dropout
from utils.target_cache import add_cache_flags, attach_caches, cache_facts
from utils.test_report import report_test
from utils.tracking import Run, timed
from utils.validation import MOST_SAMPLES, validation_loss


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "detection")
    group.add_argument("--polygon-labels", action=SWITCH,
                       help="lines of labels/*.txt are x1,y1,...,xn,yn,TEXT with polygons of any length")
    add_page_flags(group)
    add_cache_flags(group)
    add_model_flags(parser)
    add_training_flags(parser, epochs=100, batch_size=12, lr=1e-3, weight_decay=1e-4, optimizer="adamw",
                       scheduler="cosine", clip=5.0, patience=0)
    add_run_flags(parser, "detection")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv, OF_TRAINING)
    check_flags(parser, args)
    if args.cache_limit and not args.cache_targets:
        parser.error("--cache-limit does nothing without --cache-targets")
    if args.cache_targets and args.test_only:
        parser.error("--cache-targets does nothing with --test-only, which reads each page once")
    return args


def read_pages(args, names):
    return read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), names)


def build_data(args, pages, device, rank, world):
    augment = (WholePage(args.img_height, args.img_width) if args.overfit else
               DetectionAugmentation(args.img_height, args.img_width, tuple(args.scale_range), args.rotate, args.flip,
                                     **AUGMENTATIONS[args.augment]))
    train_set = DetectionDataset(pages["train"], page_size(args), args.seed, augment, fixed=bool(args.overfit))
    sizes = crop_sizes(args.img_height, args.img_width) if args.multi_scale else []
    batches = SizedBatches(sizes, len(train_set), args.batch_size, args.seed, rank, world)
    scored = pages["train" if args.overfit else "val"]
    return make_loader(train_set, batches, args.num_workers, device), test_loader(args, scored, device, rank, world)


def test_loader(args, pages, device, rank, world):
    """Pages differ in size, so they go one by one."""
    dataset = DetectionDataset(pages, page_size(args), args.seed)
    return make_loader(dataset, EveryBatch(len(dataset), 1, rank, world), args.num_workers, device)


def loss_loader(args, pages, device, rank, world):
    """Crops of validation pages at the size of evaluation, always the same ones; None with --overfit."""
    if args.overfit:
        return None
    crop = DetectionAugmentation(args.img_height, args.img_width, (1.0, 1.0), 0, 0, **AUGMENTATIONS["paper"])
    dataset = DetectionDataset(spread(pages["val"], MOST_SAMPLES), page_size(args), args.seed, crop, fixed=True)
    batches = EveryBatch(len(dataset), args.batch_size, rank, world)
    return make_loader(dataset, batches, min(args.num_workers, 1), device)


def step(model, batch):
    return db_loss(model(batch["image"]), batch)


def validation_step(model, batch):
    return probability_loss(model(batch["image"]), batch)


def evaluate(model: nn.Module, loader, device, args, thresholds, sweeping, mirrored=False):
    """(scores, counts of each page, thresholds, grid) over the pages of all ranks.

    sweeping: the scores are those at the best thresholds of a sweep, which are returned with its grid; those at the
    thresholds that came in are kept as "default_*". Without: "default_*" are those at the usual thresholds. mirrored:
    --tta looks at pages in the mirror too.
    """
    default = thresholds if sweeping else thresholds | default_thresholds(thresholds["output"])
    threshes = sweep_axes(thresholds)["thresh"] if sweeping else {thresholds["thresh"], default["thresh"]}
    found, grid = [], []
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="page", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        page, scale = batch["page"][0], batch["scale"][0]
        with autocast(args.use_amp, device):
            prob = (averaged_map(model, load_image(page.path), page_size(args), device, mirrored) if args.tta else
                    probability_map(model, batch["image"][0].to(device)))
        found.append(find_on_page(prob, scale, page, batch["file"][0], threshes, thresholds["output"]))
    usual, per_image = score_pages(found, default)
    if sweeping:
        thresholds, grid = sweep(found, thresholds)
    scores, per_image = (usual, per_image) if thresholds == default else score_pages(found, thresholds)
    curve = [(row["box_thresh"], row["precision"], row["recall"], row["hmean"]) for row in grid
             if all(row[name] == thresholds[name] for name in ("thresh", "unclip_ratio"))]
    totals = {f"n_{name}": sum(row[f"n_{name}"] for row in per_image) for name in ("truth", "ignored")}
    return scores | {f"default_{name}": usual[name] for name in ("hmean", "precision", "recall", "cleval_hmean")} | {
        name: thresholds[name] for name in ("thresh", "box_thresh", "unclip_ratio")} | {
        "n_images": len(per_image)} | totals | ({"curve": curve} if curve else {}), per_image, thresholds, grid


def truth_score(pages, size, output):
    """hmean of the truth drawn as a shrink map and decoded again; text too small to learn is not asked for."""
    counts = []
    for page in pages:
        prob, scale = truth_maps(page, size)
        found, scores = decode_boxes(prob, unclip_ratio=UNCLIP[output], output=output)
        ignored = [skip or not text_kernels(polygon * scale) for polygon, skip in zip(page.polygons, page.ignored)]
        found = on_page(found, scale, page.height, page.width)
        counts.append(PageMatcher(found, scores, page.polygons, ignored).counts(0.6))
    return scores_of_counts(counts)["hmean"] if any(c["n_truth"] for c in counts) else 1.0


def test(args, device, rank, world):
    model, checkpoint = load_model(args.weights, device)
    thresholds = thresholds_of(args, checkpoint["thresholds"])
    args.test_long_side, args.test_short_side = (thresholds.get(name) for name in ("long_side", "short_side"))
    pages = read_pages(args, (args.split,))[args.split]
    loader, mirrored = test_loader(args, pages, device, rank, world), checkpoint["args"]["flip"] > 0
    scores, per_image, _, grid = evaluate(model, loader, device, args, thresholds, args.sweep, mirrored)
    if rank == 0:
        if grid:
            write_json((args.output_dir or args.weights.parent) / "sweep.json", grid)
        report_test(args, scores, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    pages = read_pages(args, splits_to_read(args))
    train_loader, val_loader = build_data(args, pages, device, rank, world)
    config = DBNetConfig(args.encoder, args.decoder, args.pyramid_channels, args.deformable)
    model = DBNet(config, args.encoder_weights)
    sets = {"train": train_loader.dataset.pages, "val": val_loader.dataset.pages}
    facts = {"Encoder starts from": model.encoder_source,
             "Data": ", ".join(f"{name} {len(found)} pages ({fingerprint(page.path for page in found)})"
                               for name, found in sets.items())}
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from, "detection")
    if rank == 0:
        print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    if args.overfit:
        without_dropout(model)
    if not args.no_preflight and rank == 0:
        truth = partial(truth_score, size=page_size(args), output=args.output or "quad")
        facts["Preflight"] = check_detection(pages, truth, page_size(args))
    if args.find_batch_size:
        facts["Batch size"] = find_batch_size(model, args, device, rank, world, train_loader, step)
    fields = {"config": asdict(config), "thresholds": thresholds_of(args)}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    run = Run("detection", args, rank, best="hmean", defaults=vars(parse_args([])), facts=facts,
              config=fields["config"], world=world)
    val_crops, val_pages = loss_loader(args, pages, device, rank, world), val_loader.dataset.pages
    caches = attach_caches(args, {"train": train_loader, "val": val_loader, "val crops": val_crops}, rank)
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, step, run)
            # The sweep starts from the flags each time, so that "default" means the same in every epoch.
            (scores, per_image, state.fields["thresholds"], grid), seconds = timed(
                evaluate, state.eval_model, val_loader, device, args, thresholds_of(args), True)
            if rank == 0:
                write_json(run.folder / "sweep.json", grid)
            losses = validation_loss(state, val_crops, validation_step)
            run.facts |= cache_facts(caches)
            run.show(state, lambda: page_pictures(state.eval_model, val_pages, device, state.fields["thresholds"]))
            run.finish_epoch(state, means, scores | losses, per_image, seconds)
    return run.verdict()


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    keep_freed_memory(device)
    with debug_session("detection", args, rank):
        status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main, in_parallel=True)
