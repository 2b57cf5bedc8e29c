"""The four models as functions of images, by torch, ONNX Runtime or OpenVINO, as file and engine have it."""

from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from models.folding import for_inference
from utils.errors import DataError
from utils.geometry import PageSize
from utils.images import to_tensor
from utils.state import autocast
from utils.weights import find_language

# Imported when a task wants them: some take seconds.
TORCH = {"detection": "models.dbnet", "recognition": "models.parseq", "segmentation": "models.strokes",
         "yolo": "models.yolo"}
ONNX = {"detection": "models.onnx_detection", "recognition": "models.onnx_recognition",
        "segmentation": "models.onnx_strokes", "yolo": "models.onnx_yolo"}
Boxes = tuple[np.ndarray | list[np.ndarray], np.ndarray]


def open_model(name: str, path: Path, device: torch.device, use_amp: bool = False, openvino: bool = False,
               **options: Any) -> Callable[..., Any]:
    """A function of a model's weights, which run on `device`, in 16 bits where `use_amp`; those in an ONNX file on the
    CPU, by ONNX Runtime as they are, or by OpenVINO, in 16 bits where `use_amp`.

    detection: f(images) -> for each its polygons, (N, 4, 2) or a list of (M, 2), and scores (N,);
    recognition: f(crops) -> (text, score) for each, and, where the option language_model ('none', 'auto' or a path) finds
    a file, f.language, f(crops, doubt=0.95) -> (text, score, {text: share} where the score is below, or None) and
    f(crops, several=True) -> {text: share} for each; segmentation: f(image) -> (H, W) bool, True = ink;
    yolo: f(image, conf, tta, tile) -> marks, as models.yolo_boxes.detect, and f.names, its classes by number. Images are
    (H, W, 3) uint8 RGB.
    Raises DataError where the file is missing, damaged or another model's, and where OpenVINO is not installed.
    """
    if openvino:
        from models.openvino_session import OpenvinoSession
        options["runtime"] = partial(OpenvinoSession, use_amp=use_amp)
    function = {"detection": open_detection, "recognition": open_recognition, "segmentation": open_segmentation,
                "yolo": open_yolo}[name](Path(path), device, **options)
    return in_autocast(function, device) if use_amp and not is_onnx(Path(path)) else function


def in_autocast(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    @wraps(function)
    def mixed(*args, **kwargs):
        with autocast(True, device):
            return function(*args, **kwargs)

    return mixed


def is_onnx(path: Path) -> bool:
    return path.suffix == ".onnx"


def load_any(name: str, path: Path, device: torch.device, **runtime: Any) -> tuple[torch.nn.Module, dict]:
    """(model, its checkpoint, or what an ONNX file says of itself) for segmentation and yolo; what is in an ONNX file
    stands in for the network, on the CPU. runtime: of models.onnx_files, for such a file."""
    if is_onnx(path):
        return import_module(ONNX[name]).load_onnx(path, **runtime)
    return import_module(TORCH[name]).load_model(path, device)


def open_detection(path: Path, device: torch.device, **runtime: Any) -> Callable[[list[np.ndarray]], list[Boxes]]:
    if is_onnx(path):
        module = import_module(ONNX["detection"])
        session, metadata = module.load_onnx(path, **runtime)
        return lambda images: [module.predict_boxes(session, image, metadata["thresholds"]) for image in images]
    module = import_module(TORCH["detection"])
    model, checkpoint = module.load_model(path, device)
    model = for_inference(model)
    thresholds = checkpoint["thresholds"]
    if device.type == "cpu":  # a batch gains nothing there, and costs memory
        return lambda images: [module.predict_boxes(model, image, device, thresholds) for image in images]
    return lambda images: boxes_in_batches(model, images, device, thresholds)


@torch.inference_mode()
def boxes_in_batches(model: torch.nn.Module, images: list[np.ndarray], device: torch.device,
                     thresholds: dict) -> list[Boxes]:
    """models.dbnet.predict_boxes for each image; those that the network sees at one size go through it together."""
    from models.dbnet_decode import boxes_of_map
    fitted = [PageSize.of(thresholds).fit(image) for image in images]
    places: dict[tuple, list[int]] = {}
    for place, (image, _) in enumerate(fitted):
        places.setdefault(image.shape, []).append(place)
    found: list = [None] * len(images)
    for group in places.values():
        batch = torch.stack([to_tensor(fitted[place][0]) for place in group]).to(device)
        for place, prob in zip(group, model(batch)["prob"].float().sigmoid().cpu().numpy()):
            found[place] = boxes_of_map(prob, fitted[place][1], images[place].shape[:2], thresholds)
    return found


def open_recognition(path: Path, device: torch.device, language_model: Path | str = "none",
                     **runtime: Any) -> Callable[..., list]:
    module = import_module("models.read_lines")
    model, device = load_reader(path, device, **runtime), torch.device("cpu") if is_onnx(path) else device
    if not is_onnx(path):
        model = for_inference(model)
    found = find_language(language_model, path)
    if found and (model.reading["decode"] != "ctc" or model.reading["refine_iters"]):
        if language_model != "auto":
            raise DataError(f"{path}: does not read by CTC alone, which {found} is for; way out: --language-model none")
        found = None
    language = found and import_module("models.language").read_arpa(found)

    def read(crops: list[np.ndarray], several: bool = False, doubt: float | None = None) -> list:
        if several:
            return module.answers(model, crops, device, language)
        if doubt is not None:
            return module.recognise_with_answers(model, crops, device, language, doubt)
        return module.recognise(model, crops, device)

    read.language = found
    return read


def load_reader(path: Path, device: torch.device, **runtime: Any) -> Any:
    """A PARSeq, or the OnnxReader of what models.export has made of one."""
    if is_onnx(path):
        return import_module(ONNX["recognition"]).OnnxReader(path, **runtime)
    return import_module(TORCH["recognition"]).load_model(path, device)[0]


def open_segmentation(path: Path, device: torch.device, **runtime: Any) -> Callable[[np.ndarray], np.ndarray]:
    find_ink = import_module(TORCH["segmentation"]).find_ink
    model, checkpoint = load_any("segmentation", path, device, **runtime)
    model = model if is_onnx(path) else for_inference(model)
    return lambda image: find_ink(model, checkpoint, image)


def open_yolo(path: Path, device: torch.device, **runtime: Any) -> Callable[..., list[dict]]:
    from models.yolo_boxes import detect
    model, checkpoint = load_any("yolo", path, device, **runtime)
    img_size = checkpoint["config"]["img_size"]

    def look(image: np.ndarray, conf: float, tta: bool = False, tile: int = 0) -> list[dict]:
        return detect(model, image, conf, img_size=img_size, tta=tta, tile=tile)

    look.names = model.names
    return look
