"""Recipes: what is read, what every shorthand means, and what a mistake looks like to the person who made it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.written.edit_flags import Flags, recipe_from_flags
from ip2pbatch.plan.written.ranges import parse_numbers
from ip2pbatch.plan.written.recipe import Recipe, load_recipe
from ip2pbatch.plan.written.schema import schema
from ip2pbatch.plan.written.slug import slug
from ip2pbatch.plan.written.yaml_source import Mistake, read_yaml

BASE = "photos: shoot\nedits: [make it winter]\n"

EVERYTHING = """\
name: seasons
model: timbrooks/instruct-pix2pix@main
photos: {folder: shoot-0412, include: ["**/*.jpg"], exclude: rejects, instructions: notes.csv, follow_links: true}
edits:
  - make it autumn
  - {id: snow, instruction: make it winter with snow, image: 1.7, steps: 30, sampler: ddim}
  - chain: [make the sky overcast, {instruction: make it rain, text: 9}, make it night]
    keep: [1, 3]
    carry: pixels
guidance: {text: [5, 7.5, 10], image: 1.0..2.0 by 0.25}
seeds: 1371
steps: 20
sampler: euler_a
size: {long_side: 768}
output: {folder: out, name: "{folder}/{stem}_{edit}", format: same, full_resolution: auto, on_conflict: unique}
metadata: {gps: keep, prompt: true}
safety: on
sheet: {cell: 384, metrics: [ssim]}
"""


def load(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    return load_recipe(tmp_path / "r.yaml")


def mistake(tmp_path: Path, text: str) -> tuple[str, str]:
    """What a person reads of a wrong recipe, without the folder: (message, hint)."""
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", ""), caught.value.hint or ""


def test_every_key_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, EVERYTHING)
    assert recipe.photos[0].folder == tmp_path / "shoot-0412"
    assert recipe.photos[0].instructions == tmp_path / "notes.csv"
    assert recipe.photos[0].exclude == ("rejects",)
    assert recipe.guidance.text == (5, 7.5, 10)
    assert recipe.guidance.image == (1, 1.25, 1.5, 1.75, 2)
    assert [spec.id for spec in recipe.edits] == ["make-it-autumn", "snow", "make-the-sky-overcast-then-make-it-night"]
    assert (recipe.edits[1].image, recipe.edits[1].steps, recipe.edits[1].sampler) == ((1.7,), 30, "ddim")
    assert recipe.edits[2].keep == (1, 3)
    assert (recipe.edits[2].chain[1].text, recipe.edits[2].carry) == (9, "pixels")
    assert recipe.output.folder == tmp_path / "out"
    assert recipe.safety is True


def test_a_short_recipe_has_sensible_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, BASE)
    assert recipe.name == "r"
    assert recipe.model == "timbrooks/instruct-pix2pix"
    assert (recipe.steps, recipe.size, recipe.guidance.text) == (None, None, None)  # the model's own
    assert (recipe.output.format, recipe.output.quality, recipe.output.on_conflict) == ("same", 95, "unique")


@pytest.mark.parametrize(
    ("text", "fixed", "per_photo"),
    [
        ("seeds: 7", (), (7,)),
        ("seeds: [1, 2]", (1, 2), ()),
        ("seeds: {fixed: [3]}", (3,), ()),
        ("seeds: {per_photo: 7}", (), (7,)),
        ("seeds: {per_photo: [7, 8]}", (), (7, 8)),
    ],
)
def test_seeds(tmp_path: Path, text: str, fixed: tuple[int, ...], per_photo: tuple[int, ...]) -> None:
    seeds = load(tmp_path, BASE + text).seeds
    assert (seeds.fixed, seeds.per_photo) == (fixed, per_photo)


@pytest.mark.parametrize("photos", ["shoot", "[shoot]", "{folder: shoot}", "[{folder: shoot}]", "./x/../shoot"])
def test_photos_have_many_forms(tmp_path: Path, photos: str) -> None:
    recipe = load(tmp_path, f"photos: {photos}\nedits: [a]")
    assert [folder.folder for folder in recipe.photos] == [tmp_path / "shoot"]


def test_a_model_beside_the_recipe_is_a_folder_and_a_hub_id_is_not(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    assert load(tmp_path, BASE + "model: my-model").model == str(tmp_path / "my-model")
    assert load(tmp_path, BASE + "model: ./later").model == str(tmp_path / "later")
    assert load(tmp_path, BASE + "model: owner/name@v1").model == "owner/name@v1"
    assert load(tmp_path, BASE + "model: tiny").model == "tiny"


@pytest.mark.parametrize(
    ("keep", "links"), [("all", (1, 2, 3)), ("last", (3,)), ("2", (2,)), ("[3, 1, 3]", (1, 3)), (None, (3,))]
)
def test_kept_links(tmp_path: Path, keep: str | None, links: tuple[int, ...]) -> None:
    keeps = f", keep: {keep}" if keep else ""
    assert load(tmp_path, f"photos: p\nedits: [{{chain: [a, b, c]{keeps}}}]").edits[0].keep == links


def test_a_list_within_edits_is_a_chain(tmp_path: Path) -> None:
    recipe = load(tmp_path, "photos: p\nedits: [[a, b], c]")
    assert [len(spec.chain) for spec in recipe.edits] == [2, 1]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "r.yaml:1:1: is empty", ""),
        ("- a", "r.yaml:1:1: should be a mapping of keys to values", ""),
        ("edits: [a]", "r.yaml:1:1: 'photos' is missing", ""),
        ("photos: p", "r.yaml:1:1: no edit", "edits: [make it winter]"),
        (BASE + "guidance: {txt: 5}", "r.yaml:3:12: guidance.txt: unknown key", "did you mean 'text'?"),
        (BASE + "scheduler: ddim", "r.yaml:3:1: scheduler: unknown key", "here it is sampler"),
        (BASE + "cfg_text: 5", "r.yaml:3:1: cfg_text: unknown key", "guidance: {text: 7.5}"),
        (BASE + "sampler: eulera", "r.yaml:3:10: sampler: 'eulera' is not one of euler_a", "did you mean 'euler_a'?"),
        (BASE + "guidance:\n  text: [5, a]", "r.yaml:4:13: guidance.text.1: 'a' is not a number or a range", "1..2 by"),
        (BASE + "guidance: {text: .nan}", "r.yaml:3:18: guidance.text: nan is not a finite number", ""),
        (BASE + "guidance: {text: []}", "r.yaml:3:18: guidance.text: an empty list", "leave the key out"),
        (BASE + "guidance: {text: 1..2 by 0.3}", "does not reach its end", "end it at 1.9"),
        (BASE + "guidance: {text: 1..2 by 0.00001}", "is more than 1000 numbers", ""),
        (BASE + "guidance: {text: [1, 2], image: [1, 2, 3], pair: zip}", "r.yaml:3:44: guidance.pair: ", "one length"),
        (BASE + "steps: 20.5", "r.yaml:3:8: steps: should be a valid integer", ""),
        (BASE + "steps: true", "r.yaml:3:8: steps: should be a valid integer", ""),
        (BASE + "name: 2024", "r.yaml:3:7: name: 2024 is not text", "put it in quotes"),
        (BASE + "seeds: [1,\n  -2]", "r.yaml:4:3: seeds.1: should be greater than or equal to 0", ""),
        (BASE + "seeds: {}", "r.yaml:3:8: seeds: either fixed or per_photo", ""),
        (BASE + "size: {long_side: 5, megapixels: 1}", "r.yaml:3:19: size.long_side: should be greater", ""),
        (BASE + "name: a\nname: b", "r.yaml:4:1: name: given twice; first on line 3", "keep one"),
        (BASE + "metadata: {gps: no}", "r.yaml:3:17: metadata.gps: 'no' is not one of keep, strip", ""),
        (BASE + "output: {name: '{sten}'}", "r.yaml:3:16: output.name: {sten} in '{sten}' is not known", "'stem'"),
        (BASE + "output: {name: '{stem.__class__}'}", "is not known", ""),
        (BASE + "output: {name: '{n:.2f}'}", "r.yaml:3:16: output.name: '.2f' is no format of {n}", ""),
        ("photos: p\nedits: [{instructon: x}]", "r.yaml:2:10: edits.0.instructon: unknown key", "'instruction'"),
        (
            "photos: p\nedits: [{chain: [a, {instructon: b}]}]",
            "r.yaml:2:22: edits.0.chain.1.instructon",
            "'instruction'",
        ),
        ("photos: p\nedits: [{chain: [a, b], keep: [3]}]", "r.yaml:2:32: edits.0.keep.0: 3 is not a link", ""),
        ("photos: p\nedits: [{instruction: a, keep: 1}]", "r.yaml:2:26: edits.0.keep: belongs to a chain", ""),
        (
            "photos: p\nedits: [{chain: [{instruction: 5}]}]",
            "2:32: edits.0.chain.0.instruction: 5 is not",
            "quotes",
        ),
        (
            "photos: p\nedits: [{chain: [{instruction: a, text: b}]}]",
            "2:41: edits.0.chain.0.text: 'b' is not",
            "",
        ),
        (
            f"photos: p\nedits: [{{id: a, instruction: {'b' * 2001}}}]",
            "r.yaml:2:17: edits.0.instruction: an instruction has at most 2,000 characters",
            "",
        ),
        ("photos: p\nedits: [5]", "r.yaml:2:9: edits.0: an edit is an instruction, a list of links", "in quotes"),
        (BASE + "output: o", "r.yaml:3:9: output: should be a mapping of keys to values", "its keys are chroma,"),
        ("photos: p\nedits: [{instruction: 5}]", "r.yaml:2:10: edits.0.instruction: an instruction is a text", ""),
        ("photos: p\nedits:\n - {id: x, instruction: a}\n - {id: x, instruction: b}", "r.yaml:4:5: edits.1.id:", ""),
        ("photos: {folder: p, includ: x}\nedits: [a]", "r.yaml:1:21: photos.includ: unknown key", "'include'"),
        ("photos: 5\nedits: [a]", "r.yaml:1:9: photos: should be a folder", ""),
        ("photos: [\nedits", "r.yaml:3:1: did not find", ""),
        (BASE + "x: !!python/object/apply:os.system [ls]", "r.yaml:3:4: the tag", "remove it"),
        (BASE + "x: &a [*a]", "r.yaml:3:8: an alias within itself", ""),
        (BASE + "x: *nothing", "r.yaml:3:4: no anchor &nothing before this", ""),
        (BASE + "---\na: b", "a second document", ""),
        (BASE + "x: \x01", "r.yaml:3:4: a control character", ""),
        (BASE + "? [a]\n: b", "a key must be a plain word", ""),
    ],
)
def test_a_mistake_has_its_place_and_a_hint(tmp_path: Path, text: str, message: str, hint: str) -> None:
    said, hinted = mistake(tmp_path, text)
    assert message in said
    assert hinted  # whatever it is
    assert hint in hinted
    assert "\n" not in said


def test_of_several_mistakes_the_first_carries_the_others_in_the_files_order(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(BASE + "stepz: 5\nsampler: x\nnmae: y")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert [(one.line, one.key) for one in (caught.value, *caught.value.more)] == [
        (3, "stepz"), (4, "sampler"), (5, "nmae")
    ]  # fmt: skip
    assert caught.value.hint == "did you mean 'steps'?"


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(BASE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "dmeo.yaml")
    assert "demo.yaml" in (caught.value.hint or "")
    with pytest.raises(RecipeError, match="is a folder") as caught:
        load_recipe(tmp_path)
    assert caught.value.hint == "give the YAML file itself"
    (tmp_path / "latin.yaml").write_bytes("photos: p\nname: é".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml:2:7: not UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_yaml_is_version_1_2(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text(
        "\ufeffno: no\non: on\ntime: 12:30\noctal: 010\nreal_octal: 0o10\nhex: 0x10\nbig: 1e3\nnone: ~\nyes: true\n"
        "date: 2024-01-01\nquoted: '1'\nunder: 1_000\nempty:\nstr: !!str 5\n",
        encoding="utf-8",
    )
    data, _ = read_yaml(tmp_path / "v.yaml")
    assert data == {
        "no": "no", "on": "on", "time": "12:30", "octal": 10, "real_octal": 8, "hex": 16, "big": 1000.0, "none": None,
        "yes": True, "date": "2024-01-01", "quoted": "1", "under": "1_000", "empty": None, "str": "5",
    }  # fmt: skip


def test_an_alias_is_what_it_stands_for(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, "photos: p\nedits:\n - {id: a, instruction: x, text: &t [5, 7]}\n - {id: b, instruction: y, text: *t}"
    )
    assert recipe.edits[1].text == (5, 7)


HOSTILE = {
    "alias bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcd", "bcde", strict=True)),
    "wide aliases": "a: &a [" + "x," * 9000 + "]\nb: [" + "*a," * 20 + "]",
    "a million levels": "[" * 1_000_000,
    "levels of mappings": "{a: " * 260_000,
    "levels of dashes": "- " * 500_000,
    "levels of questions": "? " * 500_000,
    "many values": "[" + "a," * 500_000 + "]",
    "many keys": "".join(f"k{i}: 1\n" for i in range(90_000)),
    "a long number": "steps: " + "9" * 1_000_000,
    "a long quote": '"' + "a" * 1_000_000,
    "many anchors": "[" + "&a a," * 200_000 + "]",
    "many documents": "---\n" * 250_000,
    "large": "# " + "x" * (1 << 20),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process' largest memory is read from /proc")
def test_hostile_files_are_refused_quickly_and_in_little_memory(tmp_path: Path) -> None:
    """By one process of its own: what Python and the library need is in its memory, and no other test's threads in its
    time.
    """
    names = list(HOSTILE)
    for place, name in enumerate(names):
        (tmp_path / f"{place}.yaml").write_text(HOSTILE[name])
    program = (
        "import json, re, sys, time\n"
        "from pathlib import Path\n"
        "from ip2pbatch.errors import RecipeError\n"
        "from ip2pbatch.plan.written.recipe import load_recipe\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    started = time.process_time()\n"
        "    try:\n"
        "        load_recipe(path)\n"
        "    except RecipeError as error:\n"
        # not ru_maxrss: a child begins with its parent's
        "        peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "        print(json.dumps([time.process_time() - started, int(peak), str(error)]))\n"
    )
    files = [str(tmp_path / f"{place}.yaml") for place in range(len(names))]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    refused = [json.loads(line) for line in done.stdout.splitlines()]
    for name, path, (seconds, kibibytes, message) in zip(names, files, refused, strict=True):
        assert seconds < 0.5, name
        assert kibibytes < 100 << 10, name
        assert name == "large" or re.match(rf"{re.escape(path)}:\d+:\d+: ", message), name


def test_a_hundred_megabytes_are_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "r.yaml").open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7.5", [7.5]),
        ("5,7.5, 10", [5, 7.5, 10]),
        ("1..2 by 0.25", [1, 1.25, 1.5, 1.75, 2]),
        ("1.0..1.5 by 0.1", [1, 1.1, 1.2, 1.3, 1.4, 1.5]),
        ("2..1 by 0.5", [2, 1.5, 1]),
        ("1..3", [1, 2, 3]),
        ("1..1", [1]),
        ("-1..1 by 1, 7", [-1, 0, 1, 7]),
        ("1e1", [10]),
    ],
)
def test_numbers(text: str, numbers: list[float]) -> None:
    assert parse_numbers(text) == numbers  # exactly: ranges count in decimals


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "1..", "1..2 by 0", "1..2 by -1", "1..2 by 0.3", "nan", "1e99", "0..1e9"]
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_numbers(text)


@pytest.mark.parametrize(
    ("text", "decimal", "apart"),
    [
        ("7,5", "7.5", "7, 5"),
        (" 1,000 ", "1.000", "1, 000"),
        ("-1,5", "-1.5", "-1, 5"),
        ("7,5, 10,5", "7.5, 10.5", "7, 5, 10, 5"),
        ("5,7, 10", "5.7, 10", "5, 7, 10"),
        ("1,0..2", "1.0..2", "1, 0..2"),
        ("1..2,0", "1..2.0", "1..2, 0"),
    ],
)
def test_a_comma_that_may_be_decimal_is_asked_back(text: str, decimal: str, apart: str) -> None:
    with pytest.raises(Mistake) as asked:
        parse_numbers(text)
    assert f"may be {decimal}, and may be the list {apart}" in asked.value.why
    for spelling in (decimal, apart):
        assert spelling in str(asked.value.hint)
        assert parse_numbers(spelling)


def test_a_range_with_decimal_commas_is_no_list() -> None:
    with pytest.raises(Mistake, match="decimal comma") as asked:
        parse_numbers("1,0..2,0 by 0,5")
    assert str(asked.value.hint).endswith("1.0..2.0 by 0.5")


def test_slugs_are_short_and_keep_every_script() -> None:
    assert slug("Make it winter, please!") == "make-it-winter-please"
    assert slug("自转 車") == "自转-車"
    assert slug("!!!") == "edit"
    assert len(slug("word " * 50)) <= 40


def test_flags_make_the_recipe_that_a_file_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = Flags(
        (Path("shoot"), Path("b.jpg")), ("make it winter", "make it night"), Path("out"),
        text="5,7.5", image="1..2 by 0.5", seed="1,2", steps=10, size=640, model="tiny",
    )  # fmt: skip
    (tmp_path / "r.yaml").write_text(
        "name: edits\nmodel: tiny\nphotos: [shoot, b.jpg]\nedits: [make it winter, make it night]\n"
        "guidance: {text: [5, 7.5], image: 1..2 by 0.5}\nseeds: [1, 2]\nsteps: 10\nsize: 640\noutput: {folder: out}\n"
    )
    assert recipe_from_flags(flags) == load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "5;7"}, "--text: '5;7' is not a number or a range"),
        ({"image": "1..2 by 0"}, "--image: "),
        ({"seed": "1.5"}, "--seed: '1.5' is not of whole numbers"),
        ({"seed": "x"}, "--seed: 'x' is not a number"),
        ({"steps": 0}, "--steps: "),
        ({"sampler": "dpm"}, "--sampler: 'dpm' is not one of euler_a, euler"),
        ({"instructions": ("",)}, "-i: an instruction is a text"),
        ({"instructions": (" ",)}, "-i: an instruction is a text"),
    ],
)
def test_a_wrong_flag_is_named(change: dict[str, object], message: str) -> None:
    values = {"photos": (Path("p"),), "instructions": ("a",), "out": Path("o")} | change
    with pytest.raises(UsageError) as caught:
        recipe_from_flags(Flags(**values))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_schema_knows_every_shorthand(tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    (tmp_path / "r.yaml").write_text(EVERYTHING)
    forms = ["photos: a\nedits: b", "photos: [a, {folder: b}]\nedits: [{chain: [a, b], keep: all}, [a, c]]",
             "photos: {manifest: a.csv}\nedits: [a]", "photos: {manifest: a.csv, folder: b, exclude: c}\nedits: [a]",
             BASE + "seeds: {per_photo: 3}", BASE + "size: 512", BASE + "safety: false",
             "photos: p\nedits: [{instruction: a, region: faces, protect: {words: the sky}}]"]  # fmt: skip
    for text in [EVERYTHING, *forms]:
        (tmp_path / "r.yaml").write_text(text)
        load_recipe(tmp_path / "r.yaml")
        validator.validate(read_yaml(tmp_path / "r.yaml")[0])


@pytest.mark.parametrize(
    "text",
    [BASE + "stepz: 5", BASE + "steps: 0", BASE + "sampler: x", BASE + "size: {long_side: 64, megapixels: 1}",
     "edits: [a]", "photos: {include: a}\nedits: [b]",
     "photos: p\nedits: [{id: a}]", "photos: p\nedits: [{instruction: a, keep: 1}]", BASE + "seeds: x"],
)  # fmt: skip
def test_the_schema_refuses_what_is_refused(tmp_path: Path, text: str) -> None:
    mistake(tmp_path, text)
    data, _ = read_yaml(tmp_path / "r.yaml")
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)


def test_reading_a_recipe_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(EVERYTHING)
    program = (
        "import sys\nfrom pathlib import Path\nfrom ip2pbatch.plan.written.recipe import load_recipe\n"
        "load_recipe(Path(sys.argv[1]))\nprint([m for m in ('numpy', 'PIL', 'torch', 'sqlite3') if m in sys.modules])"
    )
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "r.yaml"], capture_output=True, text=True, check=True, env=untraced
    )
    assert done.stdout.strip() == "[]"
