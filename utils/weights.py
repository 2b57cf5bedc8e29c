"""The weights that inference uses: those that are named, else those that lie in a folder."""

import argparse
from pathlib import Path

from utils.errors import DataError

# Each task and the models it uses, the one it cannot do without first.
TASKS = {"marks": ("yolo",), "text": ("detection", "recognition"), "strokes": ("segmentation",)}
MODELS = ("detection", "recognition", "segmentation", "yolo")
WAY_OUT = ("way out: --weights-dir demo/weights after `make demo`, which trains small ones, or train with `python train_{0}.py` and name its best.pt by "
           "--{0}-weights, or copy it to weights/{0}.pt")


def task_list(text: str) -> list[str]:
    """'text,marks' as a list in our order, for argparse."""
    wanted = text.split(",")
    if not set(wanted) <= set(TASKS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {','.join(TASKS)}")
    return [task for task in TASKS if task in wanted]


def find_weights(folder: Path | None, named: dict[str, Path | str | None],
                 tasks: list[str] | None = None) -> dict[str, Path]:
    """{model: file} for the tasks, or for all whose weights are found: a named file, else MODEL.pt in `folder`.

    Raises DataError where no task, or one of those asked for, has its weights, or where a named file would not be used.
    """
    unknown = set(named) - set(MODELS)
    if unknown:
        raise DataError(f"weights for {', '.join(sorted(unknown))}: the models are {', '.join(MODELS)}")
    lying = {model: folder / f"{model}.pt" for model in MODELS} if folder else {}
    found = {model: path for model, path in lying.items() if path.is_file()}
    found |= {model: Path(path) for model, path in named.items() if path}
    if tasks is None:
        tasks = [task for task, (needed, *_) in TASKS.items() if needed in found]
    if not tasks:
        files = ", ".join(f"{needed}.pt" for needed, *_ in TASKS.values())
        raise DataError(f"{folder or 'weights'}: none of {files}; {WAY_OUT.format('detection')}")
    for needed, *_ in (TASKS[task] for task in tasks):
        if needed not in found:
            raise DataError(f"{lying.get(needed, needed)}: no such weights; {WAY_OUT.format(needed)}")
    wanted = {model for task in tasks for model in TASKS[task]}
    idle = [model for model in named if named[model] and model not in wanted]
    if idle:
        raise DataError(f"{named[idle[0]]}: weights for {idle[0]}, which the tasks {','.join(tasks)} do not use")
    return {model: found[model] for model in MODELS if model in found and model in wanted}


def left_out(weights: dict[str, Path], asked: list[str] | None) -> str:
    """What a run with these weights will not do, in words; empty where it does all that it could."""
    missing = [f"{task} (no {needed}.pt)" for task, (needed, *_) in TASKS.items() if needed not in weights]
    said = [f"not looked for: {', '.join(missing)}"] if missing and asked is None else []
    if "detection" in weights and "recognition" not in weights:
        said.append("text is found but not read (no recognition.pt)")
    return "; ".join(said)
