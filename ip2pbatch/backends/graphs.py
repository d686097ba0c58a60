"""ONNX graphs of the networks: traced from PyTorch, fused for the CUDA provider, turned into fp16, written to disk.

TorchScript's exporter is used, as NVIDIA's and onnxruntime's own Stable Diffusion examples do: it is ten times quicker
than the newer one here and its graphs have the patterns that onnxruntime's transformer optimiser knows.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from ip2pbatch.backends.networks import Network

_EXTERNAL = 1 << 30
"""Bytes above which weights lie in a file of their own beside the graph: a protobuf file ends at 2 GB."""

_SMALL = 1 << 10  # bytes; smaller tensors stay in the graph, where their values can be read

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
        model = onnx.load(whole)
    _mend_transposes(model)
    save(model, file)


def fuse(file: Path, name: str) -> dict[str, int]:
    """Fuse norms, biases and layouts of the graph in `file` for the CUDA provider; how often each fused operator is."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(_KINDS[name])
    options.enable_attention = False  # `trace` has written it already; the optimiser does not know torch's form of it
    with _quietly():
        model = optimizer.optimize_model(
            str(file), model_type=_KINDS[name], opt_level=0, optimization_options=options, use_gpu=True
        )
    save(model.model, file)
    return {kind: len(model.get_nodes_by_op_type(kind)) for kind in FUSED}


FUSED = (
    "MultiHeadAttention", "LayerNormalization", "SkipLayerNormalization", "BiasSplitGelu", "GroupNorm",
    "SkipGroupNorm", "NhwcConv", "BiasAdd",
)  # fmt: skip


def save(model: ModelProto, file: Path) -> None:
    """Write `model` to `file`, its weights to `file`.data beside it where they are large."""
    data = file.with_name(file.name + ".data")
    for old in (file, data):
        old.unlink(missing_ok=True)
    # The model as a whole cannot even be asked for its size above 2 GB.
    large = sum(one.ByteSize() for one in model.graph.initializer) >= _EXTERNAL
    for one in model.graph.initializer if large else ():
        if len(one.raw_data) >= _SMALL:
            set_external_data(one, data.name)
    onnx.save(model, file)
    if large:
        shutil.copymode(file, data)  # onnx makes it for its owner alone, and an export may be for others


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
    bar = tqdm.tqdm.__init__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            tqdm.tqdm.__init__ = lambda self, *args, **settings: bar(self, *args, **{**settings, "disable": True})
            yield
    finally:
        tqdm.tqdm.__init__ = bar
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
        return attn.to_out[0](_MultiHeadAttention.apply(query, key, value, attn.heads))


@contextmanager
def _fused_attention(module: nn.Module | None) -> Iterator[None]:
    """Give the transformer blocks of a UNet the fused attention for the duration."""
    inside = [] if module is None else module.modules()
    blocks = [one for one in inside if type(one).__name__ == "BasicTransformerBlock"]
    attentions = [one for block in blocks for one in (block.attn1, block.attn2) if one is not None]
    before = [one.processor for one in attentions]
    try:
        for one in attentions:
            one.set_processor(_FusedProcessor())
        yield
    finally:
        for one, processor in zip(attentions, before, strict=True):
            one.set_processor(processor)
