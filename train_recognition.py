"""Train and test PARSeq on crops of text (docmarks).

    python train_recognition.py --data-dir data/recognition --batch-size 448 --use-amp --epochs 20
    python train_recognition.py --arch parseq-ti --stem conv --ctc-weight 1 --output-dir runs/recognition/first
    python train_recognition.py --test-only --weights runs/recognition/first/best.pt --split test

Data: DIR/{train,val,test}/ with images/ and labels.tsv (FILE<TAB>TEXT), or with images/ and labels/*.txt as for
detection, whose lines are then cut out of their pages. best.pt and --patience follow `exact` on validation: the share
of crops read without any mistake. Labels with unknown characters or too many of them are not learnt from, and count as
mistakes in evaluation. For whole lines of receipts take --img-width 512 --max-label-length 60.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datasets.checks import check_recognition
from datasets.recognition import RecognitionDataset, WidthEpochBatches, WidthEveryBatch, fit_labels, read_split
from datasets.splits import read_splits, splits_to_read
from datasets.text_mix import mix, mix_source, read_text_data
from models.parseq import ARCHS, DECODES, STEMS, PARSeq, PARSeqConfig, load_model, parseq_loss, read_texts
from models.parseq_confidence import calibrate
from models.parseq_weights import init_from, start_from_frequencies
from models.pictures import crop_pictures
from utils.args import (SWITCH, add_data_flags, add_run_flags, add_training_flags, new_parser, non_negative_float,
                        non_negative_int, parse_training_args, positive_int)
from utils.batch_size import find_batch_size
from utils.dataloading import make_loader
from utils.debugging import debug_session
from utils.distributed import gather_lists, init_distributed, leave_distributed
from utils.engine import train_one_epoch
from utils.errors import DataError, exit_cleanly
from utils.frames import spread
from utils.metrics.recognition import FOLDS, count_edits, recognition_scores, score_curve
from utils.metrics.recognition_report import calibration_error, habits, report, report_lines
from utils.overfit import sweep_rates
from utils.schedules import scale_rate
from utils.state import autocast, make_state, seed_everything, without_dropout
from utils.tracking import Run, report_test, timed
from utils.validation import MOST_SAMPLES, validation_loss

LR_BATCH = 256  # crops, for which the published rate of 7e-4 is meant


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "recognition")
    group.add_argument("--polygon-labels", action=SWITCH,
                       help="lines of labels/*.txt are x1,y1,...,xn,yn,TEXT with polygons of any length")
    group.add_argument("--mix", type=mix_source, nargs="+", default=[], metavar="SOURCE:WEIGHT",
                       help="train on more than --data-dir: a folder, or lines made without end (made, made-korean, "
                            "made-latin), with the number of samples for each one of --data-dir, as in made:1")
    group.add_argument("--font-dir", type=Path, help="folder with more fonts for made lines")
    group.add_argument("--charset", default="ksx1001", metavar="data|ksx1001|hangul|FILE",
                       help="characters beside Latin, digits, punctuation, space and ₩€£¥: those of the training labels, "
                            "2350 or all 11172 Hangul syllables; or just those of a text file (default: %(default)s)")
    group = parser.add_argument_group("model (in a test, all but --decode and --refine-iters come from the checkpoint)")
    group.add_argument("--arch", choices=ARCHS, default="parseq-s", help="(default: %(default)s)")
    group.add_argument("--stem", choices=STEMS, default="patch",
                       help="patch: as published; conv: convolutions, learns from scratch on a small budget")
    group.add_argument("--patch-height", type=int, choices=(4, 8), default=4,
                       help="4: as published; 8: half the tokens, for long lines on a small budget (default: %(default)s)")
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
                       help="weight of an auxiliary CTC loss on the encoder, unused in reading (default: %(default)s)")
    group.add_argument("--decode", choices=DECODES, default="ar",
                       help="ar: character after character; nar: all at once (default: %(default)s)")
    group.add_argument("--refine-iters", type=non_negative_int, default=1,
                       help="passes that read each character again, given the others (default: %(default)s)")
    group.add_argument("--fold", choices=FOLDS, nargs="+", default=[],
                       help="in evaluation, differences that count as none: of case, of full and half width, of spaces")
    add_training_flags(parser, epochs=20, batch_size=384, lr=7e-4, weight_decay=0.0, optimizer="adamw",
                       scheduler="onecycle", clip=20.0, patience=0)
    parser.add_argument("--scale-lr", action=SWITCH,
                        help=f"--lr is for {LR_BATCH} crops a step, and grows with the batch, with accumulation, and with "
                             "the square root of the processes, as published")
    add_run_flags(parser, "recognition")
    return parser


def config_of(args, characters):
    return PARSeqConfig(characters, **ARCHS[args.arch], img_height=args.img_height, img_width=args.img_width,
                        patch_height=args.patch_height, max_label_length=args.max_label_length, perm_num=args.perm_num,
                        stem=args.stem, ctc=args.ctc_weight > 0, scale_positions=args.scale_positions,
                        stretch=args.stretch)


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    if args.mix and (args.overfit or args.test_only):
        parser.error("--mix is for a whole training; it does nothing with --overfit and --test-only")
    if args.font_dir and not any(source.startswith("made") for source in args.mix):
        parser.error("--font-dir is for lines made by --mix made:WEIGHT")
    try:
        config_of(args, "a")
    except ValueError as error:
        parser.error(str(error))
    return args


def make_dataset(crops, config, charset, args, training):
    return RecognitionDataset(crops, charset, config.img_height, config.img_width, config.bucket, args.seed, training,
                              augment=not args.overfit, stretch=config.stretch)


def build_data(args, device, rank, world):
    """(train loader, val loader, loader for the validation loss, config, facts for the card, what was read)."""
    data = read_text_data(args, splits_to_read(args))
    charset, train = data.charset, data.tables["train"]
    config, facts = config_of(args, charset.characters), data.facts(args.charset)
    if rank == 0:
        print("\n".join([*map(str, data.all_tables), *(f"{name}: {facts[name]}" for name in list(facts)[:3])]))
    for table in data.all_tables:
        if table.split != "test":
            table.settle(args.max_bad_fraction)
    if not args.no_preflight and rank == 0:
        facts["Preflight"] = check_recognition(
            data.checked, lambda some: make_dataset(some, config, charset, args, True).truth_score(), args.img_height,
            args.img_width)
    train_set = make_dataset(train.kept, config, charset, args, True)
    if args.mix:
        folders = [(source, make_dataset(table.kept, config, charset, args, True)) for source, table in data.mixed]
        train_set = mix(train_set, folders, args.mix, config.max_label_length, args.font_dir)
        facts["Mixed"] = str(train_set)
    batches = WidthEpochBatches(train_set.widths_in, args.batch_size, args.seed, rank, world)
    train_loader = make_loader(train_set, batches, args.num_workers, device, train_set.collate)
    scored = replace(train, unfit=[]) if args.overfit else data.tables["val"]
    return (train_loader, test_loader(args, scored, config, charset, device, rank, world),
            loss_loader(args, scored, config, charset, device, rank, world), config, facts, data)


def test_loader(args, table, config, charset, device, rank, world):
    dataset = make_dataset(table.kept + table.unfit, config, charset, args, False)
    batches = WidthEveryBatch(dataset.widths, args.batch_size, rank, world)
    return make_loader(dataset, batches, args.num_workers, device, dataset.collate)


def loss_loader(args, table, config, charset, device, rank, world):
    """Some crops of validation with their tokens, without augmentation; None with --overfit."""
    if args.overfit:
        return None
    dataset = RecognitionDataset(spread(table.kept, 8 * MOST_SAMPLES), charset, config.img_height, config.img_width,
                                 config.bucket, args.seed, training=True, augment=False, stretch=config.stretch)
    batches = WidthEveryBatch(dataset.widths, min(args.batch_size, MOST_SAMPLES), rank, world)
    return make_loader(dataset, batches, min(args.num_workers, 1), device, dataset.collate)


def step(model, batch, ctc_weight):
    return parseq_loss(model(batch["image"], batch["width"], batch["tokens"], batch["step_seed"]), ctc_weight)


def validation_step(model, batch):
    """Beside the loss, what it would be with other crops' images: a model that looks at them does far worse."""
    parts, weight = step(model, batch, 0.0)
    losses = {"cross_entropy": parts["cross_entropy"]}
    if len(batch["file"]) > 1:
        others = {name: batch[name].roll(1, 0) for name in ("image", "width")}
        losses["shuffled_cross_entropy"] = step(model, batch | others, 0.0)[0]["cross_entropy"]
    return losses, weight


def evaluate(model, loader, device, args):
    """(scores, counts of each crop with what was read) over the crops of all ranks."""
    rows = []
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        with autocast(args.use_amp, device):
            readings = read_texts(model, batch["image"].to(device), batch["width"].to(device), args.decode,
                                  args.refine_iters)
        rows += [{"file": file, "truth": truth, "text": text, "score": score} | count_edits(text, truth, args.fold)
                 for file, truth, (text, score) in zip(batch["file"], batch["text"], readings)]
    rows = gather_lists(rows)
    about = habits(rows, model.config.max_label_length) | {"ece": calibration_error(rows), "fold": args.fold}
    return recognition_scores(rows) | about | report(rows), rows


def load_reader(path, device):
    """A checkpoint, or what python -m models.export has made of one."""
    if path.suffix != ".onnx":
        return load_model(path, device)[0]
    from models.onnx_recognition import OnnxReader  # its libraries take seconds to load

    return OnnxReader(path)


def test(args, device, rank, world):
    model = load_reader(args.weights, device)
    crops = read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), (args.split,))[args.split]
    table = fit_labels(args.split, crops, model.charset, model.config.max_label_length)
    if rank == 0:
        print(table)
    table.settle(args.max_bad_fraction)
    loader = test_loader(args, table, model.config, model.charset, device, rank, world)
    scores, per_image = evaluate(model, loader, device, args)
    if rank == 0:
        report_test(args, scores, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    train_loader, val_loader, val_crops, config, facts, data = build_data(args, device, rank, world)
    model = PARSeq(config)
    start_from_frequencies(model, data.texts)
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from)
    if args.overfit:
        without_dropout(model)
    if args.find_batch_size:
        facts["Batch size"] = find_batch_size(model, args, device, rank, world, train_loader,
                                              partial(step, ctc_weight=args.ctc_weight), val_loader, val_crops)
    fields = {"config": asdict(config), "charset_digest": model.charset.digest, "temperature": 1.0}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    state.schedule, facts["Effective batch"] = scale_rate(state.schedule, args, world, LR_BATCH)
    if rank == 0:
        print(f"effective batch: {facts['Effective batch']}")
    run = Run("recognition", args, rank, best="exact", defaults=vars(parse_args([])), facts=facts, numbers=data.numbers,
              tell=report_lines)
    found = asdict(PARSeqConfig(**run.checkpoint["config"])) if run.checkpoint else fields["config"]
    if other := [name for name, value in fields["config"].items() if found[name] != value]:
        raise DataError(f"{run.folder / 'last.pt'}: was trained with another {', '.join(other)} (the characters come "
                        "from --charset and the training labels); --init-from starts a new run from its weights")
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, partial(step, ctc_weight=args.ctc_weight), run)
            state.fields["temperature"] = calibrate(state.eval_model, val_loader, device, args)
            (scores, per_image), seconds = timed(evaluate, state.eval_model, val_loader, device, args)
            losses = validation_loss(state, val_crops, validation_step)
            run.show(state, lambda: crop_pictures(state.eval_model, val_loader.dataset.crops, device, args.decode,
                                                  args.refine_iters))
            run.finish_epoch(state, means, scores | losses | {"curve": score_curve(per_image)}, per_image, seconds)
    return run.verdict()


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    with debug_session("recognition", args, rank):
        if args.overfit:
            status = sweep_rates("recognition", train, args, device, rank, world)
        else:
            status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main)
