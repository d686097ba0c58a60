"""`export`: a model in another runtime's form, compared with PyTorch before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import console
from ip2pbatch.cli.models import Name
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.run.machine import Precision, Provider

app = typer.Typer(help="Export models to ONNX.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to make; an older export in it is replaced.")]
PrecisionFlag = Annotated[
    Precision, typer.Option(help="fp32 or fp16.", show_default="fp32 for cpu, fp16 for cuda and tensorrt")
]
ProviderFlag = Annotated[
    Provider, typer.Option(help="cpu and tensorrt get a plain graph, cuda one with operators that only it has.")
]
Opset = Annotated[int, typer.Option(help="ONNX's operator set, 17 to 20.")]


@app.callback()
def root() -> None:
    """Export models to ONNX."""


@app.command()
def onnx(
    model: Name,
    out: Out,
    precision: PrecisionFlag = Precision.AUTO,
    provider: ProviderFlag = Provider.CPU,
    opset: Opset = 17,
) -> None:
    """Write MODEL as ONNX to a folder that --model takes. Fails where a network is not what PyTorch makes of it."""
    made = jobs.export(model, out, provider=provider, precision=precision, opset=opset, voice=Terminal())
    for name, (psnr, difference) in made.networks.items():
        words = f"{psnr:.0f} dB, largest difference {difference:.1g} of its range"
        console.out().print(f"{name.replace('_', ' ')}: {words}", markup=False)
    console.out().print(f"exported {model} in {made.precision} to {out}; use it with --backend onnx --model {out}")
