"""ONNX files that suffice by themselves: the graph, and beside it in the file what inference has to know of it.

What a checkpoint carries (task, config, thresholds, charset, ...) is in the metadata_props, one JSON value a key.
The task modules (models/onnx_*.py) make the graphs; models/export.py is the command.
"""

import io
import json
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Callable, Iterable

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from utils.errors import DataError
from utils.files import write_replacing
from utils.images import IMAGENET_MEAN, IMAGENET_STD

FORMAT = "docmarks-onnx-1"
TOLERANCE = 1e-4
Session = Any  # an onnxruntime.InferenceSession, or what has its face (models.openvino_session)
Runtime = Callable[[Path, int], Session]  # from a file and a number of threads, 0 for one a core


def make_graph(module: nn.Module, example: tuple[torch.Tensor, ...], inputs: list[str], outputs: list[str],
               dynamic_shapes: dict | tuple | None) -> onnx.ModelProto:
    """The graph of module(*example) by torch's exporter, in evaluation mode.

    dynamic_shapes: as torch.export.export takes them, a dict by the names of forward's arguments or a tuple in their
    order: {"image": {0: Dim.DYNAMIC, 2: 32 * Dim("h"), 3: 32 * Dim("w")}}.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the exporter's account of its own steps
            warnings.simplefilter("ignore")
            program = torch.onnx.export(module.eval(), example, dynamo=True, input_names=inputs, output_names=outputs,
                                        dynamic_shapes=dynamic_shapes, verbose=False)
    finally:
        log.setLevel(level)
    return program.model_proto


def set_metadata(model: onnx.ModelProto, task: str, values: dict[str, Any]) -> None:
    """Put plain values (what JSON can hold) into the model, beside its format and task; what was there is replaced."""
    del model.metadata_props[:]
    for key, value in ({"format": FORMAT, "task": task} | values).items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))


def write_onnx(path: Path, model: onnx.ModelProto) -> None:
    """One file, whole or not at all, its weights inside. Raises DataError where it cannot be written."""
    write_replacing(path, lambda temporary: onnx.save_model(model, str(temporary)))


def open_session(source: Path | onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """A session on the CPU. threads: 0 for as many as there are cores.

    Raises DataError where the file is missing, or is nothing that the runtime can read.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: the rest is about graph optimizations
    if not isinstance(source, onnx.ModelProto) and not Path(source).is_file():
        raise DataError(f"{source}: no such ONNX file; python -m models.export --weights W --out F.onnx writes one")
    content = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds, none of them public
        name = "graph" if isinstance(source, onnx.ModelProto) else source
        raise DataError(f"{name}: onnxruntime cannot read it ({' '.join(str(error).split())[:200]})") from None


def read_metadata(session: Session, task: str, path: Path) -> dict[str, Any]:
    """What set_metadata put in, "format" and "task" included. `path` is for the message only.

    Raises DataError where the file was not written by models.export, or holds a model for another task.
    """
    try:
        values = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    except ValueError:
        values = {}
    if values.get("format") != FORMAT:
        raise DataError(f"{path}: was not written by python -m models.export (no format {FORMAT!r} in it)")
    if values["task"] != task:
        raise DataError(f"{path}: holds a model for {values['task']}, not for {task}")
    return values


def export_map(network: nn.Module, task: str, facts: dict[str, Any], divisor: int,
               sizes: Iterable[tuple[int, int, int]], out: Path, least: int = 0) -> dict:
    """Write a network that makes a map of a normalised page, (B, 3, H, W) -> "prob" (B, H, W), free in B and in H and W,
    which are multiples of `divisor` and `least` or more; returns what the last line of models.export says of it. facts:
    metadata beside the input's.

    sizes: the (B, H, W) to compare with torch on. Raises DataError where graph and network disagree.
    """
    height, width = (divisor * torch.export.Dim(name, min=max(least // divisor, 1)) for name in ("height", "width"))
    graph = make_graph(network, (torch.zeros(2, 3, max(96, least), max(128, least + divisor)),), ["image"], ["prob"],
                       {"image": {0: torch.export.Dim.DYNAMIC, 2: height, 3: width}})
    set_metadata(graph, task, facts | {
        "input": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "divisor": divisor, "colours": "RGB"}})
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.randn(batch, 3, height, width, generator=generator),) for batch, height, width in sizes]
    difference = check_parity(open_session(graph, threads=1), network, cases)
    write_onnx(out, graph)
    return {"files": [str(out)], "megabytes": round(out.stat().st_size / 1e6, 2), "largest_difference": difference,
            "sizes": sizes}


def check_parity(session: Session, reference: Callable[..., Any],
                 cases: Iterable[tuple[torch.Tensor, ...]], tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference between the session's outputs and reference(*case) over all cases.

    reference returns a tensor, or a tuple of them in the order of the graph's outputs. Raises DataError above
    `tolerance`, where shapes differ, and where something is not finite.
    """
    names, worst = [value.name for value in session.get_inputs()], 0.0
    for case in cases:
        with torch.no_grad():
            expected = reference(*case)
        expected = expected if isinstance(expected, (tuple, list)) else (expected,)
        found = session.run(None, {name: value.numpy() for name, value in zip(names, case, strict=True)})
        shapes = " and ".join(str(tuple(value.shape)) for value in case)
        for ours, theirs in zip(expected, found, strict=True):
            if tuple(ours.shape) != theirs.shape:
                raise DataError(f"ONNX export: the output for {shapes} is {theirs.shape} and not {tuple(ours.shape)}")
            difference = np.abs(ours.float().numpy() - theirs.astype(np.float32)).max(initial=0)
            if not difference <= tolerance:  # NaN included
                raise DataError(f"ONNX export: differs from torch by {difference:.2g} for {shapes}, more than "
                                f"{tolerance:g}; nothing was written")
            worst = max(worst, float(difference))
    return worst
