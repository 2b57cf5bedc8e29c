"""What --test-only leaves: scores, the counts of each image, and how they were asked for."""

import json
import sys

from utils import debugging
from utils.args import plain_args
from utils.cards import git_state
from utils.files import write_json
from utils.run_folder import write_jsonl


def report_test(args, scores: dict, per_image: list[dict]) -> None:
    """--test-only: test_metrics.json, test_per_image.jsonl and, for experiments.compare, test_args.json (flags and commit);
    and the scores as the last line on stdout."""
    folder = args.output_dir or args.weights.parent
    write_json(folder / "test_args.json", {"flags": plain_args(args), "commit": git_state()})
    write_json(folder / "test_metrics.json", scores)
    write_jsonl(folder / "test_per_image.jsonl", per_image)
    if debugging.current:
        debugging.record("test", metrics=scores)
        debugging.current.save_rows(per_image, 0)
    sys.stdout.flush()
    print(json.dumps(scores, ensure_ascii=False), flush=True)
