"""The denoise loop: Edits and their sources in, pictures out, each independent of the others in its batch.

Noise belongs to the Edit, guidance is combined per Edit in float32, and every network call has a row count that
hangs on the picture's size alone, so that a picture has the same bits whatever was edited beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.recent import Recent
from ip2pbatch.engine.refining import Networks, refine
from ip2pbatch.engine.samplers import Sampler, make_sampler
from ip2pbatch.engine.transfer import fetch, send
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit, Guidance
from ip2pbatch.plan.rows import RowPlan, fill, plan_rows
from ip2pbatch.run.directory.lines import UNREAD
from ip2pbatch.run.engine import Hook, Pending, Result, Source, Stopped
from ip2pbatch.run.flat import EVEN, lacks_content

Determinism = Literal["fast", "stable", "bitwise"]

_UNGUIDED = Guidance(1.0, 1.0)  # ê = e(I, T)

_TEXTS, _IMAGES = 512, 256  # what the caches hold at most: 120 MB of text embeddings for Stable Diffusion


class Editor:
    """The EditEngine over any Backend. `stable` pads every network call to the size's row bucket; `fast` does not.

    `interval` is approximate: outside that part of the steps (0 to 1) an Edit is not guided and needs one row instead
    of up to three (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").
    """

    def __init__(
        self,
        backend: Backend,
        *,
        determinism: Determinism = "stable",
        safety: bool = True,
        interval: tuple[float, float] | None = None,
    ) -> None:
        self._backend = backend
        self._interval = interval or (0.0, 1.0)
        self._determinism = determinism
        self._safety = safety
        self._texts: Recent[Tensor] = Recent(_TEXTS)
        self._images: Recent[Tensor] = Recent(_IMAGES)
        self._delicate: set[tuple[object, ...]] = set()  # photos whose encoding is finite in float32 alone
        self.limits = backend.limits
        self.rows_asked = 0
        """Network rows that calls had so far, those that fill them included."""

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the backend's speed-ups that are in."""
        return self._backend.steps

    def edit(self, edits: Sequence[Edit], sources: Sequence[Source]) -> list[Result]:
        """One Result an Edit, in order; all edits share size, steps and sampler. Raises OutOfMemory."""
        return self.begin(edits, sources)()

    @torch.inference_mode()
    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        """All that a device does for these Edits is asked of it; a GPU is still at work when this returns."""
        self._check(edits)
        if edits[0].refine is not None:
            made = [refine(self._networks(), *one, hook) for one in zip(edits, sources, strict=True)]
            return lambda: made
        images = [self._image_latent(edit, source) for edit, source in zip(edits, sources, strict=True)]
        masks = self._masks(sources)
        drafts = self._develop(self.denoise(edits, torch.cat(images), hook, masks))

        @torch.inference_mode()
        def finish() -> list[Result]:
            return [self._finish(*one) for one in zip(edits, drafts(), sources, images, strict=True)]

        return finish

    def _networks(self) -> Networks:
        """What a picture is refined with."""
        return Networks(self._backend, self._estimate, self._guided, max(1, self.limits.default_rows))

    def _estimate(self, plan: RowPlan, latents: Tensor, timestep: Tensor, images: Tensor) -> Tensor:
        """ê of what is planned, [n, c, h, w]."""
        return combine(plan, self._predict(plan, latents, timestep, images))

    def _guided(self, edit: Edit, step: int) -> Edit:
        """An Edit at a step, which outside of the interval is not guided; its scales embedded where the model's are."""
        start, end = self._interval
        if self._backend.embedded and not edit.guidance.embedded:
            edit = dataclasses.replace(edit, guidance=dataclasses.replace(edit.guidance, embedded=True))
        return edit if start <= step / edit.steps < end else dataclasses.replace(edit, guidance=_UNGUIDED)

    def shrink(self) -> bool:
        """Halve the row bucket after OutOfMemory; False where it is one row or `bitwise` forbids another shape."""
        rows = self.limits.default_rows
        if self._determinism == "bitwise" or rows <= 1:
            return False
        self.limits = dataclasses.replace(self.limits, default_rows=rows // 2, rows={})
        return True

    def close(self) -> None:
        """Free what the run has cached."""
        self._texts.clear()
        self._images.clear()

    def _check(self, edits: Sequence[Edit]) -> None:
        if len({(edit.size, edit.steps, edit.sampler) for edit in edits}) != 1:
            raise UsageError(
                "the edits of one batch share size, steps and sampler",
                hint="give those that differ in calls of their own",
            )
        if any(side % self.limits.multiple for side in edits[0].size):
            raise UsageError(
                f"the model cannot work at {edits[0].size[0]} × {edits[0].size[1]} pixels",
                hint=f"width and height must be multiples of {self.limits.multiple}",
            )

    def _image_latent(self, edit: Edit, source: Source) -> Tensor:
        """The conditioning latent [1, c, h, w], unscaled: the photo's posterior mode, or what the last link left."""
        if source.latent is not None:
            latent = torch.tensor(source.latent, device=self._backend.device)
            return latent[None] / self._backend.scaling_factor
        pixels = source.pixels
        if pixels is None:
            raise UsageError(
                f"the edit {edit.key} has neither pixels nor a latent to start from", hint="give its Source one of them"
            )

        place = (edit.source, edit.carry, edit.size)

        def encode() -> Tensor:
            picture = send(torch.tensor(pixels), self._backend.device).permute(2, 0, 1)[None].float()
            # (x / 255) · 2 − 1, in the order of diffusers' VaeImageProcessor, so that the bits are the same
            return self._backend.encode_image(picture / 255 * 2 - 1, upcast=place in self._delicate)

        return self._images.get((*place, place in self._delicate), encode)

    def _text(self, instruction: str) -> Tensor:
        """The embedding [1, tokens, width], encoded alone so that it hangs on no other instruction."""
        return self._texts.get(instruction, lambda: self._backend.encode_text([instruction]))

    def _masks(self, sources: Sequence[Source]) -> Tensor | None:
        """Where latents are edited, bool [n, 1, h, w]; None where all of all of them is."""
        scale = self._backend.vae_scale
        found = [None if source.mask is None else latent_mask(source.mask, scale) for source in sources]
        some = next((one for one in found if one is not None and not one.all()), None)
        if some is None:
            return None
        masks = [np.ones_like(some) if one is None else one for one in found]
        return send(torch.from_numpy(np.stack(masks)[:, None]), self._backend.device)

    def denoise(
        self, edits: Sequence[Edit], images: Tensor, hook: Hook | None = None, masks: Tensor | None = None
    ) -> Tensor:
        """Noise, and conditioning latents [n, c, h, w] → latents of that shape in float32, as the UNet knows them.

        Outside of `masks`, bool [n, 1, h, w], they are after every step what the picture to edit is at that noise, and
        so it in the end (Avrahami et al. 2023, "Blended Latent Diffusion").

        A GPU may still be at work when this returns.
        """
        first, device = edits[0], self._backend.device
        sampler = make_sampler(
            first.sampler, self._backend.scheduler_config, first.steps, [edit.seed for edit in edits], device
        )
        channels, high, wide = images.shape[1:]
        clean = images.float() * self._backend.scaling_factor
        latents = sampler.draw((channels, high, wide))  # not blended: what begins with the same noise shares its rows
        for step, timestep in enumerate(sampler.timesteps):
            plan = plan_rows([self._guided(edit, step) for edit in edits], step)
            seen = sampler.scale(latents, timestep)
            noise = self._estimate(plan, seen, timestep, images)
            latents = _blended(sampler.step(noise, timestep, latents), clean, masks, sampler, step + 1)
            if hook and not hook.step(step + 1, first.steps, partial(self._preview, sampler, step, noise, seen)):
                raise Stopped(f"after step {step + 1} of {first.steps}")
        return latents

    @torch.inference_mode()
    def _preview(self, sampler: Sampler, step: int, noise: Tensor, seen: Tensor) -> list[NDArray[np.uint8]]:
        """The pictures that this step's noise estimate leads to straight away."""
        clean = sampler.clean(step, noise, seen)
        return [to_uint8(self._backend.decode(one[None] / self._backend.scaling_factor)) for one in clean]

    def _predict(self, plan: RowPlan, latents: Tensor, timestep: Tensor, images: Tensor) -> list[Tensor]:
        """The network's answer [c, h, w] to each row of the plan, in calls of the bucket's size."""
        bucket = self.limits.row_bucket(
            (images.shape[-1] * self._backend.vae_scale, images.shape[-2] * self._backend.vae_scale)
        )
        zeros = torch.zeros_like(images[0])
        answers: list[Tensor] = []
        for rows in fill(plan.rows, bucket if self._determinism != "fast" else min(bucket, len(plan.rows))):
            self.rows_asked += len(rows)
            answers += self._backend.predict_noise(
                torch.stack([latents[row.latent_of] for row in rows]),
                timestep,
                torch.cat([self._text(row.text or "") for row in rows]),
                torch.stack([zeros if row.image_of is None else images[row.image_of] for row in rows]),
                rows,
            )
        return answers

    def _develop(self, latents: Tensor, *, upcast: bool = False) -> Callable[[], list[Draft]]:
        """Decode latents [n, c, h, w] one by one and send all of it to the host; what comes back waits for that."""
        levels, numbers = [], []
        for latent in latents:
            pixels = self._backend.decode(latent[None] / self._backend.scaling_factor, upcast=upcast)
            levels.append(to_levels(pixels[0]))
            numbers.append(measure(latent, pixels[0]))
        fetched = fetch([torch.stack(levels), latents, torch.stack(numbers)])

        def drafts() -> list[Draft]:
            pictures, held, known = fetched()
            facts = [Facts.of(one) for one in known.tolist()]
            return [Draft(*one, upcast) for one in zip(pictures, held, facts, strict=True)]

        return drafts

    def _finish(self, edit: Edit, draft: Draft, source: Source, image: Tensor) -> Result:
        """What became of one Edit of the conditioning latent `image`; what broke is tried again in float32, encoding
        and decoding alike, then called by its name.
        """
        if not draft.facts.latent_finite and source.latent is None and not image.isfinite().all():
            self._delicate.add((edit.source, edit.carry, edit.size))  # its other cells need not find out again
            image = self._image_latent(edit, source)
            if image.isfinite().all():
                (draft,) = self._develop(self.denoise([edit], image, masks=self._masks([source])))()
        if not draft.facts.latent_finite:
            return Result(None, None, "nan", f"{self._culprit(edit, image)} is not finite")
        if find_flaw(draft.facts, source):
            latent = torch.tensor(draft.latent, device=self._backend.device)
            (draft,) = self._develop(latent[None], upcast=True)()
            if flaw := find_flaw(draft.facts, source):
                return Result(None, None, "nan", flaw)
        if self._safety and self._backend.flag([draft.picture])[0]:
            return Result(None, None, "flagged", "the model's safety checker flagged the picture")
        notes = ["encoded in float32"] if (edit.source, edit.carry, edit.size) in self._delicate else []
        notes += ["decoded in float32"] if draft.upcast else []
        read = self._backend.words_read(edit.instruction)
        if rest := edit.instruction[len(read) :].strip():
            notes.append(f"{UNREAD}{rest}")  # last: the words may hold anything
        return Result(draft.picture, draft.latent, "done", "; ".join(notes))

    def _culprit(self, edit: Edit, image: Tensor) -> str:
        """What was the first not to be finite, of an Edit whose latent is not: asked where it happened alone, because
        each answer waits for a GPU.
        """
        texts = {row.text or "" for row in plan_rows([self._guided(edit, 0)], 0).rows}
        if not all(self._text(words).isfinite().all() for words in texts):
            return "the text encoder's embedding"
        return "the UNet's latent" if image.isfinite().all() else "the autoencoder's latent of the photo"


def latent_mask(mask: NDArray[np.uint8], scale: int) -> NDArray[np.bool_]:
    """A region [H, W] at the picture's size → [h, w], True where anything of what a latent, or one beside it, stands
    for is edited: an autoencoder blurs where edited latents meet the photo's, and that is to be outside.
    """
    high, wide = mask.shape[0] // scale, mask.shape[1] // scale
    squares = mask[: high * scale, : wide * scale].reshape(high, scale, wide, scale)
    edited = np.pad(squares.max(axis=(1, 3)) > 0, 1)
    beside = [edited[down : down + high, right : right + wide] for down in range(3) for right in range(3)]
    found: NDArray[np.bool_] = np.logical_or.reduce(beside)
    return found


def _blended(latents: Tensor, clean: Tensor, masks: Tensor | None, sampler: Sampler, step: int) -> Tensor:
    """The latents before `step`, with those of x₀ `clean` at that noise outside of `masks`."""
    return latents if masks is None else torch.where(masks, latents, sampler.noised(clean, step))


def combine(plan: RowPlan, rows: Sequence[Tensor]) -> Tensor:
    """ê of every Edit [n, c, h, w]: the plan's weighted sums, in float32 and in the plan's order of terms."""
    return torch.stack([_sum([rows[row].float() * weight for row, weight in terms]) for terms in plan.weights])


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of a decoded picture before it is one: `contrast` and `light` are in levels of 255, not rounded."""

    latent_finite: bool
    finite: bool
    contrast: float
    light: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Facts:
        """From what `measure` gives."""
        return cls(bool(numbers[0]), bool(numbers[1]), numbers[2], numbers[3])


@dataclass(frozen=True, slots=True)
class Draft:
    """A decoded picture uint8 [h, w, 3] on the host, its latent [c, h, w], and what is known of it."""

    picture: NDArray[np.uint8]
    latent: NDArray[np.float32]
    facts: Facts
    upcast: bool


def measure(latent: Tensor, pixels: Tensor) -> Tensor:
    """The numbers of Facts [4] about a latent [c, h, w] and its pixels [3, H, W], where those lie."""
    levels = (pixels.float() * 0.5 + 0.5).clamp(0, 1) * 255
    finite = [one.isfinite().all().float() for one in (latent, pixels)]
    return torch.stack([*finite, levels.std(dim=(1, 2), correction=0).max(), levels.mean()])


def find_flaw(facts: Facts, source: Source) -> str:
    """Why a decoded picture is none: not finite, or flat where its source was not; "" where it is one."""
    if not facts.finite:
        return "the autoencoder's picture is not finite"
    if facts.contrast < EVEN and lacks_content(facts.contrast, facts.light, source, rounded=False):
        return "the picture is one flat colour"
    return ""


def to_levels(pixels: Tensor) -> Tensor:
    """Pixels [3, H, W] in [-1, 1] → uint8 [H, W, 3] where they lie, rounded to the nearest as diffusers does."""
    scaled = (pixels.float() * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255
    return scaled.round().to(torch.uint8)


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels [1, 3, H, W] in [-1, 1] → uint8 [H, W, 3] on the host."""
    return to_levels(pixels[0]).cpu().numpy()
