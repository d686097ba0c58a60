"""Turning an ONNX graph from float32 into fp16, its inputs, its outputs and the timestep's angles left in float32.

onnxruntime ships a converter that sends every tensor between two nodes it was told to spare through fp16: angles up to
1000 would be off by half a radian there. This one casts at the borders only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from ip2pbatch.backends.onnx.external_weights import Graph, Weight

_LARGEST = float(np.finfo(np.float16).max)

# Inputs of operators that are float32 by their definition, whatever the operator's type is.
_FLOAT_INPUTS = {"Resize": (2,), "GroupNorm": (1, 2), "SkipGroupNorm": (1, 2)}

# Operators that only move what their first input holds: the others are shapes and places.
_MOVES = frozenset({"Expand", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Slice", "Transpose"})


def to_half(graph: Graph) -> None:
    """Convert `graph` in place; its inputs and outputs keep their names and types."""
    _Halving(graph).convert()


class _Halving:
    """One conversion: which tensors are float32, and which fp16 copies of them there are by now."""

    def __init__(self, whole: Graph) -> None:
        self._whole, self._graph = whole, whole.model.graph
        self._exact = _angles(self._graph)
        self._tensors = {one.name: one for one in self._graph.initializer if one.data_type == TensorProto.FLOAT}
        self._tensors |= {
            node.output[0]: node.attribute[0].t
            for node in self._graph.node
            if node.op_type == "Constant" and node.attribute[0].t.data_type == TensorProto.FLOAT
        }
        self._floats = {one.name for one in self._graph.input if one.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._nodes: list[NodeProto] = []
        self._copies: dict[str, str] = {}

    def convert(self) -> None:
        """Walk through the nodes, which are in an order that a graph can be run in."""
        for node in self._graph.node:
            if node.output[0] in self._exact:
                self._floats.update(node.output)
            else:
                self._halve(node)
            self._nodes.append(node)
        self._outputs()
        self._drop_unused()

    def _halve(self, node: NodeProto) -> None:
        spared = _FLOAT_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if place not in spared and (name in self._tensors or name in self._floats):
                node.input[place] = self._half(name)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if node.op_type == "ConstantOfShape" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_in_half(attribute.t, attribute.t.name))

    def _half(self, name: str) -> str:
        """The name of the fp16 copy of a float32 tensor."""
        if name not in self._copies:
            copy = self._copies[name] = f"{name}_half"
            if name in self._whole.weights:
                made = self._graph.initializer.add(name=copy, data_type=TensorProto.FLOAT16)
                self._whole.put(made, _weight_in_half(self._whole.weights[name]))
            elif name in self._tensors:
                self._graph.initializer.append(_in_half(self._tensors[name], copy))
            else:
                self._nodes.append(helper.make_node("Cast", [name], [copy], name=copy, to=TensorProto.FLOAT16))
        return self._copies[name]

    def _outputs(self) -> None:
        """Give back every float32 output in float32."""
        for output in self._graph.output:
            if output.type.tensor_type.elem_type != TensorProto.FLOAT or output.name in self._floats:
                continue
            name = f"{output.name}_half"
            for node in self._nodes:
                for names in (node.input, node.output):
                    names[:] = [name if one == output.name else one for one in names]
            self._nodes.append(helper.make_node("Cast", [name], [output.name], name=name, to=TensorProto.FLOAT))

    def _drop_unused(self) -> None:
        used = {name for node in self._nodes for name in node.input}
        nodes = [node for node in self._nodes if node.op_type != "Constant" or node.output[0] in used]
        weights = [one for one in self._graph.initializer if one.name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(weights)
        for name in self._whole.weights.keys() - used:
            del self._whole.weights[name]


def _angles(graph: GraphProto) -> set[str]:
    """The tensors between the timestep and the end of its sines and cosines."""
    makers = {name: node for node in graph.node for name in node.output if node.op_type != "Constant"}
    edge = [node for node in graph.node if node.op_type in ("Sin", "Cos")]
    found: set[str] = set()
    while edge:
        node = edge.pop()
        if node.output[0] not in found:
            found.update(node.output)
            read = node.input[:1] if node.op_type in _MOVES else node.input
            edge += [makers[name] for name in read if name in makers]
    return found


def _in_half(tensor: TensorProto, name: str) -> TensorProto:
    return numpy_helper.from_array(_halved(numpy_helper.to_array(tensor)), name)


def _weight_in_half(weight: Weight) -> Weight:
    return Weight(weight.dims, lambda: _halved(weight.read()))


def _halved(values: NDArray[Any]) -> NDArray[np.float16]:
    clipped: NDArray[Any] = np.clip(values, -_LARGEST, _LARGEST)
    return clipped.astype(np.float16)
