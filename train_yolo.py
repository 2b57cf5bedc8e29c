"""Train and test YOLO11 on stamps, signatures and QR codes (docmarks).

    python train_yolo.py --epochs 60 --batch-size 16 --img-size 1024 --freeze 10
    python train_yolo.py --model yolo11n --img-size 640 --output-dir runs/yolo/small --resume auto
    python train_yolo.py --test-only --weights runs/yolo/small/best.pt --split test

--device 0,1 trains on several GPUs, with --batch-size images on each.
Data: DIR/data.yaml with names:, train:, val:, test:; labels are lines of: class x-centre y-centre width height.
Hyperparameters have ultralytics' names; those that do nothing for boxes (auto_augment, erasing, copy_paste, dropout)
are not offered. best.pt and --patience follow map50_95 on validation.
"""

import argparse
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datasets.checks import check_marks
from datasets.paste_marks import MarkPaster, bare_pages
from datasets.yolo import cost_of_a_miss, describe_marks, read_data_yaml, read_marks
from models.engines import load_any
from models.pictures import mark_pictures
from models.yolo import MarksTrainer, YoloConfig, evaluate, network_of, start_model, truth_score
from models.yolo_loop import State, mean_over_ranks
from models.yolo_preset import AUGMENTATIONS, add_hyperparameter_flags, ultralytics_settings
from utils.allocator import keep_freed_memory
from utils.args import (add_data_flags, add_run_flags, fraction, new_parser, non_negative_int, parse_training_args,
                        positive_int, tile_side)
from utils.debugging import debug_session
from utils.distributed import any_rank, init_distributed, leave_distributed
from utils.errors import DataError, exit_cleanly
from utils.files import fingerprint
from utils.metrics.marks import confidence_curve, scores_by_folder
from utils.state import seed_everything
from utils.test_report import report_test
from utils.tracking import Run, timed


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "yolo")
    group.add_argument("--img-size", type=positive_int,
                       help="longer side in pixels, a multiple of 32 (default: 1024; in tests what the weights had)")
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="yolo11s", metavar="NAME|PATH",
                       help="yolo11n, yolo11s, yolo26n, ..., or a file of weights, ours or of ultralytics; NAME.pt is "
                       "looked for here and in weights/, and no host is asked (default: %(default)s)")
    group.add_argument("--freeze", type=non_negative_int, default=10,
                       help="first modules not trained; 0 where the weights start random (default: %(default)s)")
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=60, help="(default: %(default)s)")
    group.add_argument("--batch-size", type=positive_int, default=16, help="(default: %(default)s)")
    group.add_argument("--patience", type=non_negative_int, default=20,
                       help="stop after so many epochs without a better score; 0: never (default: %(default)s)")
    group.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd",
                       help="ultralytics' own 'auto' ignores lr0 and momentum (default: %(default)s)")
    group.add_argument("--cos-lr", action=argparse.BooleanOptionalAction, default=True, help="cosine; else linear")
    group.add_argument("--use-amp", action=argparse.BooleanOptionalAction,
                       help="train in bfloat16 (default: on a GPU that computes in it); a CPU with AMX gains much too")
    group.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True,
                       help="kernels that repeat exactly, where they exist")
    group.add_argument("--paste-marks", type=fraction, default=0.0, metavar="SHARE",
                       help="of training images get marks cut from others, or made where none can be cut, laid on like "
                       "ink (default: %(default)s)")
    group.add_argument("--paste-onto", type=Path, metavar="DIR",
                       help="images without labels, such as receipts, that join the training with marks pasted on")
    group.add_argument("--log-every", type=positive_int, default=1, help="steps between points in TensorBoard")
    group.add_argument("--no-preflight", action="store_true", help="skip the check of the data pipeline")
    group = parser.add_argument_group("testing")
    group.add_argument("--tta", action="store_true", help="look at each image in three sizes (with --test-only)")
    group.add_argument("--tile", type=tile_side, default=0, metavar="PX",
                       help="look at overlapping squares of a large page too (with --test-only)")
    group.add_argument("--bare", action="store_true",
                       help="score the network alone, as after each epoch, and not as inference.py uses it: with pages put "
                       "level and QR codes checked against their pixels (with --test-only)")
    add_hyperparameter_flags(parser)
    add_run_flags(parser, "yolo")
    parser.set_defaults(seed=0, num_workers=8)
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    args.img_size = args.img_size or (None if args.test_only else 1024)
    vars(args).update(dict.fromkeys(AUGMENTATIONS, 0.0) if args.overfit else {})
    if not args.test_only and (args.tta or args.tile or args.bare):
        parser.error("--tta, --tile and --bare go with --test-only")
    if args.paste_onto and not args.paste_marks:
        parser.error("--paste-onto needs --paste-marks")
    if (args.img_size or 32) % 32:
        parser.error("--img-size must be a multiple of 32")
    if args.warmup_bias_lr is not None and args.warmup_bias_lr > args.lr0:
        parser.error("--warmup-bias-lr is above --lr0: biases would start faster than anything ever learns")
    return args


def read_data(args, *splits):
    data = read_data_yaml(args.data_dir)
    return data, read_marks(args, data, splits)


def scored_samples(args, samples):
    return samples["train" if args.overfit else "val"]


def to_score(args, samples, world):
    """--limit-batches bounds evaluations too."""
    return samples[: args.limit_batches * args.batch_size * world if args.limit_batches else None]


def same_names(model, data, path):
    if model.names != data.names:
        raise DataError(f"{path}: knows {model.names}, but {data.file} names {data.names}")


def describe(args, data, samples, source, modules, rank, world):
    """What the card says of data and start."""
    batch = args.batch_size * world
    facts = {"Start": f"{source}; the first {args.freeze} of {modules} modules frozen",
             "Accumulation": f"nbs {args.nbs} at batch {batch}: {max(round(args.nbs / batch), 1)} "
                             "batches an optimizer step, fewer during warm-up and at the end of an epoch"}
    facts |= {f"Data, {split}": f"{describe_marks(found, data.names)} ({fingerprint(s.file for s in found)})"
              for split, found in samples.items()}
    if not args.no_preflight and rank == 0:
        facts["Preflight"] = check_marks(samples, partial(truth_score, img_size=args.img_size))
    return facts | {"One missed mark": cost_of_a_miss(scored_samples(args, samples), data.names)}


def follow(trainer, run, state, args):
    """Connect ultralytics' callbacks to our run folder."""
    bar, times = tqdm(unit="batch", leave=False, disable=True if run.rank else None, dynamic_ncols=True), {}

    def start_epoch(trainer):
        bar.reset(total=len(trainer.train_loader))
        bar.set_description(f"epoch {trainer.epoch + 1}/{args.epochs}")
        times["end"] = time.perf_counter()

    def end_batch(trainer):
        before, state.step, begun, times["end"] = state.step, trainer.steps, times["end"], time.perf_counter()
        bar.update()
        if run.watch:
            run.watch.step(state.step, len(trainer.files) * trainer.world, times["end"] - begun, times["start"] - begun,
                           [trainer.inputs])
        if any_rank(run.stop_request.number is not None):
            run.leave(state, ", of which the steps since the last whole epoch are lost")
        if run.writer and state.step > before and state.step % args.log_every == 0:
            values = {f"train/{name.removesuffix('_loss')}": float(value) for name, value in trainer.loss_items.items()}
            values |= {"train/loss": sum(values.values()), "train/lr": state.optimizer.param_groups[0]["lr"],
                       "train/grad_norm": trainer.grad_norm, "perf/data_wait": times["start"] - begun,
                       "perf/images_per_s": trainer.batch_size / (times["end"] - begun)}
            for name, value in values.items():
                run.writer.add_scalar(name, value, state.step)

    def end_epoch(trainer):
        parts = mean_over_ranks({name.removesuffix("_loss"): float(value) for name, value in trainer.tloss.items()}, 1)
        by_class = {f"map50/{name}": values["map50"] for name, values in trainer.scores["per_class"].items()
                    if values["n_truth"]} | {f"count_error/{name}": value
                                             for name, value in trainer.scores["count_error"].items()}
        if trainer.batch_size < args.batch_size * trainer.world:
            run.facts["Memory"] = f"ran out; the batch is {trainer.batch_size} since"
        state.epoch = trainer.epoch + 1
        losses, seconds = timed(trainer.validation_loss)
        more = by_class | losses | {"loss": sum(losses.values()),
                                    "curve": confidence_curve(trainer.records, trainer.class_names)}
        run.show(state, lambda: mark_pictures(trainer.ema.ema, trainer.samples["val"], args.img_size))
        run.finish_epoch(state, {"loss": sum(parts.values())} | parts, trainer.scores | more, trainer.records,
                         trainer.epoch_time + seconds)

    for event, function in {"on_train_epoch_start": start_epoch,
                            "on_train_batch_start": lambda _: times.update(start=time.perf_counter()),
                            "on_train_batch_end": end_batch, "on_fit_epoch_end": end_epoch,
                            "teardown": lambda _: bar.close()}.items():
        trainer.add_callback(event, function)


def train(args, device, rank, world):
    seed_everything(args)
    data, samples = read_data(args)
    model, source, trained = start_model(args.model, data.names)
    args.freeze = args.freeze if trained else 0
    if args.freeze >= len(model.model):
        raise DataError(f"--freeze {args.freeze}: the model has {len(model.model)} modules, and one must be trained")
    if len(to_score(args, scored_samples(args, samples), world)) < world:
        raise DataError(f"{data.file}: {world} processes need as many images to be scored on; start fewer")
    run = Run("yolo", args, rank, best="map50_95", defaults=vars(parse_args([])),
              facts=describe(args, data, samples, source, len(model.model), rank, world),
              numbers={"classes": list(data.names.values())}, world=world,
              config={"names": data.names, "img_size": args.img_size})
    if run.checkpoint:
        model, args.freeze = network_of(run.checkpoint, run.folder / "last.pt"), run.checkpoint["args"]["freeze"]
    elif not trained and rank == 0:
        print(f"warning: training starts from {source}; this needs far more data and time, and nothing is frozen")
    settings = ultralytics_settings(args, device, run.folder, data.file, world)
    samples["val"] = to_score(args, scored_samples(args, samples), world)
    paste = (MarkPaster(samples["train"], data.names, args.seed), args.paste_marks) if args.paste_marks else None
    samples["train"] = samples["train"] + (bare_pages(args.paste_onto) if args.paste_onto else [])
    run.facts |= {"Pasted marks": paste[0].describe()} if paste else {}
    trainer = MarksTrainer(model, samples, settings, args.limit_batches, paste, rank, world)
    state = State(trainer, {"config": asdict(YoloConfig(model.yaml, data.names, args.img_size))})
    follow(trainer, run, state, args)
    with run.recording(state):
        if state.epoch < args.epochs and not run.out_of_patience(state):
            trainer.train()
    return run.verdict()


def test(args, device, rank, world):
    model, checkpoint = load_any("yolo", args.weights, device)
    data, samples = read_data(args, args.split)
    same_names(model, data, args.weights)
    scores, records = evaluate(model, to_score(args, samples[args.split], world),
                               args.img_size or checkpoint["config"]["img_size"], (rank, world), args.bare,
                               tta=args.tta, tile=args.tile)
    if rank == 0:
        report_test(args, scores | {"per_folder": scores_by_folder(records, data.names)}, records)


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    keep_freed_memory(device)
    with debug_session("yolo", args, rank):
        status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main, in_parallel=True)
