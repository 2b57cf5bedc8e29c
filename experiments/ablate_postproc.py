"""What each step of post-processing does to a stroke model's masks, alone and left out, by category (docmarks).

    python -m experiments.ablate_postproc --weights runs/segmentation/first/best.pt --data-dir data/segmentation
    python -m experiments.ablate_postproc --weights runs/segmentation/first/best.pt --steps close,connect --enable

Every page is predicted once, at the checkpoint's threshold, and scored by every metric. The tables go to stdout, whose
last line is one JSON object, and to postproc.md in the run's folder (or --output-dir), ready for its card. --enable writes
into the checkpoint the steps that do no harm on validation: F1, clDice and separation no worse, one step after another.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.segmentation import add_page_flags, read_pages
from models.refine_strokes import STEPS
from models.stroke_flags import steps
from models.strokes import load_model, predict_strokes, refiner
from utils.args import SWITCH, given_flags, new_parser, positive_float, positive_int
from utils.cards import markdown_table
from utils.checkpoint import save_checkpoint
from utils.distributed import init_distributed
from utils.errors import exit_cleanly
from utils.files import replace_file
from utils.images import load_image
from utils.metrics.segmentation import StrokeScorer, harmless, summarise
from utils.run_folder import holds_run
from utils.state import autocast

OF_STEPS = {"max_gap": "connect", "deviation_threshold": "straighten"}  # flag: the one step that asks it


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint: best.pt of a run")
    add_page_flags(parser, "what is scored; --enable chooses on val alone", "val")
    parser.add_argument("--steps", type=steps, default=STEPS, help="(default: close,connect,straighten,separate)")
    parser.add_argument("--max-gap", type=positive_float, default=5.0, help="connect: pixels (default: %(default)s)")
    parser.add_argument("--deviation-threshold", type=positive_float, default=2.0,
                        help="straighten: pixels (default: %(default)s)")
    parser.add_argument("--enable", action="store_true", help="write the steps that do no harm into the checkpoint")
    parser.add_argument("--limit-pages", type=positive_int, help="only so many pages of the split")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    parser.add_argument("--use-amp", action=SWITCH, help="bfloat16 where the device does it, else float16")
    parser.add_argument("--output-dir", type=Path, help="folder for postproc.md (default: that of the weights, if it is a run's)")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.steps:
        parser.error("--steps none leaves nothing to find out")
    given = given_flags(parser, sys.argv[1:] if argv is None else argv)
    for flag, step in OF_STEPS.items():
        if flag in given and step not in args.steps:
            parser.error(f"--{flag.replace('_', '-')} is for {step}, which --steps leaves out")
    if args.enable and (args.split != "val" or args.limit_pages or args.category):
        parser.error("--enable chooses by the whole of validation: take --split val, without --limit-pages or --category")
    return args


def variants(named: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """What is scored: nothing, each step alone, all, and all but each."""
    found = {"none": ()} | {f"{step} alone": (step,) for step in named}
    if len(named) > 1:
        found["all"] = named
    if len(named) > 2:
        found |= {f"all but {step}": tuple(s for s in named if s != step) for step in named}
    return found


def measure(args, model, checkpoint, pages, device) -> tuple[dict[str, dict], list[str]]:
    """(scores of each variant, the steps that do no harm one after another)."""
    threshold = checkpoint["thresholds"]["ink"]
    refine = refiner((), args.max_gap, args.deviation_threshold)
    scorer = StrokeScorer(threshold, refine, trial=args.steps)
    for page in tqdm(pages, unit="page", leave=False, disable=None):
        with autocast(args.use_amp, device):
            probability = predict_strokes(model, load_image(page.image))
        scorer.add(probability, page.truth(), file=str(page.image), categories=list(page.categories))
    scores = {name: summarise(scorer.measure(threshold, partial(refine, steps=chosen)))
              for name, chosen in tqdm(variants(args.steps).items(), unit="variant", leave=False, disable=None)}
    return scores, scorer.finish()[0]["postproc"]


def report(scores: dict[str, dict], kept: list[str], title: str) -> str:
    """Markdown: a table for all pages and one for each category, a metric a line."""
    none = scores["none"]
    parts = [f"# Post-processing: {title}", ""]
    tables = {"all pages": scores} | {
        f"category {tag}": {name: found["categories"][tag] for name, found in scores.items()}
        for tag in none["categories"]}
    for heading, table in tables.items():
        rows = [[metric, *(_cell(found[metric]) for found in table.values())] for metric in metrics_of(table["none"])]
        verdicts = ["" if name == "none" else "no worse" if harmless(found, table["none"]) else "worse"
                    for name, found in table.items()]
        parts += [f"## {heading} ({table['none']['n_images']})", "",
                  markdown_table(["", *table], [*rows, ["F1, clDice, separation", *verdicts]]), ""]
    return "\n".join([*parts, f"One after another, these do no harm: {', '.join(kept) or 'none'}.", ""])


def metrics_of(scores: dict) -> list[str]:
    """The names of the metrics in what summarise() gives; one that nothing was found for is None there."""
    return [name for name, value in scores.items() if value is None or isinstance(value, float)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main(argv=None):
    args = parse_args(argv)
    device = init_distributed(args.device)[0]
    model, checkpoint = load_model(args.weights, device)
    pages = read_pages(args, (args.split,))[args.split][: args.limit_pages]
    scores, kept = measure(args, model, checkpoint, pages, device)
    text = report(scores, kept, f"{args.weights.parent.name}, {args.split}")
    print(text)
    run = args.output_dir or (args.weights.parent if holds_run(args.weights.parent) else None)
    if run:
        replace_file(run / "postproc.md", text)
    if args.enable:
        whole = torch.load(args.weights, map_location="cpu", weights_only=True)
        save_checkpoint(args.weights, whole | {"postproc": {
            "steps": kept, "max_gap": args.max_gap, "deviation_threshold": args.deviation_threshold}})
    print(json.dumps({"weights": str(args.weights), "split": args.split, "kept": kept, "enabled": args.enable,
                      "scores": {name: {metric: found[metric] for metric in metrics_of(found)}
                                 for name, found in scores.items()}}))


if __name__ == "__main__":
    exit_cleanly(main)
