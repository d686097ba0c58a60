"""ONNX graphs of the networks: traced from PyTorch, fused for the CUDA provider, turned into fp16, written to disk.

TorchScript's exporter is used, as NVIDIA's and onnxruntime's own Stable Diffusion examples do: it is ten times quicker
than the newer one here and its graphs have the patterns that onnxruntime's transformer optimiser knows.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from ip2pbatch.backends.onnx import external_weights
from ip2pbatch.backends.onnx.external_weights import Graph, Weight
from ip2pbatch.backends.onnx.traced import Network

# What onnxruntime's optimiser calls each network.
_KINDS = {"text_encoder": "clip", "unet": "unet", "vae_encoder": "vae", "vae_decoder": "vae"}


def trace(network: Network, file: Path, opset: int, *, fused: bool = False) -> None:
    """Write the graph of `network` to `file`, in float32. `fused` makes its attention onnxruntime's own operator."""
    names, probe = list(network.probes[0]), network.probes[0]
    axes = {name: dict(axes) for name, axes in network.axes.items()}
    axes[network.output] = dict(next(iter(network.axes.values())))
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:  # above 2 GB the exporter writes a file a tensor
        whole = Path(scratch) / "graph.onnx"
        with _quietly(), _fused_attention(network.module if fused else None), torch.inference_mode():
            torch.onnx.export(
                network.module, tuple(probe.values()), str(whole), input_names=names, output_names=[network.output],
                dynamic_axes=axes, opset_version=opset, dynamo=False,
            )  # fmt: skip
        graph = external_weights.read(whole)
        _mend_transposes(graph.model)
        external_weights.write(graph, file)


def fuse(file: Path, name: str) -> dict[str, int]:
    """Fuse norms, biases and layouts of the graph in `file` for the CUDA provider; how often each fused operator is."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(_KINDS[name])
    options.enable_attention = False  # `trace` has written it already; the optimiser does not know torch's form of it
    graph = external_weights.read(file)
    _stand_in(graph)
    with _quietly():
        made = optimizer.optimize_model(
            graph.model, model_type=_KINDS[name], opt_level=0, optimization_options=options, use_gpu=True
        )
    fused = Graph(made.model, graph.weights)
    _fill(fused)
    external_weights.write(fused, file)
    return {kind: len(made.get_nodes_by_op_type(kind)) for kind in FUSED}


FUSED = (
    "MultiHeadAttention", "LayerNormalization", "SkipLayerNormalization", "BiasSplitGelu", "GroupNorm",
    "SkipGroupNorm", "NhwcConv", "BiasAdd",
)  # fmt: skip


_CONV = "conv of "


def _stand_in(graph: Graph) -> None:
    """Give the optimiser small tensors for the weights of convolutions, the only ones whose values it moves.

    They have one input channel, and each convolution is called after its weight, so that `_fill` finds it again.
    """
    tensors = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    for node in graph.model.graph.node:
        if node.op_type == "Conv" and node.input[1] in graph.weights:
            node.name = f"{_CONV}{node.input[1]}"
            out, _, *kernel = graph.weights[node.input[1]].dims
            small = numpy_helper.from_array(np.zeros((out, 1, *kernel), np.float32), node.input[1])
            tensors[node.input[1]].CopyFrom(small)


def _fill(graph: Graph) -> None:
    """Put back the weights that `_stand_in` took, with their channels last where the optimiser has them so."""
    convolutions = {node.input[1]: node.name for node in graph.model.graph.node if node.op_type == "NhwcConv"}
    for tensor in graph.model.graph.initializer:
        weight = graph.weights.get(convolutions.get(tensor.name, "").partition(_CONV)[2])
        if weight is not None:
            graph.put(tensor, _channels_last(weight))
        elif tensor.name in graph.weights:
            graph.put(tensor, graph.weights[tensor.name])


def _channels_last(weight: Weight) -> Weight:
    out, channels, *kernel = weight.dims
    return Weight((out, *kernel, channels), lambda: weight.read().transpose(0, 2, 3, 1))


def _mend_transposes(model: ModelProto) -> None:
    """Count axes from the front: the exporter writes `movedim(1, -1)` as a permutation with a −1 in it."""
    for node in model.graph.node:
        if node.op_type == "Transpose":
            perm = node.attribute[0].ints
            perm[:] = [axis % len(perm) for axis in perm]


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back the exporter's and the optimiser's warnings, advice and progress bars."""
    import tqdm

    loggers = [logging.getLogger(name) for name in ("onnxruntime", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    bars: Any = tqdm.tqdm
    begin = bars.__init__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            bars.__init__ = lambda self, *args, **settings: begin(self, *args, **{**settings, "disable": True})
            yield
    finally:
        bars.__init__ = begin
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _MultiHeadAttention(torch.autograd.Function):
    """Attention over query, key and value [n, tokens, heads · width], as one operator of onnxruntime."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        split = [one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (query, key, value)]
        return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        return g.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads).setType(query.type())


class _FusedProcessor:
    """diffusers' AttnProcessor2_0 for the UNet's own kind of attention: no mask, no norms of its own."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        found = _MultiHeadAttention.apply(query, key, value, attn.heads)  # type: ignore[no-untyped-call]  # torch's own
        return attn.to_out[0](found)


@contextmanager
def _fused_attention(module: nn.Module | None) -> Iterator[None]:
    """Give the transformer blocks of a UNet the fused attention for the duration."""
    inside = [] if module is None else module.modules()
    blocks: list[Any] = [one for one in inside if type(one).__name__ == "BasicTransformerBlock"]
    attentions = [one for block in blocks for one in (block.attn1, block.attn2) if one is not None]
    before = [one.processor for one in attentions]
    try:
        for one in attentions:
            one.set_processor(_FusedProcessor())
        yield
    finally:
        for one, processor in zip(attentions, before, strict=True):
            one.set_processor(processor)
