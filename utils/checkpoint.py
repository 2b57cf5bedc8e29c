"""Checkpoints: plain dicts of tensors and plain values, written whole or not at all, read without running code."""

import pickle
import sys
import zipfile
from pathlib import Path

import torch
from torch import nn

from utils.errors import DataError
from utils.files import write_replacing

FORMAT = "docmarks-1"


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write beside `path` and rename, so that a kill or a full disk leaves the previous file whole."""
    write_replacing(path, lambda temporary: torch.save({"format": FORMAT} | checkpoint, temporary))


def load_checkpoint(path: Path, task: str | None = None) -> dict:
    """The dict that save_checkpoint wrote, on the CPU.

    Raises DataError where the file is missing, cut short, holds more than tensors and plain values, or was written for
    another task than `task` (None: any will do).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint")
    if path.suffix == ".onnx":
        raise DataError(f"{path}: is an exported model; give the checkpoint that it was made from")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error) or not _is_pickled(path):
            raise DataError(f"{path}: not a checkpoint") from None
        raise DataError(f"{path}: is not a file of tensors and plain values only, and is not read because loading it "
                        "would run code") from None
    except Exception as error:  # a truncated archive raises RuntimeError, EOFError, BadZipFile, ...
        raise DataError(f"{path}: not a whole checkpoint ({str(error).splitlines()[0][:100] if str(error) else error})"
                        ) from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise DataError(f"{path}: not a checkpoint of this project (no format {FORMAT!r} in it)")
    if task and checkpoint["task"] != task:
        raise DataError(f"{path}: holds a model for {checkpoint['task']}, not for {task}")
    return checkpoint


def newest_checkpoint(folder: Path, task: str) -> dict | None:
    """last.pt, or where it is damaged best.pt, which holds a whole state too; None where there is neither."""
    for name, otherwise in (("last.pt", "best.pt"), ("best.pt", None)):
        if (folder / name).is_file():
            try:
                return load_checkpoint(folder / name, task)
            except DataError as error:
                if not otherwise or not (folder / otherwise).is_file():
                    raise
                print(f"warning: {error}; going on from {otherwise}", file=sys.stderr)
    return None


def _is_pickled(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)  # a bare pickle of protocol 2 on, or torch's archive


def names_ultralytics(path: Path) -> bool:
    """Whether a torch archive's pickle speaks of ultralytics' models; its bytes are looked at and not loaded."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"ultralytics.nn.tasks" in archive.read(name) for name in names)
    except (OSError, zipfile.BadZipFile):  # load_checkpoint says what is wrong with it
        return False


def weights_of(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights to evaluate with: the moving average where one was kept; float32, though the file hold 16 bits."""
    weights = checkpoint["ema"]["model"] if checkpoint.get("ema") else checkpoint["model"]
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in weights.items()}


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Strict loading; raises DataError naming the first keys that do not fit."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DataError(f"{path}: its weights do not fit this model ({' '.join(str(error).split())[:300]})") from None


# What of a checkpoint's config decides the shapes of its weights, and the flag for it.
SHAPE_FLAGS = {"arch": "--arch", "encoder": "--encoder", "encoder_depth": "--encoder-depth", "decoder": "--decoder",
               "channels": "--pyramid-channels", "decoder_channels": "--decoder-channels", "norm": "--norm",
               "deformable": "--deformable"}
# And at which scale they have learnt to see.
SCALE_FLAGS = {"resize": "--resize", "height": "--img-height", "width": "--img-width"}


def _own_flags(checkpoint: dict) -> str:
    """'; give its own flags: --arch unet ...', or an empty string where the checkpoint names none."""
    words, config = [], checkpoint.get("config", {})
    for name, flag in (SHAPE_FLAGS | SCALE_FLAGS if "resize" in config else SHAPE_FLAGS).items():
        value = config.get(name)
        if value:
            text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            words.append(flag if value is True else f"{flag} {text}")
    return f"; give its own flags: {' '.join(words)}" if words else ""


def init_from(model: nn.Module, path: Path, task: str) -> str:
    """Copy the weights of matching name and shape from a checkpoint; returns a line that says what was taken.

    Raises DataError where nothing fits, or less than half of the model: it would train from chance, and say nothing.
    """
    checkpoint = load_checkpoint(path, task)
    found, own = weights_of(checkpoint), model.state_dict()
    taken = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not taken:
        raise DataError(f"{path}: none of its weights fits this model{_own_flags(checkpoint)}")
    if 2 * len(taken) < len(own):
        raise DataError(f"{path}: only {len(taken)} of this model's {len(own)} tensors would be taken from it, for it is "
                        f"another network{_own_flags(checkpoint)}")
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken]
    line = f"started from {path}: {len(taken)} of {len(own)} tensors taken"
    if left:
        line += f", left as they were: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}"
    if any(name in found for name in left):
        line += f"; warning: those are of other shapes there{_own_flags(checkpoint)}"
    return line
