"""Short names: what is listed of them, what fits, which licence is told, and where a pipeline's parts lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine
from tiny_editors import save_editor

from ip2pbatch.backends import known_models
from ip2pbatch.backends.known_models import fits, tell_licence
from ip2pbatch.backends.room import WORKING, placement
from ip2pbatch.engine import on_torch
from ip2pbatch.plan.defaults import family_for, model_defaults, model_id
from ip2pbatch.plan.editors.short_names import SHORT_NAMES
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.run.machine import Memory

GB = 10**9


@pytest.fixture(autouse=True)
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_short_name_stands_for_an_id_of_a_family_with_its_own_defaults() -> None:
    assert model_id("klein") == ("black-forest-labs/FLUX.2-klein-4B", None)
    assert model_id("klein@abc") == ("black-forest-labs/FLUX.2-klein-4B", "abc")
    assert model_id("owner/klein") == ("owner/klein", None)
    assert model_id("kleine") is None
    for name, known in SHORT_NAMES.items():
        assert family_for(name) is family_for(known.hub) is FAMILIES[known.family]
        assert known.parts == tuple(sorted(known.parts, reverse=True))
    assert (model_defaults("longcat").steps, model_defaults("longcat-turbo").steps) == (50, 8)


def test_an_id_of_the_cache_is_of_the_family_that_lies_there(tmp_path: Path) -> None:
    assert family_for("owner/mine").called == "InstructPix2Pix"
    snapshot = tmp_path / "hub/models--owner--mine/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text(json.dumps({"_class_name": "FluxKontextPipeline"}))
    (refs := tmp_path / "hub/models--owner--mine/refs").mkdir()
    (refs / "main").write_text("abc")
    assert family_for("owner/mine") is family_for("owner/mine@abc") is FAMILIES["kontext"]


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "klein").mkdir()
    (tmp_path / "klein/model_index.json").write_text(json.dumps({"_class_name": "LongCatImageEditPipeline"}))
    assert family_for("klein") is FAMILIES["longcat"]


def test_what_fits_is_said_in_words() -> None:
    needs = {"full": 19 * GB, "offload": 11 * GB}
    assert fits(needs, 16 * GB, 24 * GB, 64 * GB, moves=True) == "fits on the GPU"
    assert fits(needs, 16 * GB, 12 * GB, 64 * GB, moves=True) == "fits with --memory offload"
    assert fits(needs, 16 * GB, 6 * GB, 64 * GB, moves=True) == "fits with --memory sequential"
    assert fits(needs, 16 * GB, 6 * GB, 8 * GB, moves=True) == "does not fit: the GPU has 6 GB"
    assert fits(needs, 16 * GB, 6 * GB, 64 * GB, moves=False) == "does not fit: the GPU has 6 GB"
    assert fits(needs, 16 * GB, None, 64 * GB, moves=True) == "fits on the CPU, slowly"
    assert fits(needs, 16 * GB, None, 20 * GB, moves=True) == "fits on the CPU with --precision bf16, slowly"
    assert fits(needs, 16 * GB, None, 8 * GB, moves=True) == "does not fit: 8 GB of memory are free"


@pytest.mark.parametrize(
    ("free", "how"), [(20, Memory.FULL), (13, Memory.OFFLOAD), (6, Memory.SEQUENTIAL), (10, Memory.SEQUENTIAL)]
)
def test_parts_lie_where_they_fit_and_it_is_said_what_that_costs(free: int, how: Memory) -> None:
    parts = {"transformer": 8 << 30, "text_encoder": 8 << 30, "vae": 1 << 28}
    found = placement(Memory.AUTO, parts, (free << 30) + (1 << 28))
    assert found.how is how
    assert f"memory {how}: 16.2 GiB of weights" in found.why
    assert (how is Memory.FULL) == ("stays there" in found.why)
    assert placement(Memory.OFFLOAD, parts, WORKING).how is Memory.OFFLOAD


def test_the_list_says_licence_size_and_what_is_here(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_models, "gpu_memory", lambda: 24 * GB)
    monkeypatch.setattr(known_models, "free_memory", lambda: 64 * GB)
    said = command("models", "list", "--known")
    words = " ".join(said.out.split())
    assert "kontext FLUX.1 Kontext, about 34 GB, FLUX.1 [dev] Non-Commercial License; fits with --memory" in words
    assert "klein FLUX.2 klein, about 16 GB, Apache-2.0; fits on the GPU; not fetched" in words
    rows = {row["name"]: row for row in json.loads(command("models", "list", "--known", "--json").out)}
    assert set(rows) == set(SHORT_NAMES)
    assert (rows["kontext"]["commercial"], rows["kontext"]["revision"]) == (False, "")
    assert "offload" not in rows["ip2p"]["needs"]


def test_the_commit_that_was_fetched_is_listed_and_is_what_a_lock_pins(command: CommandLine, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub/models--black-forest-labs--FLUX.2-klein-4B"
    save_editor(cache / "snapshots" / commit, "klein")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    rows = {row["name"]: row for row in json.loads(command("models", "list", "--known", "--json").out)}
    assert (rows["klein"]["revision"], rows["klein-base"]["revision"]) == (commit, "")
    revision, digests = on_torch.files("klein", safety=True)
    assert revision == commit
    assert "transformer/diffusion_pytorch_model.safetensors" in digests


def test_a_licence_that_forbids_to_earn_money_is_told_once() -> None:
    said: list[str] = []
    for model in ("klein", "kontext", "black-forest-labs/FLUX.1-Kontext-dev", "owner/other", "kontext"):
        tell_licence(model, said.append)
    assert len(said) == 1
    assert "FLUX.1 [dev] Non-Commercial License" in said[0]


def test_the_page_has_every_family_and_its_scales() -> None:
    page = (Path(__file__).parents[2] / "docs/editors.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        (row,) = (
            line for line in page.splitlines() if line.startswith((f"| {family.called} |", f"| {family.called} ("))
        )
        _, pipeline, scales, negative, regions, own = (cell.strip() for cell in row.strip("|").split("|"))
        assert regions == ("blend as they are made" if family.call is None else "composed afterwards")
        assert family.pipelines[0] in pipeline or family.called == "CosXL Edit"
        assert [scale for scale in ("text", "image") if scale in scales] == [*family.scales]
        assert negative == ("yes" if family.null_text else "no")
        assert f"{family.defaults.steps} steps" in own
