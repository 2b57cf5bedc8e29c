"""Which weights are used, and the way out where there are none."""

import argparse
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.weights import LANGUAGE, MODELS, find_language, find_weights, left_out, list_hash, read_hashes, task_list


def folder_with(folder, *models):
    for model in models:
        (folder / f"{model}.pt").touch()
    return folder


def test_what_lies_in_the_folder_and_what_is_named(tmp_path):
    folder = folder_with(tmp_path, "detection", "recognition")
    assert find_weights(folder, {}) == {m: folder / f"{m}.pt" for m in ("detection", "recognition")}
    named = {"yolo": Path("best.pt"), "detection": "other.pt", "recognition": None}
    assert find_weights(folder, named) == {"detection": Path("other.pt"), "recognition": folder / "recognition.pt",
                                           "yolo": Path("best.pt")}
    assert find_weights(None, {"segmentation": "s.pt"}) == {"segmentation": Path("s.pt")}


def test_tasks_take_only_their_own(tmp_path):
    folder = folder_with(tmp_path, "detection", "yolo", "segmentation")
    assert set(find_weights(folder, {}, ["text"])) == {"detection"}  # text is found, and not read
    assert set(find_weights(folder, {}, ["marks", "strokes"])) == {"yolo", "segmentation"}


def test_a_gpu_takes_the_weights_that_run_there(tmp_path):
    """An ONNX file runs on the CPU; exporting one must not take the work off the GPU."""
    folder = folder_with(tmp_path, "detection")
    for name in ("detection.onnx", "recognition.onnx", "recognition.int8.onnx"):
        (folder / name).touch()

    def chosen(**how):
        return {path.name for path in find_weights(folder, {}, engine="auto", **how).values()}

    assert chosen() == {"detection.onnx", "recognition.onnx"}
    assert chosen(on_gpu=True) == {"detection.pt", "recognition.onnx"}
    assert chosen(on_gpu=True, int8=True) == {"detection.onnx", "recognition.int8.onnx"}
    assert find_weights(None, {"yolo": "y.onnx"}, engine="auto", on_gpu=True) == {"yolo": Path("y.onnx")}


@pytest.mark.parametrize("lying, named, tasks, message", [
    ((), {}, None, "none of yolo.pt, detection.pt, segmentation.pt; way out: --weights-dir weights for those that come"),
    (("recognition",), {}, None, "none of yolo.pt"),  # it reads nothing without boxes
    (("detection",), {}, ["marks"], "yolo.pt: no such weights; .*python train_yolo.py.*--yolo-weights"),
    ((), {"recognition": "r.pt"}, ["text"], "detection.pt: no such weights"),
    (("detection",), {"yolo": "y.pt"}, ["text"], "y.pt: weights for yolo, which the tasks text do not use"),
    (("yolo",), {"recognition": "r.pt"}, None, "r.pt: weights for recognition"),
    ((), {"stamps": "s.pt"}, None, "weights for stamps: the models are"),
])
def test_refused(tmp_path, lying, named, tasks, message):
    with pytest.raises(DataError, match=message):
        find_weights(folder_with(tmp_path, *lying), named, tasks)


def test_exported_models_that_are_missing_are_to_be_exported(tmp_path):
    way_out = re.escape(f"; way out: python -m models.export --weights {tmp_path}/detection.pt --out {tmp_path}/detection.onnx")
    for tasks in (None, ["text"]):
        with pytest.raises(DataError, match=f"detection.onnx.*{way_out} writes one$"):
            find_weights(folder_with(tmp_path, "detection", "recognition"), {}, tasks, "onnx")
    with pytest.raises(DataError, match=rf"for --int8; way out: .* --int8 --weights {re.escape(str(tmp_path))}/recognition.pt"):
        find_weights(folder_with(tmp_path, "detection", "recognition"), {}, None, int8=True)
    with pytest.raises(DataError, match="a.pt: is no file for --engine onnx; way out: .*--weights a.pt --out a.onnx"):
        find_weights(None, {"detection": "a.pt"}, ["text"], "onnx")
    with pytest.raises(DataError, match="a.onnx: is no file for --engine torch; way out: --engine auto"):
        find_weights(None, {"detection": "a.onnx"}, ["text"], "torch")


def test_a_folder_of_weights_that_is_not_there(tmp_path):
    for tasks in (None, ["text"]):
        with pytest.raises(DataError, match="gone: no such folder; way out: --weights-dir weights"):
            find_weights(tmp_path / "gone", {}, tasks)
    assert find_weights(tmp_path / "gone", {"yolo": "y.pt"}) == {"yolo": Path("y.pt")}  # it was not needed


def test_task_list():
    assert task_list("strokes,marks") == ["marks", "strokes"] and task_list("text") == ["text"]
    for wrong in ("", "text,", "ocr", "text;marks"):
        with pytest.raises(argparse.ArgumentTypeError, match="marks,text,strokes"):
            task_list(wrong)


def test_what_a_run_will_not_do_is_said():
    every = {model: Path(model) for model in MODELS}
    assert left_out(every, None) == left_out({"yolo": Path("y")}, ["marks"]) == ""
    assert left_out({"detection": Path("d")}, None) == (
        "not looked for: marks (no yolo.pt), strokes (no segmentation.pt); text is found but not read (no recognition.pt)")


def test_a_file_that_is_not_the_one_listed_is_refused(tmp_path):
    (tmp_path / "yolo.pt").write_bytes(b"marks")
    (tmp_path / "detection.pt").write_bytes(b"boxes")
    digest = list_hash(tmp_path / "yolo.pt")
    assert digest == hashlib.sha256(b"marks").hexdigest()
    list_hash(tmp_path / "detection.pt")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 0
    assert list(read_hashes(tmp_path)) == ["detection.pt", "yolo.pt"]
    assert len(find_weights(tmp_path, {})) == 2
    (tmp_path / "yolo.pt").write_bytes(b"other")
    assert set(find_weights(tmp_path, {}, ["text"])) == {"detection"}
    with pytest.raises(DataError, match="yolo.pt: is not the file listed in .*SHA256SUMS; take the original again"):
        find_weights(tmp_path, {})
    with pytest.raises(DataError, match="is not the file listed"):
        find_weights(None, {"yolo": tmp_path / "yolo.pt"})
    list_hash(tmp_path / "yolo.pt")
    assert len(find_weights(tmp_path, {})) == 2
    (tmp_path / "SHA256SUMS").write_text("")  # nothing is listed, nothing is checked
    assert len(find_weights(tmp_path, {})) == 2


def test_a_list_of_something_else_is_named(tmp_path):
    (folder_with(tmp_path, "yolo") / "SHA256SUMS").write_text("yolo.pt abc\n")
    with pytest.raises(DataError, match="SHA256SUMS: 'yolo.pt abc' is not HASH and NAME"):
        find_weights(tmp_path, {})


def test_the_language_model_beside_the_weights_or_one_that_is_named(tmp_path):
    weights, beside, other = tmp_path / "recognition.pt", tmp_path / LANGUAGE, tmp_path / "other.arpa"
    assert find_language("auto", weights) is None
    beside.write_bytes(b"1")
    other.write_bytes(b"2")
    assert find_language("auto", weights) == beside and find_language("none", weights) is None
    assert find_language(other, weights) == find_language(str(other), weights) == other
    with pytest.raises(DataError, match="gone.arpa: no such language model"):
        find_language(tmp_path / "gone.arpa", weights)
    list_hash(beside)
    beside.write_bytes(b"3")
    with pytest.raises(DataError, match="is not the file listed"):
        find_language("auto", weights)
