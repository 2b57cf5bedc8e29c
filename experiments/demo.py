"""The whole of docmarks in one folder: documents are made, read by the models that come with it, and a moment of
training on top of each shows what changes.

    python -m experiments.demo --out demo
    python -m experiments.demo --out /tmp/demo --quick

The fine-tuning sees a hundred made pages for about a minute: the scores before and after it are on made pages that no
model has seen, of the same kind. What the models reach on real pages stands in RESULTS.md.
"""

import html
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.reader import WEIGHTS
from utils.args import new_parser
from utils.errors import DataError, exit_cleanly
from utils.files import replace_file
from utils.weights import LANGUAGE

ROOT = Path(__file__).resolve().parent.parent
MARK = ".docmarks-demo"  # tells a demo's folder, whose data and runs are made anew, from anybody else's


@dataclass
class Training:
    """One script, the metrics to show, what fits its shipped weights, and its flags for the demo and for --quick."""

    task: str
    metrics: tuple[str, ...]
    model: str
    flags: str
    quick: str

    @property
    def script(self) -> str:
        return f"train_{self.task}.py"

    @property
    def start(self) -> tuple[str, Path]:
        return ("--model" if self.task == "yolo" else "--init-from", WEIGHTS / f"{self.task}.pt")


TRAININGS = (
    Training("detection", ("hmean", "precision", "recall"),
             "--pyramid-channels 128 --encoder-weights none --test-long-side 960",
             "--epochs 2 --limit-batches 24 --batch-size 4 --img-height 512 --img-width 512 --scale-range 0.7 1.3 "
             "--rotate 3 --flip 0 --lr 5e-4 --scheduler cosine --ema-decay 0.9 --use-amp --channels-last",
             "--epochs 1 --limit-batches 2 --batch-size 2 --img-height 256 --img-width 256"),
    Training("recognition", ("exact", "ned", "cer"),
             "--arch parseq-ti --stem resnet --depth 4 --ctc-weight 1 --decoder-weight 0 --img-width 512 "
             "--max-label-length 60",
             "--epochs 2 --limit-batches 20 --batch-size 32 --lr 2e-4 --scheduler cosine --ema-decay 0.9 --use-amp "
             "--channels-last --max-bad-fraction 0.05",
             "--epochs 1 --limit-batches 2 --batch-size 8 --max-bad-fraction 0.05"),
    Training("segmentation", ("f1", "iou", "precision", "recall"),
             "--encoder tu-resnet18 --encoder-depth 4 --decoder-channels 128,64,32,16 --encoder-weights none",
             "--epochs 2 --limit-batches 40 --resize crop --img-height 256 --img-width 256 --batch-size 4 --lr 5e-4 "
             "--scheduler cosine --ema-decay 0.9 --use-amp --channels-last",
             "--epochs 1 --limit-batches 2 --img-height 256 --img-width 256 --batch-size 2 --no-preflight"),
    Training("yolo", ("map50", "map50_95", "precision", "recall"), "",
             "--epochs 2 --batch-size 8 --img-size 512 --lr0 0.0005 --optimizer adamw --warmup-epochs 0 --freeze 0 "
             "--use-amp",
             "--epochs 1 --batch-size 4 --img-size 160 --freeze 0"),
)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"),
                        help="folder to fill: new, empty, or an earlier demo's, which is replaced (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a step or two of everything, to see that it runs")
    args = parser.parse_args(argv)
    begun, out = time.perf_counter(), args.out.resolve()
    mark_as_own(out)
    pages = 12 if args.quick else 120
    heading(f"1 of 7  {pages} made documents, with the truth of all four tasks")
    python("-m", "datasets.synthetic", "--out", out / "data", "--pages", pages, "--seed", 7, "--size", "700x1000",
           "--splits", "0.8,0.1,0.1", "--overwrite")
    heading("2 of 7  inference.py reads pages with the models that come with docmarks")
    documents = gather_documents(out, 2 if args.quick else 8)
    python("inference.py", "--source", documents, "--output", out / "results", "--report")
    scores = {}
    for number, training in enumerate(TRAININGS, start=3):
        heading(f"{number} of 7  {training.script}: a moment of training on top")
        scores[training.task] = fine_tune(training, out, args.quick)
    heading("7 of 7  the same pages, read by the models as fine-tuned")
    for task in scores:  # where inference.py finds them by itself, with --weights-dir
        replace_file(out / "weights" / f"{task}.pt", (out / "runs" / task / "best.pt").read_bytes())
    replace_file(out / "weights" / LANGUAGE, (WEIGHTS / LANGUAGE).read_bytes())
    python("inference.py", "--source", documents, "--output", out / "results_tuned", "--weights-dir", out / "weights",
           "--report", "--no-overlays")
    write_index(out, scores)
    print(f"\nThe demo took {(time.perf_counter() - begun) / 60:.1f} minutes. Curves: "
          f"{Path(sys.executable).parent / 'tensorboard'} --logdir {args.out / 'runs'}")
    print("Read pages of your own: .venv/bin/python inference.py --source FOLDER --output results/ --report")
    print(f"Open this first: {args.out / 'index.html'}")


def mark_as_own(out: Path) -> None:
    """Raises DataError where `out` is a file, or holds something and no demo has marked it."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise DataError(f"{out}: is not empty, and no demo made it (it holds no {MARK}); name another --out, or remove the "
                        "folder if nothing in it is yours")
    replace_file(out / MARK, "Made by python -m experiments.demo, which replaces what lies here when it runs again.\n")


def heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def python(*words, capture: bool = False) -> str:
    """Run this Python from the project's folder; what it prints is shown, and with `capture` its stdout returned."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE if capture else None, text=True,
                          env=os.environ | {"PYTHONUNBUFFERED": "1"})
    if done.returncode:
        raise DataError(f"{' '.join(command[1:3])} ended with status {done.returncode}: its own message stands above")
    return done.stdout or ""


def fine_tune(training: Training, out: Path, quick: bool) -> tuple[dict, dict]:
    """Scores on the test split of the shipped weights, and after the training on top of them."""
    folder, data = out / "runs" / training.task, ["--data-dir", out / "data" / training.task]
    before = test(training, WEIGHTS / f"{training.task}.pt", out / "shipped" / training.task, data)
    python(training.script, *data, *training.model.split(), *training.start,
           *(training.quick if quick else training.flags).split(), "--output-dir", folder, "--overwrite", "--notes",
           "A moment of training in the demo, on top of the shipped weights.")
    after = test(training, folder / "best.pt", folder, data)
    print("test: " + ", ".join(f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in training.metrics))
    return before, after


def test(training: Training, weights: Path, folder: Path, data: list) -> dict:
    said = python(training.script, "--test-only", "--weights", weights, *data, "--max-bad-fraction", 1, "--output-dir",
                  folder, capture=True)
    return json.loads(said.strip().splitlines()[-1])


def gather_documents(out: Path, count: int) -> Path:
    """Test pages as images, and the first two once more as one PDF."""
    folder = out / "documents"
    folder.mkdir(exist_ok=True)
    pages = sorted((out / "data" / "detection" / "test" / "images").iterdir())[:count]
    for page in pages:
        replace_file(folder / page.name, page.read_bytes())
    first, *others = [Image.open(page).convert("RGB") for page in pages[:2]]
    first.save(folder / "two_pages.pdf", save_all=True, append_images=others, resolution=100)
    return folder


def write_index(out: Path, scores: dict[str, tuple[dict, dict]]) -> None:
    """index.html: the pages as read, a table of scores, and links to everything else."""
    rows = "".join(
        f"<tr><td><a href='runs/{t.task}/card.md'>{t.task}</a></td><td>{name}</td>"
        + "".join(f"<td>{score[name]:.3f}</td>" for score in scores[t.task]) + "</tr>"
        for t in TRAININGS for name in t.metrics[:1])
    pictures = "".join(
        f"<figure><a href='{quoted(path, out)}'><img loading=lazy src='{quoted(path, out)}'></a><figcaption>"
        f"{html.escape(path.stem)}</figcaption></figure>" for path in sorted((out / "results").rglob("*_overlay.jpg")))
    replace_file(out / "index.html", f"""<!doctype html><meta charset=utf-8><title>docmarks demo</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #ccc;padding:.3rem 1.5rem .3rem 0;text-align:left}}
figure{{margin:1.5rem 0}}img{{width:100%;border:1px solid #ccc}}figcaption{{color:#666;font-size:.9rem}}</style>
<h1>docmarks demo</h1>
<p>The models that come with docmarks read made pages that they have not seen:
<a href='results/index.html'>the pages, their text to be searched, layers to be switched</a>. Then each was trained on a
hundred more such pages for a moment: <a href='results_tuned/index.html'>the same pages, read by those</a>.</p>
<h2>Scores on made test pages, and the experiment cards</h2>
<table><tr><th>Task</th><th>Metric</th><th>As shipped</th><th>Fine-tuned</th></tr>{rows}</table>
<p>Curves: <code>.venv/bin/tensorboard --logdir {html.escape(out.name)}/runs</code></p>
<h2>Pages as read by the shipped models</h2>{pictures}
""")


def quoted(path: Path, out: Path) -> str:
    from urllib.parse import quote
    return quote(path.relative_to(out).as_posix())


if __name__ == "__main__":
    exit_cleanly(main)
