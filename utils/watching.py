"""What looks on while a training runs: the monitor always, torch's profiler and the debug session where asked for."""

from pathlib import Path

import numpy as np

from utils import debugging
from utils.monitor import Monitor, ResourceReader
from utils.step_profiler import StepProfiler


class Watch:
    """args: the run's flags; folder: the run's; writer: its SummaryWriter; facts: those of its card,
    to which the debug session is added."""

    def __init__(self, args, folder: Path, writer, facts: dict[str, str]):
        self.session = debugging.current
        self.monitor = Monitor(ResourceReader(args.device, folder).read, writer.add_scalar)
        self.profiler = None
        if getattr(args, "profile", None):
            folders = [folder / "profiler_traces"]
            folders += [self.session.artifacts["profiler_traces"]] if self.session else []
            self.profiler = StepProfiler.from_flag(args.profile, folders)
            self.profiler.begin()
        if self.session:
            facts["Debug session"] = str(self.session.folder)
        debugging.record("run", f"run folder {folder}", run=str(folder), facts=facts)

    def step(self, step: int, images: int, seconds: float, waited: float, window: list[dict]) -> None:
        """After step number `step` of `seconds`, of which `waited` went by without data. window: what was learnt from."""
        self.monitor.count_step(step, images, seconds, waited)
        if self.profiler:
            self.profiler.step()
        if self.session:
            self.session.save_window(window, step)

    def epoch(self, row: dict, per_image: list[dict]) -> dict[str, float]:
        """Add the epoch's perf/... to its row of metrics.jsonl."""
        row |= self.monitor.finish_epoch()
        debugging.record("epoch", epoch=row["epoch"], step=row["step"], metrics=row)
        if self.session:
            self.session.save_rows(per_image, row["step"])
        return row

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """image: (H, W, 3) uint8 RGB that goes to TensorBoard."""
        if self.session:
            self.session.save_image(tag, image, step)

    def close(self) -> None:
        self.monitor.close()
        if self.profiler:
            self.profiler.close()
