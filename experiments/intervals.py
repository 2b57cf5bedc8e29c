"""How sure a score is: bootstrap intervals of one run's scores over the images that it was scored on (docmarks).

    python -m experiments.intervals runs/detection/first/test_per_image.jsonl
    python -m experiments.intervals runs/yolo/marks/test_per_image.jsonl --only signatures/
    python -m experiments.intervals runs/yolo/marks/test_per_image.jsonl --only stamps/ --class-id 2

Reads per_image.jsonl (validation) or test_per_image.jsonl (--test-only). A page is drawn with all of its crops. Two runs
are compared by experiments.compare, which draws the same images for both. The last line on stdout is one JSON object.
"""

import json
from pathlib import Path

from experiments.compare_runs import TASKS, page_of, read_rows
from utils.args import new_parser, non_negative_int
from utils.bootstrap import LEAST_RESAMPLES, intervals, resample_count, warn_of_few
from utils.errors import DataError, exit_cleanly


def of_class(row: dict, class_id: int, task: str, file: Path) -> dict:
    if task != "yolo":
        raise DataError(f"{file}: of a {task} run, which has no classes; leave --class-id out")
    return row | {"truth": [found for found in row["truth"] if found == class_id],
                  "detections": [found for found in row["detections"] if found[0] == class_id]}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("rows", type=Path, metavar="PER_IMAGE_JSONL", help="counts of each image, as a run writes them")
    parser.add_argument("--only", default="", metavar="TEXT", help="images whose name holds this, as in signatures/")
    parser.add_argument("--class-id", type=non_negative_int, metavar="N",
                        help="of marks: this class alone, by its number in data.yaml (default: the mean over classes)")
    parser.add_argument("--resamples", type=resample_count, default=2000,
                        help=f"bootstrap samples, {LEAST_RESAMPLES} or more (default: %(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.rows.is_file():
        raise DataError(f"{args.rows}: no such file; a training writes per_image.jsonl, --test-only "
                        "test_per_image.jsonl")
    task, rows = read_rows(args.rows)
    rows = [row for row in rows if args.only in row["file"]]
    if not rows:
        raise DataError(f"{args.rows}: no image's name holds {args.only!r}")
    if args.class_id is not None:
        rows = [of_class(row, args.class_id, task, args.rows) for row in rows]
    pages = [page_of(row) for row in rows]
    warn_of_few(len(set(pages)))
    found = intervals(TASKS[task].scorer(rows), pages, resamples=args.resamples, seed=args.seed)
    print(f"{task}, {len(set(pages))} images, 95 % intervals of {args.resamples} resamples")
    for name, (value, low, high) in found.items():
        print(f"  {name:14} {value:.4f}   {low:.4f} to {high:.4f}")
    print(json.dumps({"task": task, "n_images": len(set(pages)), "only": args.only,
                      "class_id": args.class_id} | found))


if __name__ == "__main__":
    exit_cleanly(main)
