"""What experiments.compare reads of a run folder: flags, facts of its card, epochs, and the counts of each image."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from utils.bootstrap import Score
from utils.errors import DataError
from utils.files import read_json, read_jsonl, read_object
from utils.metrics.detection import scores_of_counts
from utils.metrics.marks import mark_scores
from utils.metrics.recognition import COUNTS, recognition_scores
from utils.metrics.segmentation import summarise

ROWS_FILES = {"test": "test_per_image.jsonl", "val": "per_image.jsonl"}
TEST_FLAGS = "test_args.json"
WAYS_TO_TEST = ("tta", "tile", "bare", "limit_batches", "language_model", "fold", "category", "use_amp")
# Flags that leave the weights as they are.
HOUSEKEEPING = {"output_dir", "overwrite", "resume", "notes", "log_every", "save_every_steps", "no_preflight", "test_only",
                "weights", "split", "num_workers", "debug", "hypothesis", "profile", "cache_targets", "cache_limit",
                "from_run", "card"}
# Lines of the card's configuration that may make a difference, by what they are about.
FACTS = {"data": ("Data", "Data, train", "Data, val", "Labels", "Charset"),
         "start": ("Encoder starts from", "Start", "Weights"), "code": ("Commit",), "machine": ("Device", "Versions")}


@dataclass(frozen=True)
class Task:
    """metric: what best.pt follows. shown: the metrics that are compared, those of falling ones in `falling`."""

    metric: str
    shown: tuple[str, ...]
    marks: str  # a key that only this task's rows have
    score: Callable[[list[dict]], dict[str, float]]
    truth: Callable[[dict], object]  # of a row: what must be the same where two runs saw the same image
    counts: tuple[str, ...] = ()  # where the score depends on summed counts alone
    falling: tuple[str, ...] = ()  # metrics that are better when lower

    def scorer(self, rows: list[dict]) -> Score:
        """Scores of drawn row numbers, by the functions of utils.metrics."""
        if not self.counts:
            return lambda drawn: self._shown([rows[number] for number in drawn])
        table = np.array([[row[name] for name in self.counts] for row in rows], np.float64)
        return lambda drawn: self._shown([dict(zip(self.counts, table[drawn].sum(0).tolist()))])

    def _shown(self, rows: list[dict]) -> dict[str, float]:
        scores = self.score(rows)
        return {name: scores[name] for name in self.shown}


def _mark_scores(rows: list[dict]) -> dict[str, float]:
    classes = {class_id for row in rows for class_id in row["truth"]}
    return mark_scores(rows, {class_id: str(class_id) for class_id in sorted(classes)})


TASKS = {
    "detection": Task("hmean", ("hmean", "precision", "recall"), "n_pred", scores_of_counts, lambda row: row["n_truth"],
                      ("tp", "n_pred", "n_truth")),
    "recognition": Task("exact", ("exact", "exact_folded", "ned", "cer", "wer"), "char_edits", recognition_scores,
                        lambda row: row["truth"], COUNTS, ("cer", "wer")),
    "segmentation": Task("f1", ("f1", "iou", "precision", "recall", "f1_micro", "edge_iou_canny"), "edge_union",
                         summarise, lambda row: row["tp"] + row["fn"]),
    "yolo": Task("map50_95", ("map50_95", "map50", "precision", "recall"), "detections", _mark_scores,
                 lambda row: sorted(row["truth"])),
}


@dataclass
class RunRecord:
    """One run folder as it was found. rows are sorted by image; source: the file that they come from."""

    folder: Path
    task: str
    flags: dict
    facts: dict[str, str]
    epochs: list[dict]
    rows: list[dict]
    source: str

    @property
    def images(self) -> list[str]:
        """Which image each row is of."""
        return [page_of(row) for row in self.rows]


def read_runs(folders: list[Path], split: str | None = None) -> list[RunRecord]:
    """split: 'test' or 'val'; by default test where every run has been tested, else validation.

    Raises DataError where a folder is no run, was not scored, or holds another task than the first.
    """
    if split is None:
        split = "test" if all((folder / ROWS_FILES["test"]).is_file() for folder in folders) else "val"
    tests_alone = split == "test" and not all((folder / "args.json").is_file() for folder in folders)
    runs = [_read_test(folder) if tests_alone else _read_run(folder, split) for folder in folders]
    for run in runs[1:]:
        if run.task != runs[0].task:
            raise DataError(f"{run.folder}: is a run of {run.task}, {runs[0].folder} one of {runs[0].task}; runs of one "
                            "task can be compared")
    return runs


def _read_run(folder: Path, split: str) -> RunRecord:
    if not (folder / "args.json").is_file():
        raise DataError(f"{folder}: is no run folder (it holds no args.json); name the --output-dir of a training"
                        + ("; it holds a test alone" if (folder / TEST_FLAGS).is_file() else ", or of --test-only"))
    path = folder / ROWS_FILES[split]
    if not path.is_file():
        way_out = ("train_X.py --test-only --weights RUN/best.pt --split test writes it" if split == "test"
                   else "the run has not finished an epoch yet")
        raise DataError(f"{path}: no such file; {way_out}")
    task, rows = read_rows(path)
    flags = read_object(folder / "args.json")
    if split == "test" and (folder / TEST_FLAGS).is_file():
        asked, _ = _flags_of_test(folder)
        flags |= {name: asked[name] for name in WAYS_TO_TEST if name in asked}
    return RunRecord(folder, task, flags, _facts(folder), read_jsonl(folder / "metrics.jsonl"), rows, path.name)


def _read_test(folder: Path) -> RunRecord:
    """What --test-only left in a folder, without the run whose weights it tested."""
    path = folder / ROWS_FILES["test"]
    if not (folder / TEST_FLAGS).is_file() or not path.is_file():
        raise DataError(f"{folder}: holds neither a run (args.json) nor a test with its flags ({TEST_FLAGS}); "
                        "train_X.py --test-only --weights W --output-dir DIR writes one")
    task, rows = read_rows(path)
    flags, commit = _flags_of_test(folder)
    facts = {"Weights": flags["weights"], "Data": f"{flags['data_dir']}, {flags['split']}", "Commit": commit}
    return RunRecord(folder, task, flags, facts, [], rows, path.name)


def _flags_of_test(folder: Path) -> tuple[dict, str]:
    """(flags, commit) of a test. Raises DataError where its file holds none."""
    path = folder / TEST_FLAGS
    try:
        asked = read_json(path)
        flags, commit = asked["flags"], asked["commit"]
        if {"weights", "data_dir", "split"} <= flags.keys():
            return flags, commit
    except (DataError, LookupError, TypeError, AttributeError):
        pass
    raise DataError(f"{path}: holds no flags of a test; train_X.py --test-only writes it anew")


def read_rows(path: Path) -> tuple[str, list[dict]]:
    """(task, rows sorted by image) of a per_image.jsonl. Raises DataError where it holds no counts of images."""
    rows = read_jsonl(path)
    task = next((name for name, task in TASKS.items() if rows and task.marks in rows[0]), None)
    if task is None:
        raise DataError(f"{path}: holds no counts of images; score the run again")
    return task, sorted(rows, key=lambda row: row["file"])


def page_of(row: dict) -> str:
    """The crops of a page belong to the page."""
    return re.sub(r"#\d+$", "", row["file"])


def _facts(folder: Path) -> dict[str, str]:
    """{"Data": "train 401 pages (...)", ...} of facts.json, or of the card's configuration where only that is kept."""
    if (folder / "facts.json").is_file():
        facts = read_object(folder / "facts.json").get("facts")
        if not isinstance(facts, dict):
            raise DataError(f"{folder / 'facts.json'}: is not as a training writes it; take another run, or a copy of this one")
        return facts
    card = folder / "card.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    block = re.search(r"<!-- docmarks:configuration -->\n(.*?)<!-- docmarks:end -->", text, re.DOTALL)
    return dict(re.findall(r"^\* \*\*(.+?):\*\* (.+)$", block[1], re.MULTILINE)) if block else {}


# what differs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Something in which the runs differ. kind: flag, data, start, code or machine; values: one for each run."""

    kind: str
    name: str
    values: tuple[str, ...]


def changes(runs: list[RunRecord]) -> list[Change]:
    """Flags first. A --data-dir that has another name but, by its card, the same files is no difference."""
    found = []
    known = all("Data" in run.facts or "Data, train" in run.facts for run in runs)
    for name in sorted({name for run in runs for name in run.flags} - HOUSEKEEPING - {"data_dir"}):
        # A flag that is off is like one that the code did not have yet.
        values = [run.flags.get(name) or None for run in runs]
        if any(value != values[0] for value in values):
            found.append(Change("flag", "--" + name.replace("_", "-"), tuple(map(_shown, values))))
    for kind, names in FACTS.items():
        for name in names:
            values = [run.facts.get(name, "(not on the card)") for run in runs]
            if len(set(values)) > 1:
                found.append(Change(kind, name, tuple(values)))
    folders = [str(run.flags.get("data_dir")) for run in runs]
    if not known and len(set(folders)) > 1:
        found.append(Change("data", "--data-dir", tuple(folders)))
    return found


def _shown(value) -> str:
    if value is None:
        return "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def cause_in_words(found: list[Change], runs: list[RunRecord]) -> str:
    """What the comparison may be put down to, and what not."""
    matters = [change for change in found if change.kind != "machine"]
    words = ("Only the pages are drawn again, not the trainings: how much two trainings that differ in --seed alone would "
             "differ is not in the interval.")
    if any("uncommitted" in run.facts.get("Commit", "uncommitted") for run in runs):
        words += " Some code was not committed when it ran, so that it may differ as well without being seen here."
    if not matters:
        return "No recorded flag, data or code differs. " + words
    names = ", ".join(change.name for change in matters)
    if len(matters) == 1:
        return f"The only recorded difference is {names}. {words}"
    return (f"{len(matters)} things differ ({names}): which of them made a difference cannot be told from these runs; "
            f"change one at a time to find out. {words}")


# the same pages ------------------------------------------------------------------------------------------------------


def pair_rows(first: RunRecord, second: RunRecord) -> tuple[list[tuple[int, int]], str]:
    """(pairs of row numbers of the same image, what is wrong with the others, "" where there are none).

    Images are the same where their file is, or where only the folder differs, and their truth is the same.
    """
    for name_of in (lambda file: file, lambda file: Path(file).name):
        keys, others = (_keys(run.rows, name_of) for run in (first, second))
        if keys.keys() & others.keys():
            break
    shared = [key for key in keys if key in others]
    truth = TASKS[first.task].truth
    same = [key for key in shared if truth(first.rows[keys[key]]) == truth(second.rows[others[key]])]
    faults = []
    if left := len(keys) + len(others) - 2 * len(shared):
        faults.append(f"{left} images were scored by one of them only")
    if len(same) < len(shared):
        faults.append(f"{len(shared) - len(same)} images of the same name have another truth")
    return [(keys[key], others[key]) for key in same], " and ".join(faults)


def _keys(rows: list[dict], name_of: Callable[[str], str]) -> dict[tuple[str, int], int]:
    """Row numbers by file, and by how often that file came before."""
    seen: Counter[str] = Counter()
    keys = {}
    for number, row in enumerate(rows):
        name = name_of(row["file"])
        keys[name, seen[name]] = number
        seen[name] += 1
    return keys
