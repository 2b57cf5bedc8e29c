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

import numpy as np
from tqdm import tqdm

from datasets.augment_segmentation import StrokeAugmentation
from datasets.checks import check_segmentation
from datasets.segmentation import StrokeDataset, StrokePages, add_mask_flags, collate_pages, oversampled, read_pages
from datasets.splits import splits_to_read
from models.engines import load_any
from models.pictures import stroke_pictures
from models.stroke_flags import (add_loss_flags, add_model_flags, add_postproc_flags, check_stroke_flags, factors,
                                 needs_no_batch, of_training, override_size, sides)
from models.stroke_losses import StrokeLoss
from models.strokes import (PaintedTruth, StrokeNet, StrokesConfig, coarse_warning, predict_strokes, refiner,
                            why_not)
from utils.allocator import keep_freed_memory
from utils.args import (SWITCH, add_data_flags, add_run_flags, add_training_flags, fraction, new_parser,
                        parse_training_args, positive_int)
from utils.batch_size import find_batch_size
from utils.checkpoint import init_from
from utils.dataloading import EveryBatch, SizedBatches, make_loader
from utils.debugging import debug_session
from utils.distributed import init_distributed, leave_distributed
from utils.engine import train_one_epoch
from utils.errors import DataError, exit_cleanly
from utils.files import fingerprint
from utils.frames import spread
from utils.metrics.segmentation import StrokeScorer, count_image, summarise
from utils.state import autocast, make_state, seed_everything, without_dropout
from utils.test_report import report_test
from utils.tracking import Run, timed
from utils.validation import MOST_SAMPLES, validation_loss


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "segmentation")
    group.add_argument("--img-height", type=positive_int, default=1536, help="training size (default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=1536, help="training size (default: %(default)s)")
    group.add_argument("--resize", choices=("letterbox", "crop"), default="letterbox",
                       help="letterbox: the whole page scaled to fit; crop: pieces at native resolution, predicted "
                            "tile by tile (default: %(default)s)")
    group.add_argument("--samples-per-page", type=positive_int, default=1, metavar="N",
                       help="how often an epoch sees each page, anew each time: crops of a large page differ "
                            "(default: %(default)s)")
    group.add_argument("--cache-pages", action=SWITCH,
                       help="keep decoded pages in memory (in each worker: 4 bytes a pixel)")
    group.add_argument("--other-paper", type=fraction, default=0.0, metavar="SHARE",
                       help="of training pieces get their ink laid on the paper of another page, whose own ink is taken "
                            "away (default: %(default)s)")
    group.add_argument("--multi-scale", type=sides, metavar="N,N",
                       help="longer side of each training batch, drawn from these: 1024,1280,1536,2048 "
                            "(default: always --img-height by --img-width)")
    group.add_argument("--oversample", type=factors, metavar="CATEGORY=N,...",
                       help="how often an epoch sees pages with a tag of categories.tsv: small_text=3,curves=2")
    add_mask_flags(group)
    add_model_flags(parser)
    add_loss_flags(parser)
    add_postproc_flags(parser)
    add_training_flags(parser, epochs=150, batch_size=2, lr=2e-4, weight_decay=1e-4, optimizer="adamw",
                       scheduler="cosine", clip=1.0, patience=15)
    add_run_flags(parser, "segmentation")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv, of_training(parser))
    check_stroke_flags(parser, args, argv)
    return args


def build_data(args, pages, device, rank, world):
    learnt = oversampled(pages["train"], args.oversample or {})
    dataset = StrokeDataset(learnt, args.img_height, args.img_width, args.resize, args.seed,
                            None if args.overfit else StrokeAugmentation(), args.samples_per_page, args.cache_pages,
                            args.other_paper)
    sizes = [(side,) for side in args.multi_scale or ()]
    batches = SizedBatches(sizes, len(dataset), args.batch_size, args.seed, rank, world)
    if reason := why_not(args.arch, args.encoder, batches.smallest_batch, args.encoder_weights, needs_no_batch(args)):
        raise DataError(f"{reason} (the last batch of an epoch of {len(dataset)} samples holds one)")
    scored = pages["train" if args.overfit else "val"]
    return make_loader(dataset, batches, args.num_workers, device), page_loader(args, scored, device, rank, world)


def page_loader(args, pages, device, rank, world):
    """Pages differ in size, so they go one by one."""
    batches = EveryBatch(len(pages), 1, rank, world)
    return make_loader(StrokePages(pages), batches, args.num_workers, device, collate_pages)


def loss_loader(args, pages, device, rank, world):
    """Validation pages as in training but without augmentation, always the same pieces of them; None with --overfit."""
    if args.overfit:
        return None
    dataset = StrokeDataset(spread(pages["val"], MOST_SAMPLES), args.img_height, args.img_width, args.resize, args.seed)
    return make_loader(dataset, EveryBatch(len(dataset), args.batch_size, rank, world), min(args.num_workers, 1), device)


def make_step(args):
    loss = StrokeLoss(args.dice_weight, args.focal_weight, args.edge_weight, args.continuity_weight, args.focal_alpha,
                      args.focal_gamma, args.cldice_iters)

    def step(model, batch):
        return loss(model(batch["image"]), batch["mask"]), len(batch["image"])

    return step


def evaluate(model, loader, device, args, threshold, postproc):
    """(scores, counts of each page, threshold) over the pages of all ranks; without a threshold the best is found, and
    the steps of --postproc that do no harm. postproc: settings of models.strokes.refiner."""
    scorer = StrokeScorer(threshold, refiner(**postproc), trial=() if args.test_only else args.postproc or ())
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="page", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        for pixels, truth, categories, file in zip(batch["pixels"], batch["truth"], batch["categories"], batch["file"]):
            with autocast(args.use_amp, device):
                probability = predict_strokes(model, pixels, args.tta, args.tiles_at_once)
            scorer.add(probability, truth, file=file, categories=list(categories))
    return scorer.finish()


def postproc_settings(args, steps):
    return {"steps": list(steps), "max_gap": args.max_gap, "deviation_threshold": args.deviation_threshold}


def truth_score(pages, config):
    """Mean f1 of the truth itself, painted as a picture and sent through prediction at this size."""
    model, counts = PaintedTruth(config).eval(), []
    for page in pages:
        truth = page.truth()
        painted = np.repeat(truth[..., None].astype(np.uint8) * 255, 3, axis=2)
        counts.append(count_image(predict_strokes(model, painted) >= 0.5, truth))
    return summarise(counts)["f1"]


def test(args, device, rank, world):
    model, checkpoint = load_any("segmentation", args.weights, device)
    model.config, overrides = override_size(model.config, args)
    if overrides and rank == 0:
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in overrides.items())
        print(f"{args.weights}: tested with {flags} in place of its own")
    threshold = checkpoint["thresholds"]["ink"] if args.threshold is None else args.threshold
    pages = read_pages(args, (args.split,))[args.split]
    postproc = checkpoint.get("postproc", {}) if args.postproc is None else postproc_settings(args, args.postproc)
    scores, per_image, _ = evaluate(model, page_loader(args, pages, device, rank, world), device, args, threshold,
                                    postproc)
    if rank == 0:
        said = {"postproc": list(postproc.get("steps", ()))} | ({"overrides": overrides} if overrides else {})
        report_test(args, scores | said, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    pages = read_pages(args, splits_to_read(args))
    train_loader, val_loader = build_data(args, pages, device, rank, world)
    config = StrokesConfig(args.arch, args.encoder, args.img_height, args.img_width, args.resize, args.freeze_bn,
                           args.encoder_depth, args.decoder_channels, args.norm, args.output_stride)
    model = StrokeNet(config, args.encoder_weights)
    model.grad_checkpointing = args.grad_checkpointing
    if args.overfit:
        without_dropout(model)
    if rank == 0 and (warning := coarse_warning(args.arch, args.output_stride)):
        print(warning, file=sys.stderr)
    facts = {"Encoder starts from": model.encoder_source,
             "Data": ", ".join(f"{name} {len(some)} pages ({fingerprint(page.mask for page in some)})"
                               for name, some in pages.items())}
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from, "segmentation")
    if rank == 0:
        print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    if not args.no_preflight and rank == 0:
        facts["Preflight"] = check_segmentation(pages, partial(truth_score, config=config), args.img_height,
                                                args.img_width, args.resize)
    step = make_step(args)
    if args.find_batch_size:
        facts["Batch size"] = find_batch_size(model, args, device, rank, world, train_loader, step)
    fields = {"config": asdict(config), "thresholds": {"ink": 0.5}, "postproc": postproc_settings(args, ())}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    run = Run("segmentation", args, rank, best="f1", defaults=vars(parse_args([])), facts=facts,
              config=fields["config"], world=world)
    val_pieces, val_pages = loss_loader(args, pages, device, rank, world), val_loader.dataset.pages
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, step, run)
            (scores, per_image, threshold), seconds = timed(evaluate, state.eval_model, val_loader, device, args,
                                                            args.threshold, postproc_settings(args, ()))
            state.fields["thresholds"] = {"ink": threshold}
            state.fields["postproc"] = postproc_settings(args, scores.get("postproc", ()))
            losses = validation_loss(state, val_pieces, step)
            run.show(state, lambda: stroke_pictures(state.eval_model, val_pages, threshold))
            run.finish_epoch(state, means, scores | losses, per_image, seconds)
    return run.verdict()


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    keep_freed_memory(device)
    with debug_session("segmentation", args, rank):
        status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main, in_parallel=True)
