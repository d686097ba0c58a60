"""Words, the subject and the background by CLIPSeg (Lüddecke and Ecker, arXiv 2112.10003), transformers' own class."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from ip2pbatch.detectors.cached_model import digests, folder_of
from ip2pbatch.disk.digests import digest_of
from ip2pbatch.errors import ModelError, PlanError
from ip2pbatch.measures.pretrained import load_pretrained
from ip2pbatch.plan.edits import Sought

Pixels = NDArray[np.uint8]

_SIDE = 352  # pixels of the square that it was trained on; photos are squeezed into it, as its own processor does
_MEAN, _DEVIATION = (np.array(one, np.float32) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
_FROM, _TO = 0.3, 0.5  # probabilities between which a mask goes from black to white; none above is nothing found
_SUBJECT = "the main subject"


def open_segmenter(sought: Sought) -> Segmenter:
    """The detector. Raises ModelError where the model is not on this machine, damaged or another one, and PlanError
    for more words than it reads.
    """
    folder = folder_of(sought.model)
    network, tokenizer = _loaded(folder, digest_of(digests(folder)))
    words = sought.words or _SUBJECT
    ids = tokenizer(words, return_tensors="pt")["input_ids"]
    most = network.config.text_config.max_position_embeddings
    if ids.shape[1] > most:
        raise PlanError(f"“{words}” is more than {folder.name} reads, {most} tokens", hint="say it in fewer words")
    return Segmenter(network, ids, inverted=sought.kind == "background")


@lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str) -> tuple[Any, Any]:
    """Of the files with this digest: several words share a model."""
    kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    if kind != "clipseg":
        raise ModelError(f"{folder} holds a model of the kind {kind}", hint="words are found by a CLIPSeg model")
    (network, info), tokenizer = load_pretrained(
        str(folder), "CLIPSeg model", CLIPSegForImageSegmentation, [AutoTokenizer], output_loading_info=True
    )
    if info["missing_keys"]:
        raise ModelError(f"{folder} lacks weights, such as {min(info['missing_keys'])}", hint="fetch the model again")
    return network.eval().requires_grad_(False), tokenizer


class Segmenter:
    """Finds what words say, or everything else where it is `inverted`."""

    def __init__(self, network: Any, words: Tensor, *, inverted: bool) -> None:
        self._network, self._words, self._inverted = network, words, inverted

    @torch.inference_mode()
    def find(self, photo: Pixels) -> Pixels:
        """See `run/masks.py: Detector`."""
        square = np.asarray(Image.fromarray(photo).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
        values = (square.astype(np.float32) / 255 - _MEAN) / _DEVIATION
        pixels = torch.from_numpy(values).permute(2, 0, 1)[None]
        logits = self._network(input_ids=self._words, pixel_values=pixels, interpolate_pos_encoding=True).logits
        likely = torch.sigmoid(logits.float()).reshape(logits.shape[-2:]).numpy()
        ramp = np.clip((likely - _FROM) / (_TO - _FROM), 0, 1) * (likely.max() >= _TO)
        mask = np.rint(ramp * 255).astype(np.uint8)
        size = photo.shape[1], photo.shape[0]
        whole = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
        found: Pixels = 255 - whole if self._inverted else whole
        return found
