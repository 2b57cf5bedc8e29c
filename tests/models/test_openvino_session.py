"""OpenVINO with the face of an ONNX Runtime session. It runs in processes of its own, away from the tests' other libraries."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.onnx_files import open_session, read_metadata, set_metadata
from models.openvino_session import OpenvinoSession
from utils.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent
ANSWER = """
import json, sys
import numpy as np
from pathlib import Path
from models.onnx_files import read_metadata
from models.openvino_session import OpenvinoSession

file, feeds, out, use_amp = sys.argv[1:]
session, feeds = OpenvinoSession(Path(file), 1, use_amp == "True"), np.load(feeds)
answers = [session.run(None, {name: feeds[f"{name}{number}"] for name in "ab"}) for number in range(len(feeds) // 2)]
np.savez(out, **{f"{place}_{number}": value for number, answer in enumerate(answers) for place, value in enumerate(answer)})
print(json.dumps(read_metadata(session, "detection", Path(file))))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(b, a) -> (a b, a + 1), with names that are not in the order of the alphabet."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "n"]) for name in ("b", "a", "z", "c")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["z"]), helper.make_node("Add", ["a", "one"], ["c"])],
                              "g", values[:2], values[2:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    set_metadata(model, "detection", {"thresholds": {"박스": 0.5}})
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx.save(model, path)
    return path


def ask(file: Path, folder: Path, feeds: list[dict], use_amp: bool = False) -> tuple[list[list[np.ndarray]], dict]:
    """(what OpenVINO answers to each, asked one after the other of one session, what it says of the file)."""
    np.savez(folder / "feeds.npz", **{f"{name}{number}": value for number, feed in enumerate(feeds)
                                      for name, value in feed.items()})
    done = subprocess.run([sys.executable, "-c", ANSWER, file, folder / "feeds.npz", folder / "answers.npz", str(use_amp)],
                          cwd=ROOT, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    answers = np.load(folder / "answers.npz")
    return [[answers[f"{place}_{number}"] for place in (0, 1)] for number in range(len(feeds))], json.loads(done.stdout)


def test_it_answers_as_onnx_runtime_does(file, tmp_path):
    """At every size, and each answer stays what it was when the next is given."""
    feeds = [{name: np.random.default_rng(side).normal(size=(side, side)).astype(np.float32) for name in "ab"}
             for side in (1, 3, 64, 64, 3)]
    feeds[3] = {"a": feeds[2]["b"], "b": feeds[2]["a"]}
    theirs = open_session(file, 1)
    answers, metadata = ask(file, tmp_path, feeds)
    for ours, feed in zip(answers, feeds, strict=True):
        for one, other in zip(ours, theirs.run(None, feed), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert metadata == read_metadata(theirs, "detection", file)


def test_full_precision_unless_16_bits_are_asked_for(file, tmp_path):
    values = np.random.default_rng(0).random((64, 64), np.float32)
    exact = values @ values
    plain, amp = (ask(file, tmp_path, [{"a": values, "b": values}], use_amp)[0][0][0] for use_amp in (False, True))
    assert np.abs(plain - exact).max() < 1e-4 and np.abs(amp - exact).max() < 0.02 * exact.max()


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace())
    with pytest.raises(DataError, match="gone.onnx: no such ONNX file"):
        OpenvinoSession(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07nothing of the kind")
    with pytest.raises(DataError, match="bad.onnx: OpenVINO cannot read it"):
        OpenvinoSession(tmp_path / "bad.onnx")
