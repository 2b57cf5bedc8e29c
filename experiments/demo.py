"""The whole of docmarks in one folder: pages are made, four models trained for a moment, documents read.

    python -m experiments.demo --out demo
    python -m experiments.demo --out /tmp/demo --quick

The models have seen a few hundred made pages for a minute or two each: what they get right and wrong shows how the
pieces fit together, not what they can reach.
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

from utils.args import new_parser
from utils.errors import DataError, exit_cleanly
from utils.files import replace_file

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Training:
    """One script with its flags for the demo and for --quick, and the metric to show."""

    task: str
    metrics: tuple[str, ...]
    flags: str
    quick: str

    @property
    def script(self) -> str:
        return f"train_{self.task}.py"


TRAININGS = (
    Training("detection", ("hmean", "precision", "recall"),
             "--epochs 6 --limit-batches 24 --batch-size 4 --img-height 512 --img-width 512 --test-long-side 960 "
             "--pyramid-channels 128 --scale-range 0.7 1.3 --rotate 3 --flip 0 --lr 2e-3 --scheduler onecycle "
             "--ema-decay 0.98 --use-amp --channels-last",
             "--epochs 1 --limit-batches 2 --batch-size 2 --img-height 256 --img-width 256 --test-long-side 960 "
             "--pyramid-channels 32"),
    Training("recognition", ("exact", "ned", "cer"),
             "--arch parseq-ti --stem conv --ctc-weight 1 --epochs 2 --limit-batches 15 --batch-size 32 --img-width 192 "
             "--perm-num 2 --lr 1e-3 --use-amp --max-bad-fraction 0.05",
             "--arch parseq-ti --stem conv --ctc-weight 1 --epochs 1 --limit-batches 2 --batch-size 8 --img-width 256 "
             "--perm-num 2 --max-bad-fraction 0.05"),
    Training("segmentation", ("f1", "iou", "precision", "recall"),
             "--epochs 2 --limit-batches 20 --resize crop --img-height 384 --img-width 384 --batch-size 4 --lr 2e-3 "
             "--scheduler onecycle --use-amp --channels-last",
             "--epochs 1 --limit-batches 2 --img-height 256 --img-width 256 --batch-size 2 --no-preflight"),
    Training("yolo", ("map50", "map50_95", "precision", "recall"),
             "--model yolo11n --epochs 4 --batch-size 8 --img-size 416 --lr0 0.002 --optimizer adamw",
             "--model yolo11n --epochs 1 --batch-size 4 --img-size 160"),
)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to fill (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a step or two of everything, to see that it runs")
    args = parser.parse_args(argv)
    begun, out = time.perf_counter(), args.out.resolve()
    if out.exists() and any(out.iterdir()) and not (out / "data").is_dir():
        raise DataError(f"{out}: holds something else than a demo; name another folder with --out")
    pages = 12 if args.quick else 120
    heading(f"1 of 6  {pages} made documents, with the truth of all four tasks")
    python("-m", "datasets.synthetic", "--out", out / "data", "--pages", pages, "--seed", 7, "--size", "700x1000",
           "--splits", "0.8,0.1,0.1", "--overwrite")
    scores = {}
    for number, training in enumerate(TRAININGS, start=2):
        heading(f"{number} of 6  {training.script}")
        scores[training.task] = train(training, out, args.quick)
    heading("6 of 6  inference.py reads pages that no model has seen")
    documents = gather_documents(out, 2 if args.quick else 8)
    for task in scores:  # where inference.py finds them by itself, with --weights-dir
        replace_file(out / "weights" / f"{task}.pt", (out / "runs" / task / "best.pt").read_bytes())
    python("inference.py", "--source", documents, "--output", out / "results", "--weights-dir", out / "weights")
    write_index(out, scores)
    print(f"\nThe demo took {(time.perf_counter() - begun) / 60:.1f} minutes. Curves: "
          f"{Path(sys.executable).parent / 'tensorboard'} --logdir {args.out / 'runs'}")
    print(f"Read pages of your own: .venv/bin/python inference.py --source FOLDER --output results/ "
          f"--weights-dir {args.out / 'weights'}")
    print(f"Open this first: {args.out / 'index.html'}")


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


def train(training: Training, out: Path, quick: bool) -> dict:
    """Train, then score the test split; returns the scores."""
    folder = out / "runs" / training.task
    data = ["--data-dir", out / "data" / training.task]
    python(training.script, *data, *(training.quick if quick else training.flags).split(), "--output-dir", folder,
           "--overwrite", "--notes", "A moment of training in the demo.")
    said = python(training.script, "--test-only", "--weights", folder / "best.pt", *data, "--max-bad-fraction", 1,
                  capture=True)
    scores = json.loads(said.strip().splitlines()[-1])
    print("test: " + ", ".join(f"{name} {scores[name]:.3f}" for name in training.metrics))
    return scores


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


def write_index(out: Path, scores: dict[str, dict]) -> None:
    """index.html: the pages as read, a table of scores, and links to everything else."""
    rows = "".join(
        f"<tr><td><a href='runs/{t.task}/card.md'>{t.task}</a></td><td>"
        + ", ".join(f"{name} {scores[t.task][name]:.3f}" for name in t.metrics) + "</td></tr>" for t in TRAININGS)
    pictures = "".join(
        f"<figure><a href='{quoted(path, out)}'><img loading=lazy src='{quoted(path, out)}'></a><figcaption>"
        f"{html.escape(path.stem)}</figcaption></figure>" for path in sorted((out / "results").rglob("*_overlay.jpg")))
    files = "".join(f"<li><a href='{quoted(path, out)}'>{html.escape(str(path.relative_to(out)))}</a></li>"
                    for path in sorted((out / "results").rglob("*.json"))
                    if ".docmarks" not in path.parts)
    replace_file(out / "index.html", f"""<!doctype html><meta charset=utf-8><title>docmarks demo</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #ccc;padding:.3rem 1rem .3rem 0;text-align:left}}
figure{{margin:1.5rem 0}}img{{width:100%;border:1px solid #ccc}}figcaption{{color:#666;font-size:.9rem}}</style>
<h1>docmarks demo</h1>
<p>Four small models, each trained for a minute or two on made documents, read pages that they have not seen. What is
wrong here says how little that is; the cards say what was done.</p>
<h2>Scores on the test pages, and the experiment cards</h2><table><tr><th>Task</th><th>Score</th></tr>{rows}</table>
<p>Curves: <code>.venv/bin/tensorboard --logdir {html.escape(out.name)}/runs</code></p>
<h2>Pages as read</h2>{pictures}<h2>The same as JSON</h2><ul>{files}</ul>
""")


def quoted(path: Path, out: Path) -> str:
    from urllib.parse import quote
    return quote(path.relative_to(out).as_posix())


if __name__ == "__main__":
    exit_cleanly(main)
