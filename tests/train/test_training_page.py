"""A student's walk through docs/training.md: its commands and its configs, in its order, on tiny models.

The shipped configs are carried out where they lie in a project of one's own, and find the hub's models under their own
names. What stands in the place of what is written is in `SMALLER`, and nothing else.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from command import CommandLine
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from runs import many
from stand_in_hub import fill_hub
from tiny_clip import save_clip
from tiny_language import save_language_model
from tiny_models import make_picture, make_vae, save_text_to_image

from ip2pbatch.train.captions.completion import completion_text, prompt_text
from ip2pbatch.train.configs import STAGES, load_config, stage_of
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.data.released import read_prompts
from ip2pbatch.train.judge.methods import Curve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text("utf-8")
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TRIPLETS = 20  # of those that are shipped, so that a tiny language model knows them by heart

# Config → key → what stands in its place here: sizes, steps, and what a processor computes in.
SMALLER = {
    "captions-finetune": {"lora": "null", "epochs": "50", "lr": "3.0e-3"},
    "captions": {"temperature": "0.05", "max_tokens": "64"},
    "pairs": {
        "samples": "1", "steps": "2", "side": "32", "precision": "fp32", "compile": "false", "batch": "4",
        "thresholds": "{caption: -1, direction: -1, image: -1, keep: 1}",
    },
    "filter": {"caption": "-1", "direction": "-1", "image": "-1"},
    "finetune": {
        "side": "32", "resize": "[32, 36]", "effective_batch": "4", "batch": "2", "compile": "false", "steps": "2",
        "precision": '"no"', "look": "{pairs: 0}", "validation": "{pairs: 1, every: 1}",
    },
    "evaluate": {"samples": "1", "side": "32", "steps": "1", "precision": "fp32", "values": "[1.0]"},
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of every command of the page's shell blocks; a job for Slurm has a test of its own."""
    lines = [line for block in blocks("sh") if not block.startswith("#!") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def make_smaller(folder: Path) -> None:
    for name, keys in SMALLER.items():
        path = folder / f"{name}.yaml"
        text = path.read_text("utf-8")
        for key, value in keys.items():
            text, found = re.subn(rf"^( *){key}: [^#\n]*", rf"\g<1>{key}: {value} ", text, flags=re.MULTILINE)
            assert found, f"{name}.yaml has no {key}"
        path.write_text(text, "utf-8")
    triplets = folder / "triplets.jsonl"
    triplets.write_text("".join(triplets.read_text("utf-8").splitlines(keepends=True)[:TRIPLETS]), "utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a student works: `training/` as it is shipped but for sizes, captions where its config says that they are,
    and tiny models under the names of the hub's."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "training", folder / "training")
    make_smaller(folder / "training" / "paper")
    known = read_prompts(folder / "training" / "paper" / "triplets.jsonl")
    texts = [prompt_text(one.input) + completion_text(one) for one in known]
    laion = folder / "data" / "improved_aesthetics_6.5plus" / "part-0.jsonl"
    laion.parent.mkdir(parents=True)
    laion.write_text("".join(json.dumps({"TEXT": one.input, "URL": f"//{one.number}"}) + "\n" for one in known))
    models = {
        "Qwen/Qwen2.5-7B": lambda path: save_language_model(path, texts),
        SD15: save_text_to_image,
        "stabilityai/sd-vae-ft-mse": lambda path: make_vae("kl").save_pretrained(path),
        "openai/clip-vit-large-patch14": save_clip,
    }
    for name, value in fill_hub(tmp_path / "hub", models).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def launch(words: Sequence[str], command: CommandLine) -> None:
    """A training on several GPUs: two processes in the soak, in the suite what each is started with."""
    at = words.index("-m")
    if many(0, 1):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*launcher, *words[at:]], check=True, timeout=500)
    assert words[at + 1] == "ip2pbatch"
    expect(command, words[at + 2 :])


def expect(command: CommandLine, words: Sequence[str], code: int = 0) -> str:
    """What a command prints, which ends with `code`."""
    said = command(*words)
    assert said.code == code, f"ip2pbatch {' '.join(words)}: {said.code}\n{said.out}\n{said.err}"
    return said.out


def carry_out(words: Sequence[str], command: CommandLine) -> None:
    """One command of the page; the third machine stands for all of them: eight in the soak, two in the suite."""
    if words[0] == "pip":
        (extra,) = re.findall(r"\[(\w+)\]", words[-1])
        assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    elif words[0] != "ip2pbatch":
        launch(words, command)
    elif words[-2] == "--shard":
        count = many(2, int(words[-1].partition("/")[2]))
        for part in range(1, count + 1):
            expect(command, [*words[1:-1], f"{part}/{count}"])
    else:
        expect(command, words[1:])


@pytest.mark.timeout(many(300, 2000))
def test_the_commands_of_the_page_lead_from_captions_to_the_curve_and_to_an_edit(
    project: Path, command: CommandLine
) -> None:
    """In its order, but for the one that would make all at once: it makes what is left after the sections."""
    whole = ["ip2pbatch", "train", "run", "training/paper/evaluate.yaml", "--out", "work"]
    walk = commands()
    walk.remove(whole)
    assert len(walk) >= 9
    for words in walk:
        carry_out(words, command)
    before = {path.parent for path in project.glob("work/*/*/done.json")}
    assert {path.parent.name for path in before} == {
        "captions-finetune", "captions", "pairs", "filter", "pack", "finetune"
    }  # fmt: skip
    expect(command, whole[1:])
    (curve,) = {path.parent for path in project.glob("work/*/*/done.json")} - before
    (described,) = re.findall(r"^work/evaluate/\*/tradeoff(.*?)  +points", PAGE, re.MULTILINE)
    assert {path.suffix for path in curve.glob("tradeoff.*")} == set(described.split())
    assert "missing" not in expect(command, ["train", "status", "training/paper/evaluate.yaml"])
    assert list(project.glob("work/finetune/*/logs/**/events.out.tfevents.*")), "tensorboard --logdir work"
    (model,) = project.glob("work/finetune/*/model")
    Image.fromarray(make_picture(1)).save(project / "photo.png")
    expect(command, ["edit", "photo.png", "-i", "make it winter", "--model", str(model), "--steps", "1", "-o", "out"])
    assert list((project / "out").glob("photo*.png"))


def test_the_columns_of_the_page_read_the_set_that_they_describe(project: Path) -> None:
    (block,) = (text for text in blocks("yaml") if "columns:" in text)
    data = project / yaml.safe_load(block)["data"].removeprefix("../../")
    data.mkdir(parents=True)
    with tarfile.open(data / "part-0.tar", "w") as tar:
        for name, content in (("before.png", png(0)), ("after.png", png(1)), ("txt", b"make it winter")):
            entry = tarfile.TarInfo(f"0001.{name}")
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    path = project / "training" / "paper" / "mine.yaml"
    path.write_text(f"stage: finetune\nmaker: stable_diffusion\nstart: {SD15}\n{block}")
    settings = load_config(path).settings
    pairs = open_pairs(settings.data, settings.columns)  # type: ignore[attr-defined]
    assert pairs.instruction(0) == "make it winter"
    before, after = pairs.pictures(pairs.pairs(0)[0])
    assert before.tobytes() == make_picture(0).tobytes()
    assert after.tobytes() == make_picture(1).tobytes()


def png(seed: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(make_picture(seed)).save(stream, "PNG")
    return stream.getvalue()


def test_every_config_that_the_page_names_is_shipped() -> None:
    named = set(re.findall(r"`(?:training/paper/)?([\w-]+\.yaml)`", PAGE))
    assert len(named) > 10
    assert named <= {path.name for path in (ROOT / "training" / "paper").glob("*.yaml")}


def taken_by_a_stage(key: str, value: object) -> bool:
    """Whether some maker has the key and takes the value."""
    if key == "maker":
        return any(value in makers for makers in STAGES.values())
    if key == "method":
        return value in TypeAdapter(Curve).json_schema()["discriminator"]["mapping"]
    for code in {code for makers in STAGES.values() for code in makers.values()}:
        form = stage_of(code).config
        if key in form.model_fields:
            try:
                form.model_validate({key: value})
            except ValidationError as error:
                if any(one["loc"][:1] == (key,) for one in error.errors()):
                    continue
            return True
    return False


def test_every_setting_that_the_page_gives_is_one() -> None:
    """`key: value` in the running text: of some stage, and a value that it takes. A word in capitals stands for one."""
    snippets = set(re.findall(r"`([a-z_.]+: [^`\n]+)`", PAGE))
    assert len(snippets) > 15
    for snippet in sorted(snippets):
        ((key, value),) = yaml.safe_load(re.sub(r"\b[A-Z]{3,}\b", "./name", snippet)).items()
        first, _, rest = key.partition(".")
        assert taken_by_a_stage(first, {rest: value} if rest else value), snippet
