"""OpenVINO with the face of an ONNX Runtime session."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from models.onnx_files import open_session, read_metadata, set_metadata
from models.openvino_session import OpenvinoSession
from utils.errors import DataError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(a, b) -> (a b, a + 1), with names that are not in the order of the alphabet."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "n"]) for name in ("b", "a", "z", "c")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["z"]), helper.make_node("Add", ["a", "one"], ["c"])],
                              "g", values[:2], values[2:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    set_metadata(model, "detection", {"thresholds": {"박스": 0.5}})
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx.save(model, path)
    return path


def test_it_answers_as_onnx_runtime_does(file):
    ours, theirs = OpenvinoSession(file, 1), open_session(file, 1)
    for side in (1, 3, 64):
        feed = {name: np.random.default_rng(side).normal(size=(side, side)).astype(np.float32) for name in "ab"}
        for one, other in zip(ours.run(None, feed), theirs.run(None, feed), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert read_metadata(ours, "detection", file) == read_metadata(theirs, "detection", file)


def test_an_answer_stays_what_it_was(file):
    """The memory of one answer is not that of the next."""
    session = OpenvinoSession(file, 1)
    first = session.run(None, {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)})[0]
    session.run(None, {"a": np.zeros((2, 2), np.float32), "b": np.ones((2, 2), np.float32)})
    assert (first == 2).all()


def test_full_precision_unless_16_bits_are_asked_for(file):
    values = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)).numpy()
    exact = values @ values
    (plain, _), (amp, _) = (OpenvinoSession(file, 1, use_amp).run(None, {"a": values, "b": values})
                            for use_amp in (False, True))
    assert np.abs(plain - exact).max() < 1e-4 and np.abs(amp - exact).max() < 0.02 * exact.max()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.onnx: no such ONNX file"):
        OpenvinoSession(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07nothing of the kind")
    with pytest.raises(DataError, match="bad.onnx: OpenVINO cannot read it"):
        OpenvinoSession(tmp_path / "bad.onnx")
