"""Train and test PARSeq on crops of text (docmarks).

    python train_recognition.py --data-dir data/recognition --batch-size 448 --use-amp --epochs 20
    python train_recognition.py --arch parseq-ti --stem resnet --depth 4 --img-width 256 --ctc-weight 1 --decoder-weight 0
    python train_recognition.py --test-only --weights runs/recognition/first/best.pt --split test

Data: DIR/{train,val,test}/ with images/ and labels.tsv (FILE<TAB>TEXT), or with images/ and labels/*.txt as for
detection, whose lines are then cut out of their pages. best.pt and --patience follow `exact` on validation: the share
of crops read without any mistake. Labels with unknown characters or too many of them are not learnt from, and count as
mistakes in evaluation. For whole lines of receipts take --img-width 512 --max-label-length 60.
"""

from dataclasses import asdict, replace
from functools import partial

from tqdm import tqdm

from datasets.checks import check_recognition
from datasets.recognition import RecognitionDataset, WidthEpochBatches, WidthEveryBatch, fit_labels, read_split
from datasets.splits import read_splits, splits_to_read
from datasets.text_mix import add_crop_flags, mix, read_text_data
from models.engines import load_reader
from models.language import read_arpa
from models.parseq import READING, PARSeq, read_raw
from models.parseq_confidence import calibrate
from models.parseq_flags import LR_BATCH, add_model_flags, check_flags, config_of, ctc_frames_of, set_test_reading
from models.parseq_loss import caseless_samples, parseq_loss
from models.parseq_weights import init_from, start_from_frequencies
from models.pictures import crop_pictures
from models.read_lines import read_by_language
from utils.allocator import keep_freed_memory
from utils.args import add_data_flags, add_run_flags, add_training_flags, new_parser, parse_training_args
from utils.batch_size import find_batch_size
from utils.dataloading import make_loader
from utils.debugging import debug_session
from utils.distributed import gather_lists, init_distributed, leave_distributed
from utils.engine import train_one_epoch
from utils.errors import exit_cleanly
from utils.frames import spread
from utils.metrics.recognition import reading_row, recognition_scores, score_curve
from utils.metrics.recognition_report import calibration_error, habits, report, report_lines
from utils.overfit import sweep_rates
from utils.schedules import scale_rate
from utils.state import autocast, make_state, seed_everything, without_dropout
from utils.test_report import report_test
from utils.tracking import Run, timed
from utils.validation import MOST_SAMPLES, validation_loss


def make_parser():
    parser = new_parser(__doc__)
    add_crop_flags(add_data_flags(parser, "recognition"))
    add_model_flags(parser)
    add_training_flags(parser, epochs=20, batch_size=384, lr=7e-4, weight_decay=0.0, optimizer="adamw",
                       scheduler="onecycle", clip=20.0, patience=0)
    add_run_flags(parser, "recognition")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    check_flags(parser, args)
    return args


def make_dataset(crops, config, charset, args, training):
    return RecognitionDataset(crops, charset, config.img_height, config.img_width, config.bucket, args.seed, training,
                              augment=not args.overfit, stretch=config.stretch)


def build_data(args, device, rank, world):
    """(train loader, val loader, loader for the validation loss, config, facts for the card, what was read)."""
    data = read_text_data(args, splits_to_read(args), ctc_frames_of(args))
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


def step(model, batch, ctc_weight, decoder_weight=1.0, charset=None, caseless=()):
    outputs = model(batch["image"], batch["width"], batch["tokens"], batch["step_seed"], decoder_weight > 0)
    return parseq_loss(outputs, ctc_weight, decoder_weight,
                       caseless_samples(batch["file"], caseless, charset, batch["image"].device))


def validation_step(model, batch, decoder_weight=1.0, charset=None, caseless=()):
    """Beside the loss, what it would be with other crops' images: a model that looks at them does far worse."""
    name, weights = ("cross_entropy", (0.0, 1.0)) if decoder_weight else ("ctc", (1.0, 0.0))
    parts, weight = step(model, batch, *weights, charset, caseless)
    losses = {name: parts[name]}
    if len(batch["file"]) > 1:
        others = {key: batch[key].roll(1, 0) for key in ("image", "width")}
        losses[f"shuffled_{name}"] = step(model, batch | others, *weights, charset, caseless)[0][name]
    return losses, weight


def evaluate(model, loader, device, args, language=None):
    """(scores, counts of each crop with what was read) over the crops of all ranks."""
    read = partial(read_by_language, model, language) if language else partial(
        read_raw, model, decode=args.decode, refine_iters=args.refine_iters)
    rows = []
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        with autocast(args.use_amp, device):
            readings = read(batch["image"].to(device), batch["width"].to(device))
        rows += [reading_row(file, truth, *reading, args.fold)
                 for file, truth, reading in zip(batch["file"], batch["text"], readings)]
    rows = gather_lists(rows)
    about = habits(rows, model.config.max_label_length) | {"ece": calibration_error(rows), "fold": args.fold}
    return recognition_scores(rows) | about | report(rows, args.fold), rows


def test(args, device, rank, world):
    model = load_reader(args.weights, device)
    set_test_reading(args, model)
    language = args.language_model and read_arpa(args.language_model)
    crops = read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), (args.split,))[args.split]
    table = fit_labels(args.split, crops, model.charset, model.config.max_label_length)
    if rank == 0:
        print(table)
    table.settle(args.max_bad_fraction, learning=False)
    loader = test_loader(args, table, model.config, model.charset, device, rank, world)
    scores, per_image = evaluate(model, loader, device, args, language)
    if rank == 0:
        report_test(args, scores, per_image)


def train(args, device, rank, world):
    seed_everything(args)
    train_loader, val_loader, val_crops, config, facts, data = build_data(args, device, rank, world)
    model = PARSeq(config)
    start_from_frequencies(model, data.token_counts)
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from)
        if rank == 0:
            print(facts["Weights"])
    if args.overfit:
        without_dropout(model)
    if args.decoder_weight == 0:
        model.keep_decoder()
    labels = {"decoder_weight": args.decoder_weight, "charset": model.charset, "caseless": args.caseless}
    training_step = partial(step, ctc_weight=args.ctc_weight, **labels)
    if args.find_batch_size:
        facts["Batch size"] = find_batch_size(model, args, device, rank, world, train_loader, training_step, val_loader,
                                              val_crops)
    fields = {"config": asdict(config), "charset_digest": model.charset.digest, "temperature": 1.0,
              "reading": {name: getattr(args, name) for name in READING}}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    state.schedule, facts["Effective batch"] = scale_rate(state.schedule, args, world, LR_BATCH)
    if rank == 0:
        print(f"effective batch: {facts['Effective batch']}")
    run = Run("recognition", args, rank, best="exact", defaults=vars(parse_args([])), facts=facts, numbers=data.numbers,
              tell=partial(report_lines, folds=args.fold), config=fields["config"], world=world)
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, training_step, run)
            state.fields["temperature"] = calibrate(state.eval_model, val_loader, device, args)
            (scores, per_image), seconds = timed(evaluate, state.eval_model, val_loader, device, args)
            losses = validation_loss(state, val_crops, partial(validation_step, **labels))
            run.show(state, lambda: crop_pictures(state.eval_model, val_loader.dataset.crops, device, args.decode,
                                                  args.refine_iters))
            run.finish_epoch(state, means, scores | losses | {"curve": score_curve(per_image)}, per_image, seconds)
    return run.verdict()


def main(argv=None):
    args = parse_args(argv)
    device, rank, world = init_distributed(args.device)
    keep_freed_memory(device)
    with debug_session("recognition", args, rank):
        if args.overfit:
            status = sweep_rates("recognition", train, args, device, rank, world)
        else:
            status = (test if args.test_only else train)(args, device, rank, world)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main, in_parallel=True)
