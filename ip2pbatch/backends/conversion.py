"""A model from one file into a folder of safetensors, and back into one file that other programs load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ip2pbatch.backends import model_folder
from ip2pbatch.backends.pytorch import from_file
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.single_file import ckpt, ldm_file, ldm_names, vocabulary
from ip2pbatch.backends.single_file.ldm_file import SCHEDULE
from ip2pbatch.backends.single_file.ldm_names import Blocks, translated
from ip2pbatch.backends.weights import Note
from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import ModelError, ResourceError, UsageError

ORIGIN = "origin.json"
_PARTS = ("unet", "vae", "text_encoder")
_TEXT = "text_model."
_OLD_VAE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.15
_CANNOT = "cannot be one file in the original layout"
_UNSAID = "such a file says nothing of it, and other programs would take Stable Diffusion 1's"

# Settings that change no picture, or that a file's weights say themselves.
_FREE = frozenset(
    {
        "sample_size", "force_upcast", "projection_dim", "bos_token_id", "eos_token_id", "pad_token_id",
        "architectures", "model_type",
    }
)  # fmt: skip
_SCHEDULE = (
    "prediction_type", "beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "trained_betas",
    "rescale_betas_zero_snr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imported:
    """A folder that was made of one file: that file's sha256, and how many tensors of it are no part of the model."""

    folder: Path
    sha256: str
    left: int


def import_file(file: Path, folder: Path, note: Note = lambda text: None) -> Imported:
    """Write the model in `file`, a .safetensors or a .ckpt in the original layout, as a folder. Nothing of a pickle is
    run. `folder` appears when all is done and right. Raises ModelError (6), UsageError where `folder` is there,
    ResourceError (7).
    """
    if not file.is_file():
        raise ModelError(f"there is no file {file}", hint="give a .safetensors or a .ckpt")
    if folder.exists():
        raise UsageError(f"{folder} is there already", hint="give another folder: --to FOLDER")
    shapes, weight = _opened(file)
    described = ldm_file.describe(shapes, file)
    words = vocabulary.find(described.configs["text_encoder"]["vocab_size"], file)
    found = Imported(folder, sha256s([file])[0], len(described.left))
    with _staged(folder) as staging, quiet():
        _write_settings(described, words, staging)
        for part in _PARTS:
            note(f"writing the {part.replace('_', ' ')}")
            names = described.names[part].items()
            own = {name: from_file.linear(part, name, weight(key)).clone() for name, key in names}
            from_file.fitted(part, described.configs[part], own, file)
            prefix = _TEXT if part == "text_encoder" else ""
            _save({prefix + name: value for name, value in own.items()}, staging / part / _weights_file(part))
        origin = {"file": file.name, "sha256": found.sha256, "tensors left out": found.left}
        (staging / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        model_folder.check(staging, "edit")
    return found


def _opened(file: Path) -> tuple[ldm_file.Shapes, Callable[[str], Tensor]]:
    """The shapes of a file's tensors, and what reads one of them."""
    if file.suffix.lower() == ".safetensors":
        from safetensors import safe_open

        shapes = ldm_file.read_shapes(file)  # what is damaged is told before
        stored: Any = safe_open(file, framework="pt")
        return shapes, stored.get_tensor
    weights = ckpt.read(file)
    return {key: tuple(value.shape) for key, value in weights.items()}, weights.__getitem__


def _write_settings(described: ldm_file.Described, words: vocabulary.Vocabulary, folder: Path) -> None:
    index: dict[str, Any] = {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for name, kind in ldm_file.CLASSES.items():
        index[name] = ["transformers" if name in ("text_encoder", "tokenizer") else "diffusers", kind]
    files = {"model_index.json": index}
    for name, config in described.configs.items():
        files[f"{name}/{model_folder.CONFIGS.get(name, 'config.json')}"] = dict(config)
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    words.write(folder / "tokenizer", described.configs["text_encoder"]["max_position_embeddings"])


def export_file(model: Path, name: str, file: Path) -> int:
    """Write the model in the folder `model`, called `name`, as one file in the original layout; its bytes. Raises
    ModelError (6) where such a file cannot say what the model is, UsageError where `file` is there, ResourceError (7).
    """
    if file.exists():
        raise UsageError(f"{file} is there already", hint="give another file")
    if file.suffix.lower() != ".safetensors":
        raise UsageError(f"{file} would be no safetensors by its name", hint="call it .safetensors")
    layout = model_folder.check(model, checker=False)
    if layout.single is not None:
        raise UsageError(f"{name} is one file already", hint="copy it")
    if layout.classes["vae"] != "AutoencoderKL":
        why = f"its autoencoder is an {layout.classes['vae']}, and such a file holds an AutoencoderKL"
        raise ModelError(f"{name} {_CANNOT}: {why}", hint="use its folder")
    configs = {part: layout.config(part) for part in _PARTS}
    weights = {key: value for part in _PARTS for key, value in _originals(layout, part, configs[part], name)}
    described = ldm_file.describe({key: tuple(value.shape) for key, value in weights.items()}, file)
    _refuse_unsaid(name, configs | {"scheduler": layout.config("scheduler")}, described)
    _save(weights, file)
    return file.stat().st_size


def _originals(
    layout: model_folder.Layout, part: str, config: Mapping[str, Any], model: str
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """The weights of a network as the original layout calls and shapes them."""
    from safetensors import safe_open

    modules = _modules(part, config)
    for file in (file for file in layout.files if file.startswith(f"{part}/") and file.endswith(".safetensors")):
        with safe_open(layout.path / file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118
                if key.endswith("position_ids"):
                    continue
                name = _name_today(part, key)
                if (called := translated(name, modules)) is None:
                    what = f"it has no place for {part.replace('_', ' ')}'s {key}"
                    raise ModelError(f"{model} {_CANNOT}: {what}", hint="use its folder")
                weight = stored.get_tensor(key)
                convolved = part == "vae" and ldm_names.is_convolved(name) and weight.dim() == 2
                yield ldm_names.PREFIXES[part] + called, weight[:, :, None, None] if convolved else weight


def _modules(part: str, config: Mapping[str, Any]) -> Mapping[str, str]:
    if part == "text_encoder":
        return ldm_names.TEXT_MODULES
    if part == "vae":
        return ldm_names.vae_modules(len(config["block_out_channels"]), int(config.get("layers_per_block", 1)))
    attends = tuple("CrossAttn" in str(kind) for kind in config["down_block_types"])
    return ldm_names.unet_modules(Blocks(int(config.get("layers_per_block", 2)), attends))


def _name_today(part: str, key: str) -> str:
    if part == "text_encoder":
        return key.removeprefix(_TEXT)
    before, middle, rest = key.partition(".attentions.0.")
    module, dot, kind = rest.rpartition(".")
    return f"{before}{middle}{_OLD_VAE[module]}{dot}{kind}" if part == "vae" and module in _OLD_VAE else key


def _refuse_unsaid(model: str, configs: Mapping[str, Mapping[str, Any]], described: ldm_file.Described) -> None:
    """Refuse what weights alone do not tell: whoever loads the file would take Stable Diffusion 1's."""
    with quiet():
        for part in _PARTS:
            told, own = described.configs[part], _settings(part, configs[part])
            _refuse_differences(model, part, own, told)
            if part != "text_encoder":  # what the weights do not tell, with what diffusers takes where nothing is said
                _refuse_differences(model, part, own, _settings(part, told))
    for key in _SCHEDULE:
        if (value := configs["scheduler"].get(key)) is not None and _plain(value) != _plain(SCHEDULE.get(key)):
            _unsaid(model, f"{key} of its scheduler is {value!r}")


def _refuse_differences(model: str, part: str, own: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    for key in sorted(told):
        if key not in _FREE and not key.startswith("_") and _plain(own.get(key)) != _plain(told[key]):
            _unsaid(model, f"{key} of its {part.replace('_', ' ')} is {own.get(key)!r}")


def _unsaid(model: str, what: str) -> None:
    raise ModelError(f"{model} {_CANNOT}: {what}, but {_UNSAID}", hint="use its folder")


def _settings(part: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """All settings of a network, those that its file leaves out too."""
    found: Any = from_file.unfilled(part, config).config
    return dict(found.to_dict()) if part == "text_encoder" else dict(found)


def _plain(value: Any) -> Any:
    """A setting to compare: what is off is None, and the same for every block is written once."""
    if isinstance(value, (list, tuple)) and len(set(map(str, value))) == 1:
        return _plain(value[0])
    return list(value) if isinstance(value, tuple) else value or None


def _weights_file(part: str) -> str:
    return f"{model_folder.WEIGHTS[part]}.safetensors"


def _save(weights: dict[str, Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    beside = file.with_name(f".{file.name}.partial")
    try:
        save_file({key: value.contiguous() for key, value in weights.items()}, beside, metadata={"format": "pt"})
        beside.replace(file)
    except OSError as error:
        raise ResourceError(f"{file} cannot be written: {error.strerror or error}", hint="make room there") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end, and is gone after an error or an interrupt."""
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        staging.rename(folder)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written: {error.strerror or error}", hint="make room there") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
