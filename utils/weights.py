"""The weights that inference uses: those that are named, else those that lie in a folder."""

import argparse
from pathlib import Path

from utils.errors import DataError
from utils.files import file_hash, replace_file

# Each task and the models it uses, the one it cannot do without first.
TASKS = {"marks": ("yolo",), "text": ("detection", "recognition"), "strokes": ("segmentation",)}
MODELS = ("detection", "recognition", "segmentation", "yolo")
ENGINES = ("auto", "torch", "onnx", "openvino")
FOR_ONNX = ("onnx", "openvino")  # engines that read MODEL.onnx, on the CPU
WAY_OUT = ("way out: --weights-dir weights for those that come with docmarks, or train with `python train_{0}.py` and name "
           "its best.pt by --{0}-weights")
LANGUAGE = "language.arpa.gz"  # what lines are like (models/language.py), beside the recognition weights
HASHES = "SHA256SUMS"  # beside the weights, as sha256sum writes it
EXPORT = "way out: python -m models.export {0}--weights {1}.pt --out {1}.onnx writes one"


def task_list(text: str) -> list[str]:
    """'text,marks' as a list in our order, for argparse."""
    wanted = text.split(",")
    if not set(wanted) <= set(TASKS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {','.join(TASKS)}")
    return [task for task in TASKS if task in wanted]


def find_weights(folder: Path | None, named: dict[str, Path | str | None], tasks: list[str] | None = None,
                 engine: str = "torch", int8: bool = False, on_gpu: bool = False) -> dict[str, Path]:
    """{model: file} for the tasks, or for all whose weights are found: a named file, else the one in `folder`.

    engine: 'torch' for MODEL.pt, 'onnx' and 'openvino' for MODEL.onnx, 'auto' for whichever there is, MODEL.onnx where both
    are and it is not the older one, nor they are for a GPU, which runs none. int8: MODEL.int8.onnx before MODEL.onnx.
    Raises DataError where no task, or one of those asked for, has its weights, where a named file would not be used or
    is none for the engine, and where `int8` is asked for and no file is one.
    """
    unknown = set(named) - set(MODELS)
    if unknown:
        raise DataError(f"weights for {', '.join(sorted(unknown))}: the models are {', '.join(MODELS)}")
    lying = {model: _lying(folder, model, engine, int8, on_gpu) for model in MODELS} if folder else {}
    found = {model: path for model, path in lying.items() if path.is_file()}
    found |= {model: Path(path) for model, path in named.items() if path}
    if tasks is None:
        tasks = [task for task, (needed, *_) in TASKS.items() if needed in found]
    beside = folder or Path("weights")
    way_out = EXPORT.format("", beside / "{0}") if engine in FOR_ONNX else WAY_OUT
    wanting = [needed for needed, *_ in map(TASKS.get, tasks) if needed not in found]
    if (wanting or not tasks) and folder and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {WAY_OUT.format((wanting or ['detection'])[0])}")
    if not tasks:
        files = ", ".join(lying.get(needed, Path(f"{needed}.pt")).name for needed, *_ in TASKS.values())
        raise DataError(f"{folder or 'weights'}: none of {files}; {way_out.format('detection')}")
    for needed, *_ in (TASKS[task] for task in tasks):
        if needed not in found:
            raise DataError(f"{lying.get(needed, needed)}: no such weights; {way_out.format(needed)}")
    wanted = {model for task in tasks for model in TASKS[task]}
    idle = [model for model in named if named[model] and model not in wanted]
    if idle:
        raise DataError(f"{named[idle[0]]}: weights for {idle[0]}, which the tasks {','.join(tasks)} do not use")
    weights = {model: found[model] for model in MODELS if model in found and model in wanted}
    for model, path in weights.items():
        if engine != "auto" and (path.suffix == ".onnx") != (engine in FOR_ONNX):
            way_out = EXPORT.format("", path.with_suffix("")) if engine in FOR_ONNX else "way out: --engine auto"
            raise DataError(f"{path}: is no file for --engine {engine}; {way_out}")
    for path in weights.values():
        check_hash(path)
    if int8 and not any(path.name.endswith(".int8.onnx") for path in weights.values()):
        model = next(model for model in ("recognition", "yolo", *weights) if model in weights)
        raise DataError(f"{beside}: no MODEL.int8.onnx for --int8; {EXPORT.format('--int8 ', beside / model)} beside the other")
    return weights


def find_language(choice: Path | str, recognition: Path) -> Path | None:
    """The file that --language-model names; for 'auto' the one beside the recognition weights, if any; None for 'none'.
    Raises DataError where a named file is missing, and for a file that is not the one listed."""
    if choice == "none":
        return None
    path = recognition.parent / LANGUAGE if choice == "auto" else Path(choice)
    if not path.is_file():
        if choice == "auto":
            return None
        raise DataError(f"{path}: no such language model; python -m experiments.language_model writes one")
    check_hash(path)
    return path


def read_hashes(folder: Path) -> dict[str, str]:
    """{name: hash} of the files listed in the folder's SHA256SUMS; {} where there is none."""
    listing = folder / HASHES
    if not listing.is_file():
        return {}
    rows = [line.split(maxsplit=1) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if bad := [row for row in rows if len(row) != 2 or len(row[0]) != 64]:
        raise DataError(f"{listing}: {' '.join(bad[0])[:80]!r} is not HASH and NAME; "
                        f"`sha256sum *.pt *.gz > {HASHES}` writes them")
    return {name.strip().lstrip("*"): digest for digest, name in rows}


def list_hash(path: Path) -> str:
    """Write the file's hash into the SHA256SUMS of its folder, in place of an older one; returns it."""
    digest = file_hash(path)
    hashes = read_hashes(path.parent) | {path.name: digest}
    replace_file(path.parent / HASHES, "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)))
    return digest


def check_hash(path: Path) -> None:
    """Raises DataError where the SHA256SUMS beside a file lists another hash for it."""
    listed = read_hashes(path.parent).get(path.name)
    if listed and path.is_file() and listed != file_hash(path):
        raise DataError(f"{path}: is not the file listed in {path.parent / HASHES}; take the original again, or, if these "
                        "are weights of your own, remove its line there")


def _lying(folder: Path, model: str, engine: str, int8: bool, on_gpu: bool) -> Path:
    """Where a model's weights would be in the folder."""
    plain, graph, small = (folder / f"{model}{suffix}" for suffix in (".pt", ".onnx", ".int8.onnx"))
    if engine == "torch":
        return plain
    graph = small if int8 and small.is_file() else graph
    if engine in FOR_ONNX or not plain.is_file() and graph.is_file():
        return graph
    if on_gpu and not int8:
        return plain
    fresh = graph.is_file() and graph.stat().st_mtime >= plain.stat().st_mtime
    return graph if fresh else plain


def left_out(weights: dict[str, Path], asked: list[str] | None) -> str:
    """What a run with these weights will not do, in words; empty where it does all that it could."""
    missing = [f"{task} (no {needed}.pt)" for task, (needed, *_) in TASKS.items() if needed not in weights]
    said = [f"not looked for: {', '.join(missing)}"] if missing and asked is None else []
    if "detection" in weights and "recognition" not in weights:
        said.append("text is found but not read (no recognition.pt)")
    return "; ".join(said)
