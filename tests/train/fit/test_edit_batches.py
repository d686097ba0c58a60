"""Batches of pairs: what they hold, that nothing but their number decides it, and that a cache changes no bit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TOKENS, WIDTH, make_picture, make_text_encoder, make_tokenizer, make_vae

from ip2pbatch.train.data.augment import augment, centre
from ip2pbatch.train.data.pair_sets import PairSet
from ip2pbatch.train.data.row_store import RowStore
from ip2pbatch.train.fit.edit_batches import Caches, EditBatches, Place, View
from ip2pbatch.train.fit.latents import Encoder, LatentCache, posteriors_of
from ip2pbatch.train.fit.objective import Dropout, dropped

PROMPTS, SIDE = 7, 32


class InMemory:
    """Seven prompts with one to three pairs of pictures."""

    def __init__(self) -> None:
        ends = np.cumsum([1 + prompt % 3 for prompt in range(PROMPTS)]).tolist()
        self.groups = [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        self.count = ends[-1]
        self.read: list[int] = []

    def row(self, pair: int) -> dict[str, str]:
        return {"edit": f"make it {next(n for n, group in enumerate(self.groups) if pair in group)}"}

    def files(self, pair: int) -> tuple[bytes, bytes]:
        self.read.append(pair)
        before = make_picture(pair, (48, 40))
        return png(before), png(255 - before)

    def key(self, pair: int) -> str:
        return str(pair)

    def place(self, pair: int) -> str:
        return f"memory-{pair}"

    def files_of(self) -> None:
        return None


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(make_vae("kl"), make_text_encoder(), make_tokenizer(), torch.device("cpu"))


def make(encoder: Encoder, cache: Path, views: int = 2, place: Place | None = None) -> EditBatches:
    store = InMemory()
    pairs = PairSet(store, store.groups)
    latents = LatentCache(cache / "latents", store.count, views, (4, SIDE // 8, SIDE // 8))
    texts = RowStore(cache / "texts", store.count, (TOKENS, WIDTH)) if views else None
    view = View(SIDE, (SIDE, SIDE + 8), 0.5, views, seed=5)
    return EditBatches(pairs, encoder, view, Caches(latents, texts), place or Place(4), readers=2)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_is_a_function_of_its_number_cached_or_not(encoder: Encoder, tmp_path: Path) -> None:
    first = make(encoder, tmp_path / "one")
    in_order = [first(part) for part in range(4)]
    again = make(encoder, tmp_path / "one")  # all cached
    assert all(equal(again(part), in_order[part]) for part in range(2))  # and reads the two after them ahead
    assert again.pairs.store.read == []
    late = make(encoder, tmp_path / "other")  # begins in the middle, as after a resume
    assert equal(late(3), in_order[3])
    assert not equal(in_order[0], in_order[1])
    for batches in (first, again, late):
        batches.close()


def test_two_processes_see_what_one_sees_in_twice_the_parts(encoder: Encoder, tmp_path: Path) -> None:
    alone = make(encoder, tmp_path)
    both = [make(encoder, tmp_path, place=Place(4, process, 2)) for process in range(2)]
    for step in range(2):
        assert equal(both[0](step), alone(2 * step))
        assert equal(both[1](step), alone(2 * step + 1))
    for batches in (alone, *both):
        batches.close()


def test_every_prompt_comes_once_an_epoch_in_another_order(encoder: Encoder, tmp_path: Path) -> None:
    batches = make(encoder, tmp_path)
    epochs = [[batches.draw(epoch * PROMPTS + n).prompt for n in range(PROMPTS)] for epoch in range(3)]
    assert all(sorted(one) == list(range(PROMPTS)) for one in epochs)
    assert len({tuple(one) for one in epochs}) == 3
    assert {batches.draw(epoch * PROMPTS).view for epoch in range(4)} == {0, 1}
    seen = {batches.draw(n).pair for n in range(40 * PROMPTS)}
    assert seen == {pair for prompt in range(PROMPTS) for pair in batches.pairs.pairs(prompt)}
    batches.close()


def test_without_a_cache_every_epoch_has_its_own_view(encoder: Encoder, tmp_path: Path) -> None:
    batches = make(encoder, tmp_path, views=0)
    views = {batches.draw(epoch * PROMPTS).view for epoch in range(5)}
    assert views == set(range(5))
    assert equal(batches(1), batches(1))
    assert not list(tmp_path.iterdir())
    batches.close()


def test_latents_are_the_autoencoders_own(encoder: Encoder, tmp_path: Path) -> None:
    batches = make(encoder, tmp_path)
    batches.dropout = Dropout(text=0, both=0, image=0)
    found, draws = batches(0), batches.prepare(0).draws
    for index, draw in enumerate(draws):
        pictures = batches.read(draw)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = encoder.vae.encode(pixels).latent_dist
        torch.testing.assert_close(found["image"][index], posterior.mode()[0], atol=2e-3, rtol=2e-3)
        target, spread = posterior.mean[1], posterior.std[1]
        away = (found["latents"][index] / encoder.vae.config.scaling_factor - target) / spread
        assert away.std() == pytest.approx(1.0, abs=0.35), "a draw from the posterior, scaled"
        words = encoder.tokenizer(
            f"make it {draw.prompt}", padding="max_length", max_length=TOKENS, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            expected = encoder.text_encoder(words).last_hidden_state[0]
        torch.testing.assert_close(found["text"][index], expected, atol=2e-3, rtol=2e-3)
    batches.close()


def test_conditions_are_dropped_as_the_original_does() -> None:
    # ddpm_edit.py: the prompt goes where r < 2u, the image where u ≤ r < 3u, with u = 0.05.
    r = np.linspace(0, 1, 10_001)[:-1]
    no_text, no_image = dropped(r, Dropout())
    assert np.array_equal(no_text, r < 0.10)
    assert np.array_equal(no_image, (r >= 0.05) & (r < 0.10 + 0.05))
    parts = [(no_text & ~no_image).mean(), (no_text & no_image).mean(), (no_image & ~no_text).mean()]
    assert parts == pytest.approx([0.05, 0.05, 0.05], abs=1e-3)


def test_the_joint_distribution_of_dropout_in_batches(encoder: Encoder, tmp_path: Path) -> None:
    first = make(encoder, tmp_path, views=1, place=Place(PROMPTS))
    for part in range(6):  # every pair and text is cached once
        first(part)
    first.close()
    batches = make(encoder, tmp_path, views=1, place=Place(500))
    found = [batches(part) for part in range(4)]
    null = torch.from_numpy(encoder.texts([""])[0]).half().float()
    text = torch.cat([(one["text"] == null).flatten(1).all(1) for one in found])
    image = torch.cat([(one["image"] == 0).flatten(1).all(1) for one in found])
    for joint in (text & ~image, text & image, image & ~text):
        assert joint.float().mean() == pytest.approx(0.05, abs=0.02)
    assert (~text & ~image).float().mean() == pytest.approx(0.85, abs=0.03)
    timesteps = torch.cat([one["timesteps"] for one in found])
    assert timesteps.min() < 10
    assert timesteps.max() > 990
    noise = torch.cat([one["noise"] for one in found])
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    batches.close()


def test_both_pictures_are_cropped_and_mirrored_alike() -> None:
    first = Image.fromarray(make_picture(1, (300, 260)))
    other = Image.fromarray(255 - np.asarray(first))
    sizes = set()
    for seed in range(20):
        both = augment((first, other), 64, (64, 72), 0.5, np.random.default_rng(seed))
        assert both.shape == (2, 64, 64, 3)
        assert np.abs(both[0].astype(int) + both[1] - 255).max() <= 2
        sizes.add(both[0].tobytes())
    assert len(sizes) == 20
    middle = augment((first, other), 64, (64, 64), 0.0, np.random.default_rng(0))
    flipped = augment((first, other), 64, (64, 64), 1.0, np.random.default_rng(0))
    assert np.array_equal(middle, flipped[:, :, ::-1])
    squashed = augment((first, other), 64, (64, 64), 0.0, np.random.default_rng(0), squash=True)
    assert np.array_equal(squashed[0], np.asarray(first.resize((64, 64), Image.Resampling.LANCZOS)))


def test_the_resize_takes_both_ends_of_its_range() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    widths = set()
    for seed in range(200):
        crop = augment((ramp, ramp), 32, (32, 34), 0.0, np.random.default_rng(seed))[0]
        slope = (float(crop[0, -2, 0]) - float(crop[0, 1, 0])) / 29
        widths.add(round(256 / slope))
    assert widths == {32, 33, 34}


def test_the_middle_square() -> None:
    picture = Image.new("RGB", (90, 30), "red")
    picture.paste((0, 0, 255), (30, 0, 60, 30))
    assert (centre(picture, 16)[5:-5, 5:-5] == (0, 0, 255)).all()


def test_a_torn_row_is_made_again_and_a_full_disk_stops_only_the_cache(
    tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    store = RowStore(tmp_path / "rows", 10, (4,))
    row = np.arange(4, dtype=np.float16)
    store.put(3, row)
    kept = store.get(3)
    assert kept is not None
    assert np.array_equal(kept, row)
    assert store.get(2) is None
    data = bytearray((tmp_path / "rows.rows").read_bytes())
    data[-1] ^= 1
    (tmp_path / "rows.rows").write_bytes(data)
    assert store.get(3) is None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        store.put(9, row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.get(9) is None
    assert "the cache is full" in caplog.text
    store.put(1, row)
    assert store.get(1) is None, "what is full stays as it is"


def test_cached_rows_split_into_what_training_draws_from() -> None:
    rows = [np.arange(3 * 4, dtype=np.float16).reshape(3, 2, 2) for _ in range(2)]
    found = posteriors_of(rows)
    assert found.image.shape == (2, 1, 2, 2)
    assert found.image[0, 0, 0, 0] == 0
    assert found.mean[0, 0, 0, 0] == 4
    assert found.log_variance[1, 0, 0, 0] == 8
