"""The `ip2pbatch` command: which commands there are, and the one error boundary."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Annotated, NoReturn

import typer

from ip2pbatch import __version__, errors
from ip2pbatch.cli import bench, check, console, edit, export, lock, marks, recipes, run, train, watch
from ip2pbatch.cli import looking as look
from ip2pbatch.cli import models as model
from ip2pbatch.cli.apart import libraries_apart
from ip2pbatch.cli.exploring.studio import studio
from ip2pbatch.plan.written.addresses import refuse_addresses

app = typer.Typer(
    name="ip2pbatch",
    help="Edit whole folders of photos by written instruction, with InstructPix2Pix.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"ip2pbatch {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Edit whole folders of photos by written instruction, with InstructPix2Pix."""


EDITING, LOOKING, RECIPES, MACHINE = "Edit photos", "Look at a run", "Recipes", "Models and machine"
TRUST = "The same again"

app.command("edit", rich_help_panel=EDITING)(edit.edit)
app.command("apply", rich_help_panel=EDITING)(edit.apply)
app.command("run", rich_help_panel=EDITING)(run.run)
app.command("retry", rich_help_panel=EDITING)(run.retry)
app.command("compare", rich_help_panel=EDITING)(run.compare)
app.command("watch", rich_help_panel=EDITING)(watch.watch)
app.command("plan", rich_help_panel=EDITING)(recipes.plan)
app.command("studio", rich_help_panel=EDITING)(studio)
app.command("status", rich_help_panel=LOOKING)(look.status)
app.command("check", rich_help_panel=LOOKING)(check.check)
app.command("deliver", rich_help_panel=LOOKING)(look.deliver)
app.command("sheet", rich_help_panel=LOOKING)(look.sheet)
app.command("report", rich_help_panel=LOOKING)(look.report)
app.command("marks", rich_help_panel=TRUST)(marks.marks)
app.command("lock", rich_help_panel=TRUST)(lock.lock)
app.command("verify", rich_help_panel=TRUST)(lock.verify)
app.command("init", rich_help_panel=RECIPES)(recipes.init)
app.command("validate", rich_help_panel=RECIPES)(recipes.validate)
app.command("schema", rich_help_panel=RECIPES)(recipes.schema)
app.add_typer(model.app, name="models", rich_help_panel=MACHINE)
app.command("doctor", rich_help_panel=MACHINE)(model.doctor)
app.command("bench", rich_help_panel=MACHINE)(bench.bench)
app.add_typer(export.app, name="export", rich_help_panel=MACHINE)
app.add_typer(train.app, name="train", rich_help_panel=MACHINE)


@contextmanager
def _libraries_in_the_log() -> Iterator[None]:
    """What libraries warn of is for the log of a run that is open, and never for the terminal."""
    root, unheard = logging.getLogger(), logging.NullHandler()
    root.addHandler(unheard)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(unheard)


def main() -> None:
    """Run the command line; every way out has an exit code of the table in errors.py."""
    # A training has no log, and what NCCL writes of a cluster's network is wanted.
    with nullcontext() if "train" in sys.argv[1:2] else libraries_apart():
        _main()


def _main() -> None:
    try:
        refuse_addresses(sys.argv[1:])
        with _libraries_in_the_log():
            app()
    except errors.StoppedError as stop:
        console.talk().print(f"interrupted: {stop}", markup=False)
        sys.exit(stop.exit_code)
    except errors.Ip2pError as error:
        _refuse(error)
    except KeyboardInterrupt:
        console.talk().print("interrupted")
        sys.exit(errors.INTERRUPTED)
    except errors.TerminatedError as stop:
        console.talk().print("terminated")
        sys.exit(stop.code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(errors.DONE)
    except PermissionError as error:  # a folder that is closed to us may be met anywhere, and is nobody's bug
        what = error.filename or "a file"
        _refuse(errors.ResourceError(f"no permission for {what}", hint="check whose it is and its permissions"))
    except Exception as error:
        if missing := _missing_library(error):
            _refuse(missing)
        _tell_machines(f"a bug in ip2pbatch: {type(error).__name__}: {error}", None, errors.BUG)
        console.talk().print(traceback.format_exc(), markup=False)
        console.talk().print(
            "[bold red]error:[/] this is a bug in ip2pbatch. Finished pictures are safe; run again to go on."
        )
        sys.exit(errors.BUG)


def _refuse(error: errors.Ip2pError) -> NoReturn:
    _tell_machines(str(error), error.hint, error.exit_code)
    console.show_error(error)
    sys.exit(error.exit_code)


def _missing_library(error: Exception) -> errors.MissingError | None:
    """What to install, where that is all: a light installation is asked for what only the complete one does."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    from ip2pbatch.backends.installed import lacking

    return lacking(error)


def _tell_machines(message: str, hint: str | None, code: int) -> None:
    """The last line of a command that cannot go on, where JSON is asked for."""
    if "--json" not in sys.argv[1:]:
        return
    from ip2pbatch.show.ci import error_line

    with suppress(errors.ResourceError):  # it may be stdout that is full
        console.data(error_line(message, hint, code))
