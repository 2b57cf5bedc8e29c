"""What a run asks of its machine, measured beside it: processor, memory, GPU, disk and throughput.

A thread looks every few seconds; a step costs the training an addition or two (python -m benchmarks.monitors). Writes
points to TensorBoard, and for each epoch the means and peaks that become part of its row in metrics.jsonl.
"""

import contextlib
import threading
import time
from pathlib import Path

import psutil
import torch

from utils.distributed import device_names

NOTHING = (0, 0.0, 0.0)
GB, MB = 1024**3, 1024**2
INTERVAL = 5.0  # seconds between looks
PEAKS = {"perf/memory_gb", "perf/gpu_memory_gb", "perf/gpu_memory_share"}  # over an epoch the highest, else the mean


class ResourceReader:
    """One look at the machine. device: as --device has it; folder: whose disk's free space is told."""

    def __init__(self, device: str, folder: Path):
        self.folder, self.process = folder, psutil.Process()
        self.device = torch.device(device_names(device)[0])  # rank 0's, which is the one that looks
        self.utilisation = self.device.type == "cuda"
        self.disk, self.at = psutil.disk_io_counters(), time.perf_counter()
        psutil.cpu_percent()  # what it tells is the time since it was last asked

    def read(self) -> dict[str, float]:
        """perf/... values; what this machine does not tell is left out.

        cpu_percent of all cores of the machine; memory_gb resident in this process and its workers (memory that they
        share is counted in each); GPU memory in use on the device, other programs' included.
        """
        values = {"perf/cpu_percent": psutil.cpu_percent(), "perf/memory_gb": self._memory() / GB,
                  "perf/disk_free_gb": psutil.disk_usage(str(self.folder)).free / GB}
        disk, now = psutil.disk_io_counters(), time.perf_counter()
        if disk and self.disk and now > self.at:
            seconds = now - self.at
            values |= {"perf/disk_read_mb_s": (disk.read_bytes - self.disk.read_bytes) / MB / seconds,
                       "perf/disk_write_mb_s": (disk.write_bytes - self.disk.write_bytes) / MB / seconds}
        self.disk, self.at = disk, now
        return values | (self._gpu() if self.device.type == "cuda" else {})

    def _memory(self) -> int:
        total = self.process.memory_info().rss
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended since
                total += child.memory_info().rss
        return total

    def _gpu(self) -> dict[str, float]:
        free, whole = torch.cuda.mem_get_info(self.device)
        values = {"perf/gpu_memory_gb": (whole - free) / GB, "perf/gpu_memory_share": (whole - free) / whole}
        if self.utilisation:
            try:
                values["perf/gpu_percent"] = float(torch.cuda.utilization(self.device))
            except Exception:  # without NVIDIA's library, or where the driver does not tell, in as many ways as versions
                self.utilisation = False
        return values


class Monitor:
    """The thread. add_scalar(name, value, step) receives points at the step that count_step() was last told."""

    def __init__(self, read, add_scalar, interval: float = INTERVAL):
        self.read, self.add_scalar, self.interval = read, add_scalar, interval
        self.step, self.seconds_of_work = 0, 0.0  # the latter: what the looks have cost, in the thread's processor time
        self.samples: list[dict[str, float]] = []
        # images, seconds of training and of waiting for data: of this epoch, and when the thread last looked
        self.counts, self.seen = NOTHING, NOTHING
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self.thread.start()

    def count_step(self, step: int, images: int, seconds: float, waited: float) -> None:
        """A step of `seconds`, of which the first `waited` went by without data."""
        all_images, all_seconds, all_waited = self.counts
        self.counts = (all_images + images, all_seconds + seconds, all_waited + waited)
        self.step = step

    def finish_epoch(self) -> dict[str, float]:
        """perf/... of the steps since the last call: rates over the time of training, means and peaks of the looks."""
        self._look()
        with self.lock:
            samples, counts = self.samples, self.counts
            self.samples, self.counts, self.seen = [], NOTHING, NOTHING
        summary = rates(counts)
        for name in sorted({name for sample in samples for name in sample}):
            values = [sample[name] for sample in samples if name in sample]
            summary[name] = max(values) if name in PEAKS else sum(values) / len(values)
        return summary

    def close(self) -> None:
        self.ended.set()
        self.thread.join(timeout=10)

    def _watch(self) -> None:
        while not self.ended.wait(self.interval):
            begun = time.thread_time()
            self._look()
            self.seconds_of_work += time.thread_time() - begun

    def _look(self) -> None:
        with self.lock:
            try:
                sample = self.read()
            except (psutil.Error, OSError, RuntimeError):  # a machine that hides something is no reason to end a training
                return
            self.samples.append(sample)
            counts = self.counts
            shown = sample | rates(tuple(now - before for now, before in zip(counts, self.seen)))
            self.seen = counts
        for name, value in shown.items():
            if name != "perf/images_per_s":  # the loop writes that itself
                self.add_scalar(name, value, self.step)


def rates(counts: tuple) -> dict[str, float]:
    """Of (images, seconds, seconds of waiting); empty where no time went by."""
    images, seconds, waited = counts
    if seconds <= 0:
        return {}
    return {"perf/images_per_s": images / seconds, "perf/data_wait_share": min(waited / seconds, 1.0)}
