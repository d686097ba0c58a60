"""Distillation: what a student begins as and is taught, the stage with its resume, and an edit by what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from pydantic import ValidationError
from runs import many
from tiny_models import make_picture, make_unet, save_model
from train_pairs import make_dataset

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.guidance_embedding import WIDTH, waves, with_scales
from ip2pbatch.backends.weights import ModelFolder, resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import ModelError, PlanError, StoppedError, UsageError
from ip2pbatch.plan.defaults import model_defaults, taught_scales
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.rows import Row, count_rows, plan_rows
from ip2pbatch.run.engine import Source
from ip2pbatch.train.fit import checkpoints
from ip2pbatch.train.fit.students import distill
from ip2pbatch.train.fit.students.distill import Config, Scales
from ip2pbatch.train.fit.students.distillation import Distillation, Forerunner
from ip2pbatch.train.fit.students.distillation import Path as NoisePath
from ip2pbatch.train.stages import status

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LOOP = {"steps": 6, "lr": 2e-2, "warm_up": 0, "precision": "no", "save_every": 2, "sample_every": 0, "ema": 0.5}
SMALL = {
    "maker": "distill", "side": 32, "resize": (32, 36), "views": 1, "effective_batch": 4, "batch": 2, "readers": 1,
    "channels_last": False, "loop": LOOP, "scales": {"text": (1, 8), "image": (1, 2)}, "halvings": (4, 2),
    "guided": 0.34, "grid": 4, "steps": 2, "defaults": {"text": 3.0, "image": 1.5, "long_side": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and twenty prompts."""
    folder = tmp_path_factory.mktemp("distill")
    save_model(folder / "teacher")
    make_dataset(folder / "pairs")
    return folder


def config(folder: Path, objective: str = "progressive", **changed: object) -> Config:
    given = {"start": str(folder / "teacher"), "data": folder / "pairs", "objective": objective}
    return Config(**(SMALL | given | changed))


@pytest.fixture(scope="module", params=["progressive", "consistency"])
def made(folder: Path, request: pytest.FixtureRequest) -> Path:
    """The stage's folder, run once of each objective."""
    out = folder / request.param
    distill.run(config(folder, request.param), {}, out, None)
    return out


@pytest.fixture(scope="module")
def student(folder: Path) -> Path:
    """A student's folder whose UNet makes much of the scales."""
    out = folder / "strong"
    distill.run(config(folder), {}, out, None)
    path = out / "model"
    unet = UNet2DConditionModel.from_pretrained(path / "unet")
    with torch.no_grad():
        unet.time_embedding.cond_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
    unet.half().save_pretrained(path / "unet")
    return path


def edit_of(guidance: Guidance, negative: str = "", seed: int = 0) -> Edit:
    return make_edit(
        "photo", "make it night", guidance, seed, steps=2, sampler="ddim", size=(64, 64), negative=negative
    )


def task_of(
    objective: str = "progressive", begins: tuple[int, ...] = ()
) -> tuple[Distillation, dict[str, torch.Tensor]]:
    """A student at its beginning before its teacher, and a batch of three."""
    torch.manual_seed(0)
    teacher = make_unet(8, 4).eval()
    pupil = with_scales(teacher)
    task = Distillation(
        pupil, teacher, None, DDPMScheduler(**SCHEDULE), torch.randn(1, 3, 32), objective, 4, (4, 2),
        Forerunner(pupil, begins),
    )  # fmt: skip
    shape = (3, 4, 8, 8)
    batch = {name: torch.randn(shape) for name in ("latents", "image", "noise")}
    batch |= {"timesteps": torch.tensor([999, 400, 3]), "text": torch.randn(3, 3, 32), "scales": torch.ones(3, 2)}
    return task, batch


@torch.no_grad()
def loss_of(task: Distillation, batch: dict[str, torch.Tensor]) -> float:
    return float(task(**batch))


def test_a_student_begins_as_its_teachers_conditional_row_whatever_the_scales() -> None:
    unet = make_unet(8, 4).eval()
    pupil = with_scales(unet).eval()
    sample, text = torch.randn(2, 8, 8, 8), torch.randn(2, 3, 32)
    told = waves(torch.tensor([[7.5, 1.5], [1.0, 1.0]]))
    assert told.shape == (2, WIDTH)
    assert not torch.equal(told[0], told[1])
    found = pupil(sample, 500, text, timestep_cond=told).sample
    torch.testing.assert_close(found, unet(sample, 500, text).sample)


def test_the_guided_answer_is_the_weighted_sum_of_three_rows() -> None:
    task, batch = task_of()
    assert loss_of(task, batch) == pytest.approx(0, abs=1e-9), "at scales of 1 it is the conditional row itself"
    batch["scales"] = torch.tensor([[3.0, 1.0], [1.0, 2.0], [4.0, 1.5]])
    noisy = task.path.noised(batch["latents"], batch["noise"], batch["timesteps"])
    null, blank = task.null.expand(3, -1, -1), torch.zeros_like(batch["image"])
    with torch.no_grad():
        rows = [
            task.teacher(torch.cat([noisy, image], 1), batch["timesteps"], text).sample
            for image, text in ((blank, null), (batch["image"], null), (batch["image"], batch["text"]))
        ]
    s_t, s_i = batch["scales"].T.view(2, 3, 1, 1, 1)
    goal = rows[0] + s_i * (rows[1] - rows[0]) + s_t * (rows[2] - rows[1])
    added = (batch["scales"] - 1).square().sum(dim=1) + 0.1
    error = (rows[2] - goal).square().mean(dim=(1, 2, 3)) / added
    assert loss_of(task, batch) == pytest.approx(float(error.mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_path_is_that_of_ddim_and_half_the_steps_are_among_the_others(kind: str) -> None:
    path = NoisePath(DDPMScheduler(**SCHEDULE, prediction_type=kind))
    device = torch.device("cpu")
    assert path.grid(4, device).tolist() == [999, 749, 499, 249, -1]
    assert path.grid(8, device)[::2].tolist() == path.grid(4, device).tolist()
    assert path.places(torch.tensor([999, 750, 749, 0]), 4).tolist() == [0, 0, 1, 3]
    clean, noise = torch.randn(2, 1, 4, 8, 8).unbind()
    now, after = torch.tensor([749]), torch.tensor([499])
    noisy = path.noised(clean, noise, now)
    alpha, sigma = path.at(now)
    said = noise if kind == "epsilon" else alpha * noise - sigma * clean
    torch.testing.assert_close(path.clean(said, noisy, now), clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        path.step(clean, noisy, now, after), path.noised(clean, noise, after), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(path.step(clean, noisy, now, torch.tensor([-1])), clean, atol=1e-5, rtol=1e-4)


def test_a_halving_asks_for_where_two_steps_of_the_forerunner_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network whose x never changes, one long step arrives where two short ones do."""
    task, batch = task_of()
    batch["timesteps"] = torch.tensor([999, 700, 300])
    task.forerunner._take(task.unet.state_dict())
    task.forerunner.halving = 1
    assert loss_of(task, batch) > 1e-6
    monkeypatch.setattr(task.path, "clean", lambda said, noisy, timesteps: batch["latents"])
    assert loss_of(task, batch) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("objective", ["progressive", "consistency"])
def test_the_student_alone_learns(objective: str) -> None:
    task, batch = task_of(objective)
    batch["scales"] = torch.full((3, 2), 2.0)
    task.train()
    task(**batch).backward()
    assert not task.teacher.training
    assert all(p.grad is None for p in task.teacher.parameters())
    assert task.unet.time_embedding.cond_proj.weight.grad.abs().sum() > 0


def test_the_stage_leaves_a_model_that_says_what_it_was_taught(made: Path) -> None:
    settings = json.loads((made / "model" / "ip2pbatch.json").read_text())
    assert settings["guidance"] == {"embedded": {"text": [1, 8], "image": [1, 2]}}
    taught = taught_scales(str(made / "model"))
    assert taught is not None
    assert str(taught) == "text 1 to 8 and image 1 to 2"
    defaults = model_defaults(str(made / "model"))
    sampler = "lcm" if made.name == "consistency" else "ddim"
    assert (defaults.text, defaults.steps, defaults.sampler, defaults.embedded) == (3.0, 2, sampler, True)
    unet = UNet2DConditionModel.from_pretrained(made / "model" / "unet")
    assert unet.config.time_cond_proj_dim == WIDTH
    assert unet.time_embedding.cond_proj.weight.abs().sum() > 0
    schedule = json.loads((made / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["timestep_spacing"] == "trailing"


@pytest.mark.parametrize("stop", [2, 4], ids=["before a halving", "between two"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    folder: Path, made: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 2 of 6 the first halving begins, at step 4 the second: a checkpoint has what the student was before."""
    calls = 0
    draw = distill.with_drawn

    def stopping(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 2 * stop:  # two parts a step
            raise StoppedError("as if it was killed", 130)
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(distill, "with_drawn", stopping)
    how = config(folder, made.name)
    with pytest.raises(StoppedError):
        distill.run(how, {}, tmp_path, None)
    monkeypatch.setattr(distill, "with_drawn", draw)
    assert distill.goes_on_from(how, tmp_path, {}) == stop
    distill.run(how, {}, tmp_path, None)
    name = Path("model") / "unet" / "diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.skipif(not many(0, 1), reason="of the soak: make soak")
def test_two_processes_take_the_steps_that_one_takes(folder: Path, tmp_path: Path) -> None:
    """By the command line that the documentation gives, on gloo."""
    alone = config(folder)
    distill.run(alone, {}, tmp_path / "alone", None)
    written = {**alone.model_dump(mode="json"), "stage": "finetune", "batch": 1, "readers": 1, "look": {"pairs": 0}}
    (tmp_path / "both.yaml").write_text(json.dumps(written))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "ip2pbatch", "train", "run", str(tmp_path / "both.yaml"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*launch, *command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    (one,) = status(tmp_path / "both.yaml", out=tmp_path / "out")
    assert one.state == "fresh"
    losses = [torch.load(checkpoints.in_order(at)[-1] / "losses.pt") for at in (tmp_path / "alone", one.folder)]
    # Sums are added in another order, which later steps enlarge; another sample's loss is several times as large.
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def test_sample_sheets_are_drawn_at_the_students_own_steps(folder: Path, tmp_path: Path) -> None:
    distill.run(
        config(folder, loop=LOOP | {"steps": 2, "sample_every": 2}, look={"pairs": 1, "side": 32}), {}, tmp_path, None
    )
    assert (tmp_path / "samples" / "step-000002.jpg").is_file()


def test_without_halvings_the_guided_answer_is_all_that_is_learned(folder: Path, tmp_path: Path) -> None:
    asked = config(folder, halvings=(), sampler="dpmpp_2m")
    assert (asked.begins, asked.cost) == ((), 2)
    distill.run(asked, {}, tmp_path, None)
    assert model_defaults(str(tmp_path / "model")).sampler == "dpmpp_2m"


def test_what_does_not_fit_together_is_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="half the steps"):
        config(folder, halvings=(16, 4))
    with pytest.raises(ValidationError, match="the lower one first"):
        config(folder, scales={"text": (8, 1)})
    lean = Scales(text=(1, 8), image=(1, 2), lean=3).draw(np.random.default_rng(0), 4000)
    assert lean.min(axis=0) == pytest.approx([1, 1], abs=0.01)
    assert np.median(lean[:, 0]) == pytest.approx(1 + 7 / 8, abs=0.1)


@pytest.mark.parametrize("wanted", [[], None], ids=["plain", "with every step"])
def test_one_row_a_step_is_told_its_scales(student: Path, wanted: list[str] | None) -> None:
    backend = pytorch.load(ModelFolder(student, "test", "", ""), "cpu", "fp32", wanted)
    editor = Editor(backend, determinism="fast")
    edits = [edit_of(Guidance(3.0, 1.5)), edit_of(Guidance(1.0, 1.5)), edit_of(Guidance(3.0, 1.0))]
    found = editor.edit(edits, [Source(pixels=make_picture())] * 3)
    assert editor.rows_asked == 2 * 3
    pictures = [one.latent for one in found]
    assert not np.allclose(pictures[0], pictures[1], atol=1e-3)
    assert not np.allclose(pictures[0], pictures[2], atol=1e-3)
    alone = editor.edit(edits[1:2], [Source(pixels=make_picture())])
    np.testing.assert_allclose(alone[0].latent, pictures[1], atol=1e-4)


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_speed_ups_give_the_students_own_numbers(tmp_path: Path, kind: str) -> None:
    path = save_model(tmp_path / "model", kind)
    pupil = with_scales(UNet2DConditionModel.from_pretrained(path / "unet"))
    with torch.no_grad():
        pupil.time_embedding.cond_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
    pupil.save_pretrained(path / "unet")
    plain, fast = (pytorch.load(ModelFolder(path, "test", "", ""), "cpu", "fp32", steps) for steps in ([], None))
    rows = [
        Row(0, 0, "a", Guidance(3, 1, True)),
        Row(0, 0, "a", Guidance(1, 1, True)),
        Row(1, 1, "b", Guidance(3, 1, True)),
    ]
    latents = torch.randn(2, plain.latent_channels, 8, 8)[[0, 0, 1]]
    text = torch.randn(2, 7, pupil.config.cross_attention_dim)[[0, 0, 1]]
    asked = latents, torch.tensor(500.0), text, latents, rows
    wanted = plain.predict_noise(*asked)
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-3)
    for _ in range(2):  # the second time from what it has kept
        torch.testing.assert_close(fast.predict_noise(*asked), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


def test_a_plan_counts_one_row_a_step() -> None:
    guided, embedded = edit_of(Guidance(3.0, 1.5)), edit_of(Guidance(3.0, 1.5, embedded=True))
    assert guided.key == embedded.key
    assert (count_rows([guided]), count_rows([embedded])) == (6, 2)
    other = edit_of(Guidance(1.0, 1.5, embedded=True))
    assert count_rows([embedded, other]) == 4, "the same noise, told other scales"
    (row,) = plan_rows([embedded], 0).rows
    assert row.scales == embedded.guidance


def recipe_of(folder: Path, model: Path, **more: object) -> Path:
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    Image.fromarray(make_picture()).save(photos / "one.png")
    edit = {"id": "night", "instruction": "make it night", **more}
    text = {"name": "students", "model": str(model), "photos": str(photos), "edits": [edit]}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(text | {"output": {"folder": str(folder / "out")}}))
    return path


def test_a_student_edits_as_any_model_and_is_named_approximate(
    student: Path, tmp_path: Path, command: CommandLine
) -> None:
    said = command("run", recipe_of(tmp_path, student), "--device", "cpu")
    assert said.code == 0, said.err
    header = json.loads((tmp_path / "out" / ".ip2pbatch" / "run.json").read_text())
    assert header["engine"]["approximations"] == ["distilled guidance, text 1 to 8 and image 1 to 2"]
    assert command("run", recipe_of(tmp_path, student), "--device", "cpu").code == 0
    (picture,) = (path for path in (tmp_path / "out").glob("*.png"))
    assert b"distilled guidance" in picture.read_bytes()


def test_validate_says_which_scales_were_taught(student: Path, tmp_path: Path, command: CommandLine) -> None:
    said = command("validate", recipe_of(tmp_path, student))
    assert said.code == 0
    assert "taught text 1 to 8 and image 1 to 2" in " ".join(said.err.split())


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"negative": "blurry"}, "negative: .* is distilled, and has no row with a null text"),
        ({"text": 9}, "text 9: .* was taught text 1 to 8"),
        ({"image": 0.5}, "image 0.5: .* was taught text 1 to 8 and image 1 to 2"),
    ],
)  # fmt: skip
def test_what_it_was_not_taught_is_refused_by_name(
    student: Path, tmp_path: Path, command: CommandLine, asked: dict[str, object], why: str
) -> None:
    from ip2pbatch.jobs.advising import advice
    from ip2pbatch.plan.written.recipe import load_recipe

    path = recipe_of(tmp_path, student, **asked)
    with pytest.raises(PlanError, match=f"night: {why}"):
        advice(load_recipe(path))
    assert command("run", path).code == 2
    assert not (tmp_path / "out").exists()


def test_an_interval_and_an_export_are_refused_by_name(student: Path, tmp_path: Path, command: CommandLine) -> None:
    said = command("run", recipe_of(tmp_path, student), "--device", "cpu", "--guidance-interval", "0.1..0.8")
    assert said.code == 2
    assert "is distilled: it is guided by one row a step" in " ".join(said.err.split())
    for backend in ("onnx", "openvino"):
        pytest.importorskip("onnxruntime" if backend == "onnx" else backend)
        said = command("run", recipe_of(tmp_path, student), "--backend", backend)
        assert said.code == 6
        assert "its UNet reads both guidance scales" in " ".join(said.err.split())
    from ip2pbatch.backends.onnx import export

    with pytest.raises(ModelError, match="reads both guidance scales"):
        export.export(resolve(str(student)), tmp_path / "onnx", export.Form(), lambda path: None, print)  # type: ignore[arg-type, return-value]


def test_a_folder_that_does_not_say_what_it_was_taught_is_refused(student: Path, tmp_path: Path) -> None:
    import shutil

    from ip2pbatch.engine import instruct_pix2pix

    copy = shutil.copytree(student, tmp_path / "copy")
    found = ModelFolder(copy, "copy", "", "")
    with pytest.raises(UsageError, match="is asked for a negative or text 3"):
        instruct_pix2pix.refuse(found, [edit_of(Guidance(3.0, 1.5), negative="blurry")])
    (copy / "ip2pbatch.json").write_text('{"defaults": {"text": 3.0}}')
    with pytest.raises(ModelError, match="its UNet reads guidance scales"):
        instruct_pix2pix.refuse(found, [])
