"""The files of a run folder: where it is, what in it is a run's, and its rows as JSON lines."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

from utils.elastic import restart_count
from utils.errors import DataError
from utils.files import replace_file
from utils.lineage import start_flag

CHECKPOINTS = ("last.pt", "best.pt")  # the newer one first
RUN_FILES = (*CHECKPOINTS, "args.json", "metrics.jsonl", "card.md")


def run_folder(task: str, args) -> Path:
    if args.resume and args.resume != "auto":
        folder = Path(args.resume).parent
        if args.output_dir and args.output_dir.resolve() != folder.resolve():
            raise DataError(f"{args.resume}: a run goes on in its own folder, not in {args.output_dir}; "
                            f"{start_flag(vars(args))} starts a new run from its weights")
        return folder
    if args.output_dir:
        return args.output_dir
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise DataError("torchrun --max-restarts needs --output-dir: ranks that start again must find their run")
    return Path("runs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in RUN_FILES)


def refuse_used(folder: Path | None, goes_on: bool) -> None:
    """Raise DataError where the folder holds a run, unless that is asked to go on or to be replaced, or torchrun has
    started this process again."""
    if folder and holds_run(folder) and not goes_on and not restart_count():
        raise DataError(f"{folder}: already holds a run; continue it with --resume auto, replace it with "
                        "--overwrite, or name another --output-dir")


def clear_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in (*RUN_FILES, "per_image.jsonl", "facts.json", "micro_split.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("bad_batch_*.pt"):
        path.unlink()
    for name in ("tensorboard", "ultralytics", "profiler_traces"):
        shutil.rmtree(folder / name, ignore_errors=True)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
