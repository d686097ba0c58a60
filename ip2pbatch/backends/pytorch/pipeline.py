"""One of diffusers' editing pipelines, put together from a checked folder part by part, and where its parts lie.

Only classes that the table of families names are made, weights come from safetensors alone, and nothing is asked of the
network.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from ip2pbatch.backends import room
from ip2pbatch.backends.additions import Additions
from ip2pbatch.backends.model_folder import Layout, read_index
from ip2pbatch.backends.pipeline_folder import check, is_network, is_of_transformers
from ip2pbatch.backends.pytorch.backend import DTYPES, load_part, memory
from ip2pbatch.backends.pytorch.fusing import fuse
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.families import Call
from ip2pbatch.run.engine import OutOfMemory
from ip2pbatch.run.machine import Memory

_BROKEN = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)


def load_pipeline(folder: ModelFolder, call: Call, precision: str) -> Any:
    """The pipeline of `folder` in the host's memory. Raises ModelError; ResourceError where there is no room."""
    layout = check(folder.path)
    needed = sum(bytes_of(layout, precision).values())
    room.refuse_too_large(folder.path, needed, room.free_memory())
    try:
        with quiet(), memory():
            return _made(layout, call, precision, folder.laid)
    except (OutOfMemory, MemoryError) as error:
        raise room.too_large(folder.path, f"it ran out while the model was loaded ({error})") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{folder.path} cannot be loaded: {reason}", hint="fetch the model again") from error


def bytes_of(layout: Layout, precision: str) -> dict[str, int]:
    """What the weights of each network take, by the headers of its files."""
    size = DTYPES[precision].itemsize
    networks = [name for name in layout.classes if is_network(name)]
    return {
        name: size * room.elements(
            layout.path / file
            for file in layout.files
            if file.startswith(f"{name}/") and file.endswith(".safetensors")
        )
        for name in networks
    }  # fmt: skip


def _made(layout: Layout, call: Call, precision: str, laid: Additions) -> Any:
    import diffusers

    cls = _at_work(getattr(diffusers, call.cls))
    takes = inspect.signature(cls.__init__).parameters
    said = {key: value for key, value in read_index(layout.path).items() if isinstance(value, (bool, int, float, str))}
    parts = {name: _part(layout, name, precision) for name in layout.classes}
    for lora, scale in laid.loras:
        fuse(parts, lora, scale)
    if laid.schedule:
        scheduler = parts["scheduler"]
        parts["scheduler"] = type(scheduler).from_config({**scheduler.config, **laid.schedule})
    pipe = cls(**{key: value for key, value in said.items() if key in takes}, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _at_work(cls: Any) -> Any:
    """A pipeline's class, whose `device` is where it works also while its parts lie nowhere but for their turn, a layer
    at a time: one sends its text to that device, and would send it nowhere.
    """

    def device(pipe: Any) -> torch.device:
        own: torch.device = cls.device.fget(pipe)
        return torch.device(pipe._execution_device) if own.type == "meta" else own

    return type(cls.__name__, (cls,), {"device": property(device)})


def _part(layout: Layout, name: str, precision: str) -> Any:
    import diffusers
    import transformers

    cls = getattr(transformers if is_of_transformers(name) else diffusers, layout.classes[name])
    if is_network(name):
        return load_part(layout, name, cls, DTYPES[precision])
    if "processor" in name:
        return load_pictures(layout.path / name)
    return cls.from_pretrained(layout.path / name, local_files_only=True)


def load_pictures(folder: Path) -> Any:
    """What makes Qwen's text encoder see pictures beside words, by Pillow alone: transformers' own class of it wants
    torchvision, for videos, and would resize pictures otherwise where that is installed.
    """
    from transformers import ProcessorMixin, Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen2VLProcessor

    class Pictures(Qwen2VLProcessor):
        """Of pictures, and not of videos."""

        def __init__(self, image_processor: Any, tokenizer: Any) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer)

    pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return Pictures(pictures, Qwen2Tokenizer.from_pretrained(folder, local_files_only=True))


def place(pipe: Any, device: torch.device, how: Memory) -> None:
    """Put a pipeline's parts where `how` says: on the device, or there when they are asked for. Raises OutOfMemory."""
    with quiet(), memory():
        pipe.remove_all_hooks()
        if how is Memory.FULL:
            pipe.to(device)
        elif how is Memory.OFFLOAD:
            pipe.to("cpu")
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.to("cpu")
            pipe.enable_sequential_cpu_offload(device=device)
