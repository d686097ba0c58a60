"""What a model must look like before anything of it is loaded: a folder in diffusers' layout of a model that edits, or
of one that draws from text, or one file in the original layout (`single_file/`), and no other.

Reads JSON and safetensors headers only. What passes holds known classes with their weights as safetensors; pickles,
code and file names that point elsewhere are refused with the reason, and nothing in them is executed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ip2pbatch.backends import artefact
from ip2pbatch.backends.single_file import ldm_file
from ip2pbatch.backends.single_file.ldm_file import LdmWeights
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.families import FAMILIES, families

# What a model does: edit a photo that its UNet sees beside the noisy latent, or draw from text alone.
Kind = Literal["edit", "text_to_image"]

# The classes a component may have. A scheduler only lends its noise schedule: the sampler is the recipe's.
CLASSES = {
    "unet": frozenset({"UNet2DConditionModel"}),
    "vae": frozenset({"AutoencoderKL", "AutoencoderTiny", "AutoencoderDC"}),
    "text_encoder": frozenset({"CLIPTextModel"}),
    "tokenizer": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
    "scheduler": frozenset(
        f"{name}Scheduler"
        for name in (
            "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "HeunDiscrete", "EulerAncestralDiscrete", "LCM",
            "DPMSolverMultistep", "DPMSolverSinglestep", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep",
            "UniPCMultistep", "DPMSolverSDE",
        )
    ),
    "safety_checker": frozenset({"StableDiffusionSafetyChecker"}),
    "feature_extractor": frozenset(
        {"CLIPImageProcessor", "CLIPImageProcessorPil", "CLIPImageProcessorFast", "CLIPFeatureExtractor"}
    ),
}  # fmt: skip
OPTIONAL = frozenset({"safety_checker", "feature_extractor"})
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
CONFIGS = {"scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json"}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
PICKLES = ("*.ckpt", "*.bin", "*.pt", "*.pth", "*.pkl")

# What the samplers of a recipe know: what the UNet is asked for, and how its noise grows where no list says so.
PREDICTIONS = frozenset({"epsilon", "v_prediction"})
BETAS = frozenset({"linear", "scaled_linear", "squaredcos_cap_v2"})

# Keys of a UNet that wants more than latents, timestep and text.
_MORE_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")

_LIMIT = 64 << 20  # bytes of JSON that are read: an index of the largest model known is below 1 MB
_FINE_TUNE = "use a model that edits, such as timbrooks/instruct-pix2pix, or --model tiny"
_SDXL = "StableDiffusionXLPipeline"
_XL = "use a model that edits, such as diffusers/sdxl-instructpix2pix-768 (sdxl-ip2p), or --model tiny"
_DRAWS = "use a text-to-image model whose UNet takes 4 channels, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
_CONVERT = (
    "fetch it in diffusers' layout with safetensors (`ip2pbatch models pull OWNER/NAME`), or convert it on a machine "
    "you trust with diffusers' save_pretrained(..., safe_serialization=True)"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A checked folder: the class of each component, the weight files (relative), and the suffix of their names. Of a
    single file `path` is the file, and its configurations are found in its weights' shapes.
    """

    path: Path
    classes: dict[str, str]
    files: tuple[str, ...]
    variants: dict[str, str | None]
    single: LdmWeights | None = None

    def config(self, component: str) -> dict[str, Any]:
        """The component's configuration file as it stands."""
        if self.single is not None:
            return dict(self.single.described.configs[component])
        return read_json(self.path / component / CONFIGS.get(component, "config.json"))


def check(path: Path, kind: Kind = "edit", *, checker: bool = True) -> Layout:
    """The Layout of the model folder or file `path`, without `checker` as if it shipped no safety checker; raises
    ModelError with the reason where it is no `kind` that we load.
    """
    if path.is_file():
        return _checked(Layout(path, dict(ldm_file.CLASSES), (), {}, ldm_file.check(path)), kind)
    index = read_index(path)
    refuse_code(path, index)
    _refuse_pipeline(path, index.get("_class_name"), kind)
    classes = {name: _class_of(path, index, name) for name in CLASSES if checker or name not in OPTIONAL}
    present = {name: found for name, found in classes.items() if found is not None}
    variants = {name: weight_variant(path / name, base) for name, base in WEIGHTS.items() if name in present}
    files = [name for component in present for name in _component_files(path, component, variants.get(component))]
    return _checked(Layout(path, present, ("model_index.json", *sorted(files)), variants), kind)


def _checked(layout: Layout, kind: Kind) -> Layout:
    _check_channels(layout, kind)
    _check_schedule(layout)
    return layout


def read_index(path: Path) -> dict[str, Any]:
    """What names a model folder's pipeline and its components; ModelError where `path` is no such folder."""
    if artefact.is_artefact(path):
        hint = f"use --backend onnx, or the model it was exported from: {artefact.read(path).model}"
        raise ModelError(f"{path} is a model exported to ONNX, which torch cannot load", hint=hint)
    index_file = path / "model_index.json"
    if not index_file.is_file():
        what, hint = _instead(path)
        raise ModelError(f"{path} is not a model folder in diffusers' layout: {what}", hint=hint)
    return read_json(index_file)


def _instead(path: Path) -> tuple[str, str]:
    """What a folder holds that is no model's, and what to do with it."""
    if pickles := sorted(file.name for pattern in PICKLES for file in path.glob(pattern)):
        return f"it holds {pickles[0]}, a pickle, which is never loaded", f"ip2pbatch models import {path / pickles[0]}"
    if files := sorted(path.glob("*.safetensors")):
        return f"it holds {files[0].name}", f"give the file itself: {files[0]}"
    return "it has no model_index.json", _CONVERT


def check_vae(folder: Path) -> Layout:
    """The Layout of an autoencoder's folder, its one component called like it. Raises ModelError."""
    found = read_json(folder / "config.json").get("_class_name")
    if found not in CLASSES["vae"]:
        kinds = ", ".join(sorted(CLASSES["vae"]))
        raise ModelError(f"{folder} is a {found}, which is no autoencoder that is loaded", hint=f"it can be {kinds}")
    variant = weight_variant(folder, WEIGHTS["vae"])
    files = ("config.json", *weight_files(folder, WEIGHTS["vae"], variant))
    names = tuple(f"{folder.name}/{name}" for name in files)
    return Layout(folder.parent, {folder.name: str(found)}, names, {folder.name: variant})


def check_vae_file(file: Path) -> Layout:
    """The Layout of an autoencoder in one file of the original layout. Raises ModelError."""
    return Layout(file, {"vae": "AutoencoderKL"}, (), {}, ldm_file.check_vae(file))


def read_json(file: Path) -> dict[str, Any]:
    """One JSON object; ModelError where it is missing, too large or damaged."""
    try:
        if file.stat().st_size > _LIMIT:
            raise ModelError(f"{file} is larger than a configuration can be", hint="fetch the model again")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}", hint="fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} does not hold a JSON object", hint="fetch the model again")
    return value


def read_schedule(path: Path) -> dict[str, Any]:
    """The noise schedule of a model's folder, or of an export's, as diffusers stores it; of a file all have one."""
    if path.is_file():
        return dict(ldm_file.SCHEDULE)
    return read_json(path / "scheduler" / CONFIGS["scheduler"])


def weight_variant(folder: Path, base: str) -> str | None:
    """None for `base.safetensors`, "fp16" for `base.fp16.safetensors`; full precision first. ModelError for neither."""
    for variant in (None, "fp16"):
        stem = base if variant is None else f"{base}.{variant}"
        sharded = f"{base}.safetensors.index{'' if variant is None else '.' + variant}.json"
        if (folder / f"{stem}.safetensors").is_file() or (folder / sharded).is_file():
            return variant
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(f"{folder} has only {pickles[0]}, a pickle, which is never loaded", hint=_CONVERT)
    raise ModelError(
        f"{folder} has no {base}.safetensors", hint="the download may be incomplete: fetch the model again"
    )


def refuse_code(path: Path, index: dict[str, Any]) -> None:
    """Models that bring Python code, in any of the ways diffusers and transformers know. Raises ModelError."""
    pipeline = index.get("_class_name")
    code = sorted(file.relative_to(path).as_posix() for pattern in ("*.py", "*/*.py") for file in path.glob(pattern))
    if code or isinstance(pipeline, list):
        what = code[0] if code else f"the custom pipeline {pipeline}"
        raise ModelError(f"{path} brings its own code ({what}), which is never run", hint=_FINE_TUNE)
    for config in sorted(path.glob("*/*.json")):
        found = read_json_or_empty(config) if config.stat().st_size < 1 << 20 else {}
        if asked := "auto_map" if "auto_map" in found else _kernel(found):
            raise ModelError(f"{config} asks for code of its own ({asked}), which is never run", hint=_FINE_TUNE)


def _kernel(config: dict[str, Any]) -> str:
    """What a configuration, or one inside it, names of the hub as the code of its attention or its experts."""
    for key, value in config.items():
        if isinstance(value, dict) and (found := _kernel(value)):
            return found
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            return f"{key}: {value}"
    return ""


def _refuse_pipeline(path: Path, pipeline: object, kind: Kind) -> None:
    """What neither edits nor draws, and what does it in another way than it is asked for here."""
    if pipeline == _SDXL:
        what = f"{path} is an SDXL model ({pipeline}), which can be trained here and neither edits nor draws"
        raise ModelError(what, hint=_XL if kind == "edit" else _DRAWS)
    if pipeline not in FAMILIES["instruct_pix2pix"].pipelines:
        raise ModelError(f"{path} is a {pipeline}, not an {families()} model", hint=_FINE_TUNE)


def read_json_or_empty(file: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file holds something else (vocabularies, lists)."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def unloaded(path: Path, files: Collection[str]) -> list[str]:
    """The weights in a model's folder that are neither loaded nor another form of what is, by their names."""
    loaded = {name.rpartition("/")[0] for name in files if name.endswith(".safetensors")}
    names = sorted(file.relative_to(path).as_posix() for file in path.glob("**/*.safetensors"))
    return [name for name in names if name not in files and not _is_variant(name, loaded)]


def _is_variant(name: str, loaded: Collection[str]) -> bool:
    """Whether a file is weights of a component that is loaded, in another number format or in parts."""
    component, _, file = name.rpartition("/")
    return component in loaded and file.startswith(WEIGHTS.get(component, ("model", "diffusion_pytorch_model")))


def _class_of(path: Path, index: dict[str, Any], name: str) -> str | None:
    entry = index.get(name)
    library, found = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if found is None and name in OPTIONAL:
        return None
    if found not in CLASSES[name] or library not in LIBRARIES:
        raise ModelError(
            f"{path / 'model_index.json'}: {name} is {library}.{found}, which is not loaded",
            hint=f"{name} can be {', '.join(sorted(CLASSES[name]))}",
        )
    if not (path / name).is_dir():
        raise ModelError(f"{path} has no folder {name}", hint="the download may be incomplete: fetch the model again")
    return str(found)


def _component_files(path: Path, component: str, variant: str | None) -> list[str]:
    """The component's files that are loaded, relative to `path`, their safetensors headers checked."""
    folder = path / component
    if component == "tokenizer":
        names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
        if not {"tokenizer.json"} & set(names) and not {"vocab.json", "merges.txt"} <= set(names):
            said = f"{folder} has neither tokenizer.json nor vocab.json with merges.txt"
            raise ModelError(said, hint="the download may be incomplete: fetch the model again")
    else:
        names = [CONFIGS.get(component, "config.json")]
        read_json(folder / names[0])
    if component in WEIGHTS:
        names += weight_files(folder, WEIGHTS[component], variant)
    return [f"{component}/{name}" for name in names]


def weight_files(folder: Path, base: str, variant: str | None) -> list[str]:
    """The names of a component's safetensors, their index among them, each header checked. Raises ModelError."""
    suffix = "" if variant is None else f".{variant}"
    single = f"{base}{suffix}.safetensors"
    if (folder / single).is_file():
        shards, names = [single], [single]
    else:
        index = f"{base}.safetensors.index{suffix}.json"
        shards = sorted({str(name) for name in dict(read_json(folder / index).get("weight_map", {})).values()})
        names = [index, *shards]
    for shard in shards:
        if PurePosixPath(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{folder} names the weight file {shard!r}, which points out of the model's folder or is a pickle",
                hint=_CONVERT,
            )
        _check_header(folder / shard)
    return names


def _check_header(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or incomplete ({error})", hint="fetch the model again") from error


def latent_channels(layout: Layout) -> int:
    """Channels of the autoencoder's latents."""
    default = {"AutoencoderKL": 4, "AutoencoderTiny": 4, "AutoencoderDC": 32}[layout.classes["vae"]]
    return int(layout.config("vae").get("latent_channels", default))


def forces_upcast(layout: Layout, component: str = "vae") -> bool:
    """Whether the autoencoder's own file says that it is not for fp16. (diffusers' class says so unasked.)"""
    return bool(layout.config(component).get("force_upcast"))


def _check_schedule(layout: Layout) -> None:
    """A noise schedule that samplers do not know would fail edit by edit, and a training on it would teach nonsense."""
    schedule, file = layout.config("scheduler"), layout.path / "scheduler" / CONFIGS["scheduler"]
    predicts, betas = schedule.get("prediction_type", "epsilon"), schedule.get("beta_schedule", "linear")
    if predicts not in PREDICTIONS:
        what = f"its UNet predicts {predicts!r}, and samplers here take {' or '.join(sorted(PREDICTIONS))}"
        raise ModelError(f"{file}: {what}", hint=_FINE_TUNE)
    if betas not in BETAS and not schedule.get("trained_betas"):
        what = f"its noise grows by {betas!r}, and samplers here know {', '.join(sorted(BETAS))}"
        raise ModelError(f"{file}: {what}", hint=_FINE_TUNE)


def _check_channels(layout: Layout, kind: Kind) -> None:
    """An editing UNet takes the noisy latent and the photo's side by side, a drawing one the noisy latent alone."""
    unet, latents = layout.config("unet"), latent_channels(layout)
    takes, gives = int(unet.get("in_channels", 4)), int(unet.get("out_channels", 4))
    wanted, hint = (2 * latents, _FINE_TUNE) if kind == "edit" else (latents, _DRAWS)
    if kind == "edit" and takes == latents:
        raise ModelError(f"{layout.path} draws pictures from text: its UNet takes no photo", hint=hint)
    if takes != wanted or gives != latents:
        what = "an editing UNet" if kind == "edit" else "one that draws from text"
        raise ModelError(
            f"{layout.path}: the UNet takes {takes} channels and gives {gives}, but this autoencoder's latents have "
            f"{latents}: {what} takes {wanted} and gives {latents}",
            hint=hint,
        )
    extra = [key for key in _MORE_INPUTS if unet.get(key)]
    if extra and (kind == "text_to_image" or unet[extra[0]] != "text"):  # the pooled instruction itself is at hand
        raise ModelError(f"{layout.path}: the UNet needs {extra[0]} = {unet[extra[0]]!r}", hint=hint)
    width, text = unet.get("cross_attention_dim", 1280), layout.config("text_encoder").get("hidden_size", 512)
    if width != text:
        raise ModelError(
            f"{layout.path}: the UNet reads text of width {width}, the text encoder gives {text}", hint=hint
        )
