"""A chain knows what it was made from: data and models by what is in them, every setting by its own key."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from train_pairs import make_dataset
from training_photos import make_photos

from ip2pbatch.errors import UsageError
from ip2pbatch.train.configs import load_config, stage_of
from ip2pbatch.train.data import pack_pictures
from ip2pbatch.train.fingerprints import flatten
from ip2pbatch.train.stages import StageStatus, run, status, write_json

TINY = Path(__file__).parents[2] / "training" / "tiny"
HUB = "owner/base"
CHAIN = {
    "taught.yaml": {"stage": "captions", "maker": "finetune", "triplets": "triplets.jsonl", "model": "./lm"},
    "captions.yaml": {
        "stage": "captions", "maker": "generate", "inputs": {"captions": "taught.yaml"}, "captions": "laion",
        "examples": "triplets.jsonl", "limit": 5,
    },
    "pairs.yaml": {
        "stage": "pairs", "maker": "prompt_to_prompt", "inputs": {"captions": "captions.yaml"}, "model": HUB,
        "clip": "./clip", "autoencoder": "./vae", "thresholds": {"caption": 0.1}, "limit": 7,
    },
    "scores.yaml": {"stage": "scores", "inputs": {"pairs": "pairs.yaml"}, "model": "./clip"},
    "filter.yaml": {"stage": "filter", "inputs": {"pairs": "pairs.yaml", "scores": "scores.yaml"}},
    "pack.yaml": {"stage": "pack", "maker": "pictures", "inputs": {"filter": "filter.yaml"}},
    "finetune.yaml": {"stage": "finetune", "maker": "stable_diffusion", "inputs": {"pack": "pack.yaml"}, "start": HUB},
    "evaluate.yaml": {
        "stage": "evaluate", "maker": "tradeoff", "inputs": {"data": "pack.yaml", "model": "finetune.yaml"},
        "clip": "./clip", "results": "others",
        "curves": [
            {"method": "instruct", "name": "ours", "model": "model", "values": [1.0, 2.0]},
            {"method": "sdedit", "name": "SDEdit", "model": "./lm"},
            {"method": "folder", "name": "else", "folder": "else"},
        ],
    },
}  # fmt: skip


def write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def know_hub_model(home: Path, monkeypatch: pytest.MonkeyPatch, commit: str = "a" * 40) -> None:
    """The hub's cache has HUB at `commit`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    reference = home / "models--owner--base" / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight stages, each finished as far as its records say, and what they are made from."""
    know_hub_model(tmp_path / "hub", monkeypatch)
    for name in ("lm", "clip", "vae", "others/else"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_text(name)
    (tmp_path / "laion").mkdir()
    (tmp_path / "laion" / "captions.jsonl").write_text('{"TEXT": "a cat"}\n')
    (tmp_path / "triplets.jsonl").write_text('{"input": "a", "edit": "b", "output": "c"}\n')
    for name, config in CHAIN.items():
        write(tmp_path / name, config)
    finish(tmp_path)
    return tmp_path


def finish(chain: Path, last: str = "evaluate.yaml", photos: Path | None = None) -> None:
    """Write every stage's record as if it had run."""
    for one in status(chain / last, photos=photos, out=chain / "out"):
        one.folder.mkdir(parents=True, exist_ok=True)
        write_json(one.folder / "done.json", {**one.known.record, "metrics": {}})
        from ip2pbatch.train.fingerprints import write_manifests

        write_manifests(one.known, one.folder)


def look(chain: Path, last: str = "evaluate.yaml", photos: Path | None = None) -> dict[str, StageStatus]:
    return {one.config.name: one for one in status(chain / last, photos=photos, out=chain / "out")}


def after(found: dict[str, StageStatus], name: str) -> set[str]:
    """A stage and all that builds on it."""
    hit = {name}
    for one in found.values():  # inputs come first
        if any(needed.name in hit for needed in one.config.inputs.values()):
            hit.add(one.config.name)
    return hit


def others(value: Any) -> Iterator[Any]:
    """Values of the same kind, of which one will be allowed."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value * 2)
    elif isinstance(value, float):
        yield from (value / 2 + 0.01, value + 0.5)
    elif isinstance(value, list):
        yield from (value[:-1], [one + 1 for one in value if isinstance(one, int | float)], [*value, "more"])
    elif value is None:
        yield from (1, 0.5, "triplets.jsonl", "package.module:function")
    else:
        yield from ("fp32", "bf16", "fp16", "no", "original", "random", "cross", "all", "muon", "power", "adamw")
        yield from ("other", "./clip", "./vae", "https://example.org/v1")


def changed(config: dict[str, Any], at: list[Any], path: Path) -> dict[str, Any] | None:
    """The config with another value at one place; None where no other value is allowed there."""
    was = place(config, at[:-1])[at[-1]]
    for value in (value for value in others(was) if value != was):
        made = json.loads(json.dumps(config))
        place(made, at[:-1])[at[-1]] = value
        write(path, made)
        try:
            load_config(path)
        except Exception:  # not a value of this key
            continue
        return made
    return None


def place(config: Any, at: list[Any]) -> Any:
    for part in at:
        config = config[part]
    return config


def keys_of(config: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every single value of a config; a list of plain values is one."""
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    if isinstance(config, list) and not any(isinstance(one, dict) for one in config):
        parts = ()
    if not parts:
        yield at
    for name, value in parts:
        yield from keys_of(value, (*at, name))


def spelled_out(path: Path) -> dict[str, Any]:
    """A config with every default written down, what is excluded from fingerprints too."""
    written = yaml.safe_load(path.read_text())
    model = stage_of(load_config(path).code).config

    def whole(settings: Any, given: Any) -> Any:
        fields = type(settings).model_fields
        made = {}
        for name in fields:
            value = getattr(settings, name)
            inner = given.get(name) if isinstance(given, dict) else None
            made[name] = whole(value, inner) if hasattr(type(value), "model_fields") else inner
            if made[name] is None and value is not None:
                made[name] = json.loads(json.dumps(value, default=str))
        return made

    settings = model.model_validate({key: value for key, value in written.items() if key not in ("stage", "inputs")})
    given = {key: written[key] for key in ("stage", "inputs") if key in written}
    return given | whole(settings, written)


def check_every_key(folder: Path, name: str, last: str, photos: Path | None) -> int:
    """Change each key of one config; how many there were. Each makes exactly what is after it stale."""
    path = folder / name
    text, config = path.read_text(), spelled_out(path)
    write(path, config)
    assert {one.state for one in look(folder, last, photos).values()} == {"fresh"}, "defaults are what is not written"
    recorded = flatten(look(folder, last, photos)[path.stem].known.facts["settings"])
    tried = 0
    for at in keys_of({key: value for key, value in config.items() if key not in ("stage", "maker", "inputs")}):
        if at[-1] == "method" or changed(config, list(at), path) is None:
            continue
        found, dotted = look(folder, last, photos), ".".join(map(str, at))
        stale = {one for one in found if found[one].state != "fresh"}
        now = flatten(found[path.stem].known.facts["settings"])  # some keys are recorded only where they are set
        if not any(key == dotted or key.startswith(f"{dotted}.") for key in recorded | now):
            assert stale == set(), f"{dotted} decides no result"
            continue
        assert stale == after(found, path.stem), dotted
        said = found[path.stem].reason
        assert said.startswith((f"{dotted} is ", f"{dotted} changed")), (dotted, said)
        assert ";" not in said, f"{dotted}: {said}"
        tried += 1
    path.write_text(text)
    return tried


@pytest.mark.parametrize(("name", "least"), [
    ("taught", 14), ("captions", 12), ("pairs", 16), ("scores", 2), ("filter", 6), ("pack", 1), ("finetune", 34),
    ("evaluate", 18),
])  # fmt: skip
def test_every_nested_key_is_named_and_makes_exactly_what_is_after_it_stale(chain: Path, name: str, least: int) -> None:
    assert check_every_key(chain, f"{name}.yaml", "evaluate.yaml", None) >= least


def test_so_do_the_keys_of_the_embedded_models_chain(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "tiny")
    make_photos(tmp_path / "photos", train=2, held=1, side=16)
    finish(tmp_path / "tiny", photos=tmp_path / "photos")
    assert check_every_key(tmp_path / "tiny", "finetune.yaml", "evaluate.yaml", tmp_path / "photos") >= 40


@pytest.mark.parametrize(("file", "stage", "said"), [
    ("laion/captions.jsonl", "captions", "captions changed: in {}/laion 1 file is changed (captions.jsonl)"),
    ("lm/model.safetensors", "taught", "model changed: in {}/lm 1 file is changed (model.safetensors)"),
    ("vae/model.safetensors", "pairs", "autoencoder changed: in {}/vae 1 file is changed (model.safetensors)"),
    ("others/else/model.safetensors", "evaluate", "results changed: in {}/others 1 file is changed (else/model.safet"),
    ("triplets.jsonl", "taught", "triplets changed: {}/triplets.jsonl has other contents"),
])  # fmt: skip
def test_data_and_models_count_by_what_is_in_them(chain: Path, file: str, stage: str, said: str) -> None:
    (chain / file).write_text('{"input": "d", "edit": "e", "output": "f"}\n')
    found = look(chain)
    assert found[stage].state == "stale"
    assert found[stage].reason.startswith(said.format(chain))


def test_a_judge_counts_and_so_does_a_curves_model(chain: Path) -> None:
    (chain / "clip" / "config.json").write_text("{}")
    found = look(chain)
    assert "clip changed: in" in found["pairs"].reason
    assert "model changed: in" in found["scores"].reason
    assert "1 file is new (config.json)" in found["evaluate"].reason
    (chain / "clip" / "config.json").unlink()
    (chain / "lm" / "model.safetensors").write_text("other")
    assert "curves.1.model changed: in" in look(chain)["evaluate"].reason


def test_another_folder_of_the_same_name_is_other_data(tmp_path: Path) -> None:
    for place in ("magicbrush", "ultraedit"):
        make_dataset(tmp_path / place / "train", prompts=10, side=8 if place == "magicbrush" else 16)
    (tmp_path / "model").mkdir()
    config = {"stage": "finetune", "maker": "stable_diffusion", "data": "magicbrush/train", "start": "./model"}
    write(tmp_path / "finetune.yaml", config)
    finish(tmp_path, "finetune.yaml")
    assert look(tmp_path, "finetune.yaml")["finetune"].state == "fresh"
    write(tmp_path / "finetune.yaml", config | {"data": "ultraedit/train"})
    found = look(tmp_path, "finetune.yaml")["finetune"]
    assert found.state == "stale"
    assert found.reason == f"data is {tmp_path}/ultraedit/train, was {tmp_path}/magicbrush/train"
    (tmp_path / "magicbrush").rename(tmp_path / "elsewhere")
    write(tmp_path / "finetune.yaml", config | {"data": "elsewhere/train"})
    assert look(tmp_path, "finetune.yaml")["finetune"].state == "fresh", "where they lie changes nothing"


def test_a_hub_model_counts_by_its_commit(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know_hub_model(chain / "hub", monkeypatch, "b" * 40)
    found = look(chain)
    assert {name for name, one in found.items() if one.state != "fresh"} == after(found, "pairs")
    assert found["pairs"].reason == "model changed: owner/base has other contents"
    know_hub_model(chain / "other-machine", monkeypatch)
    (chain / "other-machine" / "models--owner--base" / "refs" / "main").unlink()
    assert {one.state for one in look(chain).values()} == {"fresh"}, "nothing speaks against it"
    write(chain / "finetune.yaml", CHAIN["finetune.yaml"] | {"start": "owner/other"})
    assert look(chain)["finetune"].reason == "start is owner/other, which is not here"


def test_what_was_removed_after_it_was_read_is_believed_under_its_name(chain: Path) -> None:
    shutil.rmtree(chain / "laion")
    assert {one.state for one in look(chain).values()} == {"fresh"}
    write(chain / "captions.yaml", CHAIN["captions.yaml"] | {"captions": "other"})
    assert look(chain)["captions"].state == "stale"


def older_record(one: StageStatus) -> None:
    """What an older version wrote: names where there are digests of folders and models now, and no sources."""
    record = {key: value for key, value in one.known.record.items() if key not in ("sources", "judges")}
    settings = record["settings"] = json.loads(json.dumps(record["settings"]))
    for key, name in one.known.sources.items():
        *above, last = key.split(".")
        if not Path(name).is_file():
            place(settings, [int(p) if p.isdigit() else p for p in above])[last] = name
    old = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    folder = one.folder.parent / old
    folder.mkdir(parents=True)
    write_json(folder / "done.json", {**record, "metrics": {"pairs": 3.0}})


def test_an_older_record_is_recognised_unless_it_knew_data_by_name_alone(chain: Path) -> None:
    shutil.rmtree(chain / "out")
    write(chain / "pairs.yaml", {
        "stage": "pairs", "maker": "prompt_to_prompt", "model": HUB, "clip": HUB, "captions": "triplets.jsonl",
    })  # fmt: skip
    for name in ("pairs", "filter"):
        write(chain / "filter.yaml", {"stage": "filter", "inputs": {"pairs": "pairs.yaml"}})
        older_record(look(chain, "filter.yaml")[name])
    found = look(chain, "filter.yaml")
    assert [(one.state, one.metrics) for one in found.values()] == [("fresh", {"pairs": 3.0})] * 2
    older_record(look(chain, "taught.yaml")["taught"])
    found = look(chain, "taught.yaml")["taught"]
    assert found.state == "stale"
    assert found.reason == f"model is {chain}/lm, and was recorded by an older version, by its name alone"


def test_records_without_data_and_models_are_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("families: {}\n")
    write(tmp_path / "captions.yaml", {"stage": "captions", "maker": "template", "wordings": "words.yaml"})
    (one,) = status(tmp_path / "captions.yaml", out=tmp_path / "out")
    digest = hashlib.sha256(b"families: {}\n").hexdigest()[:16]
    settings = {"maker": "template", "wordings": digest, "variations": 2, "seed": 0}
    facts = {"version": 1, "settings": settings, "photos": "", "inputs": {}}
    assert one.fingerprint == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@pytest.fixture
def packing(tmp_path: Path) -> Path:
    """A pack stage of a folder of pairs."""
    make_dataset(tmp_path / "pairs", prompts=4, side=8)
    write(tmp_path / "pack.yaml", {"stage": "pack", "maker": "pictures", "source": "pairs", "prompts_per_shard": 1})
    return tmp_path


def interrupt(packing: Path, monkeypatch: pytest.MonkeyPatch, then: Any = lambda: None) -> None:
    def dies(*_: object) -> None:
        then()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack_pictures, "STAGE", replace(pack_pictures.STAGE, run=dies))
        with pytest.raises(KeyboardInterrupt):
            run(packing / "pack.yaml", out=packing / "out")


def test_a_resume_with_other_data_is_refused(packing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(packing, monkeypatch)
    begun = look(packing, "pack.yaml")["pack"].folder
    picture = packing / "pairs" / "dataset" / "0000002" / "0_1.jpg"
    data = picture.read_bytes()
    picture.write_bytes(data + b"\0")
    found = look(packing, "pack.yaml")["pack"]
    changed = f"source changed: in {packing}/pairs 1 file is changed (dataset/0000002/0_1.jpg)"
    assert (found.state, found.reason) == ("stale", f"was interrupted, and cannot go on: {changed}")
    with pytest.raises(UsageError, match="cannot go on with other data") as caught:
        run(packing / "pack.yaml", out=packing / "out")
    assert str(begun) in str(caught.value.hint)
    assert caught.value.exit_code == 2
    assert not found.folder.exists()
    picture.write_bytes(data)
    (made,) = run(packing / "pack.yaml", out=packing / "out")
    assert (made.state, made.folder) == ("fresh", begun)


def test_so_is_one_with_other_photos_and_another_setting_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ip2pbatch.train.pairs import procedural

    make_photos(tmp_path / "photos", train=2, held=1, side=16)
    config = {"stage": "pairs", "maker": "procedural", "side": 16, "workers": 1, "families": ["night"]}
    write(tmp_path / "pairs.yaml", config)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(procedural, "STAGE", replace(procedural.STAGE, run=dies))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "pairs.yaml", photos=tmp_path / "photos", out=tmp_path / "out")
    next((tmp_path / "photos").glob("*.png")).rename(tmp_path / "photos" / "other.png")
    with pytest.raises(UsageError, match="cannot go on with other data: the photos changed"):
        run(tmp_path / "pairs.yaml", photos=tmp_path / "photos", out=tmp_path / "out")
    write(tmp_path / "pairs.yaml", config | {"seed": 3})
    (made,) = run(tmp_path / "pairs.yaml", photos=tmp_path / "photos", out=tmp_path / "out")
    assert made.state == "fresh"


def test_data_that_change_while_they_are_read_make_no_result(packing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pack_pictures.run

    def meddled(*given: Any) -> Any:
        made = real(*given)
        (packing / "pairs" / "dataset" / "more.txt").write_text("x")
        return made

    monkeypatch.setattr(pack_pictures, "STAGE", replace(pack_pictures.STAGE, run=meddled))
    with pytest.raises(UsageError, match=r"has changed meanwhile \(source\)"):
        run(packing / "pack.yaml", out=packing / "out")
    assert not list((packing / "out").rglob("done.json"))


def test_a_model_is_read_from_the_configs_folder_like_every_path(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "lm").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert load_config(chain / "taught.yaml").settings.model == str(chain / "lm")
    assert load_config(chain / "evaluate.yaml").settings.curves[1].model == str(chain / "lm")
    assert load_config(chain / "evaluate.yaml").settings.curves[0].model == "model", "an input is one"
    (elsewhere / "owner" / "base").mkdir(parents=True)
    assert load_config(chain / "finetune.yaml").settings.start == HUB
