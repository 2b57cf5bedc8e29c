"""Pages a second and peak memory of inference.py, where its time goes, and RapidOCR on the same pages (docmarks).

    python -m benchmarks.inference --data-dir SROIE/test --weights-dir weights
    python -m benchmarks.inference --data-dir SROIE/test --rapidocr-python other/bin/python --pages 10 --processes 1

--data-dir holds images/ and labels/NAME.txt (ICDAR lines with texts). Each measurement is a whole process, its start
and the loading of models included, as a person waits for it. RapidOCR
(pip install rapidocr-onnxruntime) lives in an environment of its own, whose Python --rapidocr-python names. hmean is
ICDAR's at IoU 0.5; exact is the share of true lines found and read right, spaces and case ignored. Everything runs one
after the other on this machine. The last line on stdout is one JSON object.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from datasets.formats.icdar import read_labels
from models.reader import WEIGHTS, DocumentReader
from utils.args import new_parser, positive_int
from utils.documents import open_document
from utils.errors import DataError, exit_cleanly
from utils.images import list_images
from utils.metrics.end_to_end import count_page, end_to_end_scores
from utils.stages import Stages

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 0.05  # between two looks at the memory
UNREADABLE = {"###", "*"}
# Run by the other environment's Python: reads the images it is given, prints one JSON line.
RAPIDOCR = """
import json, sys, time
import cv2
from rapidocr_onnxruntime import RapidOCR
begun = time.perf_counter()
engine, pages = RapidOCR(), {}
loaded = time.perf_counter()
for path in sys.argv[1:]:
    found, _ = engine(cv2.imread(path))
    pages[path] = [[quad, text] for quad, text, *_ in found or []]
print(json.dumps({"pages": pages, "seconds": time.perf_counter() - loaded}))
"""
Found = dict[str, list[tuple[list, str]]]  # by file name: (polygon, text) of each line


def watched(command: list[str], output: Path) -> tuple[float, float]:
    """(seconds, peak of the resident memory of the process and its children together, in MB) of a command.

    Its output goes to the file `output`. Raises DataError where it ends badly.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    begun, peak = time.perf_counter(), 0
    with open(output, "w+", encoding="utf-8") as said:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, memory_of(process))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - begun
    if process.returncode:
        last = " ".join(output.read_text(encoding="utf-8", errors="replace").split())[-300:]
        raise DataError(f"{' '.join(command[:4])} ended with status {process.returncode}: {last}")
    return seconds, peak / 1e6


def memory_of(process: psutil.Process) -> int:
    """Resident bytes of a process and its children; what they share is counted for each."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.Error:  # it has just ended
                pass
    except psutil.Error:
        pass
    return total


def gather(images: list[Path], count: int, folder: Path) -> Path:
    """A folder of `count` pages, the images again and again under new names where there are fewer."""
    folder.mkdir()
    for number in range(count):
        image = images[number % len(images)]
        (folder / f"{number:05}_{image.name}").symlink_to(image.resolve())
    return folder


def run_ours(pages: Path, processes: int, weights: Path, flags: list[str], folder: Path) -> tuple[float, float, Found]:
    start = [sys.executable] if processes == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone",
                                                     "--nproc-per-node", str(processes)]
    seconds, memory = watched([*start, str(ROOT / "inference.py"), "--source", str(pages), "--output", str(folder),
                               "--weights-dir", str(weights.resolve()), "--tasks", "text", "--formats", "json",
                               "--no-overlays", *flags], folder.with_suffix(".log"))
    found = {}
    for path in folder.glob("*.json"):
        if path.name != "results.json":
            record = json.loads(path.read_text(encoding="utf-8"))
            found[record["source"]] = [(text["polygon"], text["text"] or "") for page in record["pages"]
                                       for text in page["text"]]
    return seconds, memory, found


def run_rapidocr(python: str, pages: Path, log: Path) -> dict:
    files = sorted(map(str, pages.iterdir()))
    seconds, memory = watched([python, "-c", RAPIDOCR, *files], log)
    said = json.loads(log.read_text(encoding="utf-8").strip().splitlines()[-1])
    found = {Path(path).name: [(quad, text) for quad, text in lines] for path, lines in said["pages"].items()}
    return {"pages": len(files), "seconds": seconds, "pages_per_s": len(files) / seconds,
            "pages_per_s_without_start": len(files) / said["seconds"], "peak_memory_mb": memory, "found": found}


def scores(found: Found, labels: Path) -> dict:
    """hmean, precision, recall and exact over the pages of `found`; each page's label is named by its image."""
    rows = []
    for name, lines in found.items():
        polygons, texts = read_labels(labels / f"{Path(name).stem.partition('_')[2]}.txt")
        rows.append(count_page(polygons, texts, [text in UNREADABLE for text in texts], lines))
    return end_to_end_scores(rows)


def stage_split(images: list[Path], weights: Path, **how) -> dict[str, float]:
    """Milliseconds a page by stage, in this process and one page after the other. how: engine, int8, use_amp."""
    reader, decoding = DocumentReader(weights, ["text"], **how), Stages()
    reader.read(images[0])  # the first page sets things up
    reader.stages.seconds.clear()
    for image in images:
        with decoding.timed("decoding"):
            pages = list(open_document(image).pages)
        reader.read_pages(pages, [image.stem] * len(pages))
    return {stage: 1000 * spent / len(images) for stage, spent in (decoding.seconds | reader.stages.seconds).items()}


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with images/ and labels/")
    parser.add_argument("--weights-dir", type=Path, default=WEIGHTS, help="(default: %(default)s)")
    parser.add_argument("--pages", type=positive_int, nargs="+", default=[1, 10, 100], help="(default: 1 10 100)")
    parser.add_argument("--processes", type=positive_int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--rapidocr-python", metavar="PATH",
                        help="Python of an environment that has rapidocr_onnxruntime")
    parser.add_argument("--engine", default="auto", help="as inference.py takes it (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="as inference.py takes it")
    parser.add_argument("--use-amp", action="store_true", help="as inference.py takes it")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    images, labels = list_images(args.data_dir / "images"), args.data_dir / "labels"
    flags = ["--engine", args.engine] + ["--int8"] * args.int8 + ["--use-amp"] * args.use_amp
    if args.rapidocr_python and not shutil.which(args.rapidocr_python):
        raise DataError(f"--rapidocr-python {args.rapidocr_python}: no such program")
    report = {"cpu_cores": os.cpu_count(), "load_before": os.getloadavg()[0], "ours": [], "rapidocr": None}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for count in args.pages:
            pages = gather(images, count, folder / f"pages{count}")
            for processes in args.processes:
                seconds, memory, found = run_ours(pages, processes, args.weights_dir, flags,
                                                  folder / f"{count}x{processes}")
                row = {"pages": count, "processes": processes, "seconds": seconds, "pages_per_s": count / seconds,
                       "peak_memory_mb": memory} | scores(found, labels)
                report["ours"].append(row)
                print(f"ours, {processes} processes, {count} pages: {row['pages_per_s']:.3f} pages/s, {memory:.0f} MB, "
                      f"hmean {row['hmean']:.4f}, exact {row['exact']:.4f}", flush=True)
        most = folder / f"pages{max(args.pages)}"
        if args.rapidocr_python:
            row = run_rapidocr(args.rapidocr_python, most, folder / "rapidocr.log")
            found = row.pop("found")
            report["rapidocr"] = row | scores(found, labels)
            ours = max((r["pages_per_s"] for r in report["ours"] if r["pages"] == max(args.pages)))
            report["times_rapidocr"] = ours / row["pages_per_s"]
            print(f"RapidOCR, {row['pages']} pages: {row['pages_per_s']:.3f} pages/s, {row['peak_memory_mb']:.0f} MB, "
                  f"hmean {report['rapidocr']['hmean']:.4f}, exact {report['rapidocr']['exact']:.4f}; ours is "
                  f"{report['times_rapidocr']:.2f} times as fast")
    report["stages_ms_per_page"] = stage_split(images[: min(max(args.pages), 10)], args.weights_dir,
                                               engine=args.engine, int8=args.int8, use_amp=args.use_amp)
    report["load_after"] = os.getloadavg()[0]
    print("a page, ms: " + ", ".join(f"{stage} {spent:.0f}" for stage, spent in report["stages_ms_per_page"].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
