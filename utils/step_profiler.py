"""--profile START:STEPS: torch's profiler over a few steps of a training."""

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from utils.files import replace_file, write_replacing

ROWS = 30  # of the table of operators


class StepProfiler:
    """Records `steps` steps after the first `start` of this process, and writes a trace for chrome://tracing or
    ui.perfetto.dev and a table of operators into each of `folders`, once.

    step() is called after each step, begin() before the first, close() at the end of the training.
    """

    def __init__(self, start: int, steps: int, folders: list[Path]):
        self.start, self.steps, self.folders, self.done = start, steps, folders, 0
        self.profile: profile | None = None

    @classmethod
    def from_flag(cls, text: str, folders: list[Path]) -> "StepProfiler":
        """text: START:STEPS."""
        start, steps = map(int, text.split(":"))
        return cls(start, steps, folders)

    def begin(self) -> None:
        if self.done == self.start:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self.profile = profile(activities=activities, record_shapes=True)
            self.profile.start()

    def step(self) -> None:
        self.done += 1
        if self.done == self.start + self.steps:
            self._write()
        elif self.profile is None:
            self.begin()

    def close(self) -> None:
        """A training that ended early gives the steps that it had."""
        if self.profile is not None:
            self._write()
        elif self.done < self.start + 1:
            print(f"warning: --profile {self.start}:{self.steps}: the training ended after {self.done} steps, and nothing "
                  "was recorded", file=sys.stderr)

    def _write(self) -> None:
        recorded, self.profile = self.profile, None
        recorded.stop()
        name = f"steps_{self.start + 1}_to_{self.done}"
        order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=ROWS)
        first = self.folders[0] / f"{name}.json"
        write_replacing(first, lambda temporary: recorded.export_chrome_trace(str(temporary)))  # can be done only once
        for folder in self.folders:
            replace_file(folder / f"{name}.txt", table + "\n")
            if folder != self.folders[0]:
                replace_file(folder / f"{name}.json", first.read_bytes())
        tqdm.write(f"profile of {self.done - self.start} steps: {first}")
