"""The benchmark measures equal work alone, in mirrored order, and goes on where it stopped. No figure is asserted."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from runs import many

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import resolve
from ip2pbatch.cli.bench import quickly
from ip2pbatch.engine.bench import (
    baselines,
    cold,
    contenders,
    gate,
    random_models,
    rates,
    results,
    suites,
    timing,
    work,
)
from ip2pbatch.engine.bench import markdown as page
from ip2pbatch.engine.bench.contenders import Entry
from ip2pbatch.errors import UsageError

ROOT = Path(__file__).parents[2]
PAIR = ("-c", "diffusers:fp32", "-c", "ours:fp32")


device_rates = rates.device_rates


@pytest.fixture(autouse=True)
def never_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy while its limit is measured, and not after, would fail the bench, as it should."""
    monkeypatch.setattr(rates, "device_rates", lambda device, precision: {"a product": 1e6})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.build("small", tmp_path_factory.mktemp("models"))


def make_work(folder: Path, cache: Path, scenario: str = "three-rows") -> work.Work:
    photos = work.photos_in(None, {"three-rows": 2, "sheet-row": 1}[scenario], cache, 0.01)
    return work.make_work(work.SCENARIOS[scenario], folder, photos, steps=2, long_side=64)


def test_contenders_take_turns_forwards_then_backwards() -> None:
    order = [turn.contender for turn in timing.mirrored(["A", "B", "C"], 2)]
    assert order == list("ABCCBAABCCBA")
    assert [turn.pair for turn in timing.mirrored(["A", "B"], 2)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_steady_drift_leaves_the_ratio_as_it_is() -> None:
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for place, turn in enumerate(timing.mirrored(["slow", "fast"], 1)):
        seconds[turn.contender].append({"slow": 2.0, "fast": 1.0}[turn.contender] + 0.1 * place)
    assert sum(seconds["slow"]) - sum(seconds["fast"]) == pytest.approx(2.0)


def test_a_spread_is_shown_with_its_ends() -> None:
    found = timing.ratios([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert found is not None
    assert found.show() == "3.00 (2.00–4.00)"
    assert timing.ratios([], [1.0]) is None


def test_likeness_is_of_the_worst_picture() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    assert gate.compare([picture], [picture]) == gate.Likeness(0, 99.0, 1.0)
    found = gate.compare([picture, picture], [picture, picture + 10])
    assert (found.largest, found.equal) == (10, 0.5)
    assert found.psnr == pytest.approx(20 * np.log10(25.5))
    with pytest.raises(ValueError, match="other sizes"):
        gate.compare([picture], [picture[:4]])


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("ours", Entry("ours")),
        ("edit-cli:fp16@100", Entry("edit-cli", "fp16", (), 100)),
        ("ours:bf16+plain+time-table@4", Entry("ours", "bf16", ("plain", "time-table"), 4)),
        ("ours:bf16@own", Entry("ours", "bf16", own=True)),
    ],
)
def test_contenders_are_written_as_kind_precision_and_steps(text: str, entry: Entry) -> None:
    assert Entry.parse(text) == entry


@pytest.mark.parametrize("text", ["theirs", "ours:fp8", "diffusers+compiled", "ours@", ""])
def test_other_contenders_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no contender"):
        Entry.parse(text)


def test_named_steps_come_on_top_of_those_always_taken() -> None:
    always = Entry.parse("ours").wanted
    assert {"time-table", "text-memory"} <= set(always)
    assert "compiled" not in always
    assert Entry.parse("ours+auto-batch").wanted == always
    assert Entry.parse("ours+plain").wanted == ()
    assert Entry.parse("ours+plain+time-table").wanted == ("time-table",)
    assert set(Entry.parse("ours+compiled").wanted) > {"time-table", "compiled"}


def test_the_script_over_openvino_and_ours_on_it_make_the_same_pictures(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the openvino extra is not installed")
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    task = make_work(small, tmp_path)
    names = ("ours+plain", "openvino", "ours-openvino")[: many(2, 3)]
    pictures = {}
    for name in names:
        entry = Entry.parse(name)
        contender = contenders.KINDS[entry.kind](resolve(str(small)), "cpu", entry)
        (tmp_path / name).mkdir()
        contender.run(task, tmp_path / name)
        pictures[name] = [contender.picture(tmp_path / name, edit.key) for edit in task.edits]
    for name in names[1:]:
        assert gate.compare(pictures["ours+plain"], pictures[name]).psnr > 60
    with pytest.raises(UsageError, match="is for a CPU"):
        contenders.KINDS["openvino"](resolve(str(small)), "cuda", Entry("openvino"))


def measured(tflops: float, share_of: float) -> results.Results:
    """Results of two contenders that took a second for `tflops` where the device was seen to give `share_of`."""
    likeness = gate.Likeness(0, 99.0, 1.0)
    found = results.Results("cpu-folder", {})
    found.facts["flops_per_row"] = 10**12
    found.products, found.limits = {"fp32": share_of}, {"fp32": {"a matrix product of 768": share_of}}
    for name, seconds in (("openvino:fp32", 1.0), ("ours-openvino:fp32", 0.8)):
        found.checked[name] = results.Checked(1.0, 1.0, likeness, 50.0, True)
        found.passes[name] = [contenders.Pass(seconds, seconds / tflops, 2 * seconds, 1, 1)]
    return found


def test_a_figure_above_the_device_s_best_is_no_figure_and_fails_the_bench() -> None:
    assert page.beyond(measured(2.0, 4.0)) == []
    found = measured(2.0, 2.2)
    (said,) = page.beyond(found)
    assert said == "ours-openvino:fp32: 2.5 TFLOP/s, where the device's best was measured as 2.2"
    found.rates["ours:fp32"] = [rates.Rate(6, 1.0, 9.0, 4.1)]
    assert "ours:fp32 at 6 rows: 9 TFLOP/s" in page.beyond(found)[1]


def test_a_floor_may_be_against_another_contender_than_the_first() -> None:
    found = measured(2.0, 4.0)
    found.checked = {"diffusers:fp32": found.checked["openvino:fp32"], **found.checked}
    found.passes["diffusers:fp32"] = [contenders.Pass(4.0, 4.0, 9.0, 1, 1)]
    floor = suites.Floor("ours-openvino:fp32", "cpu", 1.0, "openvino:fp32")
    assert page.figure(found, floor) == pytest.approx(2.0 / 1.6)
    assert str(floor) == "≥ 1 × openvino:fp32 in CPU time"
    assert page.figure(found, suites.Floor("ours-openvino:fp32", "folder", 1.0)) == pytest.approx(5.0)


def test_of_our_backends_the_best_counts_on_the_processors_that_a_floor_is_for() -> None:
    found = measured(2.0, 4.0)
    found.checked = {"diffusers:fp32": found.checked["openvino:fp32"], **found.checked}
    found.passes["diffusers:fp32"] = [contenders.Pass(4.0, 4.0, 9.0, 1, 1)]
    found.passes["ours:fp32"] = [contenders.Pass(2.0, 2.0, 3.0, 1, 1)]
    best = suites.Floor("our best:fp32", "folder", 6.0, units="amx")
    assert page.figure(found, best) == pytest.approx(5.0)  # on OpenVINO, where torch has 2
    suite = dataclasses.replace(suites.find("cpu-backends"), floors=(best,))
    assert page.missed(found, suite) == []
    found.facts["units"] = ["avx512-bf16", "amx"]
    assert page.missed(found, suite) == ["our best:fp32: 5.00, should be ≥ 6"]


def test_each_kind_of_processor_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for kind in ("family 25 model 17", "family 26 model 2"):
        monkeypatch.setattr(results, "_kind_of_processor", lambda kind=kind: kind)
        names.add(results.file_of(Path(), "cpu-folder", "cpu", "AMD EPYC, AVX512, 2 threads").name)
    assert names == {
        "cpu-folder-amd-epyc-avx512-2-threads-family-25-model-17.json",
        "cpu-folder-amd-epyc-avx512-2-threads-family-26-model-2.json",
    }
    assert results.file_of(Path(), "gpu-rate", "cuda", "NVIDIA H200").name == "gpu-rate-nvidia-h200.json"


@pytest.mark.parametrize("scenario", ["three-rows", "sheet-row"])
def test_baselines_make_our_pictures(small: Path, tmp_path: Path, scenario: str) -> None:
    task = make_work(small, tmp_path, scenario)
    pictures = {}
    for name in ("ours+plain", "ours", "diffusers", "edit-cli"):
        contender = contenders.KINDS[Entry.parse(name).kind](resolve(str(small)), "cpu", Entry.parse(name))
        (tmp_path / name).mkdir()
        done = contender.run(task, tmp_path / name)
        pictures[name] = [contender.picture(tmp_path / name, edit.key) for edit in task.edits]
        assert done.pictures == len(task.edits)
        assert done.rows > 0
        assert 0 < done.model_seconds <= done.seconds
    assert (pictures["ours"][0] != pictures["ours"][1]).any()
    for name in ("ours", "diffusers", "edit-cli"):
        # edit_cli's noise levels are interpolated by their logarithm, and it truncates to 8 bit
        limit = 40.0 if name == "edit-cli" else 60.0
        assert gate.compare(pictures["ours+plain"], pictures[name]).psnr > limit


def test_our_rows_are_counted_as_they_are_executed(small: Path, tmp_path: Path) -> None:
    ours, loop = (contenders.KINDS[kind](resolve(str(small)), "cpu", Entry(kind)) for kind in ("ours", "diffusers"))
    task = make_work(small, tmp_path, "sheet-row")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert loop.run(task, tmp_path / "a").rows == 3 * 2 * len(task.edits)
    # two rows a cell, of which the first step's are shared, and padding
    assert ours.run(task, tmp_path / "b").rows < 3 * 2 * len(task.edits)


def test_edit_cli_takes_no_model_that_predicts_velocity() -> None:
    with pytest.raises(UsageError, match="epsilon"):
        baselines.edit_cli(resolve("tiny"), "cpu", "fp32")


def test_random_networks_are_loud_everywhere_and_finite_in_half_precision(small: Path) -> None:
    backend = pytorch.load(resolve(str(small)), "cpu", "fp32", ())
    loudest = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: loudest.append(float(out.abs().max())))
        for module in backend.parts.unet.modules()
        if not list(module.children())
    ]
    noise = torch.randn(2, 8, 8, 8).chunk(2, dim=1)
    text = backend.encode_text(["make it snow", ""])
    answer = backend.predict_noise(noise[0], torch.tensor(900.0), text, noise[1])
    for hook in hooks:
        hook.remove()
    assert 1e-3 < answer.std() < 10
    assert min(loudest) > 1e-3
    assert max(loudest) < 1000  # fp16 ends at 65,504
    assert all(bool(weight.any()) for weight in backend.parts.unet.parameters())


def test_a_row_of_stable_diffusion_costs_what_was_counted_by_hand() -> None:
    flops = rates.flops_per_row(random_models.ARCHITECTURES["sd15"].unet, (512, 512), 8)
    assert flops == pytest.approx(803.4e9, rel=1e-3)


def test_a_device_s_best_is_of_products_and_convolutions_whole_and_shared_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "_SIDES_ON_CPU", (16,))
    monkeypatch.setattr(rates, "_PICTURES_ON_CPU", (2, 4))
    found = device_rates(torch.device("cpu"), "fp32")
    works = ["a matrix product of 16", *(f"a convolution of {n} × {n}, 320 channels" for n in (1, 3))]
    assert list(found) == [name for work in works for name in (work, f"{work}, rows shared out")]
    assert all(rate > 0 for rate in found.values())


def test_rates_are_of_the_rows_asked_for(small: Path) -> None:
    backend = pytorch.load(resolve(str(small)))
    found = [rates.unet_rate(backend, (64, 64), rows, 10**9, 1e-3) for rows in (1, 3)]
    assert [one.rows for one in found] == [1, 3]
    assert all(one.share == pytest.approx(one.tflops / 1e-3) for one in found)


def test_a_quick_suite_leaves_json_and_a_table_and_is_not_measured_twice(
    command: CommandLine, tmp_path: Path, small: Path
) -> None:
    asked = ("bench", "cpu-folder", "--quick", "-m", small, "--no-fresh", *PAIR, "--results", tmp_path)
    said = command(*asked)
    assert said.code == 0, said.err
    (file,) = tmp_path.glob("cpu-folder-*.json")
    data = json.loads(file.read_text())
    assert data["finished"]
    assert [len(data["passes"][name]) for name in PAIR[1::2]] == [2, 2]
    assert set(data["passes"]["ours:fp32"][0]) == {"seconds", "model_seconds", "cpu_seconds", "rows", "pictures"}
    assert data["checked"]["diffusers:fp32"]["passed"]
    assert "| `ours:fp32` |" in said.out
    assert "torch" in said.out

    before = file.stat().st_mtime_ns
    assert "s for" not in command(*asked).err
    assert json.loads(file.read_text()) == data
    assert file.stat().st_mtime_ns >= before

    said = command(*asked, "--steps", "3")
    assert (said.code, "measured with steps 2" in said.err) == (2, True)
    assert command(*asked, "--steps", "1", "--anew").code == 0
    assert results.load(file).identity["steps"] == 1


def test_a_suite_that_ran_out_of_time_goes_on(command: CommandLine, tmp_path: Path, small: Path) -> None:
    asked = ("bench", "cpu-folder", "--quick", "-m", small, "--no-fresh", "-c", "ours:fp32", "--results", tmp_path)
    said = command(*asked, "--budget", "0.01")
    assert said.code == 3
    assert "start the same command again" in said.err
    (file,) = tmp_path.glob("cpu-folder-*.json")
    assert not results.load(file).finished
    assert command(*asked).code == 0
    found = results.load(file)
    assert [len(some) for some in found.passes.values()] == [2]


def test_other_pictures_are_not_timed(
    command: CommandLine, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = contenders.KINDS["diffusers"]

    def darker(*arguments: object) -> contenders.Contender:
        contender = real(*arguments)  # type: ignore[arg-type]
        picture = contender.picture
        contender.picture = lambda out, key: picture(out, key) // 2  # type: ignore[method-assign]
        return contender

    monkeypatch.setitem(contenders.KINDS, "diffusers", darker)
    said = command("bench", "cpu-folder", "--quick", "-m", small, "--no-fresh", *PAIR, "--results", tmp_path)
    assert said.code == 4
    (file,) = tmp_path.glob("cpu-folder-*.json")
    found = results.load(file)
    assert not found.checked["diffusers:fp32"].passed
    assert set(found.passes) == {"ours:fp32"}
    assert "not timed" in said.out


def test_a_figure_above_the_limit_of_the_same_run_fails_the_command(
    command: CommandLine, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "device_rates", lambda device, precision: {"a matrix product of 2": 1e-9})
    asked = ("bench", "cpu-folder", "--quick", "-m", small, "--no-fresh", "-c", "ours:fp32", "--results", tmp_path)
    said = command(*asked)
    assert said.code == 4
    assert "no limit: ours:fp32" in said.err
    assert "**above 1e-09**" in said.out


def test_a_contender_can_be_timed_in_a_process_of_its_own(small: Path, tmp_path: Path) -> None:
    task = cold.Task("ours:fp32+plain", str(small), "cpu", "three-rows", "", str(tmp_path), 2, 0.01, 2, 64)
    found = cold.timed(task)
    assert (found.pictures, found.rows) == (2, 12)


def test_only_the_generated_part_of_a_page_is_rewritten(command: CommandLine, tmp_path: Path, small: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"# Mine\n\n{page.BEGIN}\n\nold\n\n{page.END}\n\nAlso mine.\n")
    kept = tmp_path / "kept"
    assert command("bench", "gpu-rate", "--quick", "-m", small, "--results", kept, "--page", file).code == 0
    text = file.read_text()
    assert text.startswith("# Mine\n\n" + page.BEGIN)
    assert text.endswith(page.END + "\n\nAlso mine.\n")
    assert "old" not in text
    assert "| `ours:bf16` | 3 |" in text
    file.write_text("# No place\n")
    assert command("bench", "--results", kept, "--page", file).code == 2


def test_without_a_suite_all_are_listed(command: CommandLine) -> None:
    said = command("bench")
    assert said.code == 0
    assert all(name in said.out for name in suites.SUITES)
    assert command("bench", "nothing").code == 2


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_name_contenders_scenarios_and_floors_that_exist(name: str) -> None:
    suite = suites.find(name)
    for text in (*suite.contenders, *map(quickly, suite.contenders)):
        Entry.parse(text)
    assert suite.scenario in work.SCENARIOS
    for floor in suite.floors:
        assert floor.units in ("", "avx512-bf16", "amx")
        known = {"seconds": ("from process start", "after imports"), "tflops": tuple(map(str, suite.rows))}
        assert set(floor.subjects) & set(known.get(floor.by, suite.contenders))
        assert floor.against in ("", *suite.contenders)


def test_what_waits_for_a_gpu_is_listed_with_commands_that_exist_in_the_order_of_the_script() -> None:
    waiting = (ROOT / "BENCHMARKS.md").read_text().split("## Waiting for a GPU")[1].split("\n## ")[0]
    named = re.findall(r"ip2pbatch bench ([\w-]+)", waiting)
    assert set(named) == {name for name, suite in suites.SUITES.items() if suite.device == "cuda"}
    script = (ROOT / "benchmarks/gpu.sh").read_text()
    steps = re.search(r"set -- (smoke [\w -]+)", script)
    assert steps is not None
    assert steps[1].split() == ["smoke", *named[:9]]
