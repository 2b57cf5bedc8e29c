"""The run folder: last.pt, best.pt, args.json, metrics.jsonl, per_image.jsonl, card.md and tensorboard/."""

import contextlib
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterable

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils import debugging
from utils.args import command_line, plain_args
from utils.boards import curve_chart, log_hparams
from utils.cards import (check_plan, configuration_block, findings_block, git_state, link, results_block, start_card,
                         update_card)
from utils.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from utils.distributed import any_rank, barrier, from_rank_zero, restart_count
from utils.errors import DataError, explain
from utils.files import read_json, read_jsonl, read_object, replace_file, write_json
from utils.findings import find_all
from utils.lineage import base_of, flags_off
from utils.recorded import LOSS_OF, Recorded
from utils.resume import changed_flags
from utils.run_folder import clear_run, holds_run, refuse_used, run_folder, write_jsonl
from utils.schedules import describe_schedule, simulated_steps
from utils.signals import StopRequest
from utils.system_info import device_name
from utils.watching import Watch

BAD_BATCHES_KEPT = 3
# What a model that works reaches on samples that it learns by heart (--overfit).
LEARNT = {"detection": ("hmean", 0.95), "recognition": ("exact", 0.99), "segmentation": ("f1", 0.95),
          "yolo": ("map50", 0.9)}
# By which runs are sorted in TensorBoard's table.
MAIN_SCORES = {"detection": ("hmean", "precision", "recall"), "recognition": ("exact", "exact_folded", "ned", "cer"),
               "segmentation": ("f1", "iou", "precision", "recall"), "yolo": ("map50_95", "map50", "precision", "recall")}
PICTURE_SETS = 20  # in a run, at most and about
CHANGED = "Changed on the way"
FACTS_KEPT = ("Weights", CHANGED)  # when a run is resumed


class Run:
    """Keeps one run's folder up to date; every rank makes one, and only rank 0 writes.

    task: names the template, the default folder and the checkpoint. best: the validation metric, higher is better, that
    best.pt and patience follow. facts: what is worth a line on the card (data fingerprint, encoder weights, ...).
    numbers: plain values of the whole run that utils.findings asks for. tell: lines of markdown about the rows of
    per_image.jsonl, for the card. config, world: of the network, and how many processes train it; a stopped run that was
    another's is refused before anything is written.
    """

    def __init__(self, task: str, args, rank: int, *, best: str, defaults: dict[str, Any], facts: dict[str, str],
                 numbers: dict[str, Any] | None = None, tell: Callable[[list[dict]], list[str]] | None = None,
                 config: dict[str, Any] | None = None, world: int = 1):
        self.task, self.args, self.rank, self.best, self.facts = task, args, rank, best, facts
        self.defaults, self.numbers = defaults, {"cpus": os.cpu_count() or 1} | (numbers or {})
        self.tell = tell
        self.per_image: list[dict] = []  # of the best epoch
        self.warned: set[str] = set()
        self.folder = Path(from_rank_zero(str(run_folder(task, args))))
        if args.overfit:
            self.facts["Overfit check"] = (f"the first {args.overfit} training samples, without augmentation and "
                                           "dropout; the scores are those of these same samples")
        if getattr(args, "hypothesis", None):
            self.facts["Hypothesis"] = args.hypothesis
        self.rows: list[dict] = []
        self.watch: Watch | None = None  # while it trains, on rank 0
        self.stop_request = StopRequest()
        self.checkpoint = self._find_checkpoint()
        self.changed = (changed_flags(self.folder, self.checkpoint, config or {}, plain_args(args), world)
                        if self.checkpoint else "")
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
        for flag in ("card", "from_run", "init_from"):  # a resumed run keeps its card and its parents without being told again
            if self.checkpoint and not getattr(self.args, flag, None) and self.checkpoint["args"].get(flag):
                setattr(self.args, flag, Path(self.checkpoint["args"][flag]))
        self.card = Path(getattr(self.args, "card", None) or self.folder / "card.md")
        if getattr(self.args, "card", None):
            check_plan(self.card, self.task, may_hold_run=bool(self.checkpoint) or self.args.overwrite)
        refuse_used(self.folder, self.resumes or self.args.overwrite)
        if not self.resumes and holds_run(self.folder):
            clear_run(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made ({error.strerror})") from None
        if self.checkpoint:
            self.rows = [row for row in read_jsonl(self.folder / "metrics.jsonl")
                         if row["epoch"] <= self.checkpoint["progress"]["epoch"]]
            self._write_rows()
            self.per_image = read_jsonl(self.folder / "per_image.jsonl")
        write_json(self.folder / "args.json", plain_args(self.args))
        if self.card != self.folder / "card.md":
            replace_file(self.folder / "card.md", "The card of this run is "
                         f"{link(self.card, self.folder / 'card.md')}.\n")
        elif not self.card.is_file():
            start_card(self.card, self.task, f"{self.task} {self.folder.name}", self.args.notes)
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        self.git, self.base = git_state(), base_of(self.args, self.card, self.defaults)
        self.commands = [command_line()]
        if self.checkpoint:
            self._take_over(self.checkpoint.get("data", {}))
        log_hparams(self.writer, self.args, MAIN_SCORES[self.task])
        self.update_card("Running")
        print(f"run folder: {self.folder}; card: {self.card}")

    def _take_over(self, facts: dict[str, str]) -> None:
        """What holds for all of a resumed run, from its first part."""
        self.facts |= {name: facts[name] for name in FACTS_KEPT if name in facts}
        path = self.folder / "facts.json"
        if path.is_file():
            earlier = read_object(path).get("commands") or []
            self.commands = [command for command in earlier if command not in self.commands] + self.commands

    @contextlib.contextmanager
    def recording(self, state):
        """The training itself: restores a resumed state, and writes on the card how it ended."""
        if self.checkpoint:
            self._restore(state)
        state.micro_split = max(state.micro_split, self._kept_micro_split())
        self._show_schedule(state)
        if self.rank == 0:
            self.watch = Watch(self.args, self.folder, self.writer, self.facts)
        try:
            yield
        except SystemExit:
            raise
        except BaseException as error:
            self.fail(explain(error) or str(error) or type(error).__name__)
            raise
        self.finish(state)

    def _restore(self, state) -> None:
        if self.changed and self.rank == 0:
            print(f"warning: flags changed since the run was stopped: {self.changed}")
            since = f"from step {self.checkpoint['progress']['step']} on {self.changed}"
            self.facts[CHANGED] = "; ".join(filter(None, [self.facts.get(CHANGED), since]))
        state.load_state_dict(self.checkpoint)
        if self.rank == 0:
            print(f"resumed in {self.folder}: {state.epoch} epochs and {state.step} steps are done")

    def _show_schedule(self, state) -> None:
        """The rates that the rest of the run will see: a line, and a curve in TensorBoard before the first step."""
        if self.rank == 0 and (schedule := getattr(state, "schedule", None)):  # ultralytics keeps YOLO's to itself
            print(describe_schedule(schedule, self.args.lr, state.total_steps))
            for step in simulated_steps(state.total_steps):
                if step >= state.step:
                    self.writer.add_scalar("schedule/lr", self.args.lr * schedule(step), step)
            self.writer.flush()

    def log_step(self, state, values: dict[str, float], extras: dict[str, float]) -> None:
        """Called by the loop for each step taken; every --log-every steps it becomes a point in TensorBoard."""
        if self.watch:
            self.watch.step(state.step, extras["images"], extras["seconds"], extras["data_wait"], extras["window"])
        if not self.writer or state.step % self.args.log_every:
            return
        for name, value in values.items():
            if name != "weight":
                self.writer.add_scalar(f"train/{name}", value, state.step)
        self.writer.add_scalar("train/lr", self.args.lr * state.schedule(state.step - 1), state.step)
        self.writer.add_scalar("train/grad_norm", extras["grad_norm"], state.step)
        self.writer.add_scalar("perf/images_per_s", extras["images_per_s"], state.step)
        self.writer.add_scalar("perf/data_wait", extras["data_wait"], state.step)

    def wants_pause(self, state) -> bool:
        """The same on every rank: whether a signal asks to stop, or a save within the epoch is due, after the step that
        the loop has just asked for."""
        self.stopping = any_rank(self.stop_request.number is not None)
        every = self.args.save_every_steps
        return self.stopping or bool(every and (state.step + 1) % every == 0)

    def pause(self, state) -> None:
        """Save, the outcome of every step being known; leave where a signal asked for it."""
        self.save(state, "last.pt")
        if self.stopping:
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
        kept = read_json(path) if self.resumes and path.is_file() else 1
        if not isinstance(kept, int) or kept < 1:
            raise DataError(f"{path}: holds no number of pieces; remove it")
        return kept

    def leave(self, state, lost: str = "") -> None:
        """End the process after a signal, the state having been saved; lost: what was not, in words."""
        if self.rank == 0:
            number = self.stop_request.number
            by = f" by {signal.Signals(number).name}" if number else ", because another rank was told to"
            self.update_card(f"Stopped{by} at epoch {state.epoch + 1}, step {state.step}", state)
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

        scores: numbers, and "curve" where the evaluation swept a threshold: rows of (threshold, precision, recall, f1).
        seconds: what the evaluation took; it counts as training time.
        """
        state.seconds += seconds
        score = scores[self.best]
        is_best = state.best_score is None or score > state.best_score
        if is_best:
            state.best_score, state.best_epoch = score, state.epoch
        loss = f"val/{LOSS_OF[self.task]}"
        row = {"epoch": state.epoch, "step": state.step} | {f"train/{k}": v for k, v in train.items()} | {
            f"val/{k}": v for k, v in scores.items() if isinstance(v, (int, float)) and math.isfinite(v)} | {
            "train/lr": state.optimizer.param_groups[0]["lr"], "seconds": state.seconds}
        self.rows.append(self.watch.epoch(row, per_image) if self.watch else row)
        self.per_image = per_image if is_best or not score else self.per_image  # of equal zeros the newest says most
        if self.rank == 0:
            self._write_rows()
            for name, value in row.items():
                if name.startswith("val/"):
                    self.writer.add_scalar(name, value, state.step)
            if scores.get("curve") and self.wants_pictures(state.epoch):
                self.add_images("curves/threshold", curve_chart(scores["curve"]), state.step)
            self.writer.flush()
            if is_best:
                write_jsonl(self.folder / "per_image.jsonl", per_image)
                self.save(state, "best.pt")
            self.save(state, "last.pt")
            self.update_card("Running", state)
            floats = [f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float)]
            shown = ", ".join(floats[:4])  # the rest is on the card
            held = f", {loss} {row[loss]:.4f}" if loss in row else ""
            tqdm.write(f"epoch {state.epoch}/{self.args.epochs}: loss {train['loss']:.4f}{held}; {shown}"
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
            early = state.epoch < self.args.epochs
            self.update_card("Completed" + (f", stopped by --patience {self.args.patience} after epoch {state.epoch}"
                                            if early else ""), state)
            if self.rows:
                log_hparams(self.writer, self.args, MAIN_SCORES[self.task],
                            max(self.rows, key=lambda row: row[f"val/{self.best}"]) | {"seconds": state.seconds})
            for finding in find_all(self.recorded):
                print(f"finding: {finding}")
                debugging.record("finding", str(finding))
            print(f"best {self.best} {state.best_score:.4f} at epoch {state.best_epoch}; "
                  f"weights: {self.folder / 'best.pt'}; card: {self.card}")
        self.close()

    def fail(self, reason: str) -> None:
        """The run ended with an error; the card says which."""
        if self.rank == 0 and self.writer:
            self.update_card(f"Failed: {' '.join(reason.split())}")
        self.close()

    def close(self) -> None:
        if self.watch:
            self.watch.close()
            self.watch = None
        if self.writer:
            self.writer.close()
            self.writer = None

    def add_images(self, tag: str, image, step: int) -> None:
        """image: (H, W, 3) uint8 RGB for TensorBoard."""
        if self.writer:
            self.writer.add_image(tag, image, step, dataformats="HWC")
            if self.watch:
                self.watch.image(tag, image, step)

    def show(self, state, pictures: Callable[[], Iterable]) -> None:
        """Put samples into TensorBoard where they are due. pictures(): images (H, W, 3) uint8, made only then."""
        if self.wants_pictures(state.epoch):
            for number, image in enumerate(pictures(), start=1):
                self.add_images(f"samples/{number}", image, state.step)

    def wants_pictures(self, epoch: int) -> bool:
        """Whether pictures of samples are due after `epoch` epochs: the first, the last, and about 20 in a run."""
        every = max(self.args.epochs // PICTURE_SETS, 1)
        return self.writer is not None and (epoch in (1, self.args.epochs) or epoch % every == 0)

    @property
    def recorded(self) -> Recorded:
        return Recorded(self.task, self.best, plain_args(self.args), self.rows, self.per_image, self.numbers)

    def update_card(self, status: str, state=None) -> None:
        """Rewrite the run's blocks of the card, and facts.json, from which the card's findings can be found again."""
        base, flags = self.base
        facts = {"Commit": self.git, "Device": device_name(self.args.device),
                 "Versions": f"Python {platform.python_version()}, torch {torch.__version__}"} | self.facts
        write_json(self.folder / "facts.json", {"task": self.task, "best": self.best, "status": status, "facts": facts,
                                                "numbers": self.numbers, "commands": self.commands})
        elsewhere = {} if self.card.parent == self.folder else {"Run": link(self.folder, self.card)}
        blocks = {"status": f"* **Status:** {status}",
                  "configuration": configuration_block(flags_off(flags, self.args), base, self.commands,
                                                         elsewhere | facts),
                  "results": results_block(self.rows, self.best, self._remarks(state)),
                  "findings": findings_block(find_all(self.recorded))}
        try:
            missing = [f"its {name} block is gone" for name in update_card(self.card, blocks)]
        except FileNotFoundError:  # no reason to end a training
            missing = ["it is gone"]
        for what in set(missing) - self.warned:
            self.warned.add(what)
            tqdm.write(f"warning: {self.card}: {what} and is not written any more", file=sys.stderr)

    def _remarks(self, state) -> list[str]:
        """Lines below the table of results."""
        lines = self.tell(self.per_image) if self.tell else []
        if state is not None and getattr(state, "micro_split", 1) > 1:
            lines.append(f"* **Memory:** ran out; micro-batches go in {state.micro_split} pieces")
        if state is not None and (getattr(state, "bad_steps", 0) or getattr(state, "skipped_steps", 0)):
            lines.append(f"* **Steps left out:** {state.bad_steps} not finite, {state.skipped_steps} by the loss scaler")
        files = {name: name for name in ("best.pt", "last.pt", "metrics.jsonl", "per_image.jsonl")} | {
            "TensorBoard": "tensorboard"}
        there = [link(self.folder / name, self.card, shown) for shown, name in files.items()
                 if (self.folder / name).exists()]
        return [*lines, f"* **Files:** {', '.join(there)}"] if there else lines

    def _write_rows(self) -> None:
        write_jsonl(self.folder / "metrics.jsonl", self.rows)


def timed(function, *arguments) -> tuple[Any, float]:
    """(result, seconds) of a call."""
    begun = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begun
