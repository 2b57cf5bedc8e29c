"""How fast made pages and samples come, stage by stage, and whether a GPU would wait for them, all in one run.

    python -m benchmarks.data
    python -m benchmarks.data --pages 60 --seconds 30 --gpu-images-per-s detection=200 recognition=2500

Pages are made in a temporary folder and read from there, so from the page cache: a slow disk comes on top. Each task's
training dataset is that of its script at the script's defaults. Prints one JSON object, the report; progress goes to
stderr. samples_per_s is taken over whole rounds of the workers, once each has delivered a batch; cpu_ms_per_sample is
processor time of one process with one thread, "other" being what no stage holds.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, Iterator, NamedTuple
from unittest.mock import patch

import cv2
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

import datasets.detection
import datasets.recognition
import datasets.segmentation
import train_detection
import train_recognition
import train_segmentation
import train_yolo
from datasets import synthetic
from datasets.augment import DetectionAugmentation
from datasets.augment_segmentation import StrokeAugmentation
from datasets.pages.sheets import KINDS
from datasets.pages.source import SyntheticPages
from datasets.yolo import read_data_yaml, read_marks
from models.yolo import MarksTrainer, start_model
from models.yolo_preset import ultralytics_settings
from utils.allocator import keep_freed_memory
from utils.args import new_parser, positive_float, positive_int
from utils.charset import build_charset
from utils.dataloading import EpochBatches, default_collate, make_loader
from utils.errors import exit_cleanly

CPU = torch.device("cpu")
# An assumption, not a measurement: what training sustains on one GPU, a sixth of the 59.5 TFLOP/s that NVIDIA's GA102
# whitepaper gives for an RTX 3080 (dense float16, accumulated in float32).
GPU_TFLOPS = 10.0
# Forward pass of one image at each script's defaults, by torch.utils.flop_counter (a multiplication and an addition are
# two): resnet18-fpn at 640, PARSeq-S at 32 x 128 with 6 reading orders, MobileNetV3 U-Net at 1536, YOLO11s at 1024.
# The backward pass costs twice as much again.
FORWARD_GFLOPS = {"detection": 58.1, "recognition": 6.0, "segmentation": 220.4, "yolo": 55.3}
GPU_IMAGES_PER_S = {task: 1000 * GPU_TFLOPS / (3 * gflops) for task, gflops in FORWARD_GFLOPS.items()}


class Source(NamedTuple):
    """A task's training data: patches are (owner, name of a function, stage that its time belongs to)."""

    dataset: Dataset
    batches: EpochBatches
    collate: Callable[[list[dict]], dict]
    patches: list[tuple[object, str, str]]
    image_key: str = "image"


def detection(root: Path) -> Source:
    args, code = train_detection.parse_args([]), datasets.detection
    pages = code.read_split(root / "detection" / "train", 0.01)
    augment = DetectionAugmentation(args.img_height, args.img_width, tuple(args.scale_range), args.rotate, args.flip)
    dataset = code.DetectionDataset(pages, train_detection.page_size(args), args.seed, augment)
    return Source(dataset, EpochBatches(len(dataset), args.batch_size, args.seed), default_collate,
                  [(code, "load_image", "load"), (dataset, "augment", "transform"), (code, "apply_affine", "targets"),
                   (code, "make_targets", "targets"), (code, "to_tensor", "to_tensor")])


def recognition(root: Path) -> Source:
    """Lines longer than --max-label-length are left out, as training leaves them out."""
    args, code = train_recognition.parse_args([]), datasets.recognition
    crops = code.read_split(root / "recognition" / "train", 0.01)
    charset = build_charset(args.charset, ())
    config = train_recognition.config_of(args, charset.characters)
    kept = code.fit_labels("train", crops, charset, config.max_label_length).kept
    dataset = code.RecognitionDataset(kept, charset, config.img_height, config.img_width, config.bucket, args.seed,
                                      training=True)
    batches = code.WidthEpochBatches(dataset.widths_in, args.batch_size, args.seed)
    return Source(dataset, batches, dataset.collate,
                  [(code.Crop, "load", "load"), (code, "augment_crop", "transform"), (code, "resize_crop", "transform"),
                   (type(charset), "encode", "tokens")])


def segmentation(root: Path) -> Source:
    args, code = train_segmentation.parse_args([]), datasets.segmentation
    pages = code.read_split(root / "segmentation" / "train", 0.01)
    dataset = code.StrokeDataset(pages, args.img_height, args.img_width, args.resize, args.seed,
                                 StrokeAugmentation())
    return Source(dataset, EpochBatches(len(dataset), args.batch_size, args.seed), default_collate,
                  [(code, "load_image", "load"), (code.StrokePage, "truth", "load"), (code, "place", "transform"),
                   (dataset, "augment", "transform"), (code, "to_tensor", "to_tensor")])


def yolo(root: Path) -> Source:
    """ultralytics' pipeline as models.yolo sets it up: loading scales to the size of training, a mosaic loads four
    images, and the last of its transforms makes boxes and tensors at once. The mosaic is never closed here."""
    args = train_yolo.parse_args(["--data-dir", str(root / "yolo"), "--close-mosaic", "0"])
    data = read_data_yaml(args.data_dir)
    samples = read_marks(args, data, ("train",))
    model, _, _ = start_model("yolo11n", data.names)  # its stride is all that matters
    settings = ultralytics_settings(args, CPU, root / "run", data.file)
    dataset = MarksTrainer(model, samples, settings).build_dataset("train", batch=args.batch_size)
    steps = dataset.transforms.transforms
    steps[:] = [Step(step, "transform") for step in steps[:-1]] + [Step(steps[-1], "to_tensor")]
    return Source(dataset, EpochBatches(len(dataset), args.batch_size, args.seed), dataset.collate_fn,
                  [(dataset, "load_image", "load")] + [(step, "call", step.stage) for step in steps], "img")


class Step:
    """A transform whose call can be replaced on the instance; operators are looked up on the class."""

    def __init__(self, transform: Callable[[dict], dict], stage: str):
        self.call, self.stage = transform, stage

    def __call__(self, labels: dict) -> dict:
        return self.call(labels)


SOURCES = {"detection": detection, "recognition": recognition, "segmentation": segmentation, "yolo": yolo}


# measuring -----------------------------------------------------------------------------------------------------------


class Endless:
    """Epoch after epoch, so that a small set does not measure the gap between epochs."""

    def __init__(self, batches: EpochBatches):
        self.batches = batches

    def __iter__(self) -> Iterator[list]:
        for epoch in itertools.count():
            self.batches.set_position(epoch)
            yield from self.batches


class StageClock:
    """Processor time by stage. A stage inside another is not counted twice: each has only what is its own."""

    def __init__(self):
        self.seconds, self.stages, self.last = defaultdict(float), ["other"], time.process_time()

    def charge(self) -> None:
        now = time.process_time()
        self.seconds[self.stages[-1]] += now - self.last
        self.last = now

    def timed(self, function: Callable, stage: str) -> Callable:
        def run(*arguments, **named):
            self.charge()
            self.stages.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self.charge()
                self.stages.pop()
        return run


def stage_times(source: Source, seconds: float) -> dict[str, float]:
    """CPU milliseconds of a sample by stage, and their sum as "total", over whole batches for `seconds` at least."""
    keys, count, clock = iter(Endless(source.batches)), 0, StageClock()
    source.dataset[(0, 0)]  # first calls set things up
    with contextlib.ExitStack() as stack:
        for owner, name, stage in source.patches:
            stack.enter_context(patch.object(owner, name, clock.timed(getattr(owner, name), stage)))
        collate = clock.timed(source.collate, "collate")
        clock.last, begun = time.process_time(), time.perf_counter()
        while not count or time.perf_counter() - begun < seconds:
            batch = next(keys)
            collate([source.dataset[key] for key in batch])
            count += len(batch)
        clock.charge()
    times = {stage: 1000 * spent / count for stage, spent in clock.seconds.items()}
    return times | {"total": sum(times.values())}


def loader_rate(source: Source, workers: int, seconds: float) -> float:
    """Samples a second out of the shared loader, over whole rounds of its workers for `seconds` at least."""
    batches = iter(make_loader(source.dataset, Endless(source.batches), workers, CPU, collate=source.collate))
    for _ in range(workers):  # starting the workers is not measured
        next(batches)
    begun, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begun < seconds:
        count += sum(len(next(batches)[source.image_key]) for _ in range(workers))
    return count / (time.perf_counter() - begun)


def measure_task(source: Source, seconds: float, gpu: float) -> dict:
    rates = {workers: loader_rate(source, workers, seconds) for workers in (1, 2)}
    return {"n_samples": len(source.dataset), "batch_size": min(source.batches.batch_size, len(source.dataset)),
            "samples_per_s": {str(workers): rate for workers, rate in rates.items()},
            "second_worker_gains": rates[2] / rates[1], "cpu_ms_per_sample": stage_times(source, seconds),
            "assumed_gpu_images_per_s": gpu,
            "gpu_would_wait": {str(workers): rate < gpu for workers, rate in rates.items()},
            "workers_that_keep_up": math.ceil(gpu / rates[1])}  # given a core of this speed for each


def measure_generator(pages: int, root: Path, bar: tqdm) -> dict:
    """Pages a second in memory by kind, then through the command line's writer into `root`, all with one process."""
    each, rates = max(pages // len(KINDS), 1), {}
    for kind, number in ({kind: each for kind in KINDS} | {"mixed": pages}).items():
        bar.set_description(f"generator, {kind}")
        source = SyntheticPages(number + 1, 0, kind)
        source[number]  # loads the fonts
        begun = time.perf_counter()
        for index in range(number):
            source[index]
        rates[kind] = number / (time.perf_counter() - begun)
        bar.update()
    bar.set_description("generator, written")
    begun = time.perf_counter()
    synthetic.main(["--out", str(root), "--pages", str(pages), "--splits", "1,0,0"])
    written = pages / (time.perf_counter() - begun)
    bar.update()
    return {"pages_per_s_in_memory": rates, "pages_per_s_written": written,
            "written_over_in_memory": written / rates["mixed"],  # the very same pages
            "n_pages": pages, "size": [source.width, source.height]}


def task_rate(text: str) -> tuple[str, float]:
    task, _, value = text.partition("=")
    if task not in SOURCES:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=NUMBER, with a task of {' '.join(SOURCES)}")
    return task, positive_float(value)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--pages", type=positive_int, default=24, help="made and read (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=10.0,
                        help="least length of each of the 12 measurements of samples (default: %(default)s)")
    parser.add_argument("--gpu-images-per-s", type=task_rate, nargs="+", default=[], metavar="TASK=NUMBER",
                        help="what your GPU trains on (default: " + " ".join(
                            f"{task}={rate:.0f}" for task, rate in GPU_IMAGES_PER_S.items()) + ")")
    args = parser.parse_args(argv)
    gpu = GPU_IMAGES_PER_S | dict(args.gpu_images_per_s)
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    keep_freed_memory(CPU)
    report = {"cpu_cores": os.cpu_count(), "seconds": args.seconds}
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr),
          tqdm(total=len(KINDS) + 2 + len(SOURCES), disable=None) as bar):
        report["generator"] = measure_generator(args.pages, Path(folder), bar)
        report["tasks"] = {}
        for task, source_of in SOURCES.items():
            bar.set_description(task)
            report["tasks"][task] = measure_task(source_of(Path(folder)), args.seconds, gpu[task])
            bar.update()
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
