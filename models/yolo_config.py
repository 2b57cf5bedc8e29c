"""Which file --model means, and what a file says of its YOLO network, checked before anything is built of it. Nothing
here imports ultralytics.

ultralytics builds whatever layer an architecture names, one that fetches weights from a host among them, and evaluates
its `activation` as Python. So an architecture may hold what the detection models hold that ultralytics brings along.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import yaml
from torch import nn

from utils.checkpoint import weights_of
from utils.errors import DataError

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
KEYS = {"yaml", "names", "img_size"}
LARGEST, MOST_REPEATS, MOST_LAYERS, DEEPEST = 8192, 72, 400, 8  # ultralytics' own reach 1024, 18, 50 and 1.5


@dataclass
class YoloConfig:
    """What rebuilds the network: ultralytics' architecture, class names by number, the image size of its training."""

    yaml: dict
    names: dict[int, str]
    img_size: int = 1024


def find_start(start: str) -> Path | None:
    """The file that --model names; None where it can only be the name of an architecture. Raises DataError for an address
    and for a path without a file."""
    if "://" in start:
        raise DataError(f"--model {start}: is an address; fetch the file and name it")
    name = f"{start.removesuffix('.pt')}.pt"
    file = next((path for path in (Path(start), Path(name), WEIGHTS / name) if path.is_file()), None)
    if file is None and Path(start).parent != Path("."):
        raise DataError(f"--model {start}: no such file")
    return file


def choose_size(content: dict, start: str, own: bool) -> str:
    """Give an architecture that comes in sizes one of them, as a name such as yolo11n does; returns words for it.

    own: it is a file of the user's, and gets its first. Raises DataError where a name has no size.
    """
    scales = content.get("scales")
    sizes = list(scales) if isinstance(scales, dict) else []  # else check_architecture says what it is
    if content.get("scale") or not sizes:
        return ""
    if not own:
        names = [re.sub(r"\d+", rf"\g<0>{size}", start, count=1) for size in sizes]
        raise DataError(f"--model {start}: comes in sizes; name one: {', '.join(names)}")
    content["scale"] = sizes[0]
    return f", in its first size, {sizes[0]}, of {', '.join(map(str, sizes))}"


def refused(path: Path) -> DataError:
    return DataError(f"{path}: holds objects that no detection model is made of, and is not read because loading it "
                     "would run code; take weights from a source you trust")


@dataclass(frozen=True)
class Vocabulary:
    """What architectures are written with: names of layers, words among their arguments, activations."""

    layers: frozenset[str]
    words: frozenset[str]
    activations: frozenset[str | None]


@cache
def vocabulary(folder: Path) -> Vocabulary:
    """That of the architectures in `folder` (ultralytics/cfg/models) that detect boxes."""
    layers, words, activations = set(), set(), set()
    for file in sorted(folder.rglob("*.yaml")):
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        rows = content["backbone"] + content["head"]
        if rows[-1][2] == "Detect":
            layers |= {row[2] for row in rows}
            words |= {value for row in rows for value in row[3] if isinstance(value, str)}
            activations.add(content.get("activation"))
    return Vocabulary(frozenset(layers), frozenset(words), frozenset(activations))


def check_architecture(content, known: Vocabulary, source: Path | str) -> None:
    """Raises DataError, which names `source`, where `content` is no architecture that detects boxes, of layers, words,
    activation and sizes as `known` has them."""
    def refuse(reason: str):
        raise DataError(f"{source}: {reason}; take weights from a source you trust")

    def number(value, most: float) -> bool:
        return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= most

    def argument(value) -> bool:
        if isinstance(value, list):
            return all(map(argument, value))
        return (value is None or value in known.words) if isinstance(value, str | None) else number(value, LARGEST)

    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("backbone", "head")):
        refuse("its architecture is not one of ultralytics' (a backbone and a head)")
    rows = content["backbone"] + content["head"]
    if not 0 < len(rows) <= MOST_LAYERS or not all(
            isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) for row in rows):
        refuse("its architecture has a layer that is not [from, repeats, module, arguments]")
    if rows[-1][2] != "Detect":
        refuse(f"does not detect boxes, its last layer being {rows[-1][2][:40]}")
    for origin, repeats, name, arguments in rows:
        if name not in known.layers:
            refuse(f"names a layer {name[:40]!r}, which no detection model of ultralytics has")
        origins = origin if isinstance(origin, list) else [origin]
        if not (all(isinstance(value, int) and abs(value) <= len(rows) for value in origins)
                and isinstance(repeats, int) and 0 < repeats <= MOST_REPEATS
                and isinstance(arguments, list) and argument(arguments)):
            refuse(f"has a layer {name} with what no detection model of ultralytics has: "
                   f"{str([origin, repeats, arguments])[:80]}")
    activation, scales = content.get("activation"), content.get("scales") or {}
    if not isinstance(activation, str | None) or activation not in known.activations:
        refuse(f"has an activation {str(activation)[:40]!r}, which no detection model of ultralytics has")
    if not isinstance(scales, dict) or not all(
            isinstance(scale, list) and len(scale) == 3 and all(number(value, DEEPEST) for value in scale[:2])
            and number(scale[2], LARGEST) for scale in scales.values()):
        refuse("its scales are not [depth, width, channels]")
    for key in content.keys() - {"backbone", "head", "scales", "activation"}:
        value = content[key]
        most = DEEPEST if str(key).endswith("_multiple") else LARGEST
        if not (isinstance(value, str | None) or number(value, most)):
            refuse(f"its architecture has {str(key)[:40]}: {str(value)[:40]}")


def read_config(checkpoint: dict, path: Path) -> YoloConfig:
    """The config of a checkpoint, its architecture not yet looked at. Raises DataError where it is not one."""
    content = checkpoint.get("config")
    if not isinstance(content, dict) or content.keys() != KEYS:
        raise DataError(f"{path}: its config does not hold {', '.join(sorted(KEYS))} and nothing else")
    names, img_size = content["names"], content["img_size"]
    if not isinstance(names, dict) or not names or names.keys() != set(range(len(names))) or not all(
            isinstance(name, str) for name in names.values()):
        raise DataError(f"{path}: its class names are not numbered from 0")
    if type(img_size) is not int or not 0 < img_size <= LARGEST:
        raise DataError(f"{path}: its image size is {str(img_size)[:40]}, not 1 to {LARGEST} pixels")
    return YoloConfig(**content)


def read_tensors(checkpoint: dict, path: Path) -> dict[str, torch.Tensor]:
    """utils.checkpoint.weights_of a checkpoint. Raises DataError where it holds none."""
    try:
        weights = weights_of(checkpoint)
    except (AttributeError, KeyError, TypeError):
        weights = {}
    if not weights or not all(isinstance(name, str) for name in weights):
        raise DataError(f"{path}: holds no weights")
    return weights


def take_classes(model: nn.Module, source: nn.Module, random_head: nn.Module) -> str:
    """Give each class of a network that has the weights of `source` what that knows of the class of the same name, whatever
    its number, and the others their part of random_head. Returns "; ..." that says so, or "" where both have the same
    classes."""
    if model.names == source.names:
        return ""
    known = {name.casefold(): class_id for class_id, name in source.names.items()}
    shared = {class_id: known[name.casefold()] for class_id, name in model.names.items() if name.casefold() in known}
    for branch in ("cv3", "one2one_cv3"):
        for ours, theirs, fresh in zip(*(getattr(head, branch, None) or [] for head in (model.model[-1], source.model[-1],
                                                                                         random_head))):
            alike = ours[-1].weight.shape[1:] == theirs[-1].weight.shape[1:]  # the width may follow the number of classes
            shared = shared if alike else {}
            with torch.no_grad():
                for name, value in ours[-1].named_parameters():
                    value.copy_(fresh[-1].get_parameter(name))
                    for here, there in shared.items():
                        value[here] = theirs[-1].get_parameter(name)[there]
    new = [name for class_id, name in model.names.items() if class_id not in shared]
    return f"; by name: {', '.join(model.names[class_id] for class_id in shared) or 'no class'}" + (
        f"; from random weights: {', '.join(new)}" if new else "")
