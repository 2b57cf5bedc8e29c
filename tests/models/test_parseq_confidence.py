"""Scores of readings: what they are at a temperature, and that the fitted temperature makes them honest."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from models.parseq import load_model, read_texts
from models.parseq_confidence import FEWEST, TEMPERATURES, calibrate, fit_temperature, log_scores
from parseq_reference import make_images, make_model
from test_parseq_weights import save
from utils.charset import EOS


def test_scores_at_a_temperature_are_those_of_divided_logits():
    model, images = make_model(), make_images(4)
    logits = model.read_logits(images, None, "ar", 1)
    for temperature, scores in zip((0.5, 1.0, 3.0), log_scores(logits, [0.5, 1.0, 3.0]).T):
        model.temperature = temperature
        readings = read_texts(model, images, torch.full((4,), 64), "ar", 1)
        assert scores.exp().tolist() == pytest.approx([score for _, score in readings], rel=1e-3, abs=1e-9)
    texts = [text for text, _ in readings]
    model.temperature = 1.0
    assert texts == [text for text, _ in read_texts(model, images, torch.full((4,), 64), "ar", 1)]


def test_the_temperature_of_overconfident_logits_is_found():
    """Answers are right as often as softmax(logits) says; the logits handed over are three times as large."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 1, 6, generator=generator) * 2
    logits[..., EOS] = -20
    drawn = torch.multinomial(logits[:, 0].softmax(-1), 1, generator=generator)[:, 0]
    exact = (drawn == logits[:, 0].argmax(-1)).double().numpy()
    found = fit_temperature(log_scores(3 * logits, TEMPERATURES).numpy(), exact)
    assert 2.4 < found < 3.7
    assert 0.8 < fit_temperature(log_scores(logits, TEMPERATURES).numpy(), exact) < 1.25


def test_nothing_is_fitted_to_too_few_mistakes():
    scores = np.full((100, len(TEMPERATURES)), -0.1)
    exact = np.ones(100)
    exact[: FEWEST - 1] = 0
    assert fit_temperature(scores, exact) == 1.0 and fit_temperature(scores, 1 - exact) == 1.0


def test_calibration_reads_batches_and_is_kept_in_the_checkpoint(tmp_path):
    model, args = make_model(), Namespace(decode="ar", refine_iters=1, use_amp=False, fold=["case"])
    images = make_images(60)
    widths = torch.full((60,), 64)
    # Readings in capitals are right, as the flags have it.
    truths = [text.upper() if i % 2 else text + "x" for i, (text, _) in enumerate(read_texts(model, images, widths, "ar", 1))]
    batches = [{"image": images[s], "width": widths[s], "text": truths[s]} for s in (slice(0, 30), slice(30, 60))]
    before = [score for _, score in read_texts(model, images, widths, "ar", 1)]
    temperature = calibrate(model, batches, torch.device("cpu"), args)
    assert temperature == model.temperature and temperature in TEMPERATURES
    after = [score for _, score in read_texts(model, images, widths, "ar", 1)]
    assert abs(np.mean(after) - 0.5) <= abs(np.mean(before) - 0.5) + 1e-6  # half of the readings are right
    save(model, tmp_path / "a.pt", temperature=temperature)
    assert load_model(tmp_path / "a.pt", torch.device("cpu"))[0].temperature == temperature
    save(model, tmp_path / "b.pt")
    assert load_model(tmp_path / "b.pt", torch.device("cpu"))[0].temperature == 1.0
