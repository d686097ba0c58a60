"""Benchmarks of others: their layouts, how often a judge is asked, what becomes of bad answers, figures by hand."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmark_sets import KINDS, SCORES, VIE_PROMPTS, save_emu_edit, save_gedit, save_imgedit, words_of
from command import CommandLine
from completion_server import Asked, completion_server
from PIL import Image
from tiny_clip import save_clip
from tiny_dino import save_dino
from tiny_models import make_picture, save_model

from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.run.stop import Stop
from ip2pbatch.train import stages
from ip2pbatch.train.configs import load_config
from ip2pbatch.train.judge.benchmarks import benchmark_edits, benchmark_table, gedit, imgedit
from ip2pbatch.train.judge.benchmarks.answer_ledger import Ledger
from ip2pbatch.train.judge.benchmarks.asking import Hearing, JudgeEndpoint, Question, Shown, UnusableError
from ip2pbatch.train.judge.benchmarks.benchmark_table import ALL, MEAN, Scored, table_of
from ip2pbatch.train.judge.magicbrush import crop

PAPER = Path(__file__).parents[3] / "training" / "paper"
PAGE = Path(__file__).parents[3] / "docs" / "training.md"
KEY = "sk-nobody-may-see-this"


DRAWN = {"test_imgedit_is_edited_by_a_recipe_and_judged", "test_gedit_is_scored_as_viescore_does"}


@pytest.fixture(autouse=True)
def charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chart takes longer than all the rest of a stage here: two tests draw them."""
    if request.node.originalname not in DRAWN:
        monkeypatch.setattr(benchmark_table, "draw", lambda tables, path: None)


@pytest.fixture
def server() -> Iterator[Asked]:
    with completion_server() as asked:
        asked.judge = lambda body: SCORES
        yield asked


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmarks, pictures after for all of them in the published layouts, and tiny networks."""
    folder = tmp_path_factory.mktemp("benchmarks")
    save_imgedit(folder / "imgedit")
    save_gedit(folder / "gedit")
    save_emu_edit(folder / "emu")
    (folder / "vie_prompts.py").write_text(VIE_PROMPTS)
    places = [f"fullset/{task}/{language}/k{number}.png" for number, task in enumerate(("tone_transfer", "color_alter"))
              for language in ("en", "cn")]  # fmt: skip
    for number, name in enumerate([*(f"{1000 + n}.png" for n in range(6)), *(f"{n}.png" for n in range(3)), *places]):
        path = folder / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(20 + number, (64, 48))).save(path)
    save_model(folder / "model")
    save_clip(folder / "clip")
    save_dino(folder / "dino")
    return folder


def config_for(sets: Path, folder: Path, maker: str, server: Asked | None = None, **changed: Any) -> Path:
    """A config in `folder` that judges the pictures made elsewhere."""
    settings: dict[str, Any] = {
        "stage": "evaluate", "maker": maker, "test": str(sets / maker.removesuffix("_edit")),
        "generated": str(sets / "made"), "resamples": 20,
    }  # fmt: skip
    if server:
        settings["judge"] = {"url": server.url, "model": "seer", "wait": 0.0, "at_once": 2, "attempts": 2}
    if maker == "gedit":
        settings["viescore"] = str(sets / "vie_prompts.py")
    judge = {**settings.get("judge", {}), **changed.pop("judge", {})}
    settings |= changed | ({"judge": judge} if judge else {})
    path = folder / f"{maker}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return path


def made_of(path: Path) -> stages.StageStatus:
    (found,) = stages.run(path, out=path.parent / "work")
    assert found.state == "fresh"
    return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_imgedit_is_edited_by_a_recipe_and_judged(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = {"model": str(sets / "model"), "generated": None, "steps": 1, "resolution": 64}
    path = config_for(sets, tmp_path, "imgedit", server, **model)
    found = made_of(path)
    assert (found.metrics["judged"], found.metrics["score"], found.metrics["adherence"]) == (6, 3, 4)
    assert found.metrics["tokens"] == 6 * 107
    assert found.metrics["edits/s"] > 0
    assert {words_of(body) for body in server.bodies} == {f"{KINDS[n % 3]}: did it make it {n}?" for n in range(6)}
    first, second = server.bodies[0]["messages"][0]["content"][1:]
    assert first["image_url"]["url"].startswith("data:image/jpeg;base64,"), "the photo's own bytes"
    assert (shown(second).format, shown(second).size) == ("PNG", (96, 64)), "the model's own pixels"
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    report = (found.folder / "report.md").read_text()
    assert "| adjust | 2 of 2 | 4.00 (4.00 – 4.00) |" in report
    assert "| all edits | 6 of 6 |" in report
    with Image.open(found.folder / "report.png") as chart:
        assert chart.width > 300

    (run,) = (tmp_path / "work" / "imgedit" / "edits").glob("*/run")
    assert command("status", run).code == 0, "a run like any other"
    assert "6 edits" in command("plan", run.parent / "recipe.yaml").out
    again_path = config_for(sets, tmp_path, "imgedit", server, **model, judge={"model": "other"})
    assert " h on cpu" in command("train", "plan", again_path, "--out", tmp_path / "work").out, "at the rate of the run"
    again = made_of(again_path)
    assert again.folder != found.folder
    assert "edits/s" not in again.metrics, "another judge has nothing edited again"
    assert len(server.bodies) == 12
    spoken = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert spoken == []


def shown(part: dict[str, Any]) -> Image.Image:
    """A picture as the judge got it."""
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))


def test_no_answer_is_paid_for_twice(sets: Path, tmp_path: Path, server: Asked) -> None:
    made_of(config_for(sets, tmp_path, "imgedit", server))
    answers = tmp_path / "work" / "imgedit" / "answers" / "answers.jsonl"
    before = answers.read_bytes()
    made_of(config_for(sets, tmp_path, "imgedit", server, resamples=30))
    made_of(config_for(sets, tmp_path, "imgedit", server, limit=4))
    assert (len(server.bodies), answers.read_bytes()) == (6, before)

    answers.write_bytes(before[:-40])  # a kill tore the last line
    made_of(config_for(sets, tmp_path, "imgedit", server, resamples=31))
    assert len(server.bodies) == 7
    lines = before.splitlines(keepends=True)
    answers.write_bytes(b"".join([lines[0].replace(b"Prompt", b"prompt"), *lines[1:]]))
    made_of(config_for(sets, tmp_path, "imgedit", server, resamples=32))
    assert len(server.bodies) == 8, "a line that was damaged since counts for nothing"
    assert answers.with_name("answers.jsonl.bad").exists()

    made_of(config_for(sets, tmp_path, "imgedit", server, judge={"parameters": {"temperature": 0}}))
    assert len(server.bodies) == 14, "other parameters are another question"
    assert server.bodies[-1]["temperature"] == 0


def test_a_signal_ends_it_and_it_goes_on(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, ask = threading.Event(), Stop.ask
    monkeypatch.setattr(Stop, "ask", lambda self, number: (ask(self, number), heard.set())[0])

    def judge(body: dict[str, Any]) -> str:
        if len(server.bodies) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(server.bodies) >= 3:  # no later question is asked before the signal was heard
            assert heard.wait(120)
        return SCORES

    server.judge = judge
    run = ("train", "run", config_for(sets, tmp_path, "imgedit", server), "--out", tmp_path / "work")
    said = command(*run)
    assert said.code == 143
    assert "questions are left; run again to go on" in said.err
    asked = len(server.bodies)
    assert 3 <= asked < 6
    assert command(*run).code == 0
    assert len(server.bodies) == 6, "what was under way was answered and kept"


def test_a_signal_between_two_edits_ends_it_and_none_is_made_twice(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"model": str(sets / "model"), "generated": None, "steps": 1, "resolution": 64, "batch": 1}
    run = ("train", "run", config_for(sets, tmp_path, "imgedit", server, **model), "--out", tmp_path / "work")
    made: list[str] = []
    bar = benchmark_edits._Bar
    with monkeypatch.context() as patch:
        patch.setattr(
            bar, "finished", lambda self, edit, record: made.append(os.kill(os.getpid(), signal.SIGTERM) or "")
        )
        said = command(*run)
    assert (said.code, "edits are left" in said.err) == (143, True)
    assert 1 <= len(made) < 6
    assert server.bodies == []
    with monkeypatch.context() as patch:
        patch.setattr(bar, "finished", lambda self, edit, record: made.append(edit.key))
        assert command(*run).code == 0
    assert (len(made), len(server.bodies)) == (6, 6)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I cannot say", "0 scores instead of 3"),
        ("A: 1\nB: 2\nC: 3\nD: 4", "4 scores instead of 3"),
        ("A: 1\nB: 2\nC: 6", "a score of 6, which is not from 1 to 5"),
        ({"choices": [{"message": {"content": None, "refusal": "no people"}}]}, "said nothing: no people"),
        ({"id": 7}, 'no answer in {"id": 7}'),
        ((400, {"error": "too large a picture"}), "refused the request (400: "),
    ],
)
def test_what_one_question_gets_no_scores_for_has_a_reason(
    sets: Path, tmp_path: Path, server: Asked, answer: Any, reason: str
) -> None:
    server.judge = lambda body: answer if words_of(body) == "bad" else SCORES
    picture = Shown(sets / "made" / "1000.png")
    questions = [Question(name, name, (picture,)) for name in ("good", "bad", "again")]
    judge = JudgeEndpoint(url=server.url, model="seer", wait=0.0, at_once=1, attempts=2)
    with Ledger(tmp_path) as ledger:
        found = Hearing(judge, ledger, imgedit.parse).ask(questions)
    assert [found[name].scores for name in ("good", "bad", "again")] == [(4, 3, 2), None, (4, 3, 2)]
    assert reason in found["bad"].reason
    assert len(server.bodies) == 4, "asked again, twice in all"
    with Ledger(tmp_path) as ledger:
        again = Hearing(judge, ledger, imgedit.parse).ask(questions)
    assert (again["good"], len(server.bodies)) == (found["good"], 6 if "refused" in reason else 4)


def test_an_edit_without_scores_is_a_row_with_its_reason(sets: Path, tmp_path: Path, server: Asked) -> None:
    server.judge = lambda body: "I cannot say" if "make it 5" in words_of(body) else SCORES
    found = made_of(config_for(sets, tmp_path, "imgedit", server))
    assert (found.metrics["edits"], found.metrics["judged"]) == (6, 5)
    last = lines_of(found.folder / "scores.jsonl")[-1]
    assert (last["reason"], last["said"]) == ("0 scores instead of 3", ["I cannot say"])
    report = (found.folder / "report.md").read_text()
    assert "| add | 1 of 2 |" in report
    assert "1 edit was not judged:\n\n- 1: 0 scores instead of 3\n" in report


def test_pictures_that_are_missing_or_broken_are_rows_too(sets: Path, tmp_path: Path, server: Asked) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for number in range(5):
        (made / f"{1000 + number}.png").write_bytes((sets / "made" / f"{1000 + number}.png").read_bytes())
    (made / "1004.png").write_bytes((made / "1004.png").read_bytes()[:200])
    found = made_of(config_for(sets, tmp_path, "imgedit", server, generated=str(made)))
    assert found.metrics["judged"] == 4
    reasons = [row.get("reason", "") for row in lines_of(found.folder / "scores.jsonl")[4:]]
    assert "1004.png" in reasons[0]
    assert reasons[1] == "no picture: its file is missing"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((401, {"error": f"no such key: {KEY}"}), 6, "401"),
        ((404, {"error": "no such model"}), 6, "check the model's name and the key in OPENAI_API_KEY"),
        ((429, {"error": "slowly"}, {"Retry-After": "0"}), 6, "does not answer (429"),
        ((429, {"error": "slowly"}, {"Retry-After": "3600"}), 6, "it asks to wait 3,600 s"),
        ((200, b"<html>"), 6, "does not answer"),
        ((200, b"[1]"), 6, "no JSON object"),
        ((400, {"error": "no such parameter"}), 5, "none of 6 edits was judged"),
    ],
)
def test_an_endpoint_that_fails_ends_the_stage_and_what_was_answered_is_kept(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, monkeypatch: pytest.MonkeyPatch,
    answer: Any, code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    keeps = code == 6
    server.judge = lambda body: SCORES if keeps and len(server.bodies) <= 2 else answer
    judge = {"at_once": 1, "retries": 1}
    run = ("train", "run", config_for(sets, tmp_path, "imgedit", server, judge=judge), "--out", tmp_path / "work")
    ended = command(*run)
    assert ended.code == code
    assert said in " ".join(ended.err.split())
    assert KEY not in ended.err
    answers = tmp_path / "work" / "imgedit" / "answers" / "answers.jsonl"
    assert len(lines_of(answers)) == (2 if keeps else 0), "what was answered is kept, and nothing else"


def test_a_busy_server_is_given_the_time_that_it_asks_for(sets: Path, tmp_path: Path, server: Asked) -> None:
    waited: list[float] = []
    server.judge = lambda body: SCORES if len(server.bodies) > 1 else (429, {"error": "slowly"}, {"Retry-After": "0.3"})
    from ip2pbatch.train.captions.endpoint import Endpoint, asked_for, post

    found = post(Endpoint(url=server.url, model="m", wait=0.0), "chat/completions", {}, waited.append)
    assert found["choices"]
    assert waited == [0.3]
    assert asked_for("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert asked_for("Fri, 01 Jan 2100 00:00:00 GMT") > 3600
    assert asked_for("soon") == 0


def test_a_refused_key_or_a_dead_endpoint_is_told_before_anything_is_edited(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine
) -> None:
    model = {"model": str(sets / "model"), "generated": None, "steps": 1, "resolution": 64}
    path = config_for(sets, tmp_path, "imgedit", server, **model)
    server.refuses = True
    assert command("train", "run", path, "--out", tmp_path / "work").code == 6
    dead = config_for(sets, tmp_path, "imgedit", server, **model, judge={"url": "http://127.0.0.1:9/v1"})
    said = command("train", "run", dead, "--out", tmp_path / "work")
    assert (said.code, "does not answer" in said.err) == (6, True)
    assert not list(tmp_path.rglob("edits/*/run/.ip2pbatch/edits/*/*.png"))


def test_the_fingerprint_names_the_judge_and_not_where_it_is(sets: Path, tmp_path: Path, server: Asked) -> None:
    path = config_for(sets, tmp_path, "imgedit", server)
    (known,) = stages.status(path, out=tmp_path / "work")
    assert known.known.facts["settings"]["judge"] == {"model": "seer", "parameters": {}, "attempts": 2}
    elsewhere = {"url": "https://example.org/v1", "key_from": "OTHER", "at_once": 1, "timeout": 5.0}
    (same,) = stages.status(config_for(sets, tmp_path, "imgedit", server, judge=elsewhere), out=tmp_path / "work")
    assert same.fingerprint == known.fingerprint
    (other,) = stages.status(config_for(sets, tmp_path, "imgedit", server, judge={"model": "x"}), out=tmp_path / "work")
    assert other.fingerprint != known.fingerprint


def test_plan_says_how_often_the_judge_is_asked(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    path = config_for(sets, tmp_path, "gedit", server, model=str(sets / "model"), generated=None)
    assert "4 edits, 8 questions to seer, at most: about" in command("train", "plan", path, "--out", tmp_path / "w").out
    path = config_for(sets, tmp_path, "imgedit", server, limit=2)
    said = command("train", "plan", path, "--out", tmp_path / "w").out
    assert "2 questions to seer" in said
    assert "2 edits" not in said
    assert server.bodies == []


def test_plan_of_what_is_done_needs_no_data(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine
) -> None:  # fmt: skip
    test = save_imgedit(tmp_path / "imgedit", 2)
    path = config_for(sets, tmp_path, "imgedit", server, test=str(test))
    made_of(path)
    test.rename(tmp_path / "away")
    said = command("train", "plan", path, "--out", tmp_path / "work")
    assert (said.code, "every stage is fresh" in said.out) == (0, True)


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"test": "nowhere"}, 2, "there is nothing at"),
        ({"model": "tiny"}, 2, "only one"),
        ({"generated": None}, 2, "or generated"),
        ({"judge": {"parameters": {"model": "x"}}}, 2, "model is set by the stage"),
        ({"judge": {"url": "file:///etc/passwd"}}, 2, "judge.url"),
        ({"limit": 0}, 2, "limit"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine, changed: dict[str, Any], code: int, said: str
) -> None:
    ended = command("train", "validate", config_for(sets, tmp_path, "imgedit", server, **changed))
    assert (ended.code, said in ended.err) == (code, True), ended.err


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("singleturn.json", "{", "singleturn.json: cannot be read"),
        ("singleturn.json", "[]", "holds a list"),
        ("singleturn.json", "{}", "no edit"),
        ("singleturn.json", '{"1": {"id": "a.jpg"}}', "1: needs id, prompt and edit_type"),
        ("singleturn.json", '{"1": {"id": "a.jpg", "prompt": "b", "edit_type": "add"}}', "a.jpg is missing"),
        ("judge_prompt.json", "{}", "adjust: is missing"),
        ("judge_prompt.json", '{"adjust": "how is it?"}', "adjust: has no <edit_prompt>"),
    ],
)
def test_a_benchmark_that_is_not_as_published_is_named(
    tmp_path: Path, sets: Path, server: Asked, file: str, text: str, said: str
) -> None:
    (save_imgedit(tmp_path / "test") / file).write_text(text)
    with pytest.raises((RecipeError, NothingMatchedError)) as caught:
        made_of(config_for(sets, tmp_path, "imgedit", server, test=str(tmp_path / "test")))
    assert said in str(caught.value)
    assert caught.value.hint


def test_gedit_is_scored_as_viescore_does(sets: Path, tmp_path: Path, server: Asked) -> None:
    def judge(body: dict[str, Any]) -> str:
        words = words_of(body)
        if "One image." in words:
            return '||V^=^V||\n{"score": [9, 8], "reasoning": "good"}\n||V^=^V||'
        return '{"score" : [2, 7], "reasoning" : "it "is" so"}' if "instruction: en 0" in words else "[5, 6]"

    server.judge = judge
    found = made_of(config_for(sets, tmp_path, "gedit", server))
    rows = {row["key"]: row for row in lines_of(found.folder / "scores.jsonl")}
    assert [row["group"] for row in rows.values()] == ["color_alter"] * 2 + ["tone_transfer"] * 2, "as published"
    assert (rows["en-k0"]["SC"], rows["en-k0"]["PQ"], rows["en-k0"]["O"]) == (2, 8, 4)
    assert rows["cn-k0"]["O"] == pytest.approx(math.sqrt(40))
    assert found.metrics["O"] == pytest.approx((4 + math.sqrt(40)) / 2), "English first"
    assert found.metrics["mean of the kinds, Chinese"] == pytest.approx(math.sqrt(40))
    report = (found.folder / "report.md").read_text()
    assert report.index("## English\n") < report.index("## English, intersection") < report.index("## Chinese\n")
    assert "| tone_transfer | 1 of 1 | 2.00 | 8.00 | 4.00 |" in report
    contents = [body["messages"][0]["content"] for body in server.bodies]
    assert sorted(len(content) for content in contents) == [2] * 4 + [3] * 4
    assert {shown(part).size for content in contents for part in content[1:]} == {(96, 64)}, "the photo's size"
    one = made_of(config_for(sets, tmp_path, "gedit", server, languages=["cn"]))
    assert (one.metrics["edits"], len(server.bodies)) == (2, 8)


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ('{"score": [3, 10], "reasoning": "x"}', 3),
        ('Sure:\n```json\n{"score": [0, 4],\n "reasoning": "a\nb"}\n```', 0),
        ('{"score" : [7, 6], "reasoning" : "a "word""}', 6),
        ("[8, 9]", 8),
        ('{"score": [3], "reasoning": "x"}', None),
        ('{"score": [3, 11], "reasoning": "x"}', None),
        ('{"score": [3, -1], "reasoning": "x"}', None),
        ('{"score": [3, 4.5], "reasoning": "x"}', None),
        ('{"score": ["a", true], "reasoning": "x"}', None),
        ('{"score": [a, b]}', None),
        ("rate_limit_exceeded", None),
    ],
)
def test_answers_in_viescore_s_format(answer: str, scores: float | None) -> None:
    if scores is None:
        with pytest.raises(UnusableError):
            gedit.parse(answer)
    else:
        assert gedit.parse(answer) == (scores,)


def test_answers_in_imgedit_s_format() -> None:
    said = "Brief reasoning: No change: kept.\nPrompt Compliance: 1\nVisual Seamlessness: 4\nPhysical & Detail: 5"
    assert imgedit.parse(said) == (1, 4, 5)
    assert imgedit.parse("- **Style Fidelity**: 2/5\n1. Content: 3\n## Rendering Quality: **4**") == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "said"), [("def (", "cannot be read"), ("a = 1", "_context_no_delimit: is not in it")]
)
def test_a_file_of_prompts_that_is_another_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "vie_prompts.py").write_text(text)
    with pytest.raises(RecipeError, match=said):
        gedit.read_prompts(tmp_path / "vie_prompts.py")


def test_emu_edit_s_five_metrics_by_hand(sets: Path, tmp_path: Path) -> None:
    """One picture at a time, cosines by numpy."""
    networks = {"clip": str(sets / "clip"), "dino": str(sets / "dino")}
    found = made_of(config_for(sets, tmp_path, "emu_edit", **networks))
    rows = lines_of(found.folder / "scores.jsonl")
    assert [(row["key"], row["group"]) for row in rows] == [("1", "add"), ("0", "style"), ("2", "style")]
    from ip2pbatch.measures.clip import Clip
    from ip2pbatch.measures.dino import Dino

    clip, dino = Clip.load(networks["clip"], "cpu"), Dino.load(networks["dino"], "cpu")
    before = Image.fromarray(make_picture(1, (96, 64)))
    after = Image.fromarray(make_picture(28, (64, 48)))
    i0, i1 = (clip.images(crop(one, 32, 32)[None])[0].numpy() for one in (before, after))
    t0, t1 = clip.texts(["a house", "a boat"]).numpy()
    d0, d1 = (dino.images(crop(one, 256, 224)[None])[0].numpy() for one in (before, after))
    l1 = np.abs(np.asarray(after.resize((96, 64)), float) - np.asarray(before, float)).mean() / 255

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = {"CLIPim": cosine(i0, i1), "CLIPout": cosine(i1, t1), "CLIPdir": cosine(i1 - i0, t1 - t0),
                "DINO": cosine(d0, d1), "L1": l1}  # fmt: skip
    assert {name: rows[2][name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert made_of(config_for(sets, tmp_path, "emu_edit", **networks, split="validation")).metrics["edits"] == 1


def test_a_parquet_set_that_is_not_as_published_is_named(
    sets: Path, tmp_path: Path, server: Asked, command: CommandLine
) -> None:
    path = config_for(sets, tmp_path, "gedit", server, test=str(sets / "emu"))
    said = command("train", "run", path, "--out", tmp_path / "work")
    assert (said.code, "has no column task_type" in said.err) == (2, True)
    said = command("train", "plan", config_for(sets, tmp_path, "emu_edit", test=str(sets / "made")))
    assert (said.code, "has no parquet files" in " ".join(said.err.split())) == (2, True)


def test_a_table_s_intervals_draw_the_edits_of_a_photo_together() -> None:
    scored = [Scored(f"{n}", "ab"[n % 2], f"photo {n // 2}", "", (float(n // 2),)) for n in range(20)]
    scored.append(Scored("x", "a", "photo 3", "", None, "no picture"))
    table = table_of("t", ["score"], scored, 5, 400)
    assert [(row.name, row.judged, row.asked) for row in table.rows] == [
        ("a", 10, 11), ("b", 10, 10), (ALL, 20, 21), (MEAN, 20, 21),
    ]  # fmt: skip
    (one,) = table.row(ALL).values or ()
    by_hand = 1.96 * np.std(np.arange(10.0)) / math.sqrt(10)
    assert one.mean == 4.5
    assert (one.high - one.low) / 2 == pytest.approx(by_hand, rel=0.15), "ten photos, not twenty edits"
    lonely = table_of("t", ["score"], scored[:2], 5, 10)
    assert math.isnan((lonely.row(ALL).values or ())[0].low)
    uneven = [Scored("0", "a", "p", "", (1.0,)), Scored("1", "a", "q", "", (1.0,)), Scored("2", "b", "r", "", (4.0,))]
    table = table_of("t", ["score"], uneven, 5, 10)
    assert [(table.row(name).values or ())[0].mean for name in (ALL, MEAN)] == [2.0, 2.5]


@pytest.mark.parametrize("maker", ["imgedit", "gedit", "emu_edit"])
def test_the_shipped_recipes_judge_stand_ins(sets: Path, tmp_path: Path, server: Asked, maker: str) -> None:
    """All but where things are, and how large they are, as the recipes say."""
    server.judge = lambda body: "[8, 9]" if maker == "gedit" else SCORES
    shipped = yaml.safe_load((PAPER / f"evaluate-{maker.replace('_', '-')}.yaml").read_text())
    places = yaml.safe_load(config_for(sets, tmp_path, maker, server).read_text())
    networks = {name: str(sets / name) for name in ("clip", "dino") if name in shipped}
    judge = {"judge": shipped["judge"] | {"url": server.url}} if "judge" in shipped else {}
    names = ("test", "generated", "viescore", "resamples")
    settings = shipped | {name: places[name] for name in names if name in places} | networks | judge | {"model": None}
    (tmp_path / "shipped.yaml").write_text(yaml.safe_dump(settings))
    found = made_of(tmp_path / "shipped.yaml")
    assert found.metrics["judged"] == {"imgedit": 6, "gedit": 2, "emu_edit": 3}[maker]


def test_the_page_s_example_is_a_config(sets: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(stage: evaluate\nmaker: imgedit\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "page.yaml").write_text(text)
    config = load_config(tmp_path / "page.yaml")
    assert isinstance(config.settings, imgedit.Config)
    assert (config.settings.limit, config.settings.judge.parameters) == (20, {"temperature": 0})
