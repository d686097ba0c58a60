"""What a family of editing pipelines has not is refused by its name when a recipe is planned; nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine

from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.expand import model_size
from ip2pbatch.plan.families import FAMILIES, families


def refused(command: CommandLine, shoot: Path, family: str, lines: str) -> str:
    """What `plan` says of a recipe with a model of which only the index is here; "" where it plans it."""
    (folder := shoot / "model").mkdir()
    known = FAMILIES[family]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": known.pipelines[0], **known.marks}))
    (shoot / "recipe.yaml").write_text(f"model: model\nphotos: photos\noutput: {{folder: out}}\n{lines}\n")
    said = [command(name, shoot / "recipe.yaml") for name in ("validate", "plan")]
    assert len({one.code for one in said}) == 1
    assert said[0].code in (0, 2)
    assert said[0].err == said[1].err or said[0].code == 0
    return " ".join(said[1].err.split()) if said[1].code else ""


WINTER = "edits: [make it winter]"


@pytest.mark.parametrize(
    ("family", "lines", "why"),
    [
        ("klein", f"{WINTER}\nguidance: {{text: 4}}", "FLUX.2 klein has no text scale; it has neither"),
        ("klein_base", f"{WINTER}\nguidance: {{image: 1.5}}", "FLUX.2 klein base has no image scale; it has the text"),
        ("kontext", "edits: [{instruction: x, image: 2}]", "FLUX.1 Kontext has no image scale"),
        ("kontext", "edits: [{chain: [{instruction: x, image: 2}, y]}]", "FLUX.1 Kontext has no image scale"),
        ("qwen_edit", f"{WINTER}\nguidance: {{text: 0.5}}", "text 0.5: Qwen-Image-Edit is not guided at all"),
        ("longcat", f"{WINTER}\nguidance: {{text: [4, 0]}}", "text 0: LongCat-Image-Edit is not guided at all"),
        ("cosxl", f"{WINTER}\nsampler: euler", "CosXL Edit, which brings its own and takes no euler"),
        ("sdxl", f"{WINTER}\nsampler: model", "SDXL-InstructPix2Pix is sampled here"),
        ("kontext", "edits: [{instruction: x, negative: snow}]", "FLUX.1 Kontext, which has no null text"),
        ("longcat", f"{WINTER}\nsampler: ddim", "LongCat-Image-Edit, which brings its own and takes no ddim"),
        ("longcat", "edits: [{instruction: x, sampler: lcm}]", "which brings its own and takes no lcm"),
        ("klein", "edits: [{chain: [x, y], carry: latent}]", "FLUX.2 klein hands on no latent"),
        ("klein", f"{WINTER}\nguidance: {{text: 1, image: 1}}\nsampler: model", ""),
        ("qwen_edit", "edits: [{instruction: x, negative: snow, text: [1, 4]}]", ""),
        ("sdxl", "edits: [{instruction: x, negative: snow, text: 3, image: [1, 2]}]", ""),
        ("sdxl", "edits: [{chain: [x, y], carry: latent}]\nguidance: {text: [0, 0.5], image: 0.5}", ""),
        ("klein", "edits: [{chain: [x, y], carry: pixels}]", ""),
        ("kontext", f"{WINTER}\nguidance: {{text: 0.5}}", ""),
    ],
)
def test_what_a_family_has_not_is_refused_by_its_name(
    command: CommandLine, shoot: Path, family: str, lines: str, why: str
) -> None:
    said = refused(command, shoot, family, lines)
    assert (why in said) if why else said == ""


def test_a_csv_s_scale_is_refused_too(command: CommandLine, shoot: Path) -> None:
    (shoot / "notes.csv").write_text("photo,instruction,image\none.jpg,make it snow,3\n")
    lines = "photos: {folder: photos, instructions: notes.csv}"
    (shoot / "x").mkdir()
    said = refused(command, shoot, "klein", "").strip()
    assert "no edit" in said
    (shoot / "recipe.yaml").write_text(f"model: model\noutput: {{folder: out}}\n{lines}\n")
    said = command("plan", shoot / "recipe.yaml").err
    assert "one.jpg: image 3: FLUX.2 klein has no image scale" in " ".join(said.split())


def test_the_model_s_own_sampler_is_for_others(command: CommandLine, shoot: Path) -> None:
    (shoot / "recipe.yaml").write_text(f"model: tiny\nphotos: photos\n{WINTER}\nsampler: model\n")
    said = command("plan", shoot / "recipe.yaml")
    assert said.code == 2
    assert "sampler: model is for editors that bring their own" in " ".join(said.err.split())
    assert "euler_a" in said.err


@pytest.mark.parametrize("size", [(6000, 4000), (4000, 6000), (512, 512), (300, 200), (9000, 2000), (20_000, 1000)])
def test_a_photo_of_any_aspect_gets_about_a_megapixel_in_squares_of_16(size: tuple[int, int]) -> None:
    for key in ("klein", "kontext", "qwen_edit", "longcat"):
        width, height = model_size(Photo("a", Path("a"), "d", size), None, FAMILIES[key].defaults)
        assert width % 16 == height % 16 == 0
        assert 0.94e6 < width * height < 1024 * 1024
        assert max(width, height) / min(width, height) <= 8
        assert abs(width / height - size[0] / size[1]) < 0.05 * size[0] / size[1] or max(size) > 7 * min(size)


def test_all_families_are_named() -> None:
    assert families().startswith("InstructPix2Pix, FLUX.2 klein")
    assert " or " in families()
