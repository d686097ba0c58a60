"""`models` and `doctor`: which models there are, where they lie, and what this machine would use."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ip2pbatch import errors, jobs
from ip2pbatch.cli import console
from ip2pbatch.plan.families import families

app = typer.Typer(
    help=f"List, fetch and find models. A folder holds {families()} in diffusers' layout.", no_args_is_help=True
)

Name = Annotated[
    str, typer.Argument(help="tiny, a folder, a short name (`models list --known`), or a hub id: owner/name[@revision]")
]
Examined = Annotated[
    str | None, typer.Option("--model", help="Say of this model whether it can be used, and which speed-ups it lacks.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Checkpoint = Annotated[Path, typer.Argument(help="A .ckpt or .safetensors in Stable Diffusion's original layout.")]
To = Annotated[Path | None, typer.Option(help="The folder to make.", show_default="FILE without its ending")]
SingleFile = Annotated[Path, typer.Option(help="The .safetensors to write.")]


Known = Annotated[
    bool, typer.Option("--known", help="Models of the hub by their short names: licence, size, and what fits here.")
]


@app.command("list")
def list_(known: Known = False, as_json: Json = False) -> None:
    """The models this machine has, with their size, defaults, digest and place. Digests are counted once and
    remembered.
    """
    if known:
        _list_known(as_json)
        return
    from ip2pbatch.backends.weights import list_models, resolve
    from ip2pbatch.plan.defaults import model_defaults

    models = [(m, resolve(str(m.path)).digest, model_defaults(str(m.path))) for m in list_models()]
    if as_json:
        rows = [
            {
                "name": m.name,
                "revision": m.revision,
                "digest": digest,
                "bytes": m.bytes,
                "path": str(m.path),
                "family": m.family,
                "defaults": asdict(own),
            }
            for m, digest, own in models
        ]
        print(json.dumps(rows, indent=2))
        return
    for m, digest, own in models:
        revision = f"@{m.revision[:12]}" if m.revision else ""
        defaults = f"text {own.text:g}, image {own.image:g}, {own.steps} steps of {own.sampler}"
        console.out().print(
            f"{m.name}{revision}  {m.family}  {m.bytes / 1e6:,.0f} MB  {defaults}  digest {digest[:12]}  {m.path}"
        )


def _list_known(as_json: bool) -> None:
    from ip2pbatch.backends.known_models import known_models

    models = known_models()
    if as_json:
        print(json.dumps([asdict(one) for one in models], indent=2))
        return
    wide = max(len(one.name) for one in models)
    for one in models:
        here = f"here at revision {one.revision[:12]}" if one.revision else "not fetched"
        said = f"{one.family}, about {one.size / 1e9:.0f} GB, {one.licence}; {one.fits}; {here}"
        console.out().print(f"[bold]{one.name:{wide}}[/]  {escape(said)}\n{'':{wide}}  {escape(one.hub)}")


@app.command()
def where(model: Name) -> None:
    """The folder of one model."""
    from ip2pbatch.backends.weights import resolve

    print(resolve(model, download=False).path)


@app.command()
def digest(model: Name) -> None:
    """The sha256 over one model's weights and configurations, as runs record it."""
    from ip2pbatch.backends.weights import resolve

    print(resolve(model, download=False).digest)


@app.command()
def pull(model: Name) -> None:
    """Fetch a model from the hub: safetensors and configurations only."""
    from ip2pbatch.backends.known_models import tell_licence
    from ip2pbatch.backends.weights import pull

    folder = pull(model, console.note)
    tell_licence(model, console.note)
    console.out().print(f"{folder.name} at revision {folder.revision} is in {folder.path}")


@app.command("import")
def import_(file: Checkpoint, to: To = None) -> None:
    """Make a folder of safetensors of one checkpoint file. Nothing that lies in a .ckpt is run."""
    from ip2pbatch.backends.conversion import import_file

    made = import_file(file, to or file.with_suffix(""), console.note)
    are = "tensor that is" if made.left == 1 else "tensors that are"
    left = f"; {made.left:,} {are} no part of the model left out" if made.left else ""
    console.out().print(f"{file} (sha256 {made.sha256[:12]}) is in {made.folder}{left}", markup=False)
    console.out().print(f"use it with --model {made.folder}", markup=False)


@app.command()
def export(model: Name, single_file: SingleFile) -> None:
    """Write a model as one file in the original layout, which A1111 and ComfyUI load."""
    from ip2pbatch.backends.conversion import export_file
    from ip2pbatch.backends.weights import resolve

    size = export_file(resolve(model, checker=False, note=console.note).path, model, single_file)
    console.out().print(f"{model} is in {single_file}, {size / 1e6:,.0f} MB", markup=False)


def doctor(model: Examined = None, as_json: Json = False) -> None:
    """Show versions, devices and providers, and what an edit would use and why."""
    from rich.table import Table

    findings = jobs.doctor(model)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        colours = {"ok": "green", "note": "yellow", "problem": "red"}
        for f in findings:
            table.add_row(f"[{colours[f.state]}]{f.state}[/]", f.topic, escape(f.value), f"[dim]{escape(f.why)}[/]")
        console.out().print(table)
    if any(f.state == "problem" for f in findings):
        raise typer.Exit(errors.ENVIRONMENT)
