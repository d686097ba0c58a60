"""`studio`: a page in the browser to try instructions on, and to run what was found over the folder."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ip2pbatch.cli import console
from ip2pbatch.cli.machine_flags import on_a_machine
from ip2pbatch.errors import MissingError
from ip2pbatch.run.machine import Machine

What = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FOLDER|RECIPE|OUT]", help="Photos, a recipe, or the output folder of a run to watch and go on with.",
        show_default="photos are dropped into the page",
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Output folder.", show_default="FOLDER-studio, the recipe's, or ./studio"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id, folder, or tiny (the embedded one).",
        show_default="timbrooks/instruct-pix2pix, the recipe's, or the run's",
    ),
]  # fmt: skip
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Where it listens.", show_default="8765, or a free one")
]
Host = Annotated[str, typer.Option(help="The address it listens on; any but the loopback asks for --token.")]
Token = Annotated[
    str | None, typer.Option(help="The secret that lets a browser in.", show_default="made up anew each time")
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Open no browser, only say the address.")]


@on_a_machine
def studio(
    what: What = None,
    out: Out = None,
    model: Model = None,
    machine: Machine = Machine(),
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    no_browser: NoBrowser = False,
) -> None:
    """Open a page to try instructions on photos, choose, and run the folder. ^C ends it; what was made stays."""
    refuse_without_server()
    from ip2pbatch.jobs.exploring.setting import setting_of
    from ip2pbatch.studio.serving import bound, serve

    listening, address = bound(host, port, token)
    with listening:
        setting = setting_of(what, out, model, machine)

        def begun() -> None:
            console.data(address.first)
            console.note(f"pictures land in {setting.ground.out}; ^C ends the studio")
            if not no_browser and _has_display():
                import webbrowser

                webbrowser.open(address.first)

        serve(setting, listening, address, begun)


def refuse_without_server() -> None:
    """Raises MissingError where the server's libraries are not installed."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise MissingError("the studio's server is not installed", hint="pip install 'ip2pbatch[studio]'")


def _has_display() -> bool:
    """Whether a browser would open where a person sees it, and not inside the terminal."""
    return os.name == "nt" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or _is_mac()


def _is_mac() -> bool:
    import sys

    return sys.platform == "darwin"
