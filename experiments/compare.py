"""Compare runs of one task: what differs, the metrics side by side, and whether the difference means anything.

    python -m experiments.compare runs/detection/first runs/detection/second
    python -m experiments.compare runs/detection/first runs/detection/second --html report.html
    python -m experiments.compare runs/tests/plain runs/tests/tta     # the --output-dir of two --test-only

Every run is compared with the first. The interval of a difference comes from a paired bootstrap over the images that
both were scored on (test_per_image.jsonl where every run has one, else per_image.jsonl of the best epoch).
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.compare_report import write_report
from experiments.compare_runs import TASKS, Change, RunRecord, cause_in_words, changes, pair_rows, read_runs
from utils.args import new_parser, non_negative_int
from utils.bootstrap import (FEW_IMAGES, LEAST_IMAGES, LEAST_RESAMPLES, SMALL_DIFFERENCE, Difference, paired_differences,
                             resample_count, unpaired_differences)
from utils.cards import markdown_table
from utils.errors import DataError, exit_cleanly

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Comparison:
    """A run against the first. notes: what the reader must know about the pages."""

    letter: str
    differences: dict[str, Difference]
    verdict: str
    words: str
    notes: tuple[str, ...]
    moved: list[tuple[str, float, float]]  # (image, score of the first, score of this one), the most changed first


def compare(runs: list[RunRecord], *, force: bool, resamples: int, seed: int) -> list[Comparison]:
    """Raises DataError where the pages differ and `force` does not ask to go on."""
    # The chance of one false alarm among all comparisons stays at 5 % (Bonferroni).
    level = 1 - 0.05 / (len(runs) - 1)
    return [_compare_pair(runs[0], run, letter, level, force, resamples, seed)
            for letter, run in zip(LETTERS[1:], runs[1:])]


def _compare_pair(first: RunRecord, second: RunRecord, letter: str, level: float, force: bool, resamples: int,
                  seed: int) -> Comparison:
    task = TASKS[first.task]
    pairs, fault = pair_rows(first, second)
    if fault and not force:
        raise DataError(f"{second.folder}: was not scored on the same pages as {first.folder} ({fault}); score both on "
                        "one split, or --force compares all the same")
    notes = (f"forced: {fault}; " + (f"compared on the {len(pairs)} that are alike" if pairs else "nothing is alike, so "
                                     "that each is drawn by itself"),) if fault else ()
    options = {"resamples": resamples, "seed": seed, "level": level}
    if pairs:
        rows = [first.rows[a] for a, _ in pairs], [second.rows[b] for _, b in pairs]
        images = [first.images[a] for a, _ in pairs]
        found = paired_differences(*map(task.scorer, rows), images, **options)
        moved = _moved(task, *rows)
    else:
        found = unpaired_differences(task.scorer(first.rows), task.scorer(second.rows), first.images, second.images,
                                     **options)
        moved = []
    verdict, words = verdict_of(found[task.metric], task.metric in task.falling)
    if LEAST_IMAGES <= found[task.metric].n_images < FEW_IMAGES:
        notes += ("intervals from so few images are somewhat too narrow: take a bare verdict as a hint",)
    return Comparison(letter, found, verdict, words, notes, moved)


def verdict_of(found: Difference, falling: bool = False) -> tuple[str, str]:
    """('better', 'worse' or 'not distinguishable', that in a sentence). falling: lower is better."""
    if found.clear:
        verdict = "better" if (found.value > 0) != falling else "worse"
        return verdict, f"{verdict}, as far as {found.n_images} images tell"
    verdict = "not distinguishable"
    words = f"not distinguishable with {_images(found.n_images)}"
    needed, for_small = found.images_needed(), found.images_needed(SMALL_DIFFERENCE)
    if needed and found.n_images < LEAST_IMAGES and needed <= LEAST_IMAGES:
        return verdict, f"{words}; fewer than {LEAST_IMAGES} never tell"
    if needed:
        return verdict, f"{words}; if it is as large as it looks ({found.value:+.4f}), about {_round(needed)} would show it"
    if for_small:
        return verdict, (f"{words}; no difference was seen, and about {_round(for_small)} would show one of "
                         f"{SMALL_DIFFERENCE}")
    return verdict, f"{words}: the difference is the same whichever of them are drawn, so that none can be told"


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"


def _round(number: int) -> int:
    """Two digits: the rest is not known."""
    digits = len(str(number)) - 2
    return number if digits <= 0 else round(number, -digits)


def _moved(task, first: list[dict], second: list[dict]) -> list[tuple[str, float, float]]:
    """The images whose score changed, by how much. Images without any truth and without a fault count as 0."""
    pairs = [(a["file"], *(task.score([row])[task.metric] for row in (a, b))) for a, b in zip(first, second) if a != b]
    return sorted((row for row in pairs if row[1] != row[2]), key=lambda row: -abs(row[2] - row[1]))


# words ---------------------------------------------------------------------------------------------------------------


def tables(runs: list[RunRecord], comparisons: list[Comparison], found: list[Change]) -> dict[str, tuple[list, list]]:
    """{title: (header, rows)} of the tables that the console and the page share."""
    letters = LETTERS[: len(runs)]
    metrics = list(TASKS[runs[0].task].shown)
    differs = [[f"{change.name} ({change.kind})", *change.values] for change in found]
    scores = [[name, *(f"{value:.4f}" for value in _values(name, runs))] for name in metrics]
    return {
        "Runs": (["", "Run", "Epochs", "Best epoch", "Training", "Images"],
                 [[letter, str(run.folder), str(len(run.epochs)), str(best_epoch(run)), training_time(run),
                   str(len(set(run.images)))] for letter, run in zip(letters, runs)]),
        "What differs": (["", *letters], differs or [["nothing that was recorded", *[""] * len(runs)]]),
        "Metrics": (["", *letters], scores),
        "Differences": (["", "Metric", "Difference", "Interval", "Images"], [
            [f"{comparison.letter} - A", name, f"{d.value:+.4f}", f"[{d.low:+.4f}, {d.high:+.4f}]", str(d.n_images)]
            for comparison in comparisons for name, d in comparison.differences.items()]),
    }


def _values(metric: str, runs: list[RunRecord]) -> list[float]:
    task = TASKS[runs[0].task]
    return [task.score(run.rows)[metric] for run in runs]


def best_epoch(run: RunRecord) -> int | str:
    name = f"val/{TASKS[run.task].metric}"
    return max(run.epochs, key=lambda row: row[name])["epoch"] if run.epochs else "?"


def training_time(run: RunRecord) -> str:
    return f"{run.epochs[-1]['seconds'] / 60:.1f} min, {run.epochs[-1]['step']} steps" if run.epochs else "?"


def verdict_lines(runs: list[RunRecord], comparisons: list[Comparison]) -> list[str]:
    """A line for each run against the first."""
    metric, lines = TASKS[runs[0].task].metric, []
    for comparison in comparisons:
        d = comparison.differences[metric]
        lines.append(f"{comparison.letter} against A, {metric}: {d.first:.4f} -> {d.second:.4f} ({d.value:+.4f}, "
                     f"{100 * d.level:.4g} % interval {d.low:+.4f} to {d.high:+.4f}): {comparison.words}.")
        lines += [f"  {note}" for note in comparison.notes]
    return lines


def scored_on(runs: list[RunRecord]) -> str:
    if runs[0].source.startswith("test"):
        return f"Scored on {runs[0].source} of each run."
    return (f"Scored on {runs[0].source} of each run: validation, on which its epoch and thresholds were chosen too; "
            "what counts is --test-only on the test split.")


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; the first is what the others are "
                        "compared with")
    parser.add_argument("--on", choices=("test", "val"), help="whose scores to compare (default: test where every run "
                        "has been tested, else val)")
    parser.add_argument("--html", type=Path, metavar="PATH.html",
                        help="write a page with curves, without links to anywhere")
    parser.add_argument("--force", action="store_true", help="compare runs that were scored on different pages")
    parser.add_argument("--resamples", type=resample_count, default=2000,
                        help=f"bootstrap samples, {LEAST_RESAMPLES} or more (default: %(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default: %(default)s)")
    args = parser.parse_args(argv)
    if len(args.runs) < 2 or len({path.resolve() for path in args.runs}) < len(args.runs):
        parser.error("name two runs or more, each once")
    if len(args.runs) > len(LETTERS):
        parser.error(f"more than {len(LETTERS)} runs cannot be told apart")
    if args.html and args.html.suffix.lower() not in (".html", ".htm"):  # or it takes a card's or a checkpoint's place
        parser.error(f"--html {args.html} must end in .html or .htm")
    runs = read_runs(args.runs, args.on)
    comparisons = compare(runs, force=args.force, resamples=args.resamples, seed=args.seed)
    found = changes(runs)
    lines, cause = verdict_lines(runs, comparisons), cause_in_words(found, runs)
    shared = tables(runs, comparisons, found)
    for title, (header, rows) in shared.items():
        print(f"{title}\n{markdown_table(header, rows)}\n")
    print("\n".join([*lines, "", cause, scored_on(runs)]))
    if args.html:
        write_report(args.html, runs, comparisons, shared, [*lines, cause, scored_on(runs)])
        print(f"page: {args.html}")


if __name__ == "__main__":
    exit_cleanly(main)
