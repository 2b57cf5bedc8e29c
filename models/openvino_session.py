"""ONNX files through OpenVINO (pip install openvino): in bfloat16 a graph takes half of ONNX Runtime's time where the
processor has units for it. Pages of many sizes cost more, since a graph is prepared anew for each."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx

from utils.errors import DataError


class OpenvinoSession:
    """An ONNX file in OpenVINO, on the CPU, with as much of onnxruntime.InferenceSession's face as models.onnx_* use.

    threads: 0 for as many as there are cores. use_amp: bfloat16 where the processor computes in it; not in an int8 file,
    whose floats do not mix with it. Raises DataError where OpenVINO is not installed, and where the file is missing or
    nothing that it can read.
    """

    def __init__(self, path: Path, threads: int = 0, use_amp: bool = False):
        try:
            import openvino
        except ImportError:
            raise DataError(f"{path}: OpenVINO is not installed; way out: pip install openvino, or --engine onnx") from None
        if not Path(path).is_file():
            raise DataError(f"{path}: no such ONNX file; python -m models.export --weights W --out F.onnx writes one")
        options = {"PERFORMANCE_HINT": "LATENCY"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        try:
            graph = onnx.load(path)
            if not use_amp or any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
                options["INFERENCE_PRECISION_HINT"] = "f32"
            self.compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as error:  # of protobuf and of OpenVINO, whose own are not public
            raise DataError(f"{path}: OpenVINO cannot read it ({' '.join(str(error).split())[:200]})") from None
        self.metadata = {entry.key: entry.value for entry in graph.metadata_props}

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map=self.metadata)

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the graph's order."""
        return list(self.compiled(feed).values())
