"""The recognition benchmark runs and compares equal answers; how fast anything is, is not asked here."""

import json

import pytest
import torch

from benchmarks import recognition
from models import parseq

TINY = {"dim": 48, "heads": 3, "decoder_heads": 6, "depth": 1}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(parseq.ARCHS, "parseq-ti", TINY)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_it_prints_one_report_that_fits_together(tiny, capsys):
    assert recognition.main(["--arch", "parseq-ti", "--repeats", "1", "--lines", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"decode", "train", "pipeline", "buckets"} <= set(report)
    for batch in ("batch_1", "batch_4", "batch_16"):
        found = report["decode"][batch]
        assert found["decoder_ratio"] == pytest.approx(found["plain_ms"] / found["decoder_ms"])
        assert found["whole_ratio"] == pytest.approx(
            (found["plain_ms"] + found["encoder_ms"]) / (found["decoder_ms"] + found["encoder_ms"]))
        assert found["by_steps_ratio"] == pytest.approx(found["plain_ms"] / found["by_steps_ms"])
        assert found["by_steps_whole_ratio"] == pytest.approx(
            (found["plain_ms"] + found["encoder_ms"]) / (found["by_steps_ms"] + found["encoder_ms"]))
        assert found["largest_difference"] < 1e-4
    train, pipeline, buckets = report["train"], report["pipeline"], report["buckets"]
    for labels in ("labels_of_25", "labels_of_1_to_25"):
        found = train[labels]
        assert found["permutations"] == 6 and found["loss_difference"] < 1e-3
        assert found["step_ratio"] == pytest.approx(found["plain_step_ms"] / found["step_ms"])
    assert pipeline["outruns_the_model_on_this_cpu"] == (pipeline["crops_per_s"] > train["labels_of_25"]["images_per_s"])
    assert buckets["ratio"] == pytest.approx(buckets["images_per_s"] / buckets["fixed_width_images_per_s"])


def test_the_plain_loop_decodes_what_the_model_does(tiny):
    model = recognition.make_model("parseq-ti")
    memory, _ = model.encoder(torch.randn(3, 3, 32, 128, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        ours = model.decode(memory, None, "ar", 0)
        plain = recognition.recomputing_decode(model, memory, recognition.plain_attentions(model))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert len({tuple(row) for row in plain.argmax(-1).tolist()}) > 1
