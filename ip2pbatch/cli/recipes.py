"""`plan`, `validate`, `init` and `schema`: everything about a recipe that needs no model."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import errors, jobs
from ip2pbatch.cli import console

if TYPE_CHECKING:
    from ip2pbatch.jobs.forecast import Forecast
    from ip2pbatch.plan.written.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


class Starter(StrEnum):
    """The starter recipes that `init` writes."""

    FOLDER = "folder"
    GRID = "grid"
    CHAIN = "chain"


def validate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes to check.", show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="Exit 4 when there is a warning.")] = False,
) -> None:
    """Check recipes, and warn about instructions that the model is known to be bad at."""
    warnings = wrong = 0
    for path in recipes:
        if path.name.endswith((".lock.yaml", ".lock.yml")):  # recipes/*.yaml finds them too
            console.out().print(f"{path}: a lock, passed over; see `ip2pbatch lock --check`", markup=False)
            continue
        try:
            warnings += _check(path)
        except errors.Ip2pError as error:  # the mistakes of the other files are wanted as well
            console.show_error(error)
            wrong += 1
    if wrong:
        raise typer.Exit(errors.USAGE)
    if strict and warnings:
        raise typer.Exit(errors.DIFFERS)


def _check(path: Path) -> int:
    """Check one recipe and say that it is right; how many warnings it has. Raises RecipeError, PlanError."""
    from ip2pbatch.jobs.advising import advice as advise
    from ip2pbatch.jobs.advising import scales_of
    from ip2pbatch.plan.photos import refuse_unfit
    from ip2pbatch.plan.written.recipe import load_recipe

    recipe = load_recipe(path)
    try:
        refuse_unfit(recipe.photos, recipe.output.folder)
    except errors.PlanError as error:
        raise errors.PlanError(f"{path}: {error}", hint=error.hint) from None
    warnings = dict.fromkeys(str(advice) for one in _of_each_model(path, recipe) for advice in advise(one))
    for said in warnings:
        console.warn(f"{path}: {said}")
    for said in dict.fromkeys(filter(None, map(scales_of, _of_each_model(path, recipe)))):
        console.note(f"{path}: {said}")
    models = f", {console.count(len(recipe.compare), 'model')}" if recipe.compare else ""
    console.out().print(f"{path}: ok, {console.count(len(recipe.edits), 'edit')}{models}")
    return len(warnings)


def _of_each_model(path: Path, recipe: Recipe) -> list[Recipe]:
    """The recipe, or where it compares that of each model. Raises RecipeError."""
    from ip2pbatch.jobs.comparing.comparison import Comparison
    from ip2pbatch.plan.written.recipe import parse_recipe
    from ip2pbatch.run.directory.lines import RecordedRecipe

    if not recipe.compare:
        return [recipe]
    each = Comparison(recipe, RecordedRecipe("", str(path))).recipes()
    return [parse_recipe(one.text, Path(one.file)) for one in each.values()]


def schema() -> None:
    """Print the JSON Schema of recipes, for completion in an editor."""
    from ip2pbatch.plan.written.schema import schema as recipe_schema

    print(json.dumps(recipe_schema(), indent=2))


def init(
    file: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    kind: Annotated[Starter, typer.Option("--kind", "-k", help="What to start from.")] = Starter.FOLDER,
    photos: Annotated[str, typer.Option("--photos", "-p", help="The folder of photos it reads.")] = "photos",
    out: Annotated[str, typer.Option("--out", "-o", help="The folder it writes to.")] = "out",
    model: Annotated[str, typer.Option("--model", "-m", help="The model it uses.")] = "timbrooks/instruct-pix2pix",
) -> None:
    """Write a commented starter recipe."""
    from importlib.resources import files

    from ip2pbatch.plan.written.recipe import load_recipe

    if file.exists():
        raise errors.UsageError(f"{file} is already there", hint="name another file, or remove it first")
    text = (files("ip2pbatch.cli") / "starters" / f"{kind}.yaml").read_text(encoding="utf-8")
    for field, value in {"name": file.stem, "photos": photos, "out": out, "model": model, "file": str(file)}.items():
        text = text.replace("{" + field + "}", json.dumps(value, ensure_ascii=False)[1:-1])
    file.write_text(text, encoding="utf-8")
    load_recipe(file)
    console.out().print(
        f"wrote {file}; check it with `ip2pbatch validate {file}`, see what it would do with `ip2pbatch plan {file}`"
    )


def plan(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder instead of the recipe's.")] = None,
    only: Annotated[str | None, typer.Option(help="Only photos whose name matches this glob.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N photos.", min=1)] = None,
    as_json: Json = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 4 when there is work left.")] = False,
    write_manifest: Annotated[
        Path | None,
        typer.Option(help="Write the photos with digests and sizes into a CSV, for `photos: {manifest: FILE}`."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Draw the photos with the regions of their edits into a PNG, without the model.")
    ] = None,
) -> None:
    """Show what a run would make: what is done, counts of edits and network rows, and the disk it needs."""
    from ip2pbatch.cli.terminal import Terminal

    casts, voice = [], Terminal()
    for name in jobs.compared(recipe, out=out) or [None]:
        casts.append(
            jobs.plan(
                recipe, out=out, only=only, limit=limit, write_manifest=write_manifest, masks=masks, model=name,
                voice=voice,
            )
        )  # fmt: skip
        write_manifest = masks = None  # the photos and their regions are the same for every model
    if as_json:
        each = [cast.as_json() for cast in casts]
        print(json.dumps(each[0] if len(each) == 1 else {"models": each}, indent=2))
    for cast in casts if not as_json else ():
        _show(cast)
    if exit_code and any(cast.edits_left or cast.files_left for cast in casts):
        raise typer.Exit(errors.DIFFERS)


def _show(cast: Forecast) -> None:
    """The counts for a person."""
    from rich.markup import escape

    out = console.out()
    out.print(f"[bold]{escape(cast.name)}[/] with {escape(cast.model)} into {escape(cast.out)}")
    made = f"{cast.edits_done:,} done, [bold]{cast.edits_left:,} to make[/]"
    refined = f", {cast.refined:,} refined" if cast.refined else ""
    edits = console.count(cast.edits - cast.refined, "edit")
    out.print(f"{console.count(cast.photos, 'photo')}, {edits}{refined}: {made}")
    if cast.tiles:
        tiles = f"at most {console.count(cast.tiles, 'tile')} and {cast.tile_rows:,} network rows"
        out.print(f"refining: {tiles}; with auto fewer, by what the edits show")
    if cast.rows:
        saved = 1 - cast.rows / cast.rows_plain
        fewer = f", {saved:.0%} fewer than three an edit and step" if saved >= 0.005 else ""
        out.print(f"{cast.rows:,} network rows{fewer}")
        shares = ", ".join(f"{share:.0%} on a {kind.upper()}" for kind, share in cast.padding.items())
        out.print(f"padding that fills calls: {shares} of all rows")
    if cast.edits_left:
        sizes = list(cast.sizes.items())
        shown = ", ".join(f"{size} ({count})" for size, count in sizes[:6])
        out.print(f"model sizes: {shown}" + (f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""))
    disk = f"about {cast.disk / 1e6:,.0f} MB of disk, {cast.disk_free / 1e9:,.0f} GB free"
    files = console.count(cast.files, "file")
    out.print(f"{files}{f', {cast.files_left:,}' if cast.files_left < cast.files else ''} to deliver; {disk}")
    for line in cast.broken:
        console.warn(line)
    for kind in cast.passed:
        out.print(f"passed over: {escape(console.plain(str(kind)))}")
    for line in cast.notes:
        console.note(line)
