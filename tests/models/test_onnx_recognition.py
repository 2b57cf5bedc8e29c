"""PARSeq's three graphs with the loop outside them: the same strings as torch, whatever the sizes."""

import json
from argparse import Namespace

import cv2
import numpy as np
import onnx
import pytest
import torch

import train_recognition
from models import export, onnx_recognition
from models.language import estimate
from models.onnx_recognition import GRAPHS, OnnxReader, graph_path
from models.read_lines import answers, recognise
from parseq_reference import make_images, make_model
from test_parseq_weights import save
from utils.charset import EOS
from utils.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the model, path of its exported encoder); the resnet stem, which has sizes of its own to get wrong."""
    folder = tmp_path_factory.mktemp("onnx")
    model = make_model(stem="resnet", patch_height=32, patch_width=4, depth=1, scale_positions=True)
    with torch.no_grad():  # so that readings differ, and end at several places
        model.decoder.layers[0].cross_attn.in_proj_weight.mul_(6)
        model.decoder.layers[0].cross_attn.out_proj.weight.mul_(4)
        model.head.bias[EOS] += 1
    model.temperature = 1.7
    save(model, folder / "a.pt", temperature=1.7)
    export.main(["--weights", str(folder / "a.pt"), "--out", str(folder / "a.onnx"), "--int8"])
    return model, folder / "a.onnx"


def make_crops(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (int(rng.integers(8, 60)), int(rng.integers(8, 200)), 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("decode, refine_iters", [("ar", 0), ("ar", 1), ("nar", 0), ("nar", 2)])
def test_two_hundred_crops_read_as_by_torch(exported, decode, refine_iters):
    """Of all widths, in batches whose rows end at different steps, some of them on their sides."""
    model, path = exported
    crops = make_crops(200)
    reader = OnnxReader(path, threads=1)
    expected = recognise(model, crops, CPU, 32, decode, refine_iters)
    found = recognise(reader, crops, CPU, 32, decode, refine_iters)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-3, abs=1e-6)
    assert len({text for text, _ in expected}) > 5


def test_a_model_that_reads_by_ctc_does_so_from_its_file(tmp_path):
    model = make_model(stem="resnet", patch_height=32, patch_width=4, depth=1, ctc=True)
    model.reading = {"decode": "ctc", "refine_iters": 0}
    with torch.no_grad():
        model.ctc_head.weight.mul_(6)
    save(model, tmp_path / "a.pt", reading=model.reading)
    export.main(["--weights", str(tmp_path / "a.pt"), "--out", str(tmp_path / "a.onnx")])
    crops, reader = make_crops(40), OnnxReader(tmp_path / "a.onnx", threads=1)
    expected, found = recognise(model, crops, CPU, 16), recognise(reader, crops, CPU, 16)
    assert [text for text, _ in found] == [text for text, _ in expected] and len({text for text, _ in found}) > 5
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-3, abs=1e-6)
    language = estimate(["abc", "gfe"], 3)
    for ours, theirs in zip(answers(reader, crops[:9], CPU, language), answers(model, crops[:9], CPU, language)):
        assert all(ours[text] == pytest.approx(share, rel=1e-2) for text, share in theirs.items() if share > 0.05)


def test_a_row_that_ends_early_does_not_end_the_others(exported):
    """Where others have stopped too soon."""
    model, path = exported
    reader, images = OnnxReader(path, threads=1), make_images(40)
    ids = model.read_logits(images, None, "ar", 0).argmax(-1)
    assert len({row.index(EOS) if EOS in row else len(row) for row in ids.tolist()}) > 1
    assert torch.equal(reader.read_logits(images, None, "ar", 0).argmax(-1), ids)
    for many in (1, 2, 7):
        assert torch.equal(reader.read_logits(images[:many], None, "ar", 1).argmax(-1),
                           model.read_logits(images[:many], None, "ar", 1).argmax(-1))


def test_ctc_is_refused_where_the_file_has_no_frames(exported):
    with pytest.raises(DataError, match="exported from a model that reads in another way"):
        OnnxReader(exported[1]).read(make_images(), decode="ctc")
    with pytest.raises(DataError, match="exported from a model that reads in another way"):
        OnnxReader(exported[1]).see(make_images(), None)


def test_the_files_carry_what_a_checkpoint_does(exported):
    model, path = exported
    reader = OnnxReader(path)
    assert reader.config == model.config and reader.charset == model.charset and reader.temperature == 1.7
    assert reader.reading == model.reading
    assert [graph_path(path, name).name for name in GRAPHS] == ["a.onnx", "a.step.onnx", "a.refine.onnx"]
    for name in GRAPHS:
        onnx.checker.check_model(str(graph_path(path, name)))


def test_eight_bit_weights_are_smaller_and_still_read(exported):
    model, path = exported
    small = path.with_suffix(".int8.onnx")
    for name in ("step", "refine"):
        assert graph_path(small, name).stat().st_size < 0.5 * graph_path(path, name).stat().st_size
    images = make_images(20)
    expected = model.read_logits(images, None, "nar", 0)
    found = OnnxReader(small, threads=1).read_logits(images, None, "nar", 0)
    assert (found - expected).abs().max() < 0.35 * expected.abs().max()
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.7


def test_the_training_script_scores_the_files(exported, tmp_path, capsys):
    _, path = exported
    crops, labels = make_crops(6), ["abc", "b", "한글", "gfe", "aa", "d"]
    (tmp_path / "test" / "images").mkdir(parents=True)
    for number, crop in enumerate(crops):
        cv2.imwrite(str(tmp_path / "test" / "images" / f"{number}.png"), crop)
    (tmp_path / "test" / "labels.tsv").write_text("".join(f"{n}.png\t{text}\n" for n, text in enumerate(labels)), "utf-8")
    found = {}
    for weights in (path.with_suffix(".pt"), path, path.with_suffix(".int8.onnx")):
        train_recognition.main(["--test-only", "--weights", str(weights), "--data-dir", str(tmp_path), "--device", "cpu",
                                "--num-workers", "0", "--output-dir", str(tmp_path)])
        found[weights.name] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["a.onnx"]["cer"] == found["a.pt"]["cer"]
    assert found["a.onnx"]["ece"] == pytest.approx(found["a.pt"]["ece"], abs=1e-4)
    assert found["a.int8.onnx"]["n"] == 6


def test_files_that_do_not_belong_together_are_refused(exported, tmp_path):
    _, path = exported
    for name in GRAPHS:
        graph_path(tmp_path / "b.onnx", name).write_bytes(graph_path(path, name).read_bytes())
    OnnxReader(tmp_path / "b.onnx")
    with pytest.raises(DataError, match="is a part; name the file of the encoder, b.onnx"):
        OnnxReader(tmp_path / "b.step.onnx")
    graph_path(tmp_path / "b.onnx", "step").write_bytes(graph_path(path, "refine").read_bytes())
    with pytest.raises(DataError, match="b.step.onnx: belongs to another export"):
        OnnxReader(tmp_path / "b.onnx")
    graph_path(tmp_path / "b.onnx", "step").unlink()
    with pytest.raises(DataError, match="b.step.onnx: no such ONNX file"):
        OnnxReader(tmp_path / "b.onnx")


def test_nothing_is_written_where_a_graph_differs(exported, monkeypatch, tmp_path):
    """Graphs of other weights: what an exporter's fault would look like."""
    _, path = exported
    graphs = iter([onnx.load(graph_path(path, name)) for name in GRAPHS])
    monkeypatch.setattr(onnx_recognition, "make_graph", lambda *arguments: next(graphs))
    other = make_model(seed=1, stem="resnet", patch_height=32, patch_width=4, depth=1, scale_positions=True)
    save(other, tmp_path / "a.pt")
    with pytest.raises(DataError, match="differs from torch"):
        onnx_recognition.export(tmp_path / "a.pt", tmp_path / "a.onnx", Namespace(int8=False))
    assert not list(tmp_path.glob("*.onnx"))
