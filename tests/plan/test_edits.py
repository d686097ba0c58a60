"""Recipe × photos: which pictures, at which size, with which seed and key; and large plans stay quick and small."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ip2pbatch.errors import ModelError, NothingMatchedError, PlanError
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, held, make_edit
from ip2pbatch.plan.expand import expand, model_size, photo_seed
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.photos import Scan
from ip2pbatch.plan.schedule import Schedule
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.instructions import Instruction
from ip2pbatch.plan.written.outputs import Output
from ip2pbatch.plan.written.ranges import Size
from ip2pbatch.plan.written.recipe import EditSpec, Recipe
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.stored_plans import store_plan


def photo(name: str = "a.jpg", size: tuple[int, int] = (4000, 3000)) -> Photo:
    return Photo(name, Path(name), f"digest of {name}", size)


TWO = Scan((photo("a.jpg"), photo("b.jpg", (3000, 4000))))


def plan_of(scan: Scan = TWO, **recipe: object) -> Plan:
    made = Recipe.model_validate({"photos": "p", "edits": ["make it winter"]} | recipe)
    return expand(made, scan, model_defaults(made.model))


def test_every_photo_gets_every_edit_at_its_own_aspect() -> None:
    plan = plan_of(edits=["make it winter", "make it night"])
    assert [(strip.photo.name, strip.id) for strip in plan.strips] == [
        ("a.jpg", "make-it-winter"),
        ("a.jpg", "make-it-night"),
        ("b.jpg", "make-it-winter"),
        ("b.jpg", "make-it-night"),
    ]
    assert {strip.photo.name: strip.edits[0].size for strip in plan.strips} == {
        "a.jpg": (512, 384),
        "b.jpg": (384, 512),
    }
    edit = plan.edits[0]
    assert (edit.source, edit.carry, edit.guidance) == ("digest of a.jpg", None, Guidance(7.5, 1.5))
    assert (edit.steps, edit.sampler) == (20, "euler_a")


def test_a_grid_is_every_text_with_every_image_and_zip_is_pairs() -> None:
    scales = {"text": [5, 7.5], "image": [1, 1.5]}
    grid = [strip.guidance for strip in plan_of(Scan((photo(),)), guidance=scales).strips]
    assert grid == [Guidance(5, 1), Guidance(5, 1.5), Guidance(7.5, 1), Guidance(7.5, 1.5)]
    pairs = [strip.guidance for strip in plan_of(Scan((photo(),)), guidance=scales | {"pair": "zip"}).strips]
    assert pairs == [Guidance(5, 1), Guidance(7.5, 1.5)]
    one = plan_of(Scan((photo(),)), guidance={"text": [5, 7.5], "pair": "zip"})
    assert [strip.guidance.image for strip in one.strips] == [1.5, 1.5]


def test_an_edit_may_differ_from_the_rest() -> None:
    edits = ["a", {"instruction": "b", "image": 1.7, "steps": 5, "sampler": "ddim", "seeds": [3], "photos": "b.*"}]
    plan = plan_of(edits=edits, guidance={"text": [5, 6]})
    assert len(plan.strips) == 2 * 2 + 2
    own = [strip for strip in plan.strips if strip.id == "b"]
    assert {strip.photo.name for strip in own} == {"b.jpg"}
    assert {(e.guidance.image, e.steps, e.sampler, e.seed) for strip in own for e in strip.edits} == {
        (1.7, 5, "ddim", 3)
    }


def test_an_edit_for_photos_that_are_not_there_is_refused() -> None:
    edits = ["a", {"instruction": "b", "photos": ["c.*"]}]
    with pytest.raises(PlanError, match=r"b: no photo matches c\.\*"):
        plan_of(edits=edits)
    assert len(plan_of(TWO.limit(1), edits=edits).strips) == 1  # a part of the photos may be without


def test_chains_hand_on_and_share_their_beginnings() -> None:
    edits = [
        {"chain": ["x", "y"], "keep": "all"},
        {"chain": ["x", "z"]},
        {"id": "px", "chain": ["x", "y"], "carry": "pixels"},
    ]
    plan = plan_of(Scan((photo(),)), edits=edits)
    first, second, third = plan.strips
    assert first.edits[0] is second.edits[0] is third.edits[0]
    assert len(plan.edits) == 4  # x, and y, z, y after it
    assert [edit.source for edit in first.edits] == ["digest of a.jpg", first.edits[0].key]
    assert [edit.carry for edit in first.edits] == [None, "latent"]
    assert third.edits[1].carry == "pixels"
    assert (first.keep, second.keep) == ((1, 2), (2,))


def test_a_link_may_have_scales_of_its_own() -> None:
    strip = plan_of(edits=[{"chain": ["x", {"instruction": "y", "text": 9}]}], guidance={"image": 1.7}).strips[0]
    assert [edit.guidance for edit in strip.edits] == [Guidance(7.5, 1.7), Guidance(9, 1.7)]
    assert strip.guidance == Guidance(7.5, 1.7)


def test_parents_come_before_children_and_nothing_twice() -> None:
    plan = plan_of(edits=[["x", "y", "z"], ["x", "y", "w"], "x"], guidance={"text": [5, 6]}, seeds=[1, 2])
    seen = {photo.digest for photo in plan.photos}
    for edit in plan.edits:
        assert edit.source in seen
        assert edit.key not in seen
        seen.add(edit.key)


def test_two_names_of_one_picture_are_edited_once() -> None:
    twins = Scan((photo("a.jpg"), Photo("copy.jpg", Path("copy.jpg"), "digest of a.jpg", (4000, 3000))))
    plan = plan_of(twins)
    assert (len(plan.strips), len(plan.edits)) == (2, 1)
    assert plan.twins == {"copy.jpg": "a.jpg"}
    assert plan_of(Scan((photo("a.jpg"), photo("b.jpg")))).twins == {}


def test_fixed_seeds_are_used_as_they_are() -> None:
    plan = plan_of(seeds=[7, 8], edits=[["x", "y"]])
    assert [[edit.seed for edit in strip.edits] for strip in plan.strips] == [[7, 7], [8, 8], [7, 7], [8, 8]]


def test_a_photo_has_its_own_seed_whatever_it_is_called_and_whatever_is_beside_it() -> None:
    alone = plan_of(Scan((Photo("z/other name.jpg", Path("x"), "digest of b.jpg", (3000, 4000)),)), seeds=5)
    assert alone.edits[0] in plan_of(seeds=5).edits
    seeds = [edit.seed for edit in plan_of(seeds=5, edits=[["x", "y"]]).edits]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert {edit.seed for edit in plan_of(seeds=6).edits}.isdisjoint(seeds)
    assert photo_seed(1371, "digest") == 2972769475


def test_keys_are_what_they_were() -> None:
    """A key is the name of a picture on people's disks: it must not change by accident."""
    edit = make_edit(
        "abc", "make it winter", Guidance(7.5, 1.5), 7, steps=20, sampler="euler_a", size=(512, 384), carry=None
    )
    assert edit.key == "f0651103288a713fe7dd6cff3f5e39d6"


@pytest.mark.parametrize(
    "change",
    [
        {"source": "abd"}, {"instruction": "y"}, {"guidance": Guidance(7, 1.5)}, {"seed": 8}, {"steps": 21},
        {"guidance": Guidance(7.5, 1.4)}, {"sampler": "ddim"}, {"size": (384, 512)}, {"carry": "latent"},
        {"carry": "pixels"},
    ],
)  # fmt: skip
def test_every_field_is_in_the_key(change: dict[str, object]) -> None:
    fields = {
        "source": "abc", "instruction": "x", "guidance": Guidance(7.5, 1.5), "seed": 7, "steps": 20,
        "sampler": "euler_a", "size": (512, 384), "carry": None,
    }  # fmt: skip
    assert make_edit(**fields).key != make_edit(**fields | change).key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "asked", "wanted"),
    [
        ((4000, 3000), None, (512, 384)),
        ((7360, 4912), None, (512, 344)),
        ((200, 150), None, (512, 384)),  # a small photo is scaled up to what the model knows
        ((4000, 3000), Size(long_side=768), (768, 576)),
        ((3000, 4000), Size(megapixels=0.25), (432, 576)),
        ((1000, 1000), Size(megapixels=1), (1000, 1000)),
        ((8000, 500), None, (1024, 64)),  # a panorama keeps its aspect and the model its smallest side
    ],
)
def test_the_size_a_model_works_at(size: tuple[int, int], asked: Size | None, wanted: tuple[int, int]) -> None:
    assert model_size(photo(size=size), asked, ModelDefaults()) == wanted


@settings(max_examples=200, deadline=None)
@given(st.integers(64, 12_000), st.integers(64, 12_000), st.integers(64, 1024))
def test_no_size_crops_or_squashes(width: int, height: int, long_side: int) -> None:
    defaults = ModelDefaults(max_side=1 << 20)
    made = model_size(photo(size=(width, height)), Size(long_side=long_side), defaults)
    assert all(side % 8 == 0 and side >= 64 for side in made)
    scale = max(long_side / max(width, height), 64 / min(width, height))
    assert abs(made[0] - width * scale) <= 4 + 1e-6
    assert abs(made[1] - height * scale) <= 4 + 1e-6


def test_a_size_that_the_model_cannot_take_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"a\.jpg: 4000 × 3000 pixels would be 4096 × 3072"):
        plan_of(size=4096)


def own(name: str, **edit: object) -> Instruction:
    return Instruction(name, EditSpec.model_validate(edit), Path("notes.csv"), 2)


def test_single_photos_get_their_own_edits_once() -> None:
    rows = (own("a.jpg", instruction="make it winter"), own("b.jpg", instruction="make it day"),
            own("b.jpg", instruction="make it winter", text=9.0))  # fmt: skip
    plan = plan_of(Scan(TWO.photos, instructions=rows))
    assert [(strip.photo.name, strip.id, strip.guidance.text) for strip in plan.strips] == [
        ("a.jpg", "make-it-winter", 7.5),
        ("b.jpg", "make-it-winter", 7.5),
        ("b.jpg", "make-it-day", 7.5),
        ("b.jpg", "make-it-winter-2", 9),
    ]


def test_photos_without_any_edit_are_told() -> None:
    recipe = Recipe.model_validate({"photos": {"folder": "p", "instructions": "n.csv"}})
    with pytest.raises(NothingMatchedError):
        expand(recipe, TWO, ModelDefaults())


def test_a_model_folder_says_what_it_wants(tmp_path: Path) -> None:
    (tmp_path / "ip2pbatch.json").write_text(
        json.dumps({"defaults": {"text": 4, "image": 1.2, "long_side": 256, "steps": 8}})
    )
    plan = plan_of(model=str(tmp_path))
    edit = plan.edits[0]
    assert (edit.guidance, edit.size, edit.steps) == (Guidance(4, 1.2), (256, 192), 8)


@pytest.mark.parametrize(
    ("blocks", "multiple"),
    [
        ({"block_out_channels": [1, 2, 3, 4]}, 8),
        ({"encoder_block_out_channels": [1] * 6}, 32),
        ({"block_out_channels": [4]}, 8),
    ],
)
def test_sizes_fit_the_autoencoder(tmp_path: Path, blocks: dict[str, list[int]], multiple: int) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(blocks))
    assert model_defaults(str(tmp_path)).multiple == multiple


@pytest.mark.parametrize(
    "text", ["{", '{"defaults": {"text": "high"}}', '{"defaults": {"step": 5}}', '{"defaults": 5}', "[]"]
)
def test_a_wrong_settings_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ip2pbatch.json").write_text(text)
    with pytest.raises(ModelError, match=r"ip2pbatch\.json cannot be used"):
        model_defaults(str(tmp_path))


def test_a_hundred_thousand_photos() -> None:
    """25,000 here, so that the suite stays quick: a quarter of the promise of 60 s and 1 GiB, with room to spare."""
    program = (
        "import re, time\n"
        "from pathlib import Path\n"
        "from ip2pbatch.plan.families import ModelDefaults\nfrom ip2pbatch.plan.expand import expand\n"
        "from ip2pbatch.plan.names import output_names\n"
        "from ip2pbatch.plan.edits import Photo\nfrom ip2pbatch.plan.photos import Scan\n"
        "from ip2pbatch.plan.written.recipe import Recipe\n"
        "names = [f'd/{i:06d}.jpg' for i in range(25_000)]\n"
        "photos = tuple(Photo(name, Path('/p') / name, f'{name:0>32}', (6000, 4000)) for name in names)\n"
        "recipe = Recipe.model_validate({'photos': 'p', 'edits': ['a', 'b', 'c', 'd']})\n"
        "plan = expand(recipe, Scan(photos), ModelDefaults())\n"
        "assert len(plan.edits) == len(output_names(plan, recipe.output)) == 100_000\n"
        # not ru_maxrss: a child begins with its parent's
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "print(time.process_time(), peak)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 15
    assert megabytes < 256


def test_the_keys_of_edits_are_what_they_always_were() -> None:
    """What was made is found by its key. Whoever changes one of these makes every picture of every run again."""
    alone = make_edit("a", "make it winter", Guidance(7.5, 1.5), 7, steps=20, sampler="euler_a", size=(512, 384))
    assert alone.key == "80bdd41b8b6b9168606b6e2701975e86"
    whole = make_edit("a", "make it winter", Guidance(7, 1), 7, steps=20, sampler="euler_a", size=(512, 384))
    assert whole.key == "2796f78dda48cf662b23e65bddc80a60"
    link = make_edit(
        alone.key, "é “ü” 雪", Guidance(-1, 0.1), 2**63 - 1, steps=4, sampler="lcm", size=(64, 64), carry="latent"
    )
    assert link.key == "b1f3f5c1b963eba5f77a743e17a61cb6"
    pixels = make_edit(alone.key, "x", Guidance(1.15, 1), 0, steps=1, sampler="ddim", size=(64, 72), carry="pixels")
    assert pixels.key == "af672297a2ad2f2c9c03f481d6036f84"


LONG = [
    "make it winter",
    {"chain": ["make it winter", "add snow", "make it night"], "keep": [1, 3], "carry": "latent"},
    {"instruction": "make it rain", "photos": ["*b*.jpg"], "text": [5, 7], "seeds": {"per_photo": [1, 2]}},
]


def test_a_plan_that_is_expanded_as_it_is_asked_for_is_the_plan_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos of equal bytes share Edits, of which the later one may have more."""
    names = ["a.jpg", "aa.jpg", "b.jpg", "bb.heic", "bb.jpg", "c.jpg"]
    photos = tuple(Photo(name, Path(name), f"digest {name[0]}", (400, 300)) for name in names)
    own = Instruction("aa.jpg", EditSpec.model_validate("for one alone"), Path("p.csv"), 2)
    scan = Scan(photos, instructions=(own,))
    small = plan_of(scan, edits=LONG)
    monkeypatch.setattr("ip2pbatch.plan.large.expansion.MOST_HELD", 0)
    monkeypatch.setattr("ip2pbatch.plan.edits.MOST_HELD", 2)
    large = plan_of(replace(scan, photos=held(photos)), edits=LONG)
    assert isinstance(small.edits, tuple)
    assert not isinstance(large.edits, tuple)
    assert not isinstance(large.photos, tuple)
    for one, other in ((small.photos, large.photos), (small.strips, large.strips), (small.edits, large.edits)):
        assert tuple(other) == tuple(other[at] for at in range(len(other))) == one == other[:]
        assert tuple(reversed(other)) == one[::-1]
    assert [*small.keys] == [*large.keys] == [edit.key for edit in large.edits]
    assert all(large.places()(edit.key) == at for at, edit in enumerate(small.edits))
    assert {edit.key for edit in small.edits if edit.key in large.latents} == small.latents
    assert large.twins == small.twins == {"bb.heic": "b.jpg", "bb.jpg": "b.jpg"}
    held_by, found_by = Holders(small), Holders(large)
    for key in small.keys:
        assert [*found_by.of(key)] == [*held_by.of(key)] != []
    for digest in {photo.digest for photo in photos}:
        assert [*found_by.strips(digest)] == [*held_by.strips(digest)] != []
    assert [edit for edits in large.by_photo() for edit in edits] == [*small.edits]
    assert held_by.photo("0" * 32) == found_by.photo("0" * 32) == ""
    output = Output(folder=Path("out"), format="jpeg")
    assert [*output_names(small, output).items()] == [*output_names(large, output).items()]
    assert store_plan(Layout(tmp_path), large) == store_plan(Layout(tmp_path), small)
    assert batches(Schedule(large, set(), (), Limits(batch=3))) == batches(Schedule(small, set(), (), Limits(batch=3)))
    for shard in (Shard(1, 2), Shard(2, 2)):
        some, others = shard.take(small), shard.take(large)
        assert not isinstance(others.edits, tuple)
        assert (tuple(others.photos), tuple(others.strips), tuple(others.edits)) == (
            some.photos, some.strips, some.edits
        )  # fmt: skip


def batches(schedule: Schedule) -> list[list[Edit]]:
    found = []
    while batch := schedule.take():
        found.append(batch)
        for edit in batch:
            schedule.finish(edit.key)
    return found
