"""Train and test PARSeq on crops of text (docmarks).

    python train_recognition.py --data-dir data/recognition --batch-size 448 --use-amp --epochs 20
    python train_recognition.py --arch parseq-ti --stem conv --ctc-weight 1 --output-dir runs/recognition/first
    python train_recognition.py --test-only --weights runs/recognition/first/best.pt --split test

Data: DIR/{train,val,test}/ with images/ and labels.tsv (FILE<TAB>TEXT), or with images/ and labels/*.txt as for
detection, whose lines are then cut out of their pages. best.pt and --patience follow `exact` on validation: the share
of crops read without any mistake. Labels with unknown characters or too many of them are not learnt from, and count as
mistakes in evaluation. For whole lines of receipts take --img-width 512 --max-label-length 60.
"""

import math
from dataclasses import asdict, replace
from functools import partial

from tqdm import tqdm

from datasets.checks import check_recognition
from datasets.recognition import RecognitionDataset, WidthEpochBatches, WidthEveryBatch, fit_labels, read_split
from datasets.splits import read_splits, splits_to_read
from models.parseq import ARCHS, DECODES, STEMS, PARSeq, PARSeqConfig, load_model, parseq_loss, read_texts
from models.parseq_weights import init_from
from utils.args import (add_data_flags, add_run_flags, add_training_flags, new_parser, non_negative_float,
                        non_negative_int, parse_training_args, positive_int)
from utils.charset import build_charset, unigram_entropy
from utils.dataloading import make_loader
from utils.distributed import gather_lists, init_distributed, leave_distributed
from utils.engine import autocast, make_state, seed_everything, train_one_epoch, without_dropout
from utils.errors import DataError, exit_cleanly
from utils.files import fingerprint
from utils.metrics.recognition import count_edits, recognition_scores
from utils.tracking import Run, report_test, timed

LEAST_PIXELS = 2  # in width for a character; nobody reads less


def make_parser():
    parser = new_parser(__doc__)
    group = add_data_flags(parser, "recognition")
    group.add_argument("--polygon-labels", action="store_true",
                       help="lines of labels/*.txt are x1,y1,...,xn,yn,TEXT with polygons of any length")
    group.add_argument("--charset", default="ksx1001", metavar="data|ksx1001|hangul|FILE",
                       help="characters beside Latin, digits, punctuation, space and ₩€£¥: those of the training labels, "
                            "2350 or all 11172 Hangul syllables; or just those of a text file (default: %(default)s)")
    group = parser.add_argument_group("model (in a test, all but --decode and --refine-iters come from the checkpoint)")
    group.add_argument("--arch", choices=ARCHS, default="parseq-s", help="(default: %(default)s)")
    group.add_argument("--stem", choices=STEMS, default="patch",
                       help="patch: as published; conv: convolutions, learns from scratch on a small budget")
    group.add_argument("--img-height", type=positive_int, default=32, help="(default: %(default)s)")
    group.add_argument("--img-width", type=positive_int, default=128,
                       help="of the widest crops; narrower ones are padded to multiples of 64, wider ones squashed "
                            "(default: %(default)s)")
    group.add_argument("--max-label-length", type=positive_int, default=25, help="characters (default: %(default)s)")
    group.add_argument("--perm-num", type=positive_int, default=6,
                       help="reading orders learnt in each step, mirrored pairs (default: %(default)s)")
    group.add_argument("--scale-positions", action="store_true",
                       help="multiply positions in the context by sqrt(width), like the embeddings")
    group.add_argument("--ctc-weight", type=non_negative_float, default=0.0,
                       help="weight of an auxiliary CTC loss on the encoder, unused in reading (default: %(default)s)")
    group.add_argument("--decode", choices=DECODES, default="ar",
                       help="ar: character after character; nar: all at once (default: %(default)s)")
    group.add_argument("--refine-iters", type=non_negative_int, default=1,
                       help="passes that read each character again, given the others (default: %(default)s)")
    add_training_flags(parser, epochs=20, batch_size=384, lr=7e-4, weight_decay=0.0, optimizer="adamw",
                       scheduler="onecycle", clip=20.0, patience=0)
    add_run_flags(parser, "recognition")
    return parser


def config_of(args, characters):
    return PARSeqConfig(characters, **ARCHS[args.arch], img_height=args.img_height, img_width=args.img_width,
                        max_label_length=args.max_label_length, perm_num=args.perm_num, stem=args.stem,
                        ctc=args.ctc_weight > 0, scale_positions=args.scale_positions)


def parse_args(argv=None):
    parser = make_parser()
    args = parse_training_args(parser, argv)
    try:
        config_of(args, "a")
    except ValueError as error:
        parser.error(str(error))
    return args


def make_dataset(crops, config, charset, args, training):
    return RecognitionDataset(crops, charset, config.img_height, config.img_width, config.bucket, args.seed, training,
                              augment=not args.overfit)


def read_crops(args, names):
    return read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), names)


def build_data(args, device, rank, world):
    """(train loader, val loader, config, facts for the card)."""
    crops = read_crops(args, splits_to_read(args))
    charset = build_charset(args.charset, (crop.text for crop in crops["train"]))
    config = config_of(args, charset.characters)
    tables = {split: fit_labels(split, crops[split], charset, config.max_label_length) for split in crops}
    kept = tables["train"].kept
    facts = {"Charset": f"{len(charset)} characters ({args.charset}), {charset.digest}",
             "Labels": "; ".join(map(str, tables.values())),
             "Loss of a model that sees nothing": f"{math.log(charset.size - 2):.2f} for equal chances, "
             f"{unigram_entropy(crop.text for crop in kept):.2f} knowing how frequent the characters are",
             "Data": ", ".join(f"{split} {fingerprint({crop.path for crop in crops[split]})}" for split in crops)}
    if rank == 0:
        print("\n".join([*map(str, tables.values()), *(f"{name}: {facts[name]}" for name in list(facts)[::2])]))
    for split in splits_to_read(args)[:2]:
        tables[split].settle(args.max_bad_fraction)
    if not args.no_preflight and rank == 0:
        facts["Preflight"] = check_recognition(
            tables, lambda some: truth_score(make_dataset(some, config, charset, args, True)), args.img_height,
            args.img_width)
    train_set = make_dataset(kept, config, charset, args, True)
    batches = WidthEpochBatches(train_set.widths, args.batch_size, args.seed, rank, world)
    train_loader = make_loader(train_set, batches, args.num_workers, device, train_set.collate)
    scored = replace(tables["train"], unfit=[]) if args.overfit else tables["val"]
    return train_loader, test_loader(args, scored, config, charset, device, rank, world), config, facts


def test_loader(args, table, config, charset, device, rank, world):
    dataset = make_dataset(table.kept + table.unfit, config, charset, args, False)
    batches = WidthEveryBatch(dataset.widths, args.batch_size, rank, world)
    return make_loader(dataset, batches, args.num_workers, device, dataset.collate)


def step(model, batch, ctc_weight):
    return parseq_loss(model(batch["image"], batch["width"], batch["tokens"], batch["step_seed"]), ctc_weight)


def evaluate(model, loader, device, args):
    """(scores, counts of each crop with what was read) over the crops of all ranks."""
    rows = []
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None)):
        if args.limit_batches and number >= args.limit_batches:
            break
        with autocast(args.use_amp, device):
            readings = read_texts(model, batch["image"].to(device), batch["width"].to(device), args.decode,
                                  args.refine_iters)
        rows += [{"file": file, "truth": truth, "text": text, "score": score} | count_edits(text, truth)
                 for file, truth, (text, score) in zip(batch["file"], batch["text"], readings)]
    rows = gather_lists(rows)
    return recognition_scores(rows), rows


def truth_score(dataset):
    """Share of the labels that come back from their tokens and whose crops are wide enough for them."""
    samples = [dataset[(0, index)] for index in range(len(dataset))]
    good = [dataset.charset.decode(sample["tokens"][1:]) == sample["text"]
            and sample["crop"].shape[1] >= LEAST_PIXELS * len(sample["text"]) for sample in samples]
    return sum(good) / max(len(good), 1)


def test(args, device, rank, world):
    model, _ = load_model(args.weights, device)
    crops = read_crops(args, (args.split,))[args.split]
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
    train_loader, val_loader, config, facts = build_data(args, device, rank, world)
    model = PARSeq(config)
    if args.init_from:
        facts["Weights"] = init_from(model, args.init_from)
    if args.overfit:
        without_dropout(model)
    fields = {"config": asdict(config), "charset_digest": model.charset.digest}
    state = make_state(model, args, device, rank, world, train_loader, fields)
    run = Run("recognition", args, rank, best="exact", defaults=vars(make_parser().parse_args([])), facts=facts)
    if run.checkpoint and run.checkpoint["config"] != fields["config"]:
        other = [name for name, value in fields["config"].items() if run.checkpoint["config"].get(name) != value]
        raise DataError(f"{run.folder / 'last.pt'}: was trained with another {', '.join(other)} (the characters come "
                        "from --charset and the training labels); --init-from starts a new run from its weights")
    with run.recording(state):
        while state.epoch < args.epochs and not run.out_of_patience(state):
            means = train_one_epoch(state, train_loader, partial(step, ctc_weight=args.ctc_weight), run)
            (scores, per_image), seconds = timed(evaluate, state.eval_model, val_loader, device, args)
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
