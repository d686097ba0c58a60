"""The families of models that edit photos: how a folder is told, the defaults, who checks and who opens it. Adding one
is a line here, and a module where it is no pipeline of diffusers that `engine/pipelines.py` can call.

    check(path, kind, checker=…) -> Layout                refuses a folder that must not be loaded
    precision(folder, device) -> str                      the number format where none is asked for
    refuse(folder, edits)                                 raises for Edits that the model cannot make
    speedups(layout, device, precision) -> dict           the speed-ups that there are, and why one is left out
    open_engine(folder, device, precision, machine, …)    the EditEngine; see engine/instruct_pix2pix.py

All but the first are its torch module's. All are imported when they are needed: `plan` and `--help` read this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Guidance scales, the long side in pixels, network steps, sampler, and the sizes a model can take.

    Width and height are multiples of `multiple` from `min_side` to `max_side`. They come from the model's folder and
    not from the engine, so that `plan` asks for the same pictures as `run` without loading anything. The values are
    InstructPix2Pix's own: 7.5 and 1.5 at 512 pixels; 20 steps with euler_a, as its demo space uses.

    Of a model that is at home at an area, `megapixels` count instead of the long side. A photo whose sides differ by
    more than `max_aspect` is edited squeezed to that. `carry` is what the next link of a chain starts from. `embedded`
    scales are read by the network itself, so that one row a step is guided.
    """

    text: float = 7.5
    image: float = 1.5
    long_side: int = 512
    steps: int = 20
    sampler: str = "euler_a"
    multiple: int = 8
    min_side: int = 64
    max_side: int = 2048
    megapixels: float | None = None
    max_aspect: float | None = None
    carry: Literal["latent", "pixels"] = "latent"
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """How one of diffusers' editing pipelines is built and called: `cls` is its class, `parts` the classes that each of
    its components may have.

    `text` and `negative` are the arguments that take the text scale and the negative, "" where it has none;
    `no_negative` is what it wants there where there is none. `least` is the text scale below which it would not guide,
    without a word; a scale that is `embedded` is a number that the network reads. `photo` takes the photo, in a list
    where it is `listed`. One that is `sized` takes height and width, `area` their product. It would shrink and crop a
    photo of more than `photo_area` pixels. `reads`: the tokenizer of the text that counts, and how many tokens it has
    room for. `heard`: it calls back after each step. `constants` are arguments of every call.
    """

    cls: str
    parts: Mapping[str, tuple[str, ...]]
    text: str = "guidance_scale"
    negative: str = ""
    no_negative: str | None = None
    least: float | None = 1.0
    embedded: bool = False
    photo: str = "image"
    listed: bool = False
    sized: bool = True
    area: str = ""
    photo_area: int | None = None
    reads: tuple[str, int] | None = None
    heard: bool = True
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """`called` is its name in messages and files, `pipelines` the classes that a folder's `model_index.json` may name,
    `marks` what else that file says of it.

    `check` is "module:function", `torch` a module; what they offer stands at the head of this file. `defaults` count
    where a model's own folder says nothing. `null_text`: its guidance knows one, whose place a `negative` can take.
    `call` is of a pipeline of diffusers; one whose networks are called here has its `parts` alone. `refines`: its
    engine can refine a picture at its photo's size. A new `version` is another model to every run.
    """

    called: str
    pipelines: tuple[str, ...]
    defaults: ModelDefaults
    check: str
    torch: str
    null_text: bool = True
    marks: Mapping[str, object] = field(default_factory=dict)
    call: Call | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refines: bool = False
    version: int = 1

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """The classes that each of its components may have, where they stand in this table."""
        return self.call.parts if self.call else self.parts

    @property
    def scales(self) -> tuple[str, ...]:
        """Which of the two scales of guidance it has: text, image."""
        if self.call is None:
            return "text", "image"
        return ("text",) if self.call.text else ()


def _pipeline_family(called: str, call: Call, defaults: ModelDefaults, **marks: object) -> Family:
    """A family that diffusers' own pipeline makes the pictures of."""
    return Family(
        called, (call.cls,), defaults, check="ip2pbatch.backends.pipeline_folder:check",
        torch="ip2pbatch.engine.pipelines", null_text=bool(call.negative), marks=marks, call=call,
    )  # fmt: skip


def _xl_family(called: str, defaults: ModelDefaults, **marks: object) -> Family:
    """A family of SDXLs that edit, with InstructPix2Pix's own guidance."""
    return Family(
        called, ("StableDiffusionXLInstructPix2PixPipeline",), defaults, marks=marks, parts=_XL,
        check="ip2pbatch.backends.pipeline_folder:check", torch="ip2pbatch.engine.instruct_xl", refines=True,
    )  # fmt: skip


def _megapixel(steps: int, text: float = 1.0) -> ModelDefaults:
    """Of a transformer that is at home at one megapixel, in squares of 16 pixels. A scale that it has not is 1 in its
    Edits.
    """
    return ModelDefaults(
        text, 1.0, 1024, steps, "model", multiple=16, max_side=4096, megapixels=1.0, max_aspect=7.0, carry="pixels"
    )  # fmt: skip


_FLOW = ("FlowMatchEulerDiscreteScheduler",)
_QWEN_WORDS = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_QWEN_SEES = ("Qwen2_5_VLForConditionalGeneration",)
_QWEN_PICTURES = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
_CLIP_WORDS = ("CLIPTokenizer", "CLIPTokenizerFast")

_KLEIN = {
    "scheduler": _FLOW, "vae": ("AutoencoderKLFlux2",), "text_encoder": ("Qwen3ForCausalLM",),
    "tokenizer": _QWEN_WORDS, "transformer": ("Flux2Transformer2DModel",),
}  # fmt: skip
_KONTEXT = {
    "scheduler": _FLOW, "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",), "tokenizer": _CLIP_WORDS,
    "text_encoder_2": ("T5EncoderModel",), "tokenizer_2": ("T5TokenizerFast", "T5Tokenizer"),
    "transformer": ("FluxTransformer2DModel",),
}  # fmt: skip
_QWEN = {
    "scheduler": _FLOW, "vae": ("AutoencoderKLQwenImage",), "text_encoder": _QWEN_SEES, "tokenizer": _QWEN_WORDS,
    "processor": _QWEN_PICTURES, "transformer": ("QwenImageTransformer2DModel",),
}  # fmt: skip
_LONGCAT = {
    "scheduler": _FLOW, "vae": ("AutoencoderKL",), "text_encoder": _QWEN_SEES, "tokenizer": _QWEN_WORDS,
    "text_processor": _QWEN_PICTURES, "transformer": ("LongCatImageTransformer2DModel",),
}  # fmt: skip
_XL = {
    "scheduler": tuple(
        f"{name}Scheduler"
        for name in (
            "EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler", "DDIM", "DDPM", "PNDM", "HeunDiscrete",
            "DPMSolverMultistep", "UniPCMultistep",
        )
    ),
    "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",), "tokenizer": _CLIP_WORDS,
    "text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer_2": _CLIP_WORDS, "unet": ("UNet2DConditionModel",),
}  # fmt: skip
_PHOTO_AREA = 1024 * 1024
_CHATTED = ("tokenizer", 480)  # of 512, less what stands around an instruction, or what quotes take letter by letter

FAMILIES: dict[str, Family] = {
    "instruct_pix2pix": Family(
        "InstructPix2Pix", ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline"), ModelDefaults(),
        check="ip2pbatch.backends.model_folder:check", torch="ip2pbatch.engine.instruct_pix2pix",
        refines=True,
    ),
    "klein": _pipeline_family(
        "FLUX.2 klein",
        Call("Flux2KleinPipeline", _KLEIN, text="", photo_area=_PHOTO_AREA, reads=_CHATTED),
        _megapixel(4),
        is_distilled=True,
    ),
    "klein_base": _pipeline_family(
        "FLUX.2 klein base",
        Call("Flux2KleinPipeline", _KLEIN, photo_area=_PHOTO_AREA, reads=_CHATTED),
        _megapixel(50, 4.0),
    ),
    "kontext": _pipeline_family(
        "FLUX.1 Kontext",
        Call(
            "FluxKontextPipeline", _KONTEXT, least=None, embedded=True, area="max_area",
            constants={"_auto_resize": False},
            reads=("tokenizer_2", 511),
        ),
        _megapixel(28, 2.5),
    ),
    "qwen_edit": _pipeline_family(
        "Qwen-Image-Edit",
        Call(
            "QwenImageEditPlusPipeline", _QWEN, text="true_cfg_scale", negative="negative_prompt", no_negative=" ",
            listed=True,
        ),
        _megapixel(40, 4.0),
    ),
    "longcat": _pipeline_family(
        "LongCat-Image-Edit",
        Call(
            "LongCatImageEditPipeline", _LONGCAT, negative="negative_prompt", sized=False, heard=False,
            reads=_CHATTED,
        ),
        _megapixel(50, 4.5),
    ),
    "cosxl": _xl_family("CosXL Edit", ModelDefaults(7.0, 1.5, 1024, 20, "model"), is_cosxl_edit=True),
    "sdxl": _xl_family("SDXL-InstructPix2Pix", ModelDefaults(3.0, 1.5, 768, 30, "euler")),
}  # fmt: skip

_LIMIT = 1 << 20  # bytes of an index that are read here: real ones have hundreds


def family_of(folder: Path | None) -> Family:
    """The family of a model's folder by the pipeline that it names; the first, where it names none that is known, says
    what is wrong with it. A hub id (None) is taken for the first: what it is stands in files that may not be here.
    """
    first = next(iter(FAMILIES.values()))
    return first if folder is None else _family_in(_index(folder / "model_index.json")) or first


def _family_in(index: Mapping[str, Any]) -> Family | None:
    named = index.get("_class_name")
    return next(
        (
            family for family in FAMILIES.values()
            if named in family.pipelines and all(index.get(name) == said for name, said in family.marks.items())
        ),
        None,
    )  # fmt: skip


def families() -> str:
    """All of them, for messages: `InstructPix2Pix, Another or A Third`."""
    *others, last = (family.called for family in FAMILIES.values())
    return f"{', '.join(others)} or {last}"


def _index(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LIMIT:
            return {}
        found = json.loads(file.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}
