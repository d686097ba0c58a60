"""Two distributions of one source: what light/pyproject.toml says again of the package is what pyproject.toml says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MAKES_PICTURES = {"torch", "diffusers", "transformers", "accelerate"}


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    complete, light = (tomllib.loads((ROOT / path / "pyproject.toml").read_text("utf-8")) for path in (".", "light"))
    return complete, light


def test_the_light_one_needs_what_the_complete_one_needs_but_for_what_makes_pictures(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    complete, light = (set(one["project"]["dependencies"]) for one in both)
    assert {line.partition(">")[0] for line in complete - light} == MAKES_PICTURES
    assert light - complete == set()


def test_both_have_one_version_one_licence_and_the_same_pythons(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    complete, light = both
    places = [
        (ROOT / place / one["tool"]["hatch"]["version"]["path"]).resolve()
        for place, one in (("", complete), ("light", light))
    ]
    assert places == [ROOT / "ip2pbatch/__init__.py"] * 2
    assert complete["project"]["requires-python"] == light["project"]["requires-python"]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "light/LICENSE").read_bytes()


def test_no_script_of_one_is_a_script_of_the_other(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    complete, light = (set(one["project"]["scripts"]) for one in both)
    assert (complete, light) == ({"ip2pbatch"}, {"ip2pbatch-light"})
