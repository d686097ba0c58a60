"""What the folder of one of diffusers' editing pipelines must look like before anything of it is loaded.

The table of families (`plan/families.py`) says which components such a pipeline has and of which classes each may be.
As in `model_folder`, nothing but JSON and safetensors headers is read, and nothing of the folder is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ip2pbatch.backends.model_folder import (
    CONFIGS,
    LIBRARIES,
    Kind,
    Layout,
    read_index,
    read_json,
    refuse_code,
    weight_files,
    weight_variant,
)
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.families import Family, family_of

_WORDS = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "spiece.model", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_WHOLE = "the download may be incomplete: fetch the model again"


def is_network(component: str) -> bool:
    """Whether a component has weights: the others read words, prepare pictures, or say how noise is taken away."""
    return "tokenizer" not in component and "processor" not in component and component != "scheduler"


def is_of_transformers(component: str) -> bool:
    """Whether a component's class is one of transformers', and not of diffusers'."""
    return component.startswith(("text_", "tokenizer", "processor"))


def check(path: Path, kind: Kind = "edit", *, checker: bool = True) -> Layout:
    """The Layout of a pipeline's folder; these ship no safety checker. Raises ModelError with the reason where it is
    none that is loaded.
    """
    index = read_index(path)
    refuse_code(path, index)
    family = family_of(path)
    if not family.components or kind != "edit":
        raise ModelError(f"{path} is {family.called}, which edits and cannot be trained here", hint=_TRAINED)
    _refuse_unknown(path, index, family)
    classes = {name: _class_of(path, index, name, family.components[name]) for name in family.components}
    variants = {name: weight_variant(path / name, base_of(name)) for name in classes if is_network(name)}
    files = [file for name in classes for file in _files(path, name, variants)]
    return Layout(path, classes, ("model_index.json", *sorted(files)), variants)


_TRAINED = "train from a Stable Diffusion or an SDXL, such as stable-diffusion-v1-5/stable-diffusion-v1-5"


def base_of(component: str) -> str:
    """How a network's weights are called by the library that it is of."""
    return "model" if is_of_transformers(component) else "diffusion_pytorch_model"


def _refuse_unknown(path: Path, index: dict[str, Any], family: Family) -> None:
    """A component that this family has not: it would be left out, or be a class of whoever made the folder."""
    for name, entry in index.items():
        if isinstance(entry, list) and any(entry) and name not in family.components:
            what = ".".join(map(str, entry))
            raise ModelError(
                f"{path / 'model_index.json'}: {name} is {what}, which is not loaded",
                hint=f"{family.called} has {', '.join(family.components)}",
            )


def _class_of(path: Path, index: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    entry = index.get(name)
    library, found = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if found not in known or library not in LIBRARIES:
        raise ModelError(
            f"{path / 'model_index.json'}: {name} is {library}.{found}, which is not loaded",
            hint=f"{name} can be {', '.join(known)}",
        )
    if not (path / name).is_dir():
        raise ModelError(f"{path} has no folder {name}", hint=_WHOLE)
    return str(found)


def _files(path: Path, component: str, variants: dict[str, str | None]) -> Iterator[str]:
    """A component's files that are loaded, relative to `path`."""
    folder = path / component
    if component == "scheduler" or is_network(component):
        config = CONFIGS.get(component, "config.json")
        if read_json(folder / config).get("quantization_config"):
            said = f"{folder / config}: these weights are quantised (quantization_config), which are not loaded"
            raise ModelError(said, hint="use the model's own weights, in bf16, with --memory offload where need be")
        yield f"{component}/{config}"
    else:
        found = [name for name in _WORDS if (folder / name).is_file()]
        if not found:
            raise ModelError(f"{folder} has none of the files of a {component}", hint=_WHOLE)
        yield from (f"{component}/{name}" for name in found)
    if is_network(component):
        yield from (f"{component}/{name}" for name in weight_files(folder, base_of(component), variants[component]))
