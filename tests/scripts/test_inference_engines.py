"""inference.py's models by torch and by ONNX files."""

from importlib import import_module

import numpy as np
import pytest
import torch
from runner import run_module
from small_models import make_weights, page, save_model

from inference import DocumentReader
from models import engines
from models.language import estimate, write_arpa
from models.parseq import PARSeqConfig, build_model
from utils.errors import DataError
from utils.weights import LANGUAGE


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"))


def test_onnx_files_read_the_same(weights, tmp_path):
    run_module("models.export", "--weights", weights / "detection.pt", "--out", tmp_path / "detection.onnx")
    by_onnx, by_torch = DocumentReader(tmp_path, ["text"]), DocumentReader(
        {"detection": weights / "detection.pt"}, ["text"])
    assert (by_onnx.engine, by_torch.engine) == ("onnx", "torch")
    (ours,), (theirs,) = (reader.read(np.asarray(page()))["pages"][0]["text"] for reader in (by_onnx, by_torch))
    assert ours["score"] == pytest.approx(theirs["score"], abs=1e-3)
    assert np.allclose(ours["polygon"], theirs["polygon"], atol=0.2)
    # the older of two files is not what "auto" takes
    (tmp_path / "detection.pt").write_bytes((weights / "detection.pt").read_bytes())
    assert DocumentReader(tmp_path, ["text"]).weights == {"detection": tmp_path / "detection.pt"}
    assert DocumentReader(tmp_path, ["text"], engine="onnx").weights == {"detection": tmp_path / "detection.onnx"}
    with pytest.raises(DataError, match="--use-amp: does nothing for ONNX files"):
        DocumentReader(tmp_path, ["text"], engine="onnx", use_amp=True)


@pytest.mark.parametrize("name", ["recognition", "segmentation", "yolo"])
def test_onnx_stand_ins_are_asked_as_the_networks_are(name, weights, tmp_path, monkeypatch):
    """The ONNX modules promise their network's face; here the network itself stands behind it."""
    plain, checkpoint = import_module(engines.TORCH[name]).load_model(weights / f"{name}.pt", torch.device("cpu"))
    module = import_module(engines.ONNX[name])
    asked = []
    if name == "recognition":
        monkeypatch.setattr(module, "OnnxReader", lambda path: asked.append(path) or plain)
    else:
        monkeypatch.setattr(module, "load_onnx", lambda path: asked.append(path) or (plain, checkpoint))
    image = np.asarray(page())
    given = {"recognition": ([image],), "segmentation": (image,), "yolo": (image, 0.15)}[name]
    ours = engines.open_model(name, tmp_path / "x.onnx", torch.device("cpu"))(*given)
    theirs = engines.open_model(name, weights / f"{name}.pt", torch.device("cpu"))(*given)
    assert asked == [tmp_path / "x.onnx"] and len(ours) == len(theirs)
    assert (ours == theirs).all() if name == "segmentation" else ours == theirs


def test_doubtful_lines_are_read_by_the_language_too(weights, tmp_path, monkeypatch):
    """An untrained reader is sure of nothing, so that the language has the last word."""
    config = PARSeqConfig("AB 12", dim=32, depth=1, heads=2, decoder_heads=2, img_width=64, max_label_length=6, ctc=True,
                          stem="resnet", patch_height=32, patch_width=4)
    torch.manual_seed(1)
    model = build_model(config)
    torch.nn.init.zeros_(model.ctc_head.weight)
    save_model(tmp_path / "recognition.pt", "recognition", model, config, charset_digest=model.charset.digest,
               reading={"decode": "ctc", "refine_iters": 0})
    named = {"detection": weights / "detection.pt", "recognition": tmp_path / "recognition.pt"}
    image = np.asarray(page())

    def read(**options):
        reader = DocumentReader(named, ["text"], **options)
        (line,) = reader.read(image)["pages"][0]["text"]
        return reader.language, line["text"], line["score"]

    alone = read()
    assert alone[0] is None
    write_arpa(tmp_path / LANGUAGE, estimate(["AB 12"] * 5, 4))
    by_language = read()
    assert by_language[0] == tmp_path / LANGUAGE and by_language[1] != alone[1] and 0 < by_language[2]
    assert read(use_amp=True)[0] == tmp_path / LANGUAGE
    assert read(language_model="none") == alone
    write_arpa(tmp_path / "other.arpa", estimate(["2 1"] * 5, 4))
    assert read(language_model=str(tmp_path / "other.arpa"))[1] not in (alone[1], by_language[1])
    named["recognition"] = weights / "recognition.pt"
    with pytest.raises(DataError, match="recognition.pt: does not read by CTC, which alone can use .*other.arpa"):
        DocumentReader(named, ["text"], language_model=tmp_path / "other.arpa")
    with pytest.raises(DataError, match="a language model for nothing that is read"):
        DocumentReader({"detection": weights / "detection.pt"}, ["text"], language_model=tmp_path / "other.arpa")
