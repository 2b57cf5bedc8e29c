"""inference.py's models by torch and by ONNX files."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from runner import run_module, run_script
from small_models import make_weights, page, save_model

import inference
from inference import DocumentReader
from models import engines
from models.language import estimate, write_arpa
from models.parseq import PARSeqConfig, build_model
from models.second_look import DOUBT
from utils.errors import DataError, exit_cleanly
from utils.images import load_mask
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


def test_openvino_reads_the_same(weights, tmp_path):
    for name in ("detection", "recognition", "segmentation", "yolo"):
        run_module("models.export", "--weights", weights / f"{name}.pt", "--out", tmp_path / f"{name}.onnx")
    page().save(tmp_path / "scan.png")

    def read(engine, *more):
        out = tmp_path / "-".join((engine, *more))
        done = run_script("inference", "--source", tmp_path / "scan.png", "--output", out, "--weights-dir", tmp_path,
                          "--engine", engine, "--conf", "0", "--formats", "json", *more)
        assert f"by {engine} on cpu" in done.stdout
        return json.loads((out / "scan.json").read_text("utf-8"))["pages"][0], load_mask(out / "scan_p1_strokes.png")

    (ours, strokes), (theirs, same_strokes) = read("openvino"), read("onnx")
    assert len(ours["text"]) == len(theirs["text"]) > 0 and len(ours["marks"]["raw"]) == len(theirs["marks"]["raw"])
    for one, other in zip(ours["text"], theirs["text"]):
        assert one["text"] == other["text"] and one["score"] == pytest.approx(other["score"], abs=1e-3)
    assert np.array_equal(strokes, same_strokes)
    assert read("openvino", "--use-amp")[0]["error"] is None
    with pytest.raises(DataError, match="detection.pt: is no file for --engine openvino"):
        DocumentReader({"detection": weights / "detection.pt"}, ["text"], engine="openvino")


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


def ctc_reader(folder, refine_iters=0):
    """recognition.pt in `folder`: it reads by CTC, and is sure of nothing."""
    config = PARSeqConfig("AB 12", dim=32, depth=1, heads=2, decoder_heads=2, img_width=64, max_label_length=6, ctc=True,
                          stem="resnet", patch_height=32, patch_width=4)
    torch.manual_seed(1)
    model = build_model(config)
    torch.nn.init.zeros_(model.ctc_head.weight)
    save_model(folder / "recognition.pt", "recognition", model, config, charset_digest=model.charset.digest,
               reading={"decode": "ctc", "refine_iters": refine_iters})


def test_doubtful_lines_are_read_by_the_language_too(weights, tmp_path):
    """An untrained reader is sure of nothing, so that the language has the last word."""
    ctc_reader(tmp_path)
    named = {"detection": weights / "detection.pt", "recognition": tmp_path / "recognition.pt"}
    image = np.asarray(page())

    def read(**options):
        reader = DocumentReader(named, ["text"], **options)
        asked, recognition = [], reader.models["recognition"]

        def counted(crops, **more):
            asked.append((len(crops), more))
            return recognition(crops, **more)

        reader.models["recognition"] = counted
        (line,) = reader.read(image)["pages"][0]["text"]
        if reader.language:  # the first look is the reading, the second asks for the wider crop alone
            assert (1, {"doubt": DOUBT}) in asked and asked[-1] == (1, {"several": True})
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
    ctc_reader(tmp_path, refine_iters=1)  # whose readings another pass corrects, which knows no language
    assert DocumentReader(named, ["text"]).language is None
    with pytest.raises(DataError, match="recognition.pt: does not read by CTC alone, which .*other.arpa is for"):
        DocumentReader(named, ["text"], language_model=tmp_path / "other.arpa")
    named["recognition"] = weights / "recognition.pt"  # reads character after character
    (tmp_path / "ar").mkdir()
    for name in ("recognition.pt", "detection.pt"):
        (tmp_path / "ar" / name).write_bytes((weights / name).read_bytes())
    write_arpa(tmp_path / "ar" / LANGUAGE, estimate(["AB 12"], 4))
    assert DocumentReader(tmp_path / "ar", ["text"], use_amp=True).language is None
    with pytest.raises(DataError, match="recognition.pt: does not read by CTC alone, which .*other.arpa is for"):
        DocumentReader(named, ["text"], language_model=tmp_path / "other.arpa")
    with pytest.raises(DataError, match="a language model for nothing that is read"):
        DocumentReader({"detection": weights / "detection.pt"}, ["text"], language_model=tmp_path / "other.arpa")


def test_a_run_with_another_language_model_reads_again(weights, tmp_path, capsys):
    ctc_reader(tmp_path)
    (tmp_path / "detection.pt").write_bytes((weights / "detection.pt").read_bytes())
    page().save(tmp_path / "a.png")
    flags = ["--source", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--weights-dir", str(tmp_path),
             "--tasks", "text", "--workers", "1", "--no-overlays", "--formats", "json", "--resume"]

    def said(*more):
        assert inference.main([*flags, *more]) == 0
        return capsys.readouterr().out, json.loads((tmp_path / "out" / "a.json").read_text("utf-8"))["pages"][0]["text"]

    first = said()
    assert LANGUAGE not in first[0] and "passed by: 1 of 1" in said()[0]
    write_arpa(tmp_path / LANGUAGE, estimate(["AB 12"] * 5, 4))
    second = said()
    assert f"{tmp_path / LANGUAGE} by torch" in second[0] and "passed by" not in second[0] and second[1] != first[1]
    assert "passed by: 1 of 1" in said()[0]
    write_arpa(tmp_path / LANGUAGE, estimate(["2 1"] * 5, 4))
    assert "passed by" not in said()[0]
    assert said("--language-model", "none")[1] == first[1]
    with pytest.raises(SystemExit) as caught:
        exit_cleanly(lambda: inference.main([*flags, "--language-model", "gone.arpa"]))
    assert caught.value.code == 2 and "error: gone.arpa: no such language model" in capsys.readouterr().err
