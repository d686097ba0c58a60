"""The stage runner: what is fresh, stale or missing, why, and what a second run does not do again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_photos import make_photos

from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.errors import LockedError, NothingMatchedError, RecipeError
from ip2pbatch.train.captions import wordings_stage as captions
from ip2pbatch.train.configs import STAGES, in_order, load_config
from ip2pbatch.train.stages import plan, run, status

TINY = Path(__file__).parents[2] / "training" / "tiny"

WORDINGS = """
it: [it, the photo]
before: [a photo]
families:
  night:
    wordings: [night, at night, "make {it} night", darkness, moonlight, after dark, midnight, a dark sky, make it dark]
    held_out: [nightfall, by night, "make {it} nightly"]
    after: ["{before} at night"]
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A folder with photos and two configs: captions, and a tokenizer of them."""
    make_photos(tmp_path / "photos", train=2, held=1, side=16)
    (tmp_path / "words.yaml").write_text(WORDINGS)
    (tmp_path / "captions.yaml").write_text("stage: captions\nmaker: template\nwordings: words.yaml\n")
    (tmp_path / "tokenizer.yaml").write_text("stage: tokenizer\ninputs: {captions: captions.yaml}\nsize: 600\n")
    return tmp_path


def states(chain: Path) -> dict[str, tuple[str, str]]:
    found = status(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    return {one.config.name: (one.state, one.reason) for one in found}


def test_a_chain_is_made_once_and_then_fresh(chain: Path) -> None:
    assert states(chain) == {
        "captions": ("missing", "has never been made"),
        "tokenizer": ("missing", "has never been made"),
    }
    assert [one.config.name for one in plan(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")] == [
        "captions",
        "tokenizer",
    ]
    made = run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    assert [one.state for one in made] == ["fresh", "fresh"]
    assert made[0].metrics["families"] == 1
    assert (made[1].folder / "tokenizer" / "tokenizer.json").exists()
    times = [(one.folder / "done.json").stat().st_mtime_ns for one in made]
    again = run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    assert [(one.folder / "done.json").stat().st_mtime_ns for one in again] == times
    assert plan(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out") == []


def test_a_changed_setting_makes_it_and_all_after_it_stale_and_says_why(chain: Path) -> None:
    before = run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    (chain / "captions.yaml").write_text("stage: captions\nmaker: template\nwordings: words.yaml\nvariations: 1\n")
    found = states(chain)
    assert found["captions"] == ("stale", "variations is 1, was 2")
    assert found["tokenizer"] == ("stale", "input captions changed")
    after = run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    assert before[0].folder != after[0].folder
    assert (before[0].folder / "done.json").exists(), "an older result is kept"
    (chain / "captions.yaml").write_text("stage: captions\nmaker: template\nwordings: words.yaml\n")
    assert {state for state, _ in states(chain).values()} == {"fresh"}, "and is fresh again when the setting comes back"


def test_a_file_that_a_setting_names_counts_by_its_content(chain: Path) -> None:
    run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    (chain / "words.yaml").write_text(WORDINGS.replace("moonlight", "starlight"))
    state, reason = states(chain)["captions"]
    assert state == "stale"
    assert reason.startswith("wordings changed: ")


def test_new_code_makes_a_stage_stale(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(chain / "tokenizer.yaml", photos=chain / "photos", out=chain / "out")
    monkeypatch.setattr(captions, "STAGE", replace(captions.STAGE, version=captions.VERSION + 1))
    assert states(chain)["captions"] == (
        "stale",
        f"the stage's code is version {captions.VERSION + 1}, was {captions.VERSION}",
    )


def test_photos_count_where_a_stage_reads_them(chain: Path) -> None:
    (chain / "pairs.yaml").write_text("stage: pairs\nmaker: procedural\nside: 16\nworkers: 1\nfamilies: [night]\n")
    out = chain / "out"
    made = run(chain / "pairs.yaml", photos=chain / "photos", out=out)
    assert made[0].metrics["crops"] == 2
    next((chain / "photos").glob("*.png")).rename(chain / "photos" / "another-name.png")
    (one,) = status(chain / "pairs.yaml", photos=chain / "photos", out=out)
    assert (one.state, one.reason) == ("stale", "the photos changed")


def test_an_interrupted_stage_says_so_and_goes_on(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(captions, "STAGE", replace(captions.STAGE, run=dies))
        with pytest.raises(KeyboardInterrupt):
            run(chain / "captions.yaml", photos=chain / "photos", out=chain / "out")
    assert states(chain)["captions"] == ("missing", "was interrupted and will go on")
    (made,) = run(chain / "captions.yaml", photos=chain / "photos", out=chain / "out")
    assert made.state == "fresh"


def test_two_processes_never_write_one_stage(chain: Path) -> None:
    (one,) = status(chain / "captions.yaml", photos=chain / "photos", out=chain / "out")
    one.folder.mkdir(parents=True)
    other = WriterLock(one.folder)
    with other.gate():
        other.acquire()
    with pytest.raises(LockedError):
        run(chain / "captions.yaml", photos=chain / "photos", out=chain / "out")
    other.release()


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("stage: tokeniser\n", ":1:", "is not a stage"),
        ("stage: tokenizer\nsise: 3\n", ":2:", "size"),
        ("stage: tokenizer\nsize: many\n", ":2:", "size"),
        ("stage: tokenizer\ninputs: captions.yaml\n", ":2:", "inputs"),
        ("size: 3\n", ":1:", "stage"),
        ("stage: tokenizer\ninputs: {captions: nowhere.yaml}\n", "nowhere.yaml", ""),
        ("stage: tokenizer\ninputs: {captions: wrong.yaml}\n", "wrong.yaml", "own input"),
    ],
)
def test_a_mistake_in_a_config_names_its_place(tmp_path: Path, text: str, place: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_config(tmp_path / "wrong.yaml")
    assert place in str(caught.value)
    assert said in f"{caught.value} {caught.value.hint}"


def test_the_shipped_chain_is_valid_and_in_order() -> None:
    chain = load_config(TINY / "evaluate.yaml")
    names = [config.name for config in in_order(chain)]
    assert names[-1] == "evaluate"
    assert sorted(names) == sorted(path.stem for path in TINY.glob("*.yaml") if path.stem != "instructions")
    assert {config.stage for config in in_order(chain)} == set(STAGES) - {"scores", "filter"}
    for config in in_order(chain):
        for needed in config.inputs.values():
            assert names.index(needed.name) < names.index(config.name)


def test_a_folder_without_held_out_photos_is_refused_with_a_hint(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", train=3, held=0, side=16)
    (tmp_path / "pairs.yaml").write_text("stage: pairs\nmaker: procedural\n")
    with pytest.raises(NothingMatchedError, match="3 photos to train on and 0") as caught:
        run(tmp_path / "pairs.yaml", photos=tmp_path / "photos", out=tmp_path / "out")
    assert "fifty" in str(caught.value.hint)
    assert not list((tmp_path / "out").rglob("done.json"))


def test_records_hold_settings_metrics_and_seconds(chain: Path) -> None:
    (made,) = run(chain / "captions.yaml", photos=chain / "photos", out=chain / "out")
    record = json.loads((made.folder / "done.json").read_text())
    assert record["settings"]["variations"] == 2
    assert record["metrics"] == made.metrics
    assert record["seconds"] >= 0
