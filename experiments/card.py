"""Experiment cards: a plan before the run, and the findings of a run that has been.

    python -m experiments.card new --task detection --objective "Does a box threshold of 0.3 mend the recall?"
    python train_detection.py --card experiments/2026-11-22_does-a-box-threshold-of.md --box-thresh 0.3
    python -m experiments.card findings runs/detection/first

A plan is the task's template with the objective in it. It lies where --out says and stays there: the run that is given
it by --card fills the blocks between its markers, and nothing else.
"""

import re
import shlex
from datetime import date
from pathlib import Path

from utils.args import new_parser
from utils.cards import start_card
from utils.errors import DataError, exit_cleanly
from utils.findings import find_all
from utils.recorded import read_recorded

TASKS = ("detection", "recognition", "segmentation", "yolo")
HERE = Path("experiments")  # below the current folder


def make_parser():
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="write a plan", allow_abbrev=False)
    new.add_argument("--task", choices=TASKS, required=True)
    new.add_argument("--objective", required=True, help="what is to be found out")
    new.add_argument("--title", help="(default: the objective's first words)")
    new.add_argument("--out", type=Path, help="(default: experiments/DATE_FIRST-WORDS.md)")
    findings = commands.add_parser("findings", help="print what a run's figures give away", allow_abbrev=False)
    findings.add_argument("run", type=Path, help="run folder")
    return parser


def plan_path(objective: str) -> Path:
    """experiments/DATE_FIRST-WORDS.md, letters of any script kept."""
    words = re.findall(r"\w+", objective.lower())[:5]
    return HERE / f"{date.today().isoformat()}_{'-'.join(words)[:60] or 'plan'}.md"


def write_plan(task: str, objective: str, title: str | None, out: Path | None) -> Path:
    """The new card's path. Raises DataError where something is there already, or nothing is to be found out."""
    objective = " ".join(objective.split())
    if not objective:
        raise DataError("--objective is empty; say what is to be found out")
    out = out or plan_path(objective)
    if out.exists():
        raise DataError(f"{out}: is there already; take another --out, or fill it by --card {shlex.quote(str(out))}")
    start_card(out, task, title or f"{task}, {' '.join(objective.split()[:8])}", objective)
    return out


def main(argv=None):
    args = make_parser().parse_args(argv)
    if args.command == "new":
        path = write_plan(args.task, args.objective, args.title, args.out)
        print(f"{path.absolute()}\nfill it by: python train_{args.task}.py --card {shlex.quote(str(path))} ...")
        return
    found = find_all(read_recorded(args.run))
    print("\n".join(map(str, found)) or "nothing stands out")


if __name__ == "__main__":
    exit_cleanly(main)
