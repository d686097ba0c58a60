"""A chain fails at once: what is missing or does not fit is found through the whole chain before anything begins."""

from __future__ import annotations

import json
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import CommandLine
from train_pairs import make_dataset

from ip2pbatch.backends import hub
from ip2pbatch.errors import ModelError, RecipeError
from ip2pbatch.train import checks, stages
from ip2pbatch.train.configs import in_order, load_config
from ip2pbatch.train.stages import run


def write(path: Path, **config: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def finetuning(folder: Path, **changed: Any) -> Path:
    given = {"stage": "finetune", "maker": "stable_diffusion", "data": "pairs", "start": "./model"} | changed
    return write(folder / "finetune.yaml", **{key: value for key, value in given.items() if value is not None})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pairs, of a model, and an empty cache of the hub, which is not reachable."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.look_up.cache_clear()
    make_dataset(tmp_path / "pairs", prompts=10, side=8)
    (tmp_path / "model").mkdir()
    write(tmp_path / "pack.yaml", stage="pack", maker="pictures", source="pairs")
    return tmp_path


@pytest.mark.parametrize(("changed", "place", "said"), [
    ({"inputs": {"pack": "pack.yaml"}}, "data", "stands beside the input pack"),
    ({"data": None}, "inputs", "names nothing, nor does data"),
    ({"data": None, "inputs": {"a": "pack.yaml", "b": "pack.yaml"}}, "inputs", "names a, b, of which only one"),
    ({"effective_batch": 100, "batch": 32}, "batch", "100 samples a step are not a multiple of 32"),
    ({"loop": {"precision": "float8"}}, "loop.precision", "not one of bf16, fp16, no"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused_at_its_key(
    folder: Path, changed: dict[str, Any], place: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        load_config(finetuning(folder, **changed))
    assert caught.value.line > 0
    assert f": {place}: " in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("config", "said"), [
    ({"stage": "pack", "maker": "pictures", "source": "pairs", "inputs": {"filter": "pack.yaml"}}, "stands beside"),
    ({"stage": "pack", "maker": "pictures", "inputs": {"fliter": "pack.yaml"}}, "fliter is no input of this stage"),
    ({"stage": "pack", "maker": "latents", "precision": "fp16"}, "not one of bf16, no"),
    ({"stage": "pack", "inputs": {"pairs": "pack.yaml"}}, "autoencoder is missing among them"),
    ({"stage": "scores"}, "names nothing, nor does source"),
    ({"stage": "filter", "source": "pairs", "inputs": {"pairs": "pack.yaml"}}, "stands beside the input pairs"),
    ({"stage": "pairs", "maker": "prompt_to_prompt"}, "names nothing, nor does captions"),
    ({"stage": "captions", "maker": "generate", "captions": "pairs"}, "names nothing, nor does model"),
    ({"stage": "evaluate", "maker": "magicbrush", "test": "pairs"}, "whose pictures are judged"),
    ({"stage": "evaluate", "maker": "tradeoff", "data": "pairs", "curves": [
        {"method": "folder", "name": "a", "folder": "a"}]}, "a curve reads a folder below it"),
    ({"stage": "tokenizer"}, "captions is missing among them"),
    ({"stage": "evaluate", "wordings": "pairs"}, "finetune is missing among them"),
])  # fmt: skip
def test_every_stage_refuses_what_it_cannot_read(folder: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_config(write(folder / "wrong.yaml", **config))


@pytest.mark.parametrize(("changed", "place", "hint"), [
    ({"data": "s3://b/pairs"}, "data", "mount what lies elsewhere"),
    ({"card": "https://example.org/card.md"}, "card", "mount what lies elsewhere"),
    ({"cache": "gs://b/cache"}, "cache", "mount what lies elsewhere"),
    ({"data": None, "inputs": {"pack": "file:///pack.yaml"}}, "inputs.pack", "mount what lies elsewhere"),
    ({"start": "s3://b/model"}, "start", "owner/name@revision of the hub"),
    ({"start": "hf://owner/name"}, "start", "owner/name: owner/name"),
    ({"start": "https://huggingface.co/owner/name/tree/fp16"}, "start", "owner/name: owner/name@fp16"),
])  # fmt: skip
def test_an_address_in_a_config_is_refused_at_its_key(
    folder: Path, changed: dict[str, Any], place: str, hint: str
) -> None:
    with pytest.raises(RecipeError, match=r"'[a-z0-9]+://[^']+' is an address and no (path|model)") as caught:
        load_config(finetuning(folder, **changed))
    assert caught.value.line > 0
    assert f": {place}: " in str(caught.value)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(("changed", "said", "hint"), [
    ({"data": "nowhere"}, "data: there is nothing at {}/nowhere", "paths are read from the config's folder"),
    ({"start": "./nowhere"}, "start: there is no model at {}/nowhere", "paths are read from the config's folder"),
    ({"start": "pairs/nowhere"}, "start: pairs/nowhere could be a path that is missing", "pairs/nowhere@main"),
    ({"start": "modle"}, "start: modle is no input, no folder beside the config", "owner/name"),
    ({"card": "nowhere.md"}, "card: there is nothing at {}/nowhere.md", "paths are read"),
])  # fmt: skip
def test_what_is_missing_is_named_with_its_place(folder: Path, changed: dict[str, Any], said: str, hint: str) -> None:
    (problem,) = checks.problems([load_config(finetuning(folder, **changed))])
    assert checks.unchecked([load_config(folder / "finetune.yaml")]) == [], "what is wrong is not said to be unknown"
    assert isinstance(problem, RecipeError)
    assert problem.line > 0
    assert said.format(folder) in str(problem)
    assert hint in str(problem.hint)
    with pytest.raises(RecipeError):
        run(folder / "finetune.yaml", out=folder / "out")
    assert not (folder / "out").exists()


def test_a_path_from_where_the_command_runs_is_refused_with_a_hint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "models" / "sd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (problem,) = checks.problems([load_config(finetuning(folder, start="models/sd"))])
    assert "is a folder where the command runs, and none beside the config" in str(problem)


def test_a_curves_unknown_model_is_found_before_the_chain_begins(folder: Path) -> None:
    curves = [{"method": "instruct", "name": name, "model": name} for name in ("modle", "model")]
    inputs = {"data": "pack.yaml", "model": "finetune.yaml"}
    finetuning(folder, inputs={"pack": "pack.yaml"}, data=None)
    write(folder / "evaluate.yaml", stage="evaluate", maker="tradeoff", inputs=inputs, curves=curves, clip="./model")
    (problem,) = checks.problems(in_order(load_config(folder / "evaluate.yaml")))
    assert "curves.0.model: modle is no input" in str(problem)
    assert problem.hint == "did you mean 'model'?"
    with pytest.raises(RecipeError, match="modle"):
        run(folder / "evaluate.yaml", out=folder / "out")
    assert not (folder / "out").exists(), "not even the stages before it"


def test_validate_and_plan_tell_all_of_it_and_end_so(folder: Path, command: CommandLine) -> None:
    path = finetuning(folder, start="./nowhere", card="nowhere.md")
    for words in (["validate", str(path)], ["plan", str(path), "--out", str(folder / "out")]):
        done = command("train", *words)
        assert done.code == 2
        assert "there is no model at" in done.err
        assert "nowhere.md" in done.err


@pytest.mark.parametrize(("loop", "said"), [
    ({"steps": 22}, "loop.steps is 22, was 10; goes on from step 10"), ({"steps": 22, "lr_end": 0.5}, ""),
    ({"steps": 22, "lr": 0.5}, ""), ({"steps": 10}, "was interrupted and will go on from step 10"),
])  # fmt: skip
def test_status_and_plan_say_that_a_longer_training_goes_on_from_a_shorter_one(
    folder: Path, command: CommandLine, loop: dict[str, Any], said: str
) -> None:
    out = folder / "out"
    (short,) = stages.status(finetuning(folder, loop={"steps": 10}), out=out)
    (short.folder / "checkpoints" / "step-10").mkdir(parents=True)
    (short.folder / "started.json").write_text(json.dumps(short.known.record))
    if loop["steps"] > 10:
        (short.folder / "done.json").write_text(json.dumps({**short.known.record, "metrics": {}}))
    for words in ("status", "plan"):
        done = command("train", words, str(finetuning(folder, loop=loop)), "--out", str(out), "--json")
        (row,) = json.loads(done.out)
        assert row["reason"] == said or not said
        assert ("step 10" in row["reason"]) == bool(said)


def test_plan_knows_the_disk(folder: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 30))
    done = command("train", "plan", str(finetuning(folder)), "--out", str(folder / "out"))
    assert done.code == 7
    assert "1 GB are free" in done.err


class Hub(BaseHTTPRequestHandler):
    """A hub with one open model and one that is gated."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """A model's listing."""
        if "/owner/open/" not in self.path and "/owner/gated/" not in self.path:
            self.answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            return
        files = [{"rfilename": "config.json", "size": 10}, {"rfilename": "model.safetensors", "size": 4_000_000_000},
                 {"rfilename": "pytorch_model.bin", "size": 9_000_000_000}]  # fmt: skip
        found = {"id": "owner/open", "modelId": "owner/open", "sha": "c" * 40, "siblings": files, "private": False}
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def do_HEAD(self) -> None:
        """A file's header."""
        if "gated" in self.path:
            self.answer(403, {"X-Error-Code": "GatedRepo"})
        else:
            self.answer(200, {"X-Repo-Commit": "c" * 40, "ETag": '"x"'})

    def answer(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def local_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same folder with a hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.look_up.cache_clear()
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()
    hub.look_up.cache_clear()


@pytest.mark.parametrize(("name", "said"), [
    ("owner/gated", "is gated, and not open to you"), ("owner/absent", "the hub has no model owner/absent"),
])  # fmt: skip
def test_gated_and_absent_hub_models_are_found_by_validate(
    local_hub: Path, command: CommandLine, name: str, said: str
) -> None:
    done = command("train", "validate", str(finetuning(local_hub, start=name)))
    assert done.code == 6
    assert said in done.err
    assert "finetune.yaml:4:" in done.err


def test_an_open_hub_model_is_no_problem_and_its_bytes_are_known(local_hub: Path) -> None:
    assert checks.problems([load_config(finetuning(local_hub, start="owner/open"))]) == []
    assert hub.look_up("owner/open", "main") == hub.HubModel("c" * 40, 4_000_000_010), "no pickle is counted"


def test_a_hub_that_is_not_reachable_is_no_mistake_but_ends_a_run_at_once(
    folder: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(1 << 40, 0, 1 << 40))  # what it takes is another's
    finetuning(folder, start="owner/name", data=None, inputs={"pack": "pack.yaml"})
    assert checks.problems([load_config(folder / "finetune.yaml")]) == []
    for words in (["validate"], ["plan", "--out", str(folder / "out")]):
        done = command("train", words[0], str(folder / "finetune.yaml"), *words[1:])
        assert done.code == 0
        assert "finetune.yaml: start: owner/name is not checked: no network" in done.err
    with pytest.raises(ModelError, match="owner/name@main is not on this machine"):
        run(folder / "finetune.yaml", out=folder / "out")
    assert not (folder / "out").exists(), "not even the stage before it"


def test_an_sdxl_that_would_be_evaluated_is_refused_before_it_is_trained(folder: Path, command: CommandLine) -> None:
    finetuning(folder, start="./xl")
    (folder / "xl" / "text_encoder_2").mkdir(parents=True)
    curves = [{"method": "instruct", "name": "ours", "model": "model"}]
    inputs = {"model": "finetune.yaml"}
    path = write(folder / "e.yaml", stage="evaluate", maker="tradeoff", data="pairs", inputs=inputs, curves=curves)
    said = command("train", "validate", path)
    assert said.code == 2
    assert "inputs.model:" in said.err
    assert "xl is an SDXL model" in " ".join(said.err.split())
