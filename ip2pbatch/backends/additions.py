"""What is laid over a model: LoRAs and another autoencoder, from their names to checked files with digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ip2pbatch.backends import lora_file, model_folder
from ip2pbatch.backends.lora_file import LoraFile, Shape
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.single_file.ldm_file import read_shapes
from ip2pbatch.disk.contents import sha256s
from ip2pbatch.disk.digests import digest_of
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import hub_id, is_file, snapshot_of
from ip2pbatch.plan.editors.composed import Composed
from ip2pbatch.plan.editors.few_steps import made_for
from ip2pbatch.plan.families import family_of


@dataclass(frozen=True, slots=True)
class Vae:
    """An autoencoder: its layout, and what its component is called there."""

    layout: Layout
    component: str


class AbsentError(ModelError):
    """What is laid over a model is not on this machine."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What is laid over a model, in order, and what a LoRA for few steps changes in its noise schedule; `digests` of
    all of its files, with what makes them count.
    """

    loras: tuple[tuple[LoraFile, float], ...] = ()
    vae: Vae | None = None
    schedule: Mapping[str, object] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


NOTHING = Additions()


def find(asked: Composed, layout: Layout) -> Additions:
    """The files of what is laid over the model in `layout`. Nothing is fetched. ModelError where one is not here, or
    does not fit.
    """
    found = fitting(asked, layout)
    digests = {
        f"lora {place} at {scale!r}": sha256s([lora.path])[0] for place, (lora, scale) in enumerate(found.loras, 1)
    }
    if found.schedule:
        digests["schedule"] = digest_of({name: repr(value) for name, value in found.schedule.items()})
    if (vae := found.vae) is not None:
        files = vae.layout.files or (vae.layout.path.name,)
        root = vae.layout.path.parent if vae.layout.single else vae.layout.path
        digests |= {f"vae/{Path(name).name}": value for name, value in zip(files, _sums(root, files), strict=True)}
    return replace(found, digests=digests)


def fitting(asked: Composed, layout: Layout) -> Additions:
    """The same without digests: names and shapes alone are read. Raises ModelError."""
    loras = [one for one in asked.loras if one.scale]
    networks = lora_file.networks_of(layout.classes)
    layers = {name: _layers(layout, name) for name in networks} if loras else {}
    found: list[tuple[LoraFile, float]] = []
    for one in loras:
        lora = lora_file.check(lora_file.find(_on_disk(one.path, lora_file.NAME)), networks)
        lora_file.refuse_unfit(lora, layers)
        found.append((lora, one.scale))
    known = made_for([one.path for one in loras], family_of(layout.path))
    vae = None
    if asked.vae:
        vae = _vae(_on_disk(asked.vae, "config.json", "diffusion_pytorch_model.safetensors"), layout)
    return Additions(tuple(found), vae, known.schedule if known else {})


def _layers(layout: Layout, network: str) -> dict[str, Shape]:
    """The shapes of a network's layers, by its files' headers."""
    if layout.single is not None:
        names = layout.single.described.names[network]
        shapes = {name: layout.single.shapes[key] for name, key in names.items()}
    else:
        files = [name for name in layout.files if name.startswith(f"{network}/") and name.endswith(".safetensors")]
        shapes = {name: shape for file in files for name, shape in read_shapes(layout.path / file).items()}
    layers = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 1
    }
    return lora_file.by_layer(network, layers, layout.config(network) if network == "unet" else {})


def _sums(root: Path, files: tuple[str, ...]) -> list[str]:
    return sha256s([root / name for name in files])


def _on_disk(name: str, *files: str) -> Path:
    """A path as it is, a hub id from the hub's cache."""
    path = Path(name).expanduser()
    if path.exists():
        return snapshot_of(path)
    found = None if is_file(name) or path.is_absolute() else hub_id(name)
    if found is None:
        raise AbsentError(f"there is no {name} to lay over the model", hint="give a file, a folder or a hub id")
    from huggingface_hub import try_to_load_from_cache

    repo, revision = found
    cached = [try_to_load_from_cache(repo, file, revision=revision) for file in files]
    paths = [Path(one) for one in cached if isinstance(one, str)]
    if len(paths) < len(files):
        at = f" --revision {revision}" if revision else ""
        raise AbsentError(f"{name} is not in the cache", hint=f"fetch it: hf download {repo} {' '.join(files)}{at}")
    return paths[0].parent


def _vae(path: Path, model: Layout) -> Vae:
    """The autoencoder at `path`. ModelError where it is none, or its latents are of another kind than the UNet's."""
    found = _vae_in(path)
    own, new = model_folder.latent_channels(model), int(found.layout.config(found.component).get("latent_channels", 4))
    shrinks = [_doublings(one.config(name)) for one, name in ((model, "vae"), (found.layout, found.component))]
    if own != new or shrinks[0] != shrinks[1]:
        raise ModelError(
            f"{path} does not fit this model: its latents have {new} channels at 1/{2 ** shrinks[1]} of the size, and "
            f"the UNet takes {own} at 1/{2 ** shrinks[0]}",
            hint="use an autoencoder for this model, such as stabilityai/sd-vae-ft-mse for Stable Diffusion 1.5",
        )
    return found


def _vae_in(path: Path) -> Vae:
    if path.is_file():
        return Vae(model_folder.check_vae_file(path), "vae")
    folder = path / "vae" if (path / "vae").is_dir() else path
    return Vae(model_folder.check_vae(folder), folder.name)


def _doublings(config: Mapping[str, object]) -> int:
    widths = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
    return len(widths) - 1 if isinstance(widths, (list, tuple)) else 0
