"""A comparison of models: a run each in a folder of its own, gone on with as one, and joined on sheets and a report."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command import CommandLine

from ip2pbatch import jobs
from ip2pbatch.engine import on_fake
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import ModelError, ResourceError, UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.families import FAMILIES, Family, ModelDefaults
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.engine import Result, Source
from ip2pbatch.run.machine import Machine

RECIPE = """
name: seasons
compare: [tiny, {model: another/one, text: [2, 4]}]
photos: {folder: photos, include: three.png}
edits: [make it winter]
output: {folder: out}
size: {long_side: 64}
sheet: {cell: 64}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(shoot: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shoot)
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def pages(out: Path) -> set[str]:
    return {path.name for path in (out / "sheets").iterdir()}


def in_page(report: Path) -> dict[str, Any]:
    text = report.read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    return data


def without(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """The fake backend, which cannot load the model `gone`."""
    choose = on_fake.choose

    def choosing(model: str, *rest: Any, **more: Any) -> Any:
        if model == gone:
            raise ModelError(f"{gone} is not on this machine", hint="fetch it")
        return choose(model, *rest, **more)

    monkeypatch.setattr(on_fake, "choose", choosing)


def before_each(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    edit = FakeEngine.edit

    def editing(self: FakeEngine, edits: Sequence[Edit], sources: Sequence[Source]) -> list[Result]:
        do()
        return edit(self, edits, sources)

    monkeypatch.setattr(FakeEngine, "edit", editing)


def test_each_model_has_a_run_and_what_joins_them_lies_above(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    recipe.write_text(RECIPE.replace("three.png", '"**/t*"'))
    said = command("run", recipe, *FAKE)
    assert (said.code, said.out.splitlines()[-1]) == (0, "done: 2 models compared, 6 edits"), said.err
    assert {path.name for path in out.iterdir()} == {"tiny", "one", "sheets", "report.html"}
    assert [len(read_run(out / name).done) for name in ("tiny", "one")] == [2, 4]
    scales = {f"scales-make-it-winter-{photo}.png" for photo in ("three", "day2-two")}
    assert pages(out) == {"models-make-it-winter.png", *scales}
    data = in_page(out / "report.html")
    assert [(cell["photo"], cell["model"]) for cell in data["cells"]][:3] == [
        ("day2/two.jpg", "tiny"), ("day2/two.jpg", "one"), ("day2/two.jpg", "one"),
    ]  # fmt: skip
    assert [run["apply"] for run in data["runs"]] == [f"ip2pbatch apply {out / name}" for name in ("tiny", "one")]
    assert all((out / cell["file"]).is_file() for cell in data["cells"])
    again = command("compare", out, *FAKE)
    assert (again.code, again.out.count("0 edits made, 0 files delivered")) == (0, 2)


def test_a_run_of_a_comparison_is_a_run(command: CommandLine, recipe: Path) -> None:
    command("run", recipe, *FAKE)
    own = recipe.parent / "out" / "one"
    said = command("run", own, *FAKE)
    assert (said.code, "going on with" in said.err, "was changed" in said.err) == (0, True, False)
    assert command("lock", own / "recipe.yaml").code == 0
    assert command("apply", own, recipe.parent / "photos" / "one.jpg", "--cell", "1").code == 0
    assert command("status", own).code == 0


def test_what_is_done_to_a_comparison_is_done_to_each_run(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    planned = json.loads(command("plan", recipe, "--json").out)["models"]
    assert [(one["model"], one["edits"], one["edits_done"]) for one in planned] == [
        ("tiny", 1, 0), ("another/one", 2, 0),
    ]  # fmt: skip
    assert command("validate", recipe).out == f"{recipe}: ok, 1 edit, 2 models\n"
    assert command("plan", recipe, "--exit-code").code == 4
    assert command("run", recipe, *FAKE).code == 0
    assert command("plan", recipe, "--exit-code").code == 0
    status = json.loads(command("status", out, "--json").out)["models"]
    assert [(name, one["edits"]["done"]) for name, one in status.items()] == [("tiny", 1), ("one", 2)]
    picture = next((out / "one" / ".ip2pbatch" / "edits").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    checked = command("check", out, "--json")
    assert (checked.code, [one["exit_code"] for one in json.loads(checked.out)["models"].values()]) == (4, [0, 4])
    assert command("report", out).code == 3
    assert command("retry", out, *FAKE).code == 0
    delivered = command("deliver", out, "--format", "png")
    assert (delivered.code, len([*(out / "one").glob("*.png")])) == (0, 2), delivered.err
    assert command("sheet", recipe, "--cell", "80").out.splitlines()[0].startswith(str(out / "sheets"))


def test_models_are_added_and_others_are_kept(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    recipe.write_text(RECIPE.replace("compare: [tiny, {model: another/one, text: [2, 4]}]", "steps: 5"))
    assert command("compare", recipe, "-m", "tiny", "-m", "a/b@v1", *FAKE).code == 0
    more = command("compare", out, "--model", "c", *FAKE)
    assert (more.code, more.out.count(" 0 edits made"), "1 edit made" in more.out) == (0, 2, True), more.err
    assert {cell["model"] for cell in in_page(out / "report.html")["cells"]} == {"tiny", "b", "c"}
    recipe.write_text(RECIPE.replace("compare: [tiny, {model: another/one, text: [2, 4]}]", "compare: [c]\nsteps: 5"))
    fewer = command("run", recipe, *FAKE)
    assert (fewer.code, "done: 1 model compared" in fewer.out) == (0, True)
    assert {cell["model"] for cell in in_page(out / "report.html")["cells"]} == {"c"}
    assert len(read_run(out / "tiny").done) == 1
    recipe.write_text(recipe.read_text().replace("[c]", "[c, tiny]"))
    assert " 0 edits made" in command("run", recipe, *FAKE).out


def test_a_comparison_that_was_moved_goes_on_where_it_lies(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, *FAKE).code == 0
    moved = recipe.parent / "moved"
    (recipe.parent / "out").rename(moved)
    recipe.unlink()
    said = command("run", moved, *FAKE)
    assert (said.code, said.out.splitlines()[-1]) == (0, "done: 2 models compared, 3 edits"), said.err
    assert not (recipe.parent / "out").exists()


def test_one_model_that_cannot_be_loaded_leaves_the_others(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = recipe.parent / "out"
    with monkeypatch.context() as patched:
        without(patched, "tiny")
        said = command("run", recipe, *FAKE, "--json", "--junit", recipe.parent / "junit.xml")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert (said.code, lines[-1]["exit_code"]) == (6, 6)
    assert [line["message"] for line in lines if line["type"] == "error"] == ["tiny: tiny is not on this machine"]
    assert 'classname="tiny" name="model"' in (recipe.parent / "junit.xml").read_text()
    page = (out / "report.html").read_text()
    assert "Without tiny: tiny is not on this machine" in page
    assert "<b>missing</b><br>not made: tiny is not on this machine" in page
    assert "tiny is not begun yet" in command("status", out).err
    assert command("run", out, *FAKE).code == 0
    assert "Without tiny" not in (out / "report.html").read_text()
    assert "not made" not in (out / "report.html").read_text()


def test_cells_that_a_run_did_not_come_to_say_why(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full_at_the_second() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise ResourceError("the device's memory ran out")

    with monkeypatch.context() as patched:
        before_each(patched, full_at_the_second)
        said = command("run", recipe, *FAKE)
    assert said.code == 7, said.err
    cells = in_page(recipe.parent / "out/report.html")["cells"]
    assert [(cell["model"], cell["state"]) for cell in cells] == [("tiny", "done"), *[("one", "missing")] * 2]
    page = (recipe.parent / "out/report.html").read_text()
    assert page.count("<br>not made: the device&#39;s memory ran out") == 2


def test_a_model_has_its_own_sampler_and_size(command: CommandLine, recipe: Path) -> None:
    own = "compare: [tiny, {model: klein, text: default, sampler: model, size: {megapixels: 0.01}}]"
    recipe.write_text(
        RECIPE.replace("compare: [tiny, {model: another/one, text: [2, 4]}]", own) + "sampler: ddim\nsteps: 3\n"
    )
    assert command("run", recipe, *FAKE).code == 0
    edits = {name: read_run(recipe.parent / "out" / name).plan.edits[0] for name in ("tiny", "klein")}
    assert [(edit.sampler, edit.size) for edit in edits.values()] == [("ddim", (64, 64)), ("model", (96, 96))]
    recipe.write_text(recipe.read_text().replace("sampler: model, ", ""))
    said = command("plan", recipe)
    assert (said.code, "takes no ddim" in " ".join(said.err.split())) == (2, True)


def test_one_that_is_interrupted_ends_all_and_goes_on(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        before_each(patched, lambda: os.kill(os.getpid(), signal.SIGINT))
        said = command("run", recipe, *FAKE, "--batch", "1")
    assert (said.code, said.out.splitlines()[-1]) == (
        130,
        "not complete: 2 models compared; tiny not complete; one not begun",
    )
    assert not (recipe.parent / "out" / "report.html").exists()
    assert command("run", recipe.parent / "out", *FAKE).code == 0


def test_one_engine_is_open_at_a_time(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(FakeEngine, "__init__", _after(FakeEngine.__init__, lambda: events.append("open")))
    monkeypatch.setattr(FakeEngine, "close", lambda self: events.append("close"))
    ended = jobs.compare(recipe, machine=Machine(backend="fake"))
    assert (events, ended.exit_code, len([*ended])) == (["open", "close"] * 2, 0, 3)


def _after(function: Callable[..., None], do: Callable[[], None]) -> Callable[..., None]:
    def both(*given: Any, **named: Any) -> None:
        function(*given, **named)
        do()

    return both


def test_what_a_model_cannot_do_is_told_before_anything_is_made(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Family("Plain", ("PlainPipeline",), ModelDefaults(), check="", torch="", null_text=False)
    monkeypatch.setitem(FAMILIES, "plain", plain)
    (recipe.parent / "mine").mkdir()
    (recipe.parent / "mine" / "model_index.json").write_text('{"_class_name": "PlainPipeline"}')
    recipe.write_text(
        RECIPE.replace("[make it winter]", "[{instruction: make it winter, negative: snow}]").replace(
            "tiny", "tiny, mine"
        )
    )
    for said in (command("run", recipe, *FAKE), command("plan", recipe)):
        assert (said.code, "mine: make-it-winter: negative" in said.err.replace("\n", " ")) == (2, True)
    assert command("validate", recipe).code == 2
    assert not (recipe.parent / "out").exists()


def test_folders_that_hold_something_else_are_left(command: CommandLine, recipe: Path) -> None:
    one = recipe.parent / "one.yaml"
    one.write_text("photos: photos/three.png\nedits: [make it night]\noutput: {folder: alone}\n")
    assert command("run", one, *FAKE).code == 0
    over = command("run", recipe, *FAKE, "-o", "alone")
    assert (over.code, "holds a run of its own" in over.err) == (2, True)
    assert command("run", recipe, *FAKE).code == 0
    shutil.rmtree("out/sheets")
    for said in (
        command("run", one, *FAKE, "-o", "out"),
        command("edit", "photos", "-i", "make it night", "-o", "out", *FAKE),
        command("verify", "out"),
        command("apply", "out", "--cell", "1"),
    ):
        assert (said.code, "comparison of models" in said.err) == (2, True), said.err
    assert not Path("out/.ip2pbatch").exists()
    for said in (command("lock", recipe), command("run", recipe, *FAKE, "--locked"), command("watch", "in", recipe)):
        assert (said.code, "compares models (tiny, one)" in said.err) == (2, True), said.err
    none = command("compare", one, *FAKE)
    assert (none.code, "compares no models" in none.err) == (2, True)
    Path("photos/compared").mkdir()
    assert command("run", recipe, *FAKE, "-o", "photos/compared").code == 2
    with pytest.raises(UsageError, match="comparison of models"):
        jobs.status("out")


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ("[tiny, tiny]", "recipe.yaml:3:17: compare.1: tiny is there twice"),
        ("[a/one, b/one]", "would both be called one"),
        ("[{model: tiny, name: a/b}]", "cannot be a folder's name"),
        ("[{model: mine/sheets}]", "sheets is taken"),
        ("[{model: tiny, txt: 3}]", "did you mean 'text'?"),
        ("[7]", "a compared model is its name or a mapping"),
        ("[https://example.org/model]", "is an address and no model"),
        ("[tiny]\nmodel: tiny", "either model or compare"),
        ("[{model: tiny, text: [1, 2], image: [1, 2, 3]}]\nguidance: {pair: zip}", "do not pair"),
    ],
)
def test_models_that_cannot_be_compared(command: CommandLine, recipe: Path, models: str, why: str) -> None:
    recipe.write_text(RECIPE.replace("[tiny, {model: another/one, text: [2, 4]}]", models))
    said = command("plan", recipe)
    assert (said.code, why in said.err) == (2, True), said.err


def test_flags_that_cannot_be_compared(command: CommandLine, recipe: Path) -> None:
    twice = command("compare", recipe, "-m", "b", "-m", "b", *FAKE)
    assert (twice.code, "--model: b is there twice" in twice.err) == (2, True)
    clash = command("compare", recipe, "-m", "b/one", *FAKE)
    assert (clash.code, "would both be called one" in clash.err) == (2, True)
    assert command("compare", recipe.parent / "nowhere", *FAKE).code == 2
