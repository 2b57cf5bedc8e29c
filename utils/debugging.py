"""--debug: a folder that holds what is needed to understand a run afterwards, or to hand it on.

    logs/debugging_sessions/YYYY-MM-DD_HH-MM-SS_debug/
        debug.jsonl       what happened: time, level, event and its fields, a line each
        training.log      what the console showed
        config_dump.yaml  every flag, sorted
        git_status.txt    commit, changes, the last ten commits
        system_info.txt   versions, processor, memory, GPU
        artifacts/        profiler_traces/ model_outputs/ data_samples/

Other modules speak to the session through logging.getLogger("docmarks"), which is silent without one; record() gives a
line its event and fields.
"""

import contextlib
import fcntl
import json
import logging
import re
import shutil
import sys
import tarfile
import traceback
from datetime import datetime, timedelta
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import torch
import yaml

from utils.args import plain_args
from utils.errors import DataError
from utils.files import replace_file, write_json, write_replacing
from utils.system_info import git_report, system_report

SESSIONS = Path("logs") / "debugging_sessions"
NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)_debug")
TIME_FORMAT = "%Y-%m-%d_%H-%M-%S"
KEPT_FOLDERS, KEPT_DAYS = 10, 30
ARTIFACTS = ("profiler_traces", "model_outputs", "data_samples")
SHOWN_SAMPLES, SHOWN_WINDOWS, SHOWN_SIDE = 4, 3, 640

log = logging.getLogger("docmarks")
log.addHandler(logging.NullHandler())
log.propagate = False  # its lines are for the session; what a person should read is printed


def record(event: str, message: str = "", level: int = logging.INFO, **fields) -> None:
    """A line of debug.jsonl; nothing without a session. fields: plain values."""
    log.log(level, message or event, extra={"event": event, "fields": fields})


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, event, message, and its fields beside them."""

    def format(self, entry: logging.LogRecord) -> str:
        row = {"time": datetime.fromtimestamp(entry.created).astimezone().isoformat(timespec="milliseconds"),
               "level": entry.levelname, "event": getattr(entry, "event", entry.name), "message": entry.getMessage()}
        row |= getattr(entry, "fields", {})
        return json.dumps(row, ensure_ascii=False, default=str)


class Tee:
    """A stream that also goes into a file, without what a progress bar has painted over."""

    def __init__(self, stream, file):
        self.stream, self.file, self.line = stream, file, ""

    def write(self, text: str) -> int:
        *whole, self.line = (self.line + text).split("\n")
        for line in whole:
            self.file.write(line.removesuffix("\r").rpartition("\r")[2] + "\n")
        self.line = self.line.rpartition("\r")[2]
        return self.stream.write(text)

    def finish(self) -> None:
        """Write a last line that had no end."""
        if self.line:
            self.file.write(f"{self.line}\n")

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class Session:
    """A session's folder while its run lasts. The lock on debug.jsonl tells other runs that it is still written to."""

    def __init__(self, folder: Path, args):
        self.folder, self.windows = folder, 0
        self.artifacts = {name: folder / "artifacts" / name for name in ARTIFACTS}
        for path in self.artifacts.values():
            path.mkdir(parents=True)
        flags = {name: list(value) if isinstance(value, tuple) else value for name, value in plain_args(args).items()}
        replace_file(folder / "config_dump.yaml", yaml.safe_dump(flags, sort_keys=True, allow_unicode=True))
        replace_file(folder / "git_status.txt", git_report())
        replace_file(folder / "system_info.txt", system_report())
        self.handler = logging.FileHandler(folder / "debug.jsonl", encoding="utf-8")
        self.handler.setFormatter(JsonLines())
        fcntl.flock(self.handler.stream, fcntl.LOCK_SH)
        self.training_log = open(folder / "training.log", "w", encoding="utf-8", buffering=1)

    def save_window(self, window: list[dict], step: int) -> None:
        """What the network was given in the first steps: pictures, and the facts of every tensor."""
        if self.windows == SHOWN_WINDOWS:
            return
        self.windows += 1
        stem = self.artifacts["data_samples"] / f"step_{step:06d}"
        write_json(stem.with_suffix(".json"), [describe_batch(batch) for batch in window])
        for name, value in window[0].items():
            if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.numel():
                write_picture(stem.with_name(f"{stem.name}_{name}.png"), contact_sheet(value[:SHOWN_SAMPLES]))

    def save_image(self, tag: str, image: np.ndarray, step: int) -> None:
        """image: (H, W, 3) uint8 RGB that TensorBoard gets."""
        name = re.sub(r"[^\w.-]", "_", tag)
        write_picture(self.artifacts["model_outputs"] / f"{name}_{step:06d}.png", image)

    def save_rows(self, rows: list[dict], step: int) -> None:
        """What came out for each image: the rows of per_image.jsonl."""
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        replace_file(self.artifacts["model_outputs"] / f"per_image_{step:06d}.jsonl", text)
        missing = missing_predictions(rows)
        if missing:
            record("missing predictions", f"Missing predictions for ground truth on {len(missing)} of {len(rows)} images",
                   logging.WARNING, files=missing[:20])


current: Session | None = None  # of this process, as its stdout is


@contextlib.contextmanager
def debug_session(task: str, args, rank: int, root: Path = SESSIONS) -> Iterator[Session | None]:
    """A session round a run where --debug asks for one (rank 0 alone writes it), else nothing."""
    global current
    if not args.debug or rank != 0:
        yield None
        return
    session = current = Session(new_folder(root), args)
    try:
        tidy(root)
    except (OSError, DataError) as error:  # no reason not to train
        print(f"warning: old debugging sessions stay as they are: {error}", file=sys.stderr)
    log.addHandler(session.handler)
    log.setLevel(logging.DEBUG)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Tee(stream, session.training_log) for stream in streams)
    print(f"debug session: {session.folder}")
    record("start", task=task, command=sys.argv, config=plain_args(args), hypothesis=args.hypothesis)
    try:
        yield session
        record("end", hypothesis=args.hypothesis)
    except BaseException as error:
        stopped = isinstance(error, SystemExit)
        record("end", f"{type(error).__name__}: {error}", logging.WARNING if stopped else logging.ERROR,
               hypothesis=args.hypothesis, traceback=None if stopped else traceback.format_exc())
        session.training_log.write(f"exit status {error}\n" if stopped else traceback.format_exc())
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.finish()
        sys.stdout, sys.stderr = streams
        log.removeHandler(session.handler)
        session.handler.close()
        session.training_log.close()
        current = None


def new_folder(root: Path) -> Path:
    """A folder named after now; where another run has taken this second, after the next free one."""
    when = datetime.now()
    while True:
        folder = root / f"{when.strftime(TIME_FORMAT)}_debug"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            when += timedelta(seconds=1)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made ({error.strerror}); --debug writes below the folder it is started "
                            "in") from None


# keeping few ---------------------------------------------------------------------------------------------------------


def tidy(root: Path, now: datetime | None = None) -> None:
    """The newest 10 sessions stay folders, older ones become .tar.gz, and what is over 30 days old by its name is
    deleted. Nothing else in `root` is touched, nor a session that is still written to."""
    now = now or datetime.now()
    ages = {path: now - when for path in sorted(root.iterdir()) if (when := _time_of(path)) and not path.is_symlink()}
    for path, age in ages.items():
        if age > timedelta(days=KEPT_DAYS) and not _in_use(path):
            _remove(path)
    folders = sorted((path for path in ages if path.is_dir()), key=lambda path: ages[path])
    for folder in folders[KEPT_FOLDERS:]:
        if not _in_use(folder):
            archive = folder.with_name(f"{folder.name}.tar.gz")
            if not archive.is_file():  # else the folder is what a killed process had no time to remove
                write_replacing(archive, lambda temporary: _pack(folder, temporary))
            _remove(folder)


def _time_of(path: Path) -> datetime | None:
    """When a session began, by its name; None for anything that is none."""
    name = path.name.removesuffix(".tar.gz") if path.is_file() else path.name
    if not NAME.fullmatch(name) or (path.is_file() and name == path.name):
        return None
    try:
        return datetime.strptime(name, f"{TIME_FORMAT}_debug")
    except ValueError:  # the 31st of February
        return None


def _in_use(path: Path) -> bool:
    try:
        with open(path / "debug.jsonl", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # an archive, or a folder made by hand
        return False
    return False


def _pack(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# what a batch and its outputs are ------------------------------------------------------------------------------------


def describe_batch(batch: dict) -> dict:
    """Files, and of every tensor its shape, type, range and mean, and how many values are not finite."""
    facts = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            finite = value[torch.isfinite(value)].double() if value.numel() else value.double()
            numbers = {"min": finite.min(), "max": finite.max(), "mean": finite.mean()} if finite.numel() else {}
            facts[name] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."),
                           "not_finite": value.numel() - finite.numel()} | {k: float(v) for k, v in numbers.items()}
        elif name in ("file", "im_file"):
            facts["file"] = [str(file) for file in value]
    return facts


def contact_sheet(values: torch.Tensor) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 of a batch (B, H, W) or (B, C, H, W), side by side, from its least value (black) to its
    greatest (white); of other than 3 channels the first is shown."""
    array = values.detach().float().cpu().numpy()
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1) if array.shape[1] == 3 else array[:, 0]
    array = np.nan_to_num(array, posinf=0.0, neginf=0.0)
    low, high = array.min(), array.max()
    return np.hstack(list(((array - low) / max(high - low, 1e-12) * 255).astype(np.uint8)))


def write_picture(path: Path, image: np.ndarray) -> None:
    """PNG of (H, W) or (H, W, 3) uint8 RGB, shrunk where it is very large."""
    if (side := image.shape[0]) > SHOWN_SIDE:
        image = cv2.resize(image, None, fx=SHOWN_SIDE / side, fy=SHOWN_SIDE / side, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    replace_file(path, cv2.imencode(".png", image)[1].tobytes())


def missing_predictions(rows: list[dict]) -> list[str]:
    """The images that have truth and nothing found at all, from rows of per_image.jsonl of any task."""
    return [str(row["file"]) for row in rows if _counts(row)[0] and not _counts(row)[1]]


def _counts(row: dict) -> tuple[int, int]:
    """(size of the truth, size of what was found)."""
    if "n_pred" in row:
        return row["n_truth"], row["n_pred"]
    if "detections" in row:
        return len(row["truth"]), len(row["detections"])
    if "char_length" in row:
        return row["char_length"], len(row["text"])
    return row["tp"] + row["fn"], row["tp"] + row["fp"]
