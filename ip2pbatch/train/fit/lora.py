"""LoRA of a UNet (arXiv 2106.09685): adapters that learn beside frozen weights, and what becomes of them.

They are kept in diffusers' own format, which its pipelines and other programs load, and as a whole model with the
adapters added to the weights, which needs no one to know of LoRA.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field

from ip2pbatch.backends.quiet import quiet
from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.errors import MissingError, ModelError, RecipeError
from ip2pbatch.train.estimates import BYTES_A_WEIGHT, SD1, SDXL, model_name
from ip2pbatch.train.model_names import ModelName, folder_of, shapes_of_weights

NAME = "default"  # of the one adapter, as peft calls it
SIDES = {SD1: 199_296, SDXL: 1_451_520}  # inputs and outputs of the UNet's layers that get adapters by default


class Lora(BaseModel):
    """The adapters: W + alpha / rank · B · A beside every layer of these names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0)
    layers: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)

    def checkpoint_bytes(self, model: str) -> float:
        """A checkpoint of adapters of this rank in a model's UNet: theirs alone, as its weights do not learn; Stable
        Diffusion 1.5's where the model is not on this machine."""
        folder = folder_of(ModelName(model))
        shapes = shapes_of_weights(folder / "unet") if folder else {}
        ends = tuple(f"{layer}.weight" for layer in self.layers)
        sides = sum(shape[0] + shape[1] for name, shape in shapes.items() if name.endswith(ends) and len(shape) > 1)
        return BYTES_A_WEIGHT * self.rank * (sides or SIDES.get(model_name(model), SIDES[SD1]))


def add_adapters(unet: UNet2DConditionModel, lora: Lora, seed: int) -> None:
    """Freeze the network and add adapters that learn; B is zero, so that nothing changes before the first step.

    ModelError where the network does not see a photo yet: diffusers' format cannot carry a first convolution.
    """
    photo = unet.conv_in.weight[:, unet.config.out_channels :]
    if not bool(photo.any()):
        hint = "start from an InstructPix2Pix model, or leave `lora` out to train every weight"
        raise ModelError("the model does not see a photo yet, and a LoRA cannot teach it", hint=hint)
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingError("LoRA needs peft", hint="pip install 'ip2pbatch[train]', or leave `lora` out") from error
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.layers))
    unet.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):  # several processes begin with the same ones
            torch.manual_seed(seed)
            unet.add_adapter(settings, adapter_name=NAME)
    except ValueError as error:
        names = ", ".join(lora.layers)
        hint = "to_q, to_k, to_v and to_out.0 are those of attention"
        raise RecipeError(f"the UNet has no layer {names}", file="finetune", key="lora.layers", hint=hint) from error


def write_adapters(unet: UNet2DConditionModel, folder: Path) -> None:
    """`folder`/pytorch_lora_weights.safetensors, as `load_lora_weights` of diffusers' pipelines reads it."""
    with quiet():  # what a pipeline would need for other things is not missed here
        from diffusers import StableDiffusionInstructPix2PixPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=NAME))
    settings = unet.peft_config[NAME].to_dict()  # with the alpha, without which a loader takes the rank for it
    known = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    try:
        StableDiffusionInstructPix2PixPipeline.save_lora_weights(
            partial, unet_lora_layers=layers, unet_lora_adapter_metadata=known
        )
    except OSError as error:
        raise disk_error(error, folder) from error
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@torch.no_grad()
def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy without adapters, what they add being in its weights; the network itself goes on training."""
    from peft.tuners.lora import LoraLayer

    plain = ((name, value) for name, value in unet.state_dict().items() if ".lora_" not in name)
    state = {name.replace(".base_layer.", "."): value for name, value in plain}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer):
            state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(NAME)
    twin: UNet2DConditionModel = UNet2DConditionModel.from_config(unet.config)
    twin.load_state_dict({name: value.detach().cpu() for name, value in state.items()})
    return twin
