"""`bench`: how fast this is on this machine, against others that make the same pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2pbatch import errors
from ip2pbatch.cli import console
from ip2pbatch.run.machine import device_of

if TYPE_CHECKING:
    from ip2pbatch.engine.bench.suites import Suite

Name = Annotated[str | None, typer.Argument(metavar="SUITE", help="What to measure; without one, all are listed.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="tiny, sd15 or small (random weights), or a folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …, mps, xpu", show_default="the suite's")]
Contenders = Annotated[
    list[str] | None, typer.Option("--contender", "-c", help="KIND[:PRECISION][@STEPS or @own]; the first is the base.")
]
Photos = Annotated[Path | None, typer.Option(help="A folder of photos, instead of drawn ones.")]
Count = Annotated[int | None, typer.Option(help="Photos.", min=1)]
Steps = Annotated[int | None, typer.Option(help="Network steps a picture.", min=1)]
Rounds = Annotated[int | None, typer.Option(help="Rounds of two passes each.", min=1)]
Quick = Annotated[bool, typer.Option("--quick", help="Two drawn photos, two steps, a small random model, on the CPU.")]
ResultsFolder = Annotated[Path, typer.Option("--results", help="Where figures are kept; a stopped suite goes on.")]
Page = Annotated[Path | None, typer.Option("--page", help="A Markdown page whose generated part is rewritten.")]
Budget = Annotated[float | None, typer.Option(help="Seconds: stop before what would not fit; start again to go on.")]
Fresh = Annotated[bool, typer.Option(help="Start contenders in new processes too, where the suite asks for it.")]
Anew = Annotated[bool, typer.Option("--anew", help="Forget what was measured of this suite before.")]
Remark = Annotated[str | None, typer.Option(help="A sentence that stands with the figures.")]


def bench(
    suite: Name = None, model: Model = None, device: Device = None, contender: Contenders = None,
    photos: Photos = None, count: Count = None, steps: Steps = None, rounds: Rounds = None, quick: Quick = False,
    results: ResultsFolder = Path("benchmarks"), page: Page = None, budget: Budget = None, remark: Remark = None,
    fresh: Fresh = True, anew: Anew = False,
) -> None:  # fmt: skip
    """Measure speed: pictures are compared with our float32 path first, and only equal work is timed."""
    code = errors.DONE
    if suite is not None:
        changes: dict[str, Any] = {
            "model": model,
            "device": device_of(device),
            "count": count,
            "steps": steps,
            "rounds": rounds,
        }
        changes["contenders"] = tuple(contender) if contender else None
        changes["fresh"] = None if fresh else False
        code = _measure(suite, _changed(suite, changes, quick), photos, results, anew, budget, remark)
    elif page is None:
        _list()
    if page is not None:
        from ip2pbatch.engine.bench.markdown import rewrite

        rewrite(page, results)
    raise typer.Exit(code)


def _list() -> None:
    from rich.table import Table

    from ip2pbatch.engine.bench.suites import SUITES

    table = Table("suite", "model", "device", "what", box=None, pad_edge=False)
    for name, one in SUITES.items():
        table.add_row(name, one.model, one.device, one.says)
    console.out().print(table)


def _changed(name: str, changes: dict[str, Any], quick: bool) -> Suite:
    """The suite `name` with the flags that were given, made small where it is only to be tried."""
    from ip2pbatch.engine.bench.suites import find

    suite = find(name)
    if quick:
        suite = dataclasses.replace(
            suite, model="small", device="cpu", count=min(2, suite.count), steps=2, rounds=1, long_side=64,
            megapixels=0.01, apart=False, rows=tuple(sorted({min(rows, 6) for rows in suite.rows})),
            contenders=tuple(dict.fromkeys(quickly(text) for text in suite.contenders)),
        )  # fmt: skip
    return dataclasses.replace(suite, **{key: value for key, value in changes.items() if value is not None})


def quickly(contender: str) -> str:
    """A contender for a CPU, which has no fp16, with two or three steps where it names its own.

    Compiling takes minutes there: name it with `--contender` to try it.
    """
    other = "fp32" if contender.startswith("onnx") else "bf16"
    changes = {":fp16": f":{other}", "diffusers-compiled": "diffusers-traced", "+compiled": "", "+auto-batch": ""}
    for slow, quick in changes.items():
        contender = contender.replace(slow, quick)
    kind, at, steps = contender.partition("@")
    return f"{kind}{at}{min(3, 2 + int(steps) // 100) if steps.isdigit() else steps}"


def _measure(
    name: str, suite: Suite, photos: Path | None, folder: Path, anew: bool, budget: float | None, remark: str | None
) -> int:
    from ip2pbatch.disk.remembered import cache_folder
    from ip2pbatch.engine.bench.markdown import beyond, missed, render
    from ip2pbatch.engine.bench.measure import Clock, measure
    from ip2pbatch.engine.bench.results import file_of, open_results
    from ip2pbatch.engine.bench.suites import find
    from ip2pbatch.jobs.engines import device_name
    from ip2pbatch.jobs.job import versions
    from ip2pbatch.run.machine import Machine

    device = device_name(Machine(device=suite.device))
    identity = dataclasses.asdict(suite) | {
        "photos": photos.name if photos else "drawn", "remark": remark or "", "as_defined": suite == find(name),
        "device_name": device, "versions": versions(),
    }  # fmt: skip
    file = file_of(folder, name, suite.device, device)
    if anew:
        file.unlink(missing_ok=True)
    found = open_results(file, name, identity)
    say = console.talk().print
    done = measure(suite, found, file, cache_folder() / "bench", photos, Clock(budget), say)
    print(render(found))
    for line in missed(found, suite) if identity["as_defined"] else ():
        console.warn(f"floor missed: {line}")
    impossible = beyond(found)
    for line in impossible:
        console.warn(f"no limit: {line}; measure --anew on a quiet machine")
    if not done:
        console.talk().print("time is up: start the same command again to go on")
        return errors.UNFINISHED
    differs = any(not one.passed for one in found.checked.values())
    return errors.DIFFERS if differs or impossible else errors.DONE
