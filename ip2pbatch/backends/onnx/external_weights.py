"""ONNX graphs whose weights stay in files while the graph is worked on: nodes and small tensors are all that is held.

A protobuf message above 2 GB cannot even be asked for its size, copies of it are copies of all weights, and one that is
changed keeps what it held before. Fusing Stable Diffusion's UNet took more than three times its 3.4 GB that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

_LARGE = 1 << 17
"""Bytes from which a matrix is a weight. Fusing looks at the values of smaller tensors, and at those of vectors."""

_EXTERNAL = 1 << 30
"""Bytes of weights above which they lie in a file of their own beside the graph: a protobuf file ends at 2 GB."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor's sides, and what reads its values."""

    dims: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Graph:
    """A model whose large initializers hold no values: those are in `weights`, by name."""

    model: ModelProto
    weights: dict[str, Weight]

    def put(self, tensor: TensorProto, weight: Weight) -> None:
        """Make an initializer of the model one of the weights; it keeps its name and its type."""
        self.weights[tensor.name] = weight
        tensor.dims[:] = weight.dims
        tensor.ClearField("raw_data")
        _point(tensor)


def read(file: Path) -> Graph:
    """The graph in `file`; weights in a file of their own are left there."""
    graph = Graph(onnx.load(file, load_external_data=False), {})
    for tensor in graph.model.graph.initializer:
        weight = _weight_of(tensor, file.parent)
        vector = max(weight.dims, default=1) == math.prod(weight.dims)
        if not vector and _bytes_of(tensor) >= _LARGE:
            graph.put(tensor, weight)
        elif uses_external_data(tensor):
            _hold(tensor, weight)
    return graph


def write(graph: Graph, file: Path) -> None:
    """Write a graph with its weights to `file`; where they are large, to `file`.data beside it, one after another."""
    data, scratch = file.with_name(file.name + ".data"), file.with_name(file.name + ".data.partial")
    tensors = [tensor for tensor in graph.model.graph.initializer if tensor.name in graph.weights]
    if sum(map(_bytes_of, tensors)) >= _EXTERNAL:
        with scratch.open("wb") as stream:
            for tensor in tensors:
                begin = stream.tell()
                stream.write(graph.weights[tensor.name].read().tobytes())
                _point(tensor, location=data.name, offset=begin, length=stream.tell() - begin)
        scratch.replace(data)  # until here its older self was read
    else:
        for tensor in tensors:
            _hold(tensor, graph.weights[tensor.name])
        data.unlink(missing_ok=True)
    file.write_bytes(graph.model.SerializeToString())


def _weight_of(tensor: TensorProto, folder: Path) -> Weight:
    """What reads a tensor; a file of its values lies in `folder`."""
    dims, kind = tuple(tensor.dims), _type(tensor)
    if not uses_external_data(tensor):
        values = numpy_helper.to_array(tensor)
        return Weight(dims, lambda: values)
    info = ExternalDataInfo(tensor)
    file, offset = folder / info.location, info.offset or 0
    return Weight(dims, lambda: np.fromfile(file, kind, math.prod(dims), offset=offset).reshape(dims))


def _type(tensor: TensorProto) -> np.dtype[Any]:
    kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.dtype(kind)


def _bytes_of(tensor: TensorProto) -> int:
    dims: tuple[int, ...] = tuple(tensor.dims)
    return math.prod(dims) * _type(tensor).itemsize


def _hold(tensor: TensorProto, weight: Weight) -> None:
    """Give a tensor its values."""
    tensor.raw_data = weight.read().tobytes()
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _point(tensor: TensorProto, **where: object) -> None:
    """Say that a tensor's values are elsewhere."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))
