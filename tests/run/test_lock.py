"""Locks and comparisons of runs: what is written down, what makes it stale, how near is near enough."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import SPEC, carry_out, make_photos, make_plan

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import StaleError
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.lock import Lock, Surroundings, lock_path, make_lock, read_lock, write_lock
from ip2pbatch.run.stale import stale
from ip2pbatch.run.tolerance import Level
from ip2pbatch.run.verify import LockWitness, RunWitness, choose, compare, cut, measure, within
from ip2pbatch.show.triptych import draw_triptych, stretched

NOW = Surroundings(
    {"torch": "2.13.0"}, True, {"name": "{stem}_{edit}", "quality": 95}, "abc", {"unet.safetensors": "1"}
)
CHAIN = ("make it rain", "make it night")


def finished(out: Path, plan: Plan) -> RunView:
    """A finished run of `plan` that says what its engine was."""
    assert carry_out(out, plan, FakeEngine()) == 0
    with open_run(out, SPEC) as run:
        run.note("engine", batch=8, rows={"48x32": 12}, device="a cpu", safety=True)
    return read_run(out)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Photo, ...]:
    return make_photos(tmp_path / "photos", 4)


@pytest.fixture
def plan(photos: tuple[Photo, ...]) -> Plan:
    return make_plan(photos, CHAIN, keep=(1, 2))


@pytest.fixture
def lock(tmp_path: Path, plan: Plan) -> Lock:
    made = make_lock(finished(tmp_path / "out", plan), plan, NOW, "recipe.yaml")
    return made.model_copy(update={"versions": dict(NOW.versions)})


def test_a_lock_names_every_photo_picture_and_file_and_survives_its_file(
    tmp_path: Path, lock: Lock, plan: Plan
) -> None:
    path = lock_path(tmp_path / "shoot.yaml")
    assert path.name == "shoot.lock.yaml"
    write_lock(lock, path)
    assert read_lock(path) == lock
    assert lock.photos == {photo.name: photo.digest for photo in plan.photos}
    assert lock.edits.keys() == {edit.key for edit in plan.edits}
    for edit in plan.edits:
        with Image.open(tmp_path / "out/.ip2pbatch/edits" / edit.key[:2] / f"{edit.key}.png") as picture:
            assert lock.edits[edit.key].pixels == hashlib.sha256(picture.tobytes()).hexdigest()
        assert lock.edits[edit.key].seed == edit.seed
    for name, file in lock.files.items():
        assert file.sha256 == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
    assert len(lock.files) == 8
    lines = path.read_text().splitlines()
    assert sum(line.startswith("  day") for line in lines) == len(lock.photos) + len(lock.files)


def test_a_lock_is_of_a_finished_run_whose_files_nobody_changed(tmp_path: Path, plan: Plan) -> None:
    view = finished(tmp_path / "out", make_plan(plan.photos[:3], CHAIN, keep=(1, 2)))
    with pytest.raises(StaleError, match=r"2 left of 8") as left:
        make_lock(view, plan, NOW, "recipe.yaml")
    assert left.value.exit_code == 4
    view = finished(tmp_path / "out", plan)
    changed = next((tmp_path / "out").rglob("*.jpg"))
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(StaleError, match="was changed since it was delivered"):
        make_lock(view, plan, NOW, "recipe.yaml")
    changed.unlink()
    with pytest.raises(StaleError, match="is gone"):
        make_lock(view, plan, NOW, "recipe.yaml")


def test_a_lock_that_is_up_to_date_has_no_reasons(lock: Lock, plan: Plan) -> None:
    assert stale(lock, plan, NOW) == []
    elsewhere = [replace(photo, path=Path("/elsewhere") / photo.name) for photo in plan.photos]
    strips = [replace(strip, photo=next(p for p in elsewhere if p.name == strip.photo.name)) for strip in plan.strips]
    assert stale(lock, replace(plan, photos=tuple(elsewhere), strips=tuple(strips)), NOW) == []


def reasons(lock: Lock, plan: Plan, now: Surroundings = NOW) -> list[str]:
    return [str(difference) for difference in stale(lock, plan, now)]


def test_photos_that_came_went_or_changed_are_named_and_take_no_blame_to_the_recipe(
    lock: Lock, photos: tuple[Photo, ...]
) -> None:
    changed = replace(photos[1], digest="0" * 32)
    new = replace(photos[0], name="new.jpg", digest="1" * 32)
    said = reasons(lock, make_plan([photos[0], changed, photos[2], new], CHAIN, keep=(1, 2)))
    assert said == [
        "photos: added: new.jpg",
        f"photos: removed: {photos[3].name}",
        f"photos: changed: {changed.name}",
    ]


def test_another_recipe_is_told_in_its_own_words(lock: Lock, photos: tuple[Photo, ...], plan: Plan) -> None:
    other = make_plan(photos, ("make it rain", "make it winter"), keep=(1, 2))
    assert reasons(lock, other) == [
        "recipe: asks for “make it winter” (4 pictures), which is not locked",
        "recipe: does not ask for “make it night” any more (4 pictures)",
    ]
    pixels = make_plan(photos, CHAIN, keep=(1, 2), carry="pixels")
    settings = "has other scales, seeds, steps, sampler, size, carry or negative"
    assert reasons(lock, pixels) == [f"recipe: “make it night” {settings}"]
    assert "delivers other links" in reasons(lock, make_plan(photos, CHAIN))[0]
    output = replace(NOW, output={"name": "{stem}", "quality": 95}, safety=False)
    assert reasons(lock, plan, output) == [
        "recipe: output name is {stem}, was {stem}_{edit}",
        "recipe: safety is off, was on",
    ]


def test_another_model_engine_or_version_is_named_with_both_values(lock: Lock, plan: Plan) -> None:
    now = replace(
        NOW, versions={"torch": "2.14.0"}, revision="def", weights={"unet.safetensors": "2", "vae.safetensors": "3"},
        spec=replace(SPEC, precision="fp16"), device="another",
    )  # fmt: skip
    assert reasons(lock, plan, now) == [
        "model: revision is def, was abc",
        "model: other files: unet.safetensors, vae.safetensors",
        "engine: precision is fp16, was float32",
        "engine: device is another, was a cpu",
        "versions: torch is 2.14.0, was 2.13.0",
    ]
    assert reasons(lock, plan, replace(NOW, weights=None, revision=None)) == []


def test_a_lock_that_names_a_checker_holds_where_it_is_off(lock: Lock, plan: Plan) -> None:
    off, checker = replace(NOW, safety=False), {"safety_checker/model.safetensors": "9"}
    earlier = lock.model_copy(update={"safety": False, "weights": {**lock.weights, **checker}})
    assert reasons(earlier, plan, off) == []
    assert reasons(earlier, plan, replace(off, weights={"unet.safetensors": "2"})) != []
    assert reasons(lock, replace(plan, model="owner/other"))[0] == "model: is owner/other, was fake"


@pytest.mark.parametrize(("level", "stale_by"), [("stable", 0), ("fast", 0), ("bitwise", 1)])
def test_threads_of_a_cpu_count_only_where_bits_are_promised(lock: Lock, plan: Plan, level: str, stale_by: int) -> None:
    made = lock.model_copy(
        update={"device": "a cpu, AVX2, 2 threads", "engine": lock.engine.model_copy(update={"determinism": level})}
    )
    spec = made.engine.spec
    assert reasons(made, plan, replace(NOW, spec=spec, device="a cpu, AVX2, 2 threads")) == []
    assert len(reasons(made, plan, replace(NOW, spec=spec, device="a cpu, AVX2, 1 threads"))) == stale_by
    assert len(reasons(made, plan, replace(NOW, spec=spec, device="a cpu, AVX512, 2 threads"))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("safety: true", "safety: true\nmore: 1"),
        lambda text: text.replace("lock: 1", "lock: 2"),
        lambda text: text.replace("photos:", "photos: !!python/object/apply:os.getcwd []\nphotos2:"),
        lambda text: text.replace("recipe: recipe.yaml", "<<<<<<< ours"),
        lambda text: "[" * 100_000,
        lambda text: "",
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, lock: Lock, damage) -> None:
    path = tmp_path / "a.lock.yaml"
    write_lock(lock, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(StaleError, match=r"a\.lock\.yaml"):
        read_lock(path)


def test_names_that_yaml_would_take_for_something_else_survive(tmp_path: Path, lock: Lock) -> None:
    names = ["no", "1e3", "12:30", "null", "- a", "ünï 雪 🙂.jpg", "a: b #c", "'q\"", "0x1f", "~"]
    odd = lock.model_copy(update={"photos": dict.fromkeys(names, "123e45")})
    write_lock(odd, tmp_path / "odd.lock.yaml")
    assert read_lock(tmp_path / "odd.lock.yaml") == odd
    assert yaml.safe_load((tmp_path / "odd.lock.yaml").read_text())["photos"] == odd.photos


def alter(out: Path, key: str, change) -> RunView:
    """The run in `out` with another picture for `key`."""
    with open_run(out, SPEC) as run:
        run.commit(key, change(run), seconds=0.0)
    return read_run(out)


def brighter(by: int, key: str):
    def change(run: Run) -> np.ndarray:
        return np.minimum(run.picture(key).astype(int) + by, 255).astype(np.uint8)

    return change


def test_equal_runs_are_equal_at_every_level_and_a_changed_picture_is_found(tmp_path: Path, plan: Plan) -> None:
    one, two = finished(tmp_path / "one", plan), finished(tmp_path / "two", plan)
    for level in Level:
        cases = RunWitness(one).cases(level)
        assert len(cases) == 8
        assert {f.state for f in compare(RunWitness(one), RunWitness(two), level, cases)} == {"equal"}
    key = plan.edits[0].key
    alter(tmp_path / "two", key, brighter(1, key))
    cases = RunWitness(one).cases(Level.PIXELS)
    found = {f.case.key: f for f in compare(RunWitness(one), RunWitness(read_run(two.root)), Level.PIXELS, cases)}
    assert found[key].state == "equal"  # by one of 255: within the tolerance, and it says so
    assert "RMS" in found[key].why
    alter(tmp_path / "two", key, brighter(9, key))
    found = {f.case.key: f for f in compare(RunWitness(one), RunWitness(read_run(two.root)), Level.PIXELS, cases)}
    assert [k for k, f in found.items() if f.state == "differs"] == [key]


def test_a_lock_alone_tells_equal_from_different_and_not_how_far(tmp_path: Path, lock: Lock, plan: Plan) -> None:
    witness, key = LockWitness(lock), plan.edits[0].key
    view = alter(tmp_path / "out", key, brighter(1, key))
    found = list(compare(witness, RunWitness(view), Level.PIXELS, witness.cases(Level.PIXELS)))
    wrong = [f for f in found if f.state != "equal"]
    assert [(f.case.key, f.distance) for f in wrong] == [(key, None)]
    assert "cannot say how far" in wrong[0].why
    cases = witness.cases(Level.BITWISE)
    assert {f.state for f in compare(witness, RunWitness(view), Level.BITWISE, cases)} == {"equal"}
    gone = next((tmp_path / "out").rglob("*.jpg"))
    gone.unlink()
    states = [f.state for f in compare(witness, RunWitness(read_run(view.root)), Level.BITWISE, cases)]
    assert states.count("absent") == 1


def test_a_sample_is_the_same_everywhere_and_brings_what_its_links_start_from(tmp_path: Path, plan: Plan) -> None:
    cases = RunWitness(finished(tmp_path / "out", plan)).cases(Level.PIXELS)
    chosen = choose(cases, 3)
    assert len(chosen) == 3
    assert {c.key for c in choose(list(reversed(cases)), 3)} == {c.key for c in chosen}
    assert {c.key for c in choose(cases, 2)} < {c.key for c in chosen}
    part = cut(plan, [case for case in cases if case.instruction == "make it night"][:1])
    assert [edit.instruction for edit in part.edits] == list(CHAIN)
    assert len(part.photos) == 1


def test_tolerances_are_the_stated_numbers() -> None:
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (120, 1, 3))
    assert measure(ramp, ramp).most == 0
    for by, fits in ((2, True), (3, False)):
        assert within(measure(ramp, ramp + np.uint8(by)), Level.PIXELS) is fits
    for by, fits in ((24, True), (25, False)):
        dot = ramp.copy()
        dot[60, 60] += np.uint8(by)
        assert within(measure(ramp, dot), Level.PIXELS) is fits
    grey = np.repeat(ramp.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    red = ramp.copy()
    red[..., 1:] = ramp[..., ::-1][..., 1:] // 3
    assert not within(measure(red, grey), Level.PERCEPTUAL)


def test_a_triptych_shows_both_and_a_stretched_difference(tmp_path: Path) -> None:
    old = np.full((90, 120, 3), 100, np.uint8)
    new = old.copy()
    new[20:40, 30:60] += 6
    factor, picture = stretched(old, new)
    assert factor == 16
    assert tuple(picture[30, 40]) == (224, 224, 224)
    assert tuple(picture[80, 100]) == (128, 128, 128)
    draw_triptych(old, new, "a.jpg: make it winter", "RMS 1.4", tmp_path / "deep" / "t.png")
    with Image.open(tmp_path / "deep" / "t.png") as page:
        assert page.width > 3 * 120
        pixels = np.asarray(page)
    for value in (100, 106, 224):
        assert (pixels == value).all(axis=2).sum() >= 500, value
