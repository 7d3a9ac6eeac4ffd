"""Networks written a second time in plain NumPy, from their papers' definitions: test oracles.

All arrays are float64 and shaped (N, C, H, W); weights (out, in, kh, kw) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def correlate(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    """Valid cross-correlation, one kernel offset after the other."""
    kh, kw = w.shape[2:]
    rows = (x.shape[2] - kh) // stride + 1
    columns = (x.shape[3] - kw) // stride + 1
    out = np.zeros((x.shape[0], w.shape[0], rows, columns))
    for i in range(kh):
        for j in range(kw):
            window = x[:, :, i : i + rows * stride : stride, j : j + columns * stride : stride]
            out += np.einsum("nchw,oc->nohw", window, w[:, :, i, j])
    return out


def tf_same(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    """TensorFlow's SAME convolution, padding as its documentation states it."""
    pads = [(0, 0), (0, 0)]
    for side, k in zip(x.shape[2:], w.shape[2:], strict=True):
        rest = side % stride
        total = max(k - stride, 0) if rest == 0 else max(k - rest, 0)
        pads.append((total // 2, total - total // 2))
    return correlate(np.pad(x, pads), w, stride)


def tf_transposed(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """TensorFlow's conv2d_transpose, SAME, stride 2, to twice the side; w (in, out, kh, kw).

    The transpose of the map `tf_same(., stride 2)` on an even side: every input pixel is
    spread to where that map would have read it, which begins at its own row (no padding
    before); what falls beyond the last row or column is dropped.
    """
    n, _, h, width = x.shape
    out = np.zeros((n, w.shape[1], 2 * h + w.shape[2], 2 * width + w.shape[3]))
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            spread = np.einsum("nchw,co->nohw", x, w[:, :, i, j])
            out[:, :, i : i + 2 * h : 2, j : j + 2 * width : 2] += spread
    return out[:, :, : 2 * h, : 2 * width]


def instance_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    mean = x.mean(axis=(2, 3), keepdims=True)
    var = x.var(axis=(2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight[:, None, None] + bias[:, None, None]


def johnson(x: np.ndarray, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fast-style-transfer's transform network; x RGB 0..255; returns taps and `output`."""

    def norm(y: np.ndarray, name: str) -> np.ndarray:
        return instance_norm(y, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], 1e-3)

    taps: dict[str, np.ndarray] = {}
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2)):
        x = np.maximum(norm(tf_same(x, state[f"{name}.weight"], stride), name), 0)
        taps[f"{name}.act"] = x
    for block in range(1, 6):
        first, second = f"res{block}.conv1", f"res{block}.conv2"
        y = np.maximum(norm(tf_same(x, state[f"{first}.weight"]), first), 0)
        x = x + norm(tf_same(y, state[f"{second}.weight"]), second)
        taps[f"res{block}.sum"] = x
    for name in ("up1", "up2"):
        x = np.maximum(norm(tf_transposed(x, state[f"{name}.weight"]), name), 0)
    x = norm(tf_same(x, state["out.weight"]), "out")
    taps["output"] = (150 * np.tanh(x) + 127.5) / 255
    return taps


def torch7(
    node: Mapping[str, Any], x: np.ndarray, state: Mapping[str, np.ndarray], noise: Any
) -> np.ndarray:
    """Run a nested Torch7 description; `noise(shape)` is asked in running order."""
    kind = node["type"].removeprefix("nn.")
    if kind == "Sequential":
        for child in node["modules"]:
            x = torch7(child, x, state, noise)
        return x
    if kind == "Concat":
        return np.concatenate([torch7(c, x, state, noise) for c in node["modules"]], axis=1)
    if kind == "GenNoise":
        return np.concatenate([x, noise(x.shape)], axis=1)
    own = {
        k.removeprefix(f"{node['key']}."): v[:, None, None] if v.ndim == 1 else v
        for k, v in state.items()
        if "key" in node and k.startswith(f"{node['key']}.")
    }
    return _LEAVES[kind](node, x, own)


def _pooled(node: Mapping[str, Any], x: np.ndarray, _own: Any) -> np.ndarray:
    n, c, h, w = x.shape
    k = node["k"]
    return x.reshape(n, c, h // k, k, w // k, k).mean(axis=(3, 5))


def _wrapped(node: Mapping[str, Any], x: np.ndarray, _own: Any) -> np.ndarray:
    p = node["pad"]
    return np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), mode="wrap")


def _standardised(node: Mapping[str, Any], x: np.ndarray, own: Any) -> np.ndarray:
    y = (x - own["running_mean"]) / np.sqrt(own["running_var"] + node["eps"])
    return y * own["weight"] + own["bias"]


_LEAVES: dict[str, Any] = {
    "SpatialAveragePooling": _pooled,
    "SpatialCircularPadding": _wrapped,
    "SpatialBatchNormalization": _standardised,
    "SpatialConvolution": lambda _node, x, own: correlate(x, own["weight"]) + own["bias"],
    "LeakyReLU": lambda node, x, _own: np.where(x > 0, x, node["slope"] * x),
    "SpatialUpSamplingNearest": lambda node, x, _own: x.repeat(node["scale"], axis=2).repeat(
        node["scale"], axis=3
    ),
}
