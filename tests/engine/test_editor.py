"""The denoise loop against diffusers' own pipeline and against the formula, and what becomes of broken pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from tiny_models import make_picture, save_model

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.dc_adapter import adapt
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.samplers import SAMPLERS, make_sampler
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.run.engine import Preview, Result, Source, Stopped

SIZE = (64, 48)
STEPS = 3
PICTURES = [make_picture(seed, SIZE) for seed in range(3)]
SOURCES = [Source(pixels=picture) for picture in PICTURES]
KINDS = ("kl", "dc")


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pytorch.TorchBackend]:
    root = tmp_path_factory.mktemp("models")
    folders = {kind: save_model(root / kind, kind, safety=kind == "kl") for kind in KINDS}
    return {kind: pytorch.load(ModelFolder(folder, kind, "", "")) for kind, folder in folders.items()}


def ask(
    photo: int, instruction: str, text: float, image: float, seed: int, sampler: str = "euler_a", carry: bool = False,
    negative: str = "",
) -> Edit:  # fmt: skip
    guidance = Guidance(text, image)
    return make_edit(
        f"photo-{photo}", instruction, guidance, seed, steps=STEPS, sampler=sampler, size=SIZE,
        carry="latent" if carry else None, negative=negative,
    )  # fmt: skip


MIXED = [
    (0, "make it snow", 7.5, 1.5, 1371),
    (1, "turn the sky red", 3.0, 1.0, 7),  # s_I = 1: two rows
    (2, "make it snow", 1.5, 1.5, 7),  # s_I = s_T: two rows
    (0, "make it snow", 12.0, 2.2, 1371),  # shares its first step with the first
    (0, "", 7.5, 1.5, 1371),
]


def edit(editor: Editor, edits: Sequence[Edit]) -> list[Result]:
    return editor.edit(edits, [SOURCES[int(edit.source[-1])] for edit in edits])


def pipeline_picture(backend: pytorch.TorchBackend, wanted: Edit) -> np.ndarray:
    """What diffusers' own pipeline makes of one edit: float32 [h, w, 3] in 0…1."""
    kind, extra = SAMPLERS[wanted.sampler]
    parts = backend.parts
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=adapt(parts.vae) if type(parts.vae).__name__ == "AutoencoderDC" else parts.vae,
        text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=parts.unet,
        scheduler=getattr(diffusers, kind).from_config(backend.scheduler_config, **extra),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        wanted.instruction, image=Image.fromarray(PICTURES[int(wanted.source[-1])]), num_inference_steps=STEPS,
        negative_prompt=wanted.negative or None,
        guidance_scale=wanted.guidance.text, image_guidance_scale=wanted.guidance.image,
        generator=torch.Generator("cpu").manual_seed(wanted.seed), output_type="np",
    )  # fmt: skip
    return made.images[0]


def float_picture(backend: pytorch.TorchBackend, result: Result) -> np.ndarray:
    """A result's latent as the pipeline shows it, before rounding to 8 bit."""
    assert result.latent is not None
    pixels = backend.decode(torch.from_numpy(result.latent)[None] / backend.scaling_factor)
    return (pixels[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()


def formula_latent(backend: pytorch.TorchBackend, wanted: Edit) -> torch.Tensor:
    """The paper's equation 3 with three rows a step, each in a call of its own, whatever the scales."""
    unet, parts = backend.parts.unet, backend.parts
    kind, extra = SAMPLERS[wanted.sampler]
    scheduler = getattr(diffusers, kind).from_config(backend.scheduler_config, **extra)
    scheduler.set_timesteps(STEPS)
    pixels = torch.from_numpy(PICTURES[int(wanted.source[-1])]).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    encoded = parts.vae.encode(pixels)
    image = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    text, null = backend.encode_text([wanted.instruction]), backend.encode_text([""])
    generator = torch.Generator("cpu").manual_seed(wanted.seed)
    latent = torch.randn(image.shape, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        z = scheduler.scale_model_input(latent, t)
        rows = [(torch.zeros_like(image), null), (image, null), (image, text)]
        e00, e_i, e_it = (unet(torch.cat([z, i], 1), t, encoder_hidden_states=words).sample for i, words in rows)
        noise = e00 + wanted.guidance.text * (e_it - e_i) + wanted.guidance.image * (e_i - e00)
        latent = scheduler.step(noise, t, latent, generator=generator).prev_sample
    return latent[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_one_diffusers_makes(
    backends: dict[str, pytorch.TorchBackend], kind: str, sampler: str
) -> None:
    backend = backends[kind]
    fields = MIXED if sampler in ("euler_a", "ddim") else (MIXED[0], *MIXED[3:])
    edits = [ask(*one, sampler) for one in fields]
    mixed = edit(Editor(backend, safety=False), edits)
    alone = [edit(Editor(backend, safety=False), [one])[0] for one in edits]
    wanted = [pipeline_picture(backend, one) for one in edits]
    assert np.abs(wanted[0] - wanted[-2]).max() > 0.01  # guidance and instruction matter in this model
    for expected, *found in zip(wanted, mixed, alone, strict=True):
        for result in found:
            assert np.abs(float_picture(backend, result) - expected).max() <= 1e-4
            assert np.abs(result.image.astype(float) - expected * 255).max() <= 0.5 + 0.03


def test_a_negative_takes_the_null_text_s_place_as_in_diffusers(backends: dict[str, pytorch.TorchBackend]) -> None:
    backend = backends["kl"]
    same = (0, "make it snow", 7.5, 1.5, 1371)
    edits = [ask(*same, negative=words) for words in ("", "blurry", "a red sky")]
    edits.append(ask(1, "turn the sky red", 3.0, 1.2, 7, negative="blurry"))
    wanted = [pipeline_picture(backend, one) for one in edits]
    assert min(np.abs(wanted[0] - other).max() for other in wanted[1:3]) > 0.01
    alone = [edit(Editor(backend, safety=False), [one])[0] for one in edits]
    for expected, *found in zip(wanted, edit(Editor(backend, safety=False), edits), alone, strict=True):
        for result in found:
            assert np.abs(float_picture(backend, result) - expected).max() <= 1e-4
    idle, plain = (edit(Editor(backend, safety=False), [ask(0, "x", 1, 1, 7, negative=n)])[0] for n in ("blurry", ""))
    assert np.array_equal(idle.image, plain.image)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "image"),
    [(7.5, 0.9), (1.0, 1.5), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (-1.5, 1.2), (3.0, -0.5), (0.5, 0.25)],
)
def test_scales_that_diffusers_switches_off_follow_the_formula(
    backends: dict[str, pytorch.TorchBackend], kind: str, text: float, image: float
) -> None:
    wanted = ask(1, "turn the sky red", text, image, 11)
    with torch.inference_mode():
        expected = formula_latent(backends[kind], wanted).numpy()
    (found,) = edit(Editor(backends[kind], safety=False), [wanted])
    assert np.abs(found.latent - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("determinism", ["stable", "bitwise"])
def test_a_picture_does_not_depend_on_its_batch(
    backends: dict[str, pytorch.TorchBackend], kind: str, determinism: str
) -> None:
    edits = [ask(*fields) for fields in MIXED]
    editor = Editor(backends[kind], determinism=determinism, safety=False)
    together = edit(editor, edits)
    for order in ([4, 3, 2, 1, 0], [2], [0, 1]):
        again = edit(Editor(backends[kind], determinism=determinism, safety=False), [edits[i] for i in order])
        for position, result in zip(order, again, strict=True):
            assert np.array_equal(result.latent, together[position].latent)
            assert np.array_equal(result.image, together[position].image)


def test_fast_pads_nothing_and_stays_within_its_promise(backends: dict[str, pytorch.TorchBackend]) -> None:
    edits = [ask(*fields) for fields in MIXED]
    fast = edit(Editor(backends["dc"], determinism="fast", safety=False), edits)
    stable = edit(Editor(backends["dc"], safety=False), edits)
    for quick, sure in zip(fast, stable, strict=True):
        assert np.sqrt(np.mean((quick.image.astype(float) - sure.image) ** 2)) <= 2


class Counting:
    """A backend that counts its calls and can be made to break; everything else is the real one's."""

    def __init__(self, backend: pytorch.TorchBackend) -> None:
        self._backend = backend
        self.rows: list[int] = []
        self.texts: list[str] = []
        self.photos = 0
        self.break_noise = self.break_picture = self.break_photo = None
        self.break_text = False
        self.upcasts: list[bool] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def encode_text(self, instructions: Sequence[str]) -> torch.Tensor:
        self.texts += instructions
        found = self._backend.encode_text(instructions)
        return torch.full_like(found, torch.nan) if self.break_text else found

    def encode_image(self, pixels: torch.Tensor, *, upcast: bool = False) -> torch.Tensor:
        self.photos += len(pixels)
        latent = self._backend.encode_image(pixels, upcast=upcast)
        return latent if self.break_photo is None else self.break_photo(latent, upcast)

    def predict_noise(self, latents: torch.Tensor, *rest: object) -> torch.Tensor:
        self.rows.append(len(latents))
        noise = self._backend.predict_noise(latents, *rest)
        return noise if self.break_noise is None else self.break_noise(noise)

    def decode(self, latents: torch.Tensor, *, upcast: bool = False) -> torch.Tensor:
        self.upcasts.append(upcast)
        pixels = self._backend.decode(latents, upcast=upcast)
        return pixels if self.break_picture is None else self.break_picture(pixels, upcast)


@pytest.fixture
def counting(backends: dict[str, pytorch.TorchBackend]) -> Counting:
    return Counting(backends["dc"])


def test_photos_and_instructions_are_encoded_once_a_run(counting: Counting) -> None:
    editor = Editor(counting, safety=False)
    edits = [ask(*fields) for fields in MIXED]
    edit(editor, edits)
    edit(editor, edits[:2])
    assert sorted(counting.texts) == ["", "make it snow", "turn the sky red"]
    assert counting.photos == 3
    editor.close()
    edit(editor, edits[:1])
    assert counting.photos == 4


def test_only_rows_that_count_are_computed_and_every_call_is_full(counting: Counting) -> None:
    bucket = counting.limits.row_bucket(SIZE)
    edit(Editor(counting, safety=False), [ask(0, "make it snow", 1.0, 1.0, 1)])
    assert counting.rows == [bucket] * STEPS
    counting.rows.clear()
    grid = [ask(0, "make it snow", text, image, 1) for text in (3, 5, 7) for image in (1.2, 1.5, 1.8)]
    edit(Editor(counting, safety=False), grid)
    assert counting.rows == [bucket] * (1 + (STEPS - 1) * -(-27 // bucket))  # the first step is three rows for all


def test_outside_its_interval_an_edit_is_not_guided_and_needs_one_row(counting: Counting) -> None:
    wanted = ask(0, "make it snow", 5, 1.5, 1)
    (whole,) = edit(Editor(counting, determinism="fast", safety=False, interval=(0.0, 1.0)), [wanted])
    assert counting.rows == [3] * STEPS
    counting.rows.clear()
    (part,) = edit(Editor(counting, determinism="fast", safety=False, interval=(1 / STEPS, 0.99)), [wanted])
    assert counting.rows == [1] + [3] * (STEPS - 1)
    assert not np.array_equal(whole.image, part.image)
    (plain,) = edit(Editor(counting, safety=False), [ask(0, "make it snow", 1, 1, 1)])
    (never,) = edit(Editor(counting, safety=False, interval=(0.999, 1.0)), [wanted])
    assert np.array_equal(plain.image, never.image)


def test_a_link_goes_on_from_the_latent_or_from_the_picture(backends: dict[str, pytorch.TorchBackend]) -> None:
    backend = backends["kl"]
    editor = Editor(backend, safety=False)
    (first,) = edit(editor, [ask(0, "make it snow", 5, 1.5, 1)])
    link = ask(0, "turn the sky red", 5, 1.5, 2, carry=True)
    (carried,) = editor.edit([link], [Source(latent=first.latent)])
    expected = _condition_on(backend, link, torch.from_numpy(first.latent)[None] / backend.scaling_factor)
    assert np.abs(carried.latent - expected).max() <= 1e-4 * np.abs(expected).max()
    (through_pixels,) = editor.edit([link], [Source(pixels=first.image)])
    assert carried.state == through_pixels.state == "done"
    assert not np.array_equal(through_pixels.image, carried.image)


def _condition_on(backend: pytorch.TorchBackend, link: Edit, latent: torch.Tensor) -> np.ndarray:
    """The same edit with the pipeline's own loop, given the conditioning latent as it is."""
    pipeline_unet = backend.parts.unet
    scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(backend.scheduler_config)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator("cpu").manual_seed(link.seed)
    z = torch.randn(latent.shape, generator=generator) * scheduler.init_noise_sigma
    text = torch.cat([backend.encode_text([words]) for words in (link.instruction, "", "")])
    image = torch.cat([latent, latent, torch.zeros_like(latent)])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            rows = torch.cat([torch.cat([scheduler.scale_model_input(z, t)] * 3), image], 1)
            e_it, e_i, e00 = pipeline_unet(rows, t, encoder_hidden_states=text).sample.chunk(3)
            noise = e00 + link.guidance.text * (e_it - e_i) + link.guidance.image * (e_i - e00)
            z = scheduler.step(noise, t, z, generator=generator).prev_sample
    return z[0].numpy()


def test_a_latent_that_is_not_finite_is_no_picture_and_harms_no_other(counting: Counting) -> None:
    def spoil(noise: torch.Tensor) -> torch.Tensor:
        noise = noise.clone()
        noise[0, 0, 0, 0] = float("nan")  # the first row of each call belongs to the first edit
        return noise

    edits = [ask(0, "make it snow", 5, 1.5, 1), ask(1, "make it snow", 5, 1.5, 2)]
    whole = edit(Editor(counting, safety=False), edits)
    counting.break_noise = spoil
    broken, spared = edit(Editor(counting, safety=False), edits)
    assert (broken.state, broken.image, broken.latent) == ("nan", None, None)
    assert "not finite" in broken.detail
    assert np.array_equal(spared.image, whole[1].image)


def test_what_is_not_finite_is_blamed_on_the_network_that_made_it(counting: Counting) -> None:
    def reason() -> str:
        (result,) = edit(Editor(counting, safety=False), [ask(0, "make it snow", 5, 1.5, 1)])
        assert (result.state, result.image, result.latent) == ("nan", None, None)
        return result.detail

    counting.break_picture = lambda pixels, upcast: torch.full_like(pixels, torch.nan)
    assert reason() == "the autoencoder's picture is not finite"
    counting.break_noise = lambda noise: torch.full_like(noise, torch.inf)
    assert reason() == "the UNet's latent is not finite"
    counting.break_photo = lambda latent, upcast: torch.full_like(latent, torch.nan)
    assert reason() == "the autoencoder's latent of the photo is not finite"
    counting.break_text = True
    assert reason() == "the text encoder's embedding is not finite"


def test_a_photo_that_only_float32_encodes_is_encoded_there_once_for_all_its_cells(counting: Counting) -> None:
    edits = [ask(0, "make it snow", 5, 1.5, 1), ask(1, "make it snow", 5, 1.5, 2), ask(0, "make it snow", 5, 1.8, 1)]
    whole = edit(Editor(counting, safety=False), edits)
    first = counting.encode_image(torch.from_numpy(PICTURES[0]).permute(2, 0, 1)[None].float() / 255 * 2 - 1)
    counting.break_photo = lambda latent, upcast: (
        latent if upcast or not torch.equal(latent, first) else torch.full_like(latent, torch.nan)
    )
    counting.photos = 0
    editor = Editor(counting, safety=False)
    made = edit(editor, edits)
    assert [(one.state, one.detail) for one in made] == [
        ("done", "encoded in float32"), ("done", ""), ("done", "encoded in float32")
    ]  # fmt: skip
    for one, wanted in zip(made, whole, strict=True):
        assert np.array_equal(one.image, wanted.image)
    assert counting.photos == 3
    edit(editor, [ask(0, "turn the sky red", 5, 1.5, 1)])
    assert counting.photos == 3


@pytest.mark.parametrize("damage", [float("nan"), float("inf"), -1.0, 0.0, 5.0], ids=str)
def test_a_broken_decoding_is_tried_in_float32_then_called_nan(counting: Counting, damage: float) -> None:
    counting.break_picture = lambda pixels, upcast: torch.full_like(pixels, damage)
    (result,) = edit(Editor(counting, safety=False), [ask(0, "make it snow", 5, 1.5, 1)])
    assert (result.state, result.image) == ("nan", None)
    assert result.detail
    assert counting.upcasts == [False, True]


def test_a_decoding_that_float32_mends_is_done_and_says_so(counting: Counting) -> None:
    counting.break_picture = lambda pixels, upcast: pixels if upcast else torch.full_like(pixels, float("nan"))
    (result,) = edit(Editor(counting, safety=False), [ask(0, "make it snow", 5, 1.5, 1)])
    assert (result.state, result.detail) == ("done", "decoded in float32")


def test_an_instruction_that_is_cut_says_so(
    backends: dict[str, pytorch.TorchBackend], capfd: pytest.CaptureFixture[str]
) -> None:
    (result,) = edit(Editor(backends["dc"]), [ask(0, "make " * 40, 5, 1.5, 1)])
    assert (result.state, result.detail) == ("done", "not read by the text encoder: " + " ".join(["make"] * 26))
    (whole,) = edit(Editor(backends["dc"]), [ask(0, "make it  Snow", 5, 1.5, 1)])
    assert (whole.state, whole.detail) == ("done", "")
    assert capfd.readouterr() == ("", "")


def test_an_even_photo_may_stay_even_and_a_dark_one_is_no_alarm(counting: Counting) -> None:
    counting.break_picture = lambda pixels, upcast: torch.full_like(pixels, -0.2)
    grey = Source(pixels=np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    (even,) = Editor(counting, safety=False).edit([ask(0, "make it snow", 5, 1.5, 1)], [grey])
    assert even.state == "done"
    counting.break_picture = lambda pixels, upcast: pixels * 0.05 - 0.95
    (dark,) = edit(Editor(counting, safety=False), [ask(0, "make it night", 5, 1.5, 1)])
    assert dark.state == "done"


def test_a_flagged_picture_is_a_state_of_its_own(backends: dict[str, pytorch.TorchBackend]) -> None:
    backend = backends["kl"]
    backend.parts.checker.concept_embeds_weights.fill_(-2.0)
    wanted = ask(0, "make it snow", 5, 1.5, 1)
    (flagged,) = edit(Editor(backend), [wanted])
    (unchecked,) = edit(Editor(backend, safety=False), [wanted])
    assert (flagged.state, flagged.image, flagged.latent) == ("flagged", None, None)
    assert unchecked.state == "done"


def test_shrinking_halves_the_bucket_down_to_one_row(counting: Counting) -> None:
    editor = Editor(counting, safety=False)
    buckets = [editor.limits.default_rows]
    while editor.shrink():
        buckets.append(editor.limits.default_rows)
    assert buckets[-1] == 1
    assert all(small == large // 2 for large, small in itertools.pairwise(buckets))
    edit(editor, [ask(0, "make it snow", 5, 1.5, 1)])
    assert set(counting.rows) == {1}
    assert not Editor(counting, determinism="bitwise").shrink()


def test_what_cannot_run_together_or_at_all_is_refused(counting: Counting) -> None:
    editor = Editor(counting)
    with pytest.raises(UsageError, match="share size, steps and sampler"):
        edit(editor, [ask(0, "a", 5, 1.5, 1), ask(0, "a", 5, 1.5, 1, "ddim")])
    odd = make_edit("photo-0", "a", Guidance(5, 1.5), 1, steps=2, sampler="euler_a", size=(60, 48))
    with pytest.raises(UsageError, match="60 × 48") as caught:
        edit(editor, [odd])
    assert "multiples of 8" in str(caught.value.hint)


class Steps:
    """A hook that looks at each step, and stops after `stop` of them."""

    def __init__(self, stop: int = 99) -> None:
        self.heard: list[tuple[int, int]] = []
        self.seen: list[list[np.ndarray]] = []
        self.stop = stop

    def step(self, done: int, of: int, preview: Preview) -> bool:
        self.heard.append((done, of))
        self.seen.append(preview())
        return done < self.stop


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_hears_of_every_step_and_changes_nothing(
    backends: dict[str, pytorch.TorchBackend], kind: str
) -> None:  # fmt: skip
    edits, hook = [ask(*row) for row in MIXED], Steps()
    sources = [SOURCES[int(edit.source[-1])] for edit in edits]
    made = Editor(backends[kind], safety=False).begin(edits, sources, hook)()
    alone = Editor(backends[kind], safety=False).edit(edits, sources)
    assert hook.heard == [(1, 3), (2, 3), (3, 3)]
    for one, without, last in zip(made, alone, hook.seen[-1], strict=True):
        assert np.array_equal(one.image, without.image)
        # The last step of Euler leads to x₀ itself.
        assert np.abs(one.image.astype(int) - last).max() <= 1


def test_a_hook_can_stop_between_two_steps(backends: dict[str, pytorch.TorchBackend]) -> None:
    hook = Steps(stop=2)
    with pytest.raises(Stopped):
        Editor(backends["kl"]).begin([ask(*MIXED[0])], SOURCES[:1], hook)
    assert hook.heard == [(1, 3), (2, 3)]


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_preview_finds_the_picture_in_its_noise(
    backends: dict[str, pytorch.TorchBackend], name: str, predicts: str
) -> None:
    """diffusers noises a known picture; a network that knows the noise is asked at every step."""
    config = dict(backends["kl"].scheduler_config) | {"prediction_type": predicts}
    sampler = make_sampler(name, config, 6, [0], torch.device("cpu"))
    picture, noise = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 6, 8)
    table = diffusers.DDPMScheduler.from_config(config)
    for step, timestep in enumerate(sampler.timesteps):
        at = torch.tensor([round(float(timestep))])
        seen = table.add_noise(picture, noise, at)
        output = noise if predicts == "epsilon" else table.get_velocity(picture, noise, at)
        found = sampler.clean(step, output, seen)
        assert float((found - picture).abs().max()) < (2e-3 if float(timestep).is_integer() else 0.2)


def left_half(value: int = 255) -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, : SIZE[0] // 2] = value
    return mask


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_its_region_a_latent_is_the_photo_s_and_inside_it_is_edited(
    backends: dict[str, pytorch.TorchBackend], kind: str, sampler: str
) -> None:
    editor, wanted = Editor(backends[kind], safety=False), ask(0, "make it snow", 7.5, 1.5, 1371, sampler)
    (whole,), (part,) = (editor.edit([wanted], [Source(PICTURES[0], mask=mask)]) for mask in (None, left_half(9)))
    assert whole.latent is not None
    assert part.latent is not None
    photo = editor._image_latent(wanted, SOURCES[0])[0].numpy() * backends[kind].scaling_factor
    half = photo.shape[-1] // 2
    assert np.array_equal(part.latent[..., half + 1 :], photo[..., half + 1 :])
    assert not np.array_equal(part.latent[..., half], photo[..., half])  # one further, for the autoencoder's blur
    inside = np.abs(part.latent - photo)[..., :half].mean(), np.abs(part.latent - whole.latent)[..., :half].mean()
    assert inside[0] > 0.1
    assert inside[1] > 0  # it knows what is around it


def test_a_region_of_everything_has_the_bits_of_none_and_neighbours_change_nothing(
    backends: dict[str, pytorch.TorchBackend],
) -> None:
    editor = Editor(backends["kl"], safety=False)
    edits = [ask(photo, "make it snow", 7.5, 1.5, 1371) for photo in range(3)]
    masks = [None, np.full((SIZE[1], SIZE[0]), 255, np.uint8), left_half()]
    beside = editor.edit(edits, [Source(picture, mask=mask) for picture, mask in zip(PICTURES, masks, strict=True)])
    plain = editor.edit(edits, SOURCES)
    for together, without in zip(beside[:2], plain[:2], strict=True):
        assert np.array_equal(together.latent, without.latent)  # type: ignore[arg-type]
        assert np.array_equal(together.image, without.image)  # type: ignore[arg-type]
    (alone,) = editor.edit(edits[2:], [Source(PICTURES[2], mask=masks[2])])
    assert np.array_equal(alone.image, beside[2].image)  # type: ignore[arg-type]
    assert not np.array_equal(alone.image, plain[2].image)  # type: ignore[arg-type]


def test_a_link_is_blended_with_what_the_link_before_left(backends: dict[str, pytorch.TorchBackend]) -> None:
    editor = Editor(backends["kl"], safety=False)
    (first,) = editor.edit([ask(0, "make it snow", 7.5, 1.5, 1371)], SOURCES[:1])
    assert first.latent is not None
    link = ask(0, "turn the sky red", 7.5, 1.5, 7, carry=True)
    (second,) = editor.edit([link], [Source(first.image, first.latent, left_half())])
    assert second.latent is not None
    half = first.latent.shape[-1] // 2
    assert np.allclose(second.latent[..., half + 1 :], first.latent[..., half + 1 :], atol=1e-6)
    assert not np.allclose(second.latent[..., :half], first.latent[..., :half], atol=1e-2)
