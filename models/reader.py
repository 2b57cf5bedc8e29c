"""Pages in, records out: the models of inference.py put together. Also: from inference import DocumentReader."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.engines import is_onnx, open_model
from models.grouping import group_detections
from models.long_pages import find_in_windows, tile_for
from models.nearer import find_marks_nearer, find_nearer
from models.orientation import best_turn, side_turn, turned
from models.qr_marks import LOOKED_AT, check_codes, group_checked, qr_classes
from models.second_look import DOUBT, look_again, stands
from models.skew import find_level, find_marks_level, surely_level
from utils.distributed import init_distributed
from utils.documents import MAX_PAGES, MAX_PIXELS, Page, open_document, output_stems
from utils.errors import DataError
from utils.geometry import quads_round, text_quad
from utils.layout import reading_order
from utils.qr import read_qr_codes, with_unreadable
from utils.records import (code_record, document_record, limit_note, mark_record, one_line, page_record, text_record,
                           without_path)
from utils.stages import Stages
from utils.text_crops import crop_line
from utils.time_limit import time_limit
from utils.weights import FOR_ONNX, TASKS, find_weights
from utils.word_boxes import word_quads

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
PAGE_TIMEOUT = 300.0  # seconds


class Reading(NamedTuple):
    """record: the page's in the JSON; image (H, W, 3) uint8 RGB, upright, None where the page could not be decoded;
    strokes (H, W) uint8, 255 = ink, None where they were not looked for."""

    record: dict
    image: np.ndarray | None = None
    strokes: np.ndarray | None = None


class DocumentReader:
    """Reads documents with the models whose weights there are.

    weights: a folder of MODEL.pt or MODEL.onnx files, or {"detection" | "recognition" | "segmentation" | "yolo": path};
    tasks: some of 'marks', 'text', 'strokes', by default all that have weights. Without recognition weights text is
    found but not read: its "text" is None. engine: 'torch', 'onnx' or 'openvino' (MODEL.onnx, on the CPU), or 'auto',
    ONNX where there are such files and no GPU. language_model: a file of models.language for lines that are read with
    doubt, 'none', or 'auto', the language.arpa.gz beside the recognition weights if there is one. timeout: seconds that the
    models may take for a page.
    conf: lowest confidence of marks, class_conf: others for some classes, by name.
    tta, tile: more looks for marks, as models.yolo_boxes.detect takes them. use_amp: torch and OpenVINO compute in 16 bits
    where that is fast. Raises DataError for weights that are missing, damaged or not used.
    """

    def __init__(self, weights: Path | str | dict = WEIGHTS, tasks: list[str] | None = None, device: str = "auto",
                 conf: float = 0.15, grouping: str = "components", group_dist: float = 50.0, group_iou: float = 0.2,
                 dpi: float = 200.0, max_pages: int = MAX_PAGES, max_pixels: int = MAX_PIXELS, engine: str = "auto",
                 int8: bool = False, timeout: float = PAGE_TIMEOUT, keep_orientation: bool = False, tta: bool = False,
                 tile: int = 0, use_amp: bool = False, language_model: Path | str = "auto",
                 class_conf: dict[str, float] | None = None):
        self.device, _, _ = init_distributed(device)
        if engine in FOR_ONNX and device != "auto" and self.device.type == "cuda":
            raise DataError(f"--device {device}: ONNX files run on the CPU here; way out: --engine torch")
        folder, named = (None, weights) if isinstance(weights, dict) else (Path(weights), {})
        self.weights = find_weights(folder, named, tasks, engine, int8, self.device.type == "cuda")
        openvino = engine == "openvino"
        used = {engine if openvino else "onnx" if is_onnx(path) else "torch" for path in self.weights.values()}
        self.engine = " and ".join(sorted(used))
        if use_amp and used == {"onnx"}:
            raise DataError("--use-amp: does nothing for ONNX files; way out: --engine torch or openvino, or leave it out")
        self.tasks = [task for task, (needed, *_) in TASKS.items() if needed in self.weights]
        self.conf, self.class_conf = conf, class_conf or {}
        self.grouping = {"dist": group_dist, "iou": group_iou, "method": grouping}
        self.limits = {"dpi": dpi, "max_pages": max_pages, "max_pixels": max_pixels}
        self.tta, self.tile = tta, tile
        self.timeout, self.keep_orientation = timeout, keep_orientation
        if "recognition" not in self.weights and language_model not in ("auto", "none"):
            raise DataError(f"{language_model}: a language model for nothing that is read; leave --language-model out")
        runtime = {"openvino": True} if openvino else {}
        options = {"recognition": {"language_model": language_model}}
        self.models = {name: open_model(name, path, self.device, use_amp, **runtime, **options.get(name, {}))
                       for name, path in self.weights.items()}
        self.language = getattr(self.models.get("recognition"), "language", None)
        known = list(self.models["yolo"].names.values()) if "yolo" in self.models else []
        if unknown := sorted(set(self.class_conf) - set(known)):
            raise DataError(f"--class-conf {', '.join(unknown)}: " + (f"{self.weights['yolo']} knows {', '.join(known)}" if known
                            else "does nothing where no marks are looked for; leave it out"))
        self.stages = Stages()

    def read(self, source: Path | str | np.ndarray, name: str | None = None) -> dict:
        """The record of a document, as inference.py writes it to NAME.json: a file, or a page as an array, (H, W, 3)
        RGB or (H, W) grey uint8. What could not be read says so in "error". name: what the record calls it."""
        name = name or ("array" if isinstance(source, np.ndarray) else Path(source).name)
        stem = output_stems([Path(name)])[0]
        record = document_record(name, self.tasks)
        try:
            document = open_document(source, **self.limits)
        except DataError as error:
            return record | {"error": without_path(error, source)}
        record |= {"page_count": document.page_count, "error": limit_note(document.page_count, document.wanted)}
        for page in document.pages:
            (reading,) = self.read_pages([page], [stem])
            reading.record["error"] = reading.record["error"] and without_path(reading.record["error"], source)
            record["pages"].append(reading.record)
        return record

    def read_pages(self, pages: list[Page], stems: list[str]) -> list[Reading]:
        """A Reading of each page, their text read in common batches. stems: what their files are called.

        Where that fails or takes too long they are read one by one, so that a page that upsets a model costs no other.
        """
        whole = [number for number, page in enumerate(pages) if page.image is not None]
        try:
            with time_limit(self.timeout * len(whole), "--timeout"):
                found = self._read_images([pages[number] for number in whole], [stems[number] for number in whole])
        except Exception as error:  # whatever a page does to a model
            if len(pages) > 1:
                return [self.read_pages([page], [stem])[0] for page, stem in zip(pages, stems)]
            return [Reading(page_record(pages[0]) | {"error": one_line(error)}, pages[0].image)]
        readings = [Reading(page_record(page)) for page in pages]
        for number, reading in zip(whole, found):
            readings[number] = reading
        return readings

    def _read_images(self, pages: list[Page], stems: list[str]) -> list[Reading]:
        images, texts, turns = [page.image for page in pages], [[] for _ in pages], [None] * len(pages)
        if "text" in self.tasks and pages:
            images, texts, turns = self._read_text(images)
        readings = []
        for page, stem, image, text, turn in zip(pages, stems, images, texts, turns):
            page = Page(page.number, image, page.dpi)
            record = page_record(page) | {"text": text, "rotation": turn}
            if "marks" in self.tasks:
                record["marks"], record["qr"] = self._find_marks(page, text)
            strokes = None
            if "strokes" in self.tasks:
                with self.stages.timed("strokes"):
                    strokes = self.models["segmentation"](image).astype(np.uint8) * 255
                record["strokes"] = f"{os.path.basename(stem)}_p{page.number}_strokes.png"
            readings.append(Reading(record, image, strokes))
        return readings

    def _find_marks(self, page: Page, text: list[dict]) -> tuple[dict, list[dict]]:
        network, group = self.models["yolo"], partial(group_detections, dpi=page.dpi, **self.grouping)
        classes = qr_classes(network.names)
        with self.stages.timed("marks"):
            lowest = min([self.conf, *self.class_conf.values()])
            look = partial(network, conf=lowest, tta=self.tta, tile=self.tile or tile_for(*page.image.shape[:2]))
            lines = np.array([text_quad(line["polygon"]) for line in text], np.float32).reshape(-1, 4, 2)
            level = look if surely_level(lines) else partial(find_marks_level, find=look, as_it_is=classes)
            found = self._sure_enough(find_marks_nearer(page.image, lines, level, classes))
        with self.stages.timed("qr"):
            codes = read_qr_codes(page.image, [mark["box"] for mark in group(found) if mark["class_id"] in classes])
            raw = [{"id": place} | mark for place, mark in enumerate(found)]  # what member_ids name
            checked = self._sure_enough(check_codes(raw, codes, page.image, network.names, min(lowest, LOOKED_AT)))
            added = [mark for mark in checked if "id" not in mark]
            for place, mark in enumerate(added, len(raw)):
                mark["id"] = place
        grouped = [{key: value for key, value in mark.items() if key != "id"}
                   for mark in group_checked(checked, network.names, dpi=page.dpi, **self.grouping)]
        marks = {"raw": list(map(mark_record, raw + added)), "grouped": list(map(mark_record, grouped))}
        codes = with_unreadable(codes, [mark["box"] for mark in grouped if mark["class_id"] in classes])
        return marks, [code_record(code) for code in codes]

    def _sure_enough(self, marks: list[dict]) -> list[dict]:
        return [mark for mark in marks if mark["confidence"] >= self.class_conf.get(mark["class_name"], self.conf)]

    def _read_text(self, images: list[np.ndarray]) -> tuple[list[np.ndarray], list[list[dict]], list[int | None]]:
        """(images turned upright, text records of each, degrees by which each was turned clockwise)."""
        images, found, turns = list(images), self._find_boxes(images), [None] * len(images)
        may_turn = "recognition" in self.models and not self.keep_orientation
        for number, (_, quads, _) in enumerate(found if may_turn else []):
            with self.stages.timed("recognition"):
                side = side_turn(images[number], quads, self.models["recognition"])
            turns[number] = side or 0
            if side:
                images[number] = turned(images[number], side)
                (found[number],) = self._find_boxes([images[number]])
        readings = self._recognise(images, found)
        for number, (_, quads, _) in enumerate(found if may_turn else []):
            if turns[number] or not len(quads):
                continue
            with self.stages.timed("recognition"):
                turn = best_turn(images[number], quads, [reading[:2] for reading in readings[number]],
                                 lambda image: self._find_boxes([image])[0][1], self.models["recognition"])
            if turn:
                images[number], turns[number] = turned(images[number], turn), turn
                (found[number],) = self._find_boxes([images[number]])
                (readings[number],) = self._recognise([images[number]], [found[number]])
        if self.language:
            with self.stages.timed("recognition"):
                readings = look_again(images, [quads for _, quads, _ in found], readings,
                                      partial(self.models["recognition"], several=True))
        with self.stages.timed("layout"):
            return images, [text_records(*of_page) for of_page in zip(images, found, readings)], turns

    def _find_boxes(self, images: list[np.ndarray]) -> list[tuple]:
        """For each image its text as (polygons as found, quads (N, 4, 2) round them, scores (N,))."""
        with self.stages.timed("detection"):
            find = partial(find_in_windows, find=self.models["detection"])
            found = find_level(images, partial(find_nearer, find=find))
        return [(shapes, quads_round(shapes), scores) for shapes, scores in found]

    def _recognise(self, images: list[np.ndarray], found: list[tuple]) -> list[list]:
        """(text, score) of each box of each image, all read together, and with a language model its answers where the score is
        in doubt; None for each where no model reads."""
        if "recognition" not in self.models:
            return [[None] * len(quads) for _, quads, _ in found]
        with self.stages.timed("recognition"):
            crops = [crop_line(image, quad) for image, (_, quads, _) in zip(images, found) for quad in quads]
            doubt = {"doubt": DOUBT} if self.language else {}
            readings = iter(self.models["recognition"](crops, **doubt) if crops else [])
            return [[next(readings) for _ in quads] for _, quads, _ in found]


def text_records(image: np.ndarray, found: tuple, readings: list) -> list[dict]:
    """The records of a page's text in reading order. found: as DocumentReader._find_boxes gives it; readings: those of its
    boxes, None for each where no model reads."""
    (shapes, quads, scores), (height, width) = found, image.shape[:2]
    records = []
    for box, line, paragraph in zip(*reading_order(quads)):
        text = readings[box][0] if readings[box] else ""
        along, tall = text_quad(quads[box], text), stands(quads[box])  # which is read upwards or downwards
        words = [(word, np.clip(quad, 0, (width, height))) for word, quad in word_quads(image, along, text, tall)]
        records.append(text_record(shapes[box], line, paragraph, scores[box], readings[box], words))
    return records
