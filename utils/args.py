"""The flags that the training scripts share: the same word for the same thing everywhere."""

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import Collection

from utils.errors import DataError
from utils.lineage import inherited, resumed, start_flag
from utils.run_folder import CHECKPOINTS, refuse_used
from utils.schedules import SCHEDULES

SWITCH = partial(argparse.BooleanOptionalAction, default=False)  # --x and --no-x, to undo it after --from-run
ROOMS = ("benchmarks", "datasets", "experiments", "models")
MAKE_DATA = "python -m datasets.synthetic --out data --pages 60 --seed 0"


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def seed(text: str) -> int:
    """What every generator takes: numpy's old one has 32 bits."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to {2**32 - 1}")
    return value


def count_or_all(text: str) -> int | None:
    """0 for all: so that a resumed run, or one --from-run, can be freed of another's bound."""
    return non_negative_int(text) or None


def tile_side(text: str) -> int:
    """Pixels, 0 for none; smaller tiles would be thousands on a page, each too small to show a mark."""
    value = int(text)
    if value != 0 and value < 32:
        raise argparse.ArgumentTypeError(f"{text} is not 32 or more, nor 0 for none")
    return value


def non_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def class_fraction(text: str) -> tuple[str, float]:
    """stamp=0.5: a class and a share."""
    name, equals, value = text.rpartition("=")
    if not equals or not name or "," in name:
        raise argparse.ArgumentTypeError(f"{text} is not CLASS=CONFIDENCE, such as stamp=0.5; several with spaces between")
    return name, fraction(value)


def fractions(text: str) -> tuple[float, ...]:
    """0.8,0.1,0.1: shares of train, val and test, which add up to 1; only that of test may be 0."""
    values = tuple(fraction(part) for part in text.split(","))
    if len(values) != 3 or abs(sum(values) - 1) > 1e-6 or 0 in values[:2]:
        raise argparse.ArgumentTypeError(f"{text} is not three shares for train, val and test that add up to 1")
    return values


def regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} is not a regular expression ({error})") from None
    return text


def grey_levels(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if not all(0 <= value <= 255 for value in values):
        raise argparse.ArgumentTypeError(f"{text} are not greys from 0 to 255")
    return values


def widths(text: str) -> tuple[int, ...]:
    """128,64,32: numbers of channels."""
    return tuple(positive_int(part) for part in text.split(","))


def step_range(text: str) -> str:
    """10:5: after ten steps, five."""
    start, colon, steps = text.partition(":")
    if not (colon and start.isdigit() and steps.isdigit() and int(steps)):
        raise argparse.ArgumentTypeError(f"{text} is not START:STEPS, such as 10:5")
    return text


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print a screen of usage before it."""

    def error(self, message: str):
        self.exit(2, f"error: {message}; {self.prog} --help lists the flags\n")


def new_parser(description: str) -> argparse.ArgumentParser:
    """description: the script's docstring, commands included. Abbreviated flags are refused: a later flag could turn
    one into another."""
    run_as = getattr(sys.modules["__main__"], "__spec__", None)  # None for a file; of `python -m NAME`, the module
    ours = run_as and run_as.name.partition(".")[0] in ROOMS  # and not a profiler that runs the file
    return Parser(prog=f"python -m {run_as.name}" if ours else None, description=description, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)


def add_data_flags(parser: argparse.ArgumentParser, task: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("data")
    add_split_flags(group, task, "what --test-only scores")
    group.add_argument("--num-workers", type=non_negative_int, default=2, help="loader processes (default: %(default)s)")
    group.add_argument("--limit-batches", type=count_or_all,
                       help="use only so many batches of each epoch and evaluation; 0: all, where another run's flags said less")
    group.add_argument("--overfit", type=positive_int, metavar="N",
                       help="check that something can be learnt: the first N training samples by heart, without "
                            "augmentation, dropout and early stopping, and scored themselves; exit status 1 where "
                            "they are not learnt")
    return group


def add_split_flags(group: argparse._ActionsContainer, task: str, split_help: str, split: str = "test") -> None:
    """Where the data is, how it is divided, and which part is read: what datasets.splits.read_splits asks for."""
    group.add_argument("--data-dir", type=Path, default=Path("data") / task,
                       help="folder with train/, val/ and test/, or undivided (default: %(default)s)")
    group.add_argument("--split", default=split, help=f"{split_help} (default: %(default)s)")
    group.add_argument("--group-regex", type=regex, metavar="REGEX",
                       help="of an undivided folder: what in a file's name is shared by files that belong together, "
                            "which come into one split; by default groups.tsv (FILE<TAB>GROUP), or each file by itself")
    group.add_argument("--split-fractions", type=fractions, metavar="TRAIN,VAL,TEST",
                       help="of an undivided folder: shares of the files (default: 0.8,0.1,0.1)")
    group.add_argument("--split-file", type=Path, metavar="PATH",
                       help="of an undivided folder: where its split is written and found again "
                            "(default: DATA_DIR/splits.tsv)")
    group.add_argument("--max-bad-fraction", type=fraction, default=0.01,
                       help="share of bad samples that may be left out with a report (default: %(default)s)")


def add_device_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="auto",
                       help="auto, cpu, cuda, cuda:N or N; several, 0,1, start a process for each, as torchrun does "
                            "(default: %(default)s)")


def add_run_flags(parser: argparse.ArgumentParser, task: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("run")
    group.add_argument("--output-dir", type=Path, help=f"run folder (default: runs/{task}/TIME)")
    group.add_argument("--resume", metavar="auto|PATH",
                       help="continue from a last.pt, with its run's flags, except those given; auto: from --output-dir, or "
                       "start there where there is none")
    group.add_argument("--overwrite", action="store_true", help="start anew in a folder that already holds a run")
    group.add_argument("--test-only", action="store_true", help="score --weights on --split and print one JSON line")
    group.add_argument("--weights", type=Path, help="checkpoint for --test-only")
    add_device_flag(group)
    group.add_argument("--seed", type=seed, default=42, help="(default: %(default)s)")
    group.add_argument("--notes", default="", help="a sentence for the card's objective")
    group.add_argument("--card", type=Path, metavar="PATH",
                       help="a plan by python -m experiments.card new, which the run fills where it lies; the run "
                            "folder's card.md then points to it (default: card.md in the run folder)")
    group.add_argument("--from-run", type=Path, metavar="RUN",
                       help="start from the flags of another run, changed by those given here; the card names it")
    group.add_argument("--debug", action="store_true",
                       help="keep a session in logs/debugging_sessions/ with logs, flags, system and samples")
    group.add_argument("--hypothesis", default="", help="what this run is to find out, for card and debug session")
    group.add_argument("--profile", type=step_range, metavar="START:STEPS",
                       help="torch's profiler over STEPS steps after the first START, into RUN/profiler_traces/")
    return group


def add_training_flags(parser: argparse.ArgumentParser, *, epochs: int, batch_size: int, lr: float, weight_decay: float,
                       optimizer: str, scheduler: str, clip: float, patience: int, ema_decay: float = 0.0) -> None:
    """Flags of the plain-PyTorch loop; the arguments are the task's defaults."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=epochs, help="(default: %(default)s)")
    group.add_argument("--batch-size", type=positive_int, default=batch_size, help="per process (default: %(default)s)")
    group.add_argument("--accumulation-steps", type=positive_int, default=1,
                       help="micro-batches per optimizer step; the step equals that of the large batch")
    group.add_argument("--find-batch-size", action=SWITCH,
                       help="try before the training how large a micro-batch fits into the GPU's memory; batch size times "
                            "accumulation steps stays as asked")
    group.add_argument("--lr", type=positive_float, default=lr, help="(default: %(default)s)")
    group.add_argument("--weight-decay", type=non_negative_float, default=weight_decay, help="(default: %(default)s)")
    group.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default=optimizer, help="(default: %(default)s)")
    group.add_argument("--scheduler", choices=SCHEDULES, default=scheduler, help="per step (default: %(default)s)")
    group.add_argument("--warmup-epochs", type=non_negative_float, help="(default: 7.5%% of a onecycle run, else 0)")
    group.add_argument("--step-epochs", type=positive_int, default=30, help="epochs between drops of --scheduler step")
    group.add_argument("--step-gamma", type=positive_float, default=0.1, help="factor of a drop of --scheduler step")
    group.add_argument("--gradient-clip-max-norm", type=non_negative_float, default=clip,
                       help="0: no clipping (default: %(default)s)")
    group.add_argument("--ema-decay", type=fraction, default=ema_decay,
                       help="moving average of the weights, evaluated in their place; 0: none (default: %(default)s)")
    group.add_argument("--average-from", type=fraction, metavar="SHARE",
                       help="evaluate the mean of the weights after each step since this share of the run, as 0.75; in "
                            "place of --ema-decay")
    group.add_argument("--patience", type=non_negative_int, default=patience,
                       help="stop after so many epochs without a better score; 0: never (default: %(default)s)")
    group.add_argument("--init-from", type=Path, help="checkpoint whose fitting weights to start from")
    group.add_argument("--use-amp", action=SWITCH, help="bfloat16 where the device does it, else float16")
    group.add_argument("--channels-last", action=SWITCH, help="memory layout that suits convolutions")
    group.add_argument("--compile", action=SWITCH, help="torch.compile the network")
    group.add_argument("--deterministic", action=SWITCH, help="kernels that repeat exactly, where they exist")
    group.add_argument("--max-bad-steps", type=non_negative_int, default=5,
                       help="steps with a loss that is not finite to skip before stopping (default: %(default)s)")
    group.add_argument("--save-every-steps", type=positive_int, help="write last.pt within epochs too")
    group.add_argument("--log-every", type=positive_int, default=10, help="steps between points in TensorBoard")
    group.add_argument("--no-preflight", action="store_true", help="skip the check of the data pipeline")


def given_flags(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """The flags that a command line names, by their `dest` and in the parser's order, also where they say the default."""
    unset = object()
    found = parser.parse_args(argv, argparse.Namespace(**{action.dest: unset for action in parser._actions}))
    return [name for name, value in vars(found).items() if value is not unset]


def parse_training_args(parser: argparse.ArgumentParser, argv: list[str] | None = None,
                        of_training: Collection[str] = ()) -> argparse.Namespace:
    """Parse, with the flags of a run that is resumed, or else of --from-run, before those given, and refuse what does not fit
    together.

    of_training: flags, by their `dest`, that a test does not ask, since the checkpoint knows; refused with --test-only.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    if args.from_run:
        if args.test_only or args.resume not in (None, "auto"):
            parser.error("--from-run starts a new training; it does nothing with --test-only or --resume PATH")
    given = given_flags(parser, argv)
    if folder := _resumed_folder(args):
        args = parser.parse_args([*resumed(parser, folder, given), *argv])
    elif args.from_run:
        args = parser.parse_args([*inherited(parser, args.from_run, given), *argv])
    if args.test_only and not args.weights:
        parser.error("--test-only needs --weights PATH")
    if args.weights and not args.test_only:
        parser.error(f"--weights is for --test-only; to start from a checkpoint's weights take {start_flag(vars(args))}")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite contradict each other")
    if args.hypothesis and args.test_only and not args.debug:
        parser.error("--hypothesis goes on a training's card or into a debug session; add --debug")
    for flag in ("resume", "overwrite", "init_from", "card", "profile", "find_batch_size"):
        if args.test_only and getattr(args, flag, None):
            parser.error(f"--{flag.replace('_', '-')} does nothing with --test-only")
    if args.test_only and (ignored := [f"--{name.replace('_', '-')}" for name in given if name in of_training]):
        parser.error(f"{', '.join(ignored)} {'do' if len(ignored) > 1 else 'does'} nothing with --test-only, which takes "
                     "the model from --weights")
    if getattr(args, "average_from", None) is not None and args.ema_decay:
        parser.error("--average-from and --ema-decay are two averages; --ema-decay 0 switches its own off")
    if not args.test_only and "split" in given:
        parser.error("--split is for --test-only; a training learns from train and is scored on val")
    if "ema_decay" in given and args.ema_decay == 1:
        parser.error("--ema-decay 1 would keep the first weights for ever; 0.99 to 0.9999 are usual, 0 switches it off")
    if args.overfit and args.test_only:
        parser.error("--overfit is a training; it does nothing with --test-only")
    if args.overfit and args.resume:
        parser.error("--overfit is a short check, and is not resumed; start it again with --overwrite")
    if args.overfit:
        args.patience = 0  # a score that pauses while batch norm catches up would end the check too early
    if args.resume == "auto" and not args.output_dir:
        parser.error("--resume auto needs --output-dir")
    if not args.test_only:
        refuse_used(args.output_dir, bool(args.resume or args.overwrite))
    return args


def _resumed_folder(args: argparse.Namespace) -> Path | None:
    """The folder of the run that --resume goes on with, where there is one with its flags."""
    if not args.resume or args.overfit or (args.resume == "auto" and not args.output_dir):
        return None
    folder = args.output_dir if args.resume == "auto" else Path(args.resume).parent
    return folder if (folder / "args.json").is_file() and any((folder / name).is_file() for name in CHECKPOINTS) else None


def require_split(data_dir: Path, split: str) -> Path:
    """The folder of a split; raises DataError with the command that makes data where there is none."""
    folder = data_dir / split
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; name one with --data-dir, or make pages to learn from with: "
                        f"{MAKE_DATA}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {data_dir} must hold train/, val/ and test/, or images/ to be split")
    return folder


def plain_args(args: argparse.Namespace) -> dict:
    """The flags as plain values, for args.json and for checkpoints."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in sorted(vars(args).items())}


def command_line() -> str:
    """The command as it could be pasted again."""
    import shlex
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
