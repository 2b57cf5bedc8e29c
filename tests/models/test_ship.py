"""Weights to hand on: half as large, the same readings, nothing of the training in them."""

import json
from dataclasses import asdict

import pytest
import torch

from models import ship
from models.dbnet import DBNet, DBNetConfig
from models.dbnet import load_model as load_dbnet
from models.parseq import load_model
from models.parseq_weights import init_from
from parseq_reference import make_images, make_model
from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.weights import read_hashes

CPU = torch.device("cpu")


def save_run(path, model, **fields):
    """A checkpoint as a training leaves it: the weights to use are those of the average."""
    raw = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    save_checkpoint(path, {"task": "recognition", "config": asdict(model.config), "model": raw,
                           "ema": {"model": model.state_dict(), "updates": 7}, "optimizer": {"state": {}},
                           "progress": {"step": 7}, "data": {"Data": "/home/somebody/receipts"},
                           "args": {"data_dir": "/home/somebody/receipts", "lr": 1e-3, "mix": ["a/b:1"], "flip": 0.5}}
                    | fields)


def test_the_average_is_kept_in_half_the_bytes_and_reads_the_same(tmp_path, capsys):
    model = make_model(ctc=True)
    save_run(tmp_path / "best.pt", model, charset_digest=model.charset.digest, temperature=1.3,
             reading={"decode": "ar", "refine_iters": 0})
    ship.main(["--weights", str(tmp_path / "best.pt"), "--out", str(tmp_path / "out" / "recognition.pt")])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    small, checkpoint = load_model(tmp_path / "out/recognition.pt", CPU)
    assert set(checkpoint) == {"format", "task", "config", "charset_digest", "temperature", "reading", "args", "model",
                               "ema"}
    assert checkpoint["args"] == {"lr": 1e-3, "flip": 0.5}
    assert b"somebody" not in (tmp_path / "out/recognition.pt").read_bytes()
    assert small.reading["refine_iters"] == 0 and small.temperature == 1.3
    assert not small.config.ctc and not hasattr(small, "ctc_head")
    assert all(value.dtype == torch.float32 for value in small.parameters())  # only the file is short
    assert {value.dtype for value in checkpoint["model"].values()} == {torch.float16}
    assert said["task"] == "recognition" and 0 < said["rounding"] < 1e-3
    assert said["bytes"] < (tmp_path / "best.pt").stat().st_size / 3
    assert read_hashes(tmp_path / "out") == {"recognition.pt": said["sha256"]}
    ids, _ = model.read(make_images())
    short_ids, _ = small.read(make_images())
    assert torch.equal(short_ids, ids)


def test_a_training_starts_from_it(tmp_path):
    """With other characters too, whose rows are put into place one by one."""
    model, other = make_model(), make_model(seed=1, characters="한글abcdefgXY")
    save_run(tmp_path / "best.pt", model, charset_digest=model.charset.digest)
    ship.ship(tmp_path / "best.pt", tmp_path / "recognition.pt")
    assert "9 of 11 characters are known to it" in init_from(other, tmp_path / "recognition.pt")
    torch.testing.assert_close(other.encoder.state_dict(), model.encoder.state_dict(), rtol=1e-3, atol=1e-4)
    rows = [m.charset.ids["한"] for m in (other, model)]
    torch.testing.assert_close(other.head.weight[rows[0]], model.head.weight[rows[1]], rtol=1e-3, atol=1e-4)


def test_a_ctc_head_that_reads_stays(tmp_path):
    model, reading = make_model(ctc=True), {"decode": "ctc", "refine_iters": 0}
    save_run(tmp_path / "best.pt", model, charset_digest=model.charset.digest, reading=reading)
    ship.ship(tmp_path / "best.pt", tmp_path / "recognition.pt")
    small, _ = load_model(tmp_path / "recognition.pt", CPU)
    assert small.config == model.config and small.reading == reading
    assert torch.equal(small.read(make_images(), None, **reading)[0], model.read(make_images(), None, **reading)[0])


def test_counters_stay_whole_numbers(tmp_path):
    torch.manual_seed(0)
    model = DBNet(DBNetConfig("resnet18", "fpn", 16))
    model.state_dict()["encoder.bn1.num_batches_tracked"].fill_(100_001)  # no float16
    run = {"task": "detection", "config": asdict(model.config), "model": model.state_dict(), "ema": None,
           "args": {"flip": 0.5}, "thresholds": {"thresh": 0.3}}
    save_checkpoint(tmp_path / "a.pt", run)
    ship.ship(tmp_path / "a.pt", tmp_path / "detection.pt")
    again, checkpoint = load_dbnet(tmp_path / "detection.pt", CPU)
    assert again.state_dict()["encoder.bn1.num_batches_tracked"] == 100_001
    assert checkpoint["thresholds"] == {"thresh": 0.3}


def test_a_weight_that_does_not_fit_is_named(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.head.bias[0] = 1e6
    save_run(tmp_path / "best.pt", model, charset_digest=model.charset.digest)
    with pytest.raises(DataError, match="best.pt: head.bias does not fit into 16 bits"):
        ship.ship(tmp_path / "best.pt", tmp_path / "recognition.pt")
    assert not (tmp_path / "recognition.pt").exists() and not (tmp_path / "SHA256SUMS").exists()
