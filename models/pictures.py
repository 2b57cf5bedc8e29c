"""Samples with truth and prediction for TensorBoard: what a model makes of a few pages or crops, drawn by utils.boards.

Each function yields pictures (H, W, 3) uint8 of SAMPLES samples spread over those given; the model is in evaluation mode.
"""

from typing import Iterator, Sequence

import numpy as np
import torch

from models.dbnet import DBNet
from models.dbnet_decode import decode
from models.parseq import PARSeq, read_texts
from models.strokes import StrokeNet, predict_strokes
from models.yolo_boxes import detect
from utils.boards import crop_board, mark_board, page_board, stroke_board
from utils.frames import spread
from utils.geometry import PageSize
from utils.images import load_image, to_tensor
from utils.text_crops import resize_crop, stack_crops

SAMPLES, LINES = 3, 12
SHOWN_CONFIDENCE = 0.25


def page_pictures(model: DBNet, pages: Sequence, device: torch.device, thresholds: dict) -> Iterator[np.ndarray]:
    """pages: with `path`, `polygons` and `ignored`; thresholds: the checkpoint's."""
    for page in spread(pages, SAMPLES):
        original = load_image(page.path)
        fitted, scale = PageSize.of(thresholds).fit(original)
        with torch.inference_mode():
            features = model.pyramid(list(model.encoder(to_tensor(fitted)[None].to(device))[-4:]))
            prob, thresh = (head(features)[0, 0].float().sigmoid().cpu().numpy()
                            for head in (model.prob_head, model.thresh_head))
        found, _ = decode(prob, thresholds)
        height, width = (max(round(side * scale), 1) for side in original.shape[:2])  # without the padding
        yield page_board(fitted[:height, :width], [polygon * scale for polygon in page.polygons], page.ignored, found,
                         prob[:height, :width], thresh[:height, :width])


def stroke_pictures(model: StrokeNet, pages: Sequence, threshold: float) -> Iterator[np.ndarray]:
    """pages: with `image` (a path) and `truth()`; threshold: the probability from which a pixel is ink."""
    for page in spread(pages, SAMPLES):
        image = load_image(page.image)
        yield stroke_board(image, page.truth(), predict_strokes(model, image) >= threshold)


def crop_pictures(model: PARSeq, crops: Sequence, device: torch.device, decode: str,
                  refine_iters: int) -> Iterator[np.ndarray]:
    """One picture of LINES crops. crops: with `load()` and `text`."""
    config, chosen = model.config, spread(crops, LINES)
    images = [crop.load() for crop in chosen]
    batch, widths = stack_crops([resize_crop(image, config.img_height, config.img_width, config.stretch) for image in images],
                                config.bucket, config.img_width)
    texts = [text for text, _ in read_texts(model, batch.to(device), widths.to(device), decode, refine_iters)]
    yield crop_board(images, [crop.text for crop in chosen], texts)


def mark_pictures(model, samples: Sequence, img_size: int) -> Iterator[np.ndarray]:
    """samples: with `file`, `classes` and `corners()`; model: as models.yolo_boxes.detect wants it."""
    for sample in spread(samples, SAMPLES):
        image = load_image(sample.file)
        found = [(mark["class_name"], mark["box"], mark["confidence"])
                 for mark in detect(model, image, SHOWN_CONFIDENCE, img_size=img_size)]
        truth = [(model.names[int(class_id)], box) for class_id, box in zip(sample.classes, sample.corners())]
        yield mark_board(image, truth, found)
