"""The run folder: last.pt, best.pt, args.json, metrics.jsonl, per_image.jsonl, card.md and tensorboard/."""

import contextlib
import json
import os
import platform
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.args import command_line, flags_off_default, plain_args
from utils.cards import git_state, markdown_table, start_card, update_card
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.distributed import any_rank, barrier, from_rank_zero, restart_count
from utils.errors import DataError
from utils.files import replace_file, write_json
from utils.signals import StopRequest

# Flags that may differ between the two halves of a run without a word.
RUN_FLAGS = ("resume", "output_dir", "overwrite", "num_workers", "device", "log_every", "save_every_steps", "notes",
             "no_preflight", "test_only", "weights", "init_from", "max_bad_steps")
BAD_BATCHES_KEPT = 3
# What a model that works reaches on samples that it learns by heart (--overfit).
LEARNT = {"detection": ("hmean", 0.95), "recognition": ("exact", 0.99), "segmentation": ("f1", 0.95),
          "yolo": ("map50", 0.9)}
RUN_FILES = ("last.pt", "best.pt", "args.json", "metrics.jsonl", "card.md")


class Run:
    """Keeps one run's folder up to date; every rank makes one, and only rank 0 writes.

    task: names the template, the default folder and the checkpoint. best: the validation metric, higher is better, that
    best.pt and patience follow. facts: what is worth a line on the card (data fingerprint, encoder weights, ...).
    """

    def __init__(self, task: str, args, rank: int, *, best: str, defaults: dict[str, Any], facts: dict[str, str]):
        self.task, self.args, self.rank, self.best, self.facts = task, args, rank, best, facts
        self.defaults = defaults
        self.folder = Path(from_rank_zero(str(run_folder(task, args))))
        if args.overfit:
            self.facts["Overfit check"] = (f"the first {args.overfit} training samples, without augmentation and "
                                           "dropout; the scores are those of these same samples")
        self.rows: list[dict] = []
        self.stop_request = StopRequest()
        self.checkpoint = self._find_checkpoint()
        self.writer = None
        if rank == 0:
            self._open()
        barrier()

    @property
    def resumes(self) -> bool:
        """Asked for, or started again by torchrun after a rank was lost."""
        return bool(self.args.resume) or restart_count() > 0

    def _find_checkpoint(self) -> dict | None:
        if not self.resumes:
            return None
        if self.args.resume not in (None, "auto"):
            return load_checkpoint(Path(self.args.resume), self.task)
        return newest_checkpoint(self.folder, self.task)

    def _open(self) -> None:
        step = self.checkpoint["progress"]["step"] if self.checkpoint else None
        if not self.resumes and holds_run(self.folder):
            if not self.args.overwrite:
                raise DataError(f"{self.folder}: already holds a run; continue it with --resume auto, replace it with "
                                "--overwrite, or name another --output-dir")
            clear_run(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made ({error.strerror})") from None
        if self.checkpoint:
            self.rows = [row for row in read_jsonl(self.folder / "metrics.jsonl")
                         if row["epoch"] <= self.checkpoint["progress"]["epoch"]]
            self._write_rows()
        write_json(self.folder / "args.json", plain_args(self.args))
        if not (self.folder / "card.md").is_file():
            title = f"{self.task} {self.folder.name}"
            start_card(self.folder / "card.md", self.task, title, self.args.notes)
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        self.git = git_state()
        self.update_card("Running")
        print(f"run folder: {self.folder}")

    @contextlib.contextmanager
    def recording(self, state):
        """The training itself: restores a resumed state, and writes on the card how it ended."""
        if self.checkpoint:
            self._restore(state)
        state.micro_split = max(state.micro_split, self._kept_micro_split())
        try:
            yield
        except SystemExit:
            raise
        except BaseException as error:
            self.fail(str(error) or type(error).__name__)
            raise
        self.finish(state)

    def _restore(self, state) -> None:
        config, found = state.fields.get("config", {}), self.checkpoint.get("config", {})
        if other := [name for name, value in config.items() if found.get(name, value) != value]:
            raise DataError(f"{self.folder}: the run was started with another {', '.join(other)}; --init-from starts a "
                            "new run from its weights")
        stored, own = self.checkpoint["args"], plain_args(self.args)
        changed = {name: (stored[name], own[name]) for name in own
                   if name in stored and stored[name] != own[name] and name not in RUN_FLAGS}
        if stored.get("overfit") != own["overfit"]:
            raise DataError(f"{self.folder}: its run was an overfit check, which is not resumed; start anew with "
                            "--overwrite or in another --output-dir")
        world = self.checkpoint["progress"].get("world", 1)
        if self.checkpoint["progress"]["batch"] and world != getattr(state, "world", 1):
            raise DataError(f"{self.folder}: the run was saved within an epoch by {world} processes, and can only be "
                            "resumed by as many")
        if self.checkpoint["progress"]["batch"] and {"batch_size", "limit_batches", "seed"} & set(changed):
            raise DataError(f"{self.folder}: the run was saved within an epoch, and can only be resumed with the same "
                            f"--batch-size ({stored['batch_size']}), --limit-batches and --seed")
        if changed and self.rank == 0:
            print("warning: flags changed since the run was stopped: " + ", ".join(
                f"--{name.replace('_', '-')} {old} -> {new}" for name, (old, new) in sorted(changed.items())))
        state.load_state_dict(self.checkpoint)
        if self.rank == 0:
            print(f"resumed in {self.folder}: {state.epoch} epochs and {state.step} steps are done")

    def after_step(self, state, values: dict[str, float] | None, extras: dict[str, float]) -> None:
        """Called by the loop after each window: log, save within the epoch, stop when asked to."""
        args = self.args
        if self.writer and values is not None and state.step % args.log_every == 0:
            for name, value in values.items():
                if name != "weight":
                    self.writer.add_scalar(f"train/{name}", value, state.step)
            self.writer.add_scalar("train/lr", state.optimizer.param_groups[0]["lr"], state.step)
            self.writer.add_scalar("train/grad_norm", extras["grad_norm"], state.step)
            self.writer.add_scalar("perf/images_per_s", extras["images_per_s"], state.step)
            self.writer.add_scalar("perf/data_wait", extras["data_wait"], state.step)
        stopping = any_rank(self.stop_request.number is not None)
        if stopping or (args.save_every_steps and state.step % args.save_every_steps == 0 and values is not None):
            self.save(state, "last.pt")
        if stopping:
            self.leave(state)

    def keep_bad_batch(self, state, window: list[dict]) -> Path | None:
        """Save what a loss was not finite on, the first few times; returns where."""
        if state.bad_steps > BAD_BATCHES_KEPT:
            return None
        path = self.folder / f"bad_batch_{state.bad_steps}_rank{self.rank}.pt"
        save_checkpoint(path, {"task": f"{self.task} batch", "step": state.step, "batches": [
            {k: v for k, v in batch.items() if isinstance(v, torch.Tensor) or k == "file"} for batch in window]})
        return path

    def keep_micro_split(self, pieces: int) -> None:
        """For the next start, when memory ran out on one rank of several."""
        write_json(self.folder / "micro_split.json", pieces)

    def _kept_micro_split(self) -> int:
        path = self.folder / "micro_split.json"
        return json.loads(path.read_text(encoding="utf-8")) if self.resumes and path.is_file() else 1

    def leave(self, state, lost: str = "") -> None:
        """End the process after a signal, the state having been saved; lost: what was not, in words."""
        if self.rank == 0:
            self.update_card("Stopped", state)
            way_on = "start it again with --overwrite" if self.args.overfit else "go on with --resume auto"
            tqdm.write(f"stopped at epoch {state.epoch + 1}, step {state.step}{lost}; {way_on} --output-dir {self.folder}",
                       file=sys.stderr)
        self.close()
        sys.exit(self.stop_request.exit_status if self.stop_request.number else 143)

    def save(self, state, name: str) -> None:
        if self.rank == 0:
            save_checkpoint(self.folder / name, state.state_dict() | {
                "task": self.task, "args": plain_args(self.args), "data": dict(self.facts)})

    def finish_epoch(self, state, train: dict[str, float], scores: dict[str, float], per_image: list[dict],
                     seconds: float = 0.0) -> None:
        """Record an epoch: metrics.jsonl, TensorBoard, best.pt and per_image.jsonl when it is the best, last.pt, card.

        seconds: what the evaluation took; it counts as training time.
        """
        state.seconds += seconds
        score = scores[self.best]
        is_best = state.best_score is None or score > state.best_score
        if is_best:
            state.best_score, state.best_epoch = score, state.epoch
        row = {"epoch": state.epoch, "step": state.step} | {f"train/{k}": v for k, v in train.items()} | {
            f"val/{k}": v for k, v in scores.items() if isinstance(v, (int, float))} | {
            "train/lr": state.optimizer.param_groups[0]["lr"], "seconds": state.seconds}
        self.rows.append(row)
        if self.rank == 0:
            self._write_rows()
            for name, value in row.items():
                if name.startswith("val/"):
                    self.writer.add_scalar(name, value, state.step)
            self.writer.flush()
            if is_best:
                write_jsonl(self.folder / "per_image.jsonl", per_image)
                self.save(state, "best.pt")
            self.save(state, "last.pt")
            self.update_card("Running", state)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float))
            tqdm.write(f"epoch {state.epoch}/{self.args.epochs}: loss {train['loss']:.4f}; {shown}"
                       + ("  (best)" if is_best else ""))
        barrier()
        if any_rank(self.stop_request.number is not None):
            self.leave(state)

    def out_of_patience(self, state) -> bool:
        """The same on every rank: whether --patience epochs have gone by without a better score."""
        patience = self.args.patience
        return any_rank(bool(patience) and state.epoch - state.best_epoch >= patience)

    def overfit_result(self) -> tuple[bool, str]:
        """(whether the samples of --overfit were learnt by heart in any epoch, that in a line)."""
        metric, bar = LEARNT[self.task]
        best = max(row[f"val/{metric}"] for row in self.rows)
        learnt = best >= bar
        line = (f"the {self.args.overfit} samples were {'' if learnt else 'NOT '}learnt: best {metric} {best:.4f}, "
                f"asked for {bar}")
        way_out = "; give it more --epochs or another rate, or look for what is wrong with labels, loss or size"
        return learnt, line + ("" if learnt else way_out)

    def verdict(self) -> int:
        """The exit status of a finished training: 1 where --overfit found that its samples were not learnt, else 0."""
        if not self.args.overfit:
            return 0
        learnt, line = self.overfit_result()
        if self.rank == 0:
            print(f"overfit check: {line}")
        return 0 if learnt else 1

    def finish(self, state) -> None:
        if self.args.overfit:
            self.facts["Overfit check"] += f"; {self.overfit_result()[1]}"
        if self.rank == 0:
            self.update_card("Completed", state)
            print(f"best {self.best} {state.best_score:.4f} at epoch {state.best_epoch}; "
                  f"weights: {self.folder / 'best.pt'}; card: {self.folder / 'card.md'}")
        self.close()

    def fail(self, reason: str) -> None:
        """The run ended with an error; the card says which."""
        if self.rank == 0 and self.writer:
            self.update_card(f"Failed: {' '.join(reason.split())}")
        self.close()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
            self.writer = None

    def add_images(self, tag: str, image, step: int) -> None:
        """image: (H, W, 3) uint8 RGB for TensorBoard."""
        if self.writer:
            self.writer.add_image(tag, image, step, dataformats="HWC")

    def update_card(self, status: str, state=None) -> None:
        overrides = flags_off_default(self.defaults, self.args)
        configuration = [
            "* **Base:** the defaults of the training script",
            "* **Key overrides:**", "  ```", *(f"  {name}: {value}" for name, value in overrides.items()), "  ```",
            "* **Full command:**", "  ```", f"  {command_line()}", "  ```",
            f"* **Commit:** {self.git}", f"* **Device:** {device_name(self.args.device)}",
            f"* **Versions:** Python {platform.python_version()}, torch {torch.__version__}",
            *(f"* **{name}:** {value}" for name, value in self.facts.items())]
        blocks = {"status": f"* **Status:** {status}", "configuration": "\n".join(configuration),
                  "results": self._results(state)}
        for name in update_card(self.folder / "card.md", blocks):
            tqdm.write(f"warning: {self.folder / 'card.md'}: its {name} block is gone and is not written any more",
                       file=sys.stderr)

    def _results(self, state) -> str:
        if not self.rows:
            return "*No epoch has finished yet.*"
        best = max(self.rows, key=lambda row: row[f"val/{self.best}"])
        last = self.rows[-1]
        rows = [[name, _shown(best[name]), _shown(last[name])] for name in last
                if name.startswith(("train/", "val/")) and name != "train/lr"]
        lines = [markdown_table(["Metric", f"Best (epoch {best['epoch']})", f"Last (epoch {last['epoch']})"], rows), "",
                 f"* **Training time:** {last['seconds'] / 60:.1f} min, {last['step']} steps"]
        if state is not None and getattr(state, "micro_split", 1) > 1:
            lines.append(f"* **Memory:** ran out; micro-batches go in {state.micro_split} pieces")
        if state is not None and (getattr(state, "bad_steps", 0) or getattr(state, "skipped_steps", 0)):
            lines.append(f"* **Steps left out:** {state.bad_steps} not finite, {state.skipped_steps} by the loss scaler")
        lines.append("* **Files:** [best.pt](best.pt), [last.pt](last.pt), [metrics.jsonl](metrics.jsonl), "
                     "[per_image.jsonl](per_image.jsonl), [TensorBoard](tensorboard/)")
        return "\n".join(lines)

    def _write_rows(self) -> None:
        write_jsonl(self.folder / "metrics.jsonl", self.rows)


def _shown(value: float | int) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def run_folder(task: str, args) -> Path:
    if args.resume and args.resume != "auto":
        folder = Path(args.resume).parent
        if args.output_dir and args.output_dir.resolve() != folder.resolve():
            raise DataError(f"{args.resume}: a run goes on in its own folder, not in {args.output_dir}; --init-from starts "
                            "a new run from its weights")
        return folder
    if args.output_dir:
        return args.output_dir
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise DataError("torchrun --max-restarts needs --output-dir: ranks that start again must find their run")
    return Path("runs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def newest_checkpoint(folder: Path, task: str) -> dict | None:
    """last.pt, or where it is damaged best.pt, which holds a whole state too; None where there is neither."""
    for name, otherwise in (("last.pt", "best.pt"), ("best.pt", None)):
        if (folder / name).is_file():
            try:
                return load_checkpoint(folder / name, task)
            except DataError as error:
                if not otherwise or not (folder / otherwise).is_file():
                    raise
                print(f"warning: {error}; going on from {otherwise}", file=sys.stderr)
    return None


def holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in RUN_FILES)


def clear_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in (*RUN_FILES, "per_image.jsonl", "micro_split.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("bad_batch_*.pt"):
        path.unlink()
    for name in ("tensorboard", "ultralytics"):
        shutil.rmtree(folder / name, ignore_errors=True)


def read_jsonl(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def report_test(args, scores: dict, per_image: list[dict]) -> None:
    """--test-only: test_metrics.json and test_per_image.jsonl, and the scores as the last line on stdout."""
    folder = args.output_dir or args.weights.parent
    write_json(folder / "test_metrics.json", scores)
    write_jsonl(folder / "test_per_image.jsonl", per_image)
    sys.stdout.flush()
    print(json.dumps(scores, ensure_ascii=False), flush=True)


def device_name(device: str) -> str:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} visible"
    return f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores"


def timed(function, *arguments) -> tuple[Any, float]:
    """(result, seconds) of a call."""
    begun = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begun
