"""`train`: the chain that makes a model, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import errors
from ip2pbatch.cli import console
from ip2pbatch.cli.machine_flags import OnFlag, Workers

if TYPE_CHECKING:
    from ip2pbatch.train.estimates import Estimate
    from ip2pbatch.train.on_cluster import Cluster
    from ip2pbatch.train.stages import StageStatus

app = typer.Typer(help="Train a model by a chain of stages; training/tiny made the embedded one.", no_args_is_help=True)

Config = Annotated[Path, typer.Argument(help="A stage's config, a YAML file.", show_default=False)]
Photos = Annotated[
    Path | None,
    typer.Option("--photos", "-p", help="The photos to learn from, where a chain reads photos.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where every stage keeps what it makes.")]
ShardFlag = Annotated[
    str | None, typer.Option("--shard", help="Only part k of n, such as 2/8, of the stages that can be split.")
]
Price = Annotated[
    float | None,
    typer.Option("--gpu-hour", help="What an hour of a GPU costs: hours are then said in money too.", min=0),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

_COLOURS = {"fresh": "green", "stale": "yellow", "missing": "cyan"}


@app.command()
def validate(configs: Annotated[list[Path], typer.Argument(help="Configs to check.", show_default=False)]) -> None:
    """Check configs and all that they build on, with the data and the models that they name."""
    from ip2pbatch.train.checks import problems, unchecked
    from ip2pbatch.train.configs import in_order, load_config

    code = 0
    for path in configs:
        try:
            chain = list(in_order(load_config(path)))
        except errors.Ip2pError as error:  # the mistakes of the other files are wanted as well
            found: list[errors.Ip2pError] = [error]
        else:
            found = problems(chain)
            for line in unchecked(chain):
                console.note(line)
        code = code or _tell(found)
        if not found:
            console.out().print(f"{path}: ok, {' → '.join(one.name for one in chain)}", markup=False)
    if code:
        raise typer.Exit(code)


def _tell(problems: Sequence[errors.Ip2pError]) -> int:
    """Show all of them; the exit code of the first."""
    for problem in problems:
        console.show_error(problem)
    return problems[0].exit_code if problems else 0


@app.command()
def status(config: Config, photos: Photos = None, out: Out = Path("work"), as_json: Json = False) -> None:
    """Show which stages are fresh, stale or missing, and why."""
    from ip2pbatch.train import stages

    _show(stages.status(config, photos=photos, out=out), as_json)


@app.command()
def plan(
    config: Config, photos: Photos = None, out: Out = Path("work"), gpu_hour: Price = None, as_json: Json = False
) -> None:
    """Show which stages a run would carry out, and why, and what they will take: samples, disk, GPU hours."""
    from ip2pbatch.train import checks, estimates, stages

    chain = stages.status(config, photos=photos, out=out)
    found = estimates.estimate(chain)
    left = [one for one in chain if one.state != "fresh"]
    _show(left, as_json, found, gpu_hour)
    wrong = checks.problems(one.config for one in left)
    for line in checks.unchecked(one.config for one in left):
        console.note(line)
    room = checks.short_of_room(sum(found[one.config.path].bytes for one in left if one.config.path in found), out)
    if code := _tell([*wrong, *([room] if room else [])]):
        raise typer.Exit(code)


@app.command()
def run(
    config: Config, photos: Photos = None, out: Out = Path("work"), shard: ShardFlag = None, on: OnFlag = None,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Bring a stage and all that it builds on up to date; an interrupted stage goes on where it was."""
    from ip2pbatch.plan.shard import Shard
    from ip2pbatch.train import stages

    part = Shard.parse(shard) if shard else None
    found = stages.run(config, photos=photos, out=out, shard=part, cluster=_cluster(on, workers, shard))
    if stages.process()[0] == 0:  # the first of those that torchrun has started
        _show(found, as_json=False)


def _cluster(on: str | None, workers: str | None, shard: str | None) -> Cluster | None:
    """What makes the rows of a stage instead of this process. UsageError where flags do not go together."""
    if on is None:
        if workers is not None:
            raise errors.UsageError("--workers is of a cluster", hint="add --on ray, or use --shard")
        return None
    if shard is not None:
        raise errors.UsageError(
            "--on and --shard do not go together", hint="leave out --shard: --workers says how many"
        )
    from ip2pbatch.run.machine import workers_of
    from ip2pbatch.train.on_cluster import Cluster

    return Cluster(workers_of(workers), console.note)


@app.command("bench-pairs")
def bench_pairs(
    config: Config,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another model; sd15 and small have random weights.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Pairs a call; again for others.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Another number of steps.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Measure how many pairs a second a pairs config makes, against the published script's one pair a call."""
    from ip2pbatch.backends.pytorch import accelerators
    from ip2pbatch.train.pairs.prompt_to_prompt import pairs_a_second as bench

    settings = bench.settings_of(config, model, steps)
    found = bench.compare(settings, accelerators.default(), batch or [1, settings.batch])
    console.out().print(bench.to_json(found) if as_json else bench.to_text(found), markup=False, soft_wrap=True)


def _show(
    chain: Sequence[StageStatus],
    as_json: bool,
    estimates: Mapping[Path, Estimate] | None = None,
    price: float | None = None,
) -> None:
    if as_json:
        rows = [
            {
                "stage": one.config.stage, "config": str(one.config.path), "state": one.state, "reason": one.reason,
                "folder": str(one.folder), "metrics": dict(one.metrics), **_estimated(estimates or {}, one.config.path),
            }
            for one in chain
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Column, Table

    where = Column("where", overflow="fold")  # a path that is cut off leads nowhere
    table = Table("stage", "state", "why", where, "figures", box=None, pad_edge=False)
    for one in chain:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in one.metrics.items())
        table.add_row(one.config.name, f"[{_COLOURS[one.state]}]{one.state}[/]", one.reason, str(one.folder), figures)
    console.out().print(table if chain else "every stage is fresh")
    _show_estimates([estimates[one.config.path] for one in chain if estimates and one.config.path in estimates], price)


def _estimated(estimates: Mapping[Path, Estimate], path: Path) -> dict[str, object]:
    """The JSON of a stage's estimate; nothing where there is none."""
    if path not in estimates:
        return {}
    from dataclasses import asdict

    from ip2pbatch.train.estimates import rates

    found = estimates[path]
    return {"estimate": asdict(found) | {"hours": found.hours(rates())}}


def _show_estimates(found: Sequence[Estimate], price: float | None) -> None:
    """What the stages will take, and on which figures that rests."""
    if not found:
        return
    from rich.table import Table

    from ip2pbatch.train.estimates import hours_of, rates, size_of

    to_fetch = ["to fetch"] if any(one.fetch for one in found) else []
    known, table = rates(), Table("stage", "will make", "disk", *to_fetch, "on one GPU", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            one.stage,
            one.makes,
            size_of(one.bytes),
            *[size_of(one.fetch) for _ in to_fetch],
            hours_of(one, known, price),
        )
    disk, fetch = sum(one.bytes for one in found), sum(one.fetch for one in found)
    table.add_row("together", "", size_of(disk), *[size_of(fetch) for _ in to_fetch], "")
    console.out().print()
    console.out().print(table)
    for rate in dict.fromkeys(rate for one in found for rate in one.rates(known)):
        told = f"{rate.device}, {rate.model}: {rate.per_second:.3g} {rate.unit} a second ({rate.source})"
        console.out().print(told, markup=False, highlight=False)
