"""The optimisations of the PyTorch backend: a list of named steps, applied in order, each of which can be left out.

A step says how exact it is against diffusers' own network, and its test holds it to that; it touches this backend's
networks and nothing global, or says why it does not apply here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.steps import compiled
from ip2pbatch.backends.pytorch.steps.attention import cudnn_first
from ip2pbatch.backends.pytorch.steps.conditioning import TextMemory, TimeTable, why_no_text_memory, why_no_time_table
from ip2pbatch.backends.pytorch.steps.convolutions import pack, split_upsampling, why_no_packing, why_no_split
from ip2pbatch.backends.pytorch.steps.cuda_graphs import Graphs
from ip2pbatch.backends.pytorch.steps.fused import fuse, why_not_fused
from ip2pbatch.backends.pytorch.steps.residual import make_lean, norm_by_planes
from ip2pbatch.backends.pytorch.steps.rowwise import make_rowwise
from ip2pbatch.backends.pytorch.steps.staged import Stage, StagedUNet, why_no_head, why_not_staged
from ip2pbatch.backends.pytorch.steps.transformers import keep_tokens_in_place
from ip2pbatch.backends.pytorch.steps.workers import RowWorkers
from ip2pbatch.errors import UsageError

_ROOMY = 7 * 2**30  # bytes; Stable Diffusion in fp16 with its checker, and the rows of an Edit, take about 6 GB


@dataclass(slots=True)
class Site:
    """What steps work on: the networks unet, vae and text_encoder of one backend.

    `applied` are the steps that are in, `refused` says why others are not, and `notes` what a person should know of a
    trade. Networks that are `away` wait in main memory and are on the device only while they work. `staged` is the
    UNet's forward where a step needs it in stages, None where the network runs as diffusers wrote it; `graphs` are
    its recordings, where it is recorded.
    """

    networks: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    staged: StagedUNet | None = None
    away: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    graphs: Graphs | None = None

    @property
    def unet(self) -> Any:
        """The network that the stages belong to."""
        return self.networks["unet"]

    @property
    def stages(self) -> StagedUNet:
        """The UNet's forward in stages, made where the first step asks for it."""
        if self.staged is None:
            self.staged = StagedUNet(self.unet)
        return self.staged

    def recorded(self, stage: Stage) -> Stage:
        """`stage`, of a network that stays where it is, as a recording where there are such."""
        return stage if self.graphs is None or self.away else self.graphs.around(stage)

    def release(self) -> None:
        """Let go of device memory that is held for speed alone: recordings are made again when they are asked for."""
        if self.graphs is not None:
            self.graphs.clear()

    @contextmanager
    def at_work(self, name: str) -> Iterator[Any]:
        """The network `name`, on the device for as long as it works."""
        network = self.networks[name]
        if name not in self.away:
            yield network
            return
        network.to(self.device)
        try:
            yield network
        finally:
            network.to("cpu")
            accelerators.let_go()


@dataclass(frozen=True, slots=True)
class Step:
    """One optimisation. `tolerance` is what its test allows against the plain network, of the output's largest value:
    0 for the same bits, more where roundings come in another order.

    `asked_for`: only where it is named, because what it is worth hangs on the job. `kind`: whether it works on whole
    networks, on what the stages of the UNet's forward are given, or around a stage.
    """

    name: str
    tolerance: float
    does: str
    why_not: Callable[[Site], str]
    apply: Callable[[Site], None]
    asked_for: bool = False
    kind: Literal["network", "inputs", "around"] = "network"


def _rowwise(site: Site) -> None:
    for network in site.networks.values():
        make_rowwise(network)


def _packed(site: Site) -> None:
    for network in (site.unet, site.networks["vae"]):
        pack(network)


def _lean(site: Site) -> None:
    for network in (site.unet, site.networks["vae"]):
        make_lean(network)
        norm_by_planes(network)


def _channels_last(site: Site) -> None:
    for name in ("unet", "vae"):
        site.networks[name].to(memory_format=torch.channels_last)


def _fuse(site: Site) -> None:
    for network in (site.unet, site.networks["vae"]):
        make_lean(network)
        fuse(network)


def _keep_texts(site: Site) -> None:
    site.stages.texts = TextMemory(site.unet)


def _keep_times(site: Site) -> None:
    site.stages.times = TimeTable(site.unet)


def _share_head(site: Site) -> None:
    site.stages.shared = True


def _compile(site: Site) -> None:
    options = {} if accelerators.on_host(site.device) else compiled.GPU_OPTIONS
    site.stages.wrap(compiled.Compiled(artefacts_of(site), options).around)


def _record(site: Site) -> None:
    site.graphs = site.graphs or Graphs()
    site.stages.wrap(site.graphs.around)


def artefacts_of(site: Site) -> compiled.Artefacts:
    """Where this network's compiled code is kept between runs."""
    from ip2pbatch.disk.remembered import cache_folder

    identity = compiled.identity_of(site.unet, site.device, site.dtype)
    return compiled.Artefacts(cache_folder() / "compiled", identity)


def _offload(site: Site) -> None:
    site.away = frozenset({"vae", "text_encoder"})
    for name in site.away:
        site.networks[name].to("cpu")
    room = accelerators.memory_of(site.device) / 2**30
    site.notes.append(
        f"this GPU has little memory ({room:.0f} GiB): the autoencoder and the text encoder "
        "wait in main memory while they rest, and the safety checker works on the CPU; the pictures are the same, and "
        "take a little longer"
    )


def home_of(device: torch.device, chosen: Collection[Step]) -> torch.device:
    """Where the networks beside the UNet are loaded to: main memory where the step `offload` will leave them there."""
    little = (
        not accelerators.on_host(device) and "offload" in {step.name for step in chosen} and not _why_no_offload(device)
    )
    return torch.device("cpu") if little else device


def _why_no_offload(device: torch.device) -> str:
    if accelerators.on_host(device) or accelerators.kind_of(device) == "mps":
        return f"{accelerators.called(device)} has one memory for all networks"
    total = accelerators.memory_of(device)
    return f"this GPU has room for all networks ({total / 2**30:.0f} GiB)" if total >= _ROOMY else ""


def _on_host(why: str) -> Callable[[Site], str]:
    return lambda site: "" if accelerators.on_host(site.device) else why


def _on_nvidia(why: str) -> Callable[[Site], str]:
    """Why a step that was made for NVIDIA's GPUs is not in: `why` on a CPU, elsewhere that nobody has seen it there."""

    def reason(site: Site) -> str:
        if accelerators.is_nvidia(site.device):
            return ""
        return why if accelerators.on_host(site.device) else accelerators.untried(site.device)

    return reason


def _why_no_workers(site: Site) -> str:
    if not accelerators.on_host(site.device):
        return "a GPU takes all rows of a call at once"
    return "" if torch.get_num_threads() > 1 else "one thread has nobody to share with"


STEPS: tuple[Step, ...] = (
    Step(
        "offload", 0.0, "networks beside the UNet in main memory while they rest, on a GPU of little memory",
        lambda site: _why_no_offload(site.device), _offload,
    ),
    Step(
        "rowwise", 1e-5, "linear layers row by row, so that a row's bits tell nothing of its company",
        _on_host("a GPU's product gives a row the same bits in every place of one shape"), _rowwise,
    ),
    Step(
        "channels-last", 1e-3, "weights and activations with their channels innermost",
        _on_nvidia("on a CPU packed-convolutions does that and more"), _channels_last,
    ),
    Step(
        "packed-convolutions", 2e-5, "convolutions in oneDNN's layouts, their weights laid out once",
        lambda site: why_no_packing([site.unet, site.networks["vae"]], site.device), _packed,
    ),
    Step(
        "lean-blocks", 1e-5, "residual blocks with fewer walks over their tensors",
        _on_host("on a GPU fused-blocks does that and more"), _lean,
    ),
    Step(
        "plain-tokens", 1e-3, "transformer blocks whose tokens lie where the convolutions left them",
        _on_nvidia("on a CPU it was not faster"), lambda site: keep_tokens_in_place(site.unet),
    ),
    Step(
        "fused-blocks", 1e-3, "norms, activations, biases, sums and gates in fewer walks over memory",
        lambda site: why_not_fused(site.device), _fuse,
    ),
    Step(
        "split-upsampling", 1e-5, "a convolution after a doubling of the sides done before it: 4/9 of it",
        lambda site: why_no_split(site.unet, site.device, site.dtype), lambda site: split_upsampling(site.unet),
    ),
    Step(
        "text-memory", 1e-5, "keys and values of cross-attention once a text instead of once a step",
        lambda site: why_no_text_memory(site.unet), _keep_texts,
        kind="inputs",
    ),
    Step(
        "time-table", 1e-5, "what residual blocks add for a timestep once instead of once a row",
        lambda site: why_no_time_table(site.unet), _keep_times,
        kind="inputs",
    ),
    Step(
        "shared-head", 1e-5, "layers before the first cross-attention once for the rows of one picture",
        lambda site: why_no_head(site.unet), _share_head,
        kind="inputs",
    ),
    Step(
        "compiled", 1e-3, "torch.compile of the network's stages; pays for many rows",
        lambda site: compiled.why_no_compiler(site.device), _compile, asked_for=True, kind="around",
    ),
    Step(
        "cudnn-attention", 1e-3, "cuDNN's attention kernel first where it takes the shape",
        _on_nvidia("cuDNN is for GPUs"), lambda site: site.stages.wrap(cudnn_first),
        kind="around",
    ),
    Step(
        "row-workers", 1e-5, "the rows of a call shared out among threads instead of every kernel",
        _why_no_workers, lambda site: site.stages.wrap(RowWorkers().around), kind="around",
    ),
    Step(
        "cuda-graphs", 0.0, "one launch a call instead of hundreds",
        _on_nvidia("CUDA graphs are for GPUs"), _record, kind="around",
    ),
)  # fmt: skip
"""Every step, in the order in which they are applied."""


def names() -> tuple[str, ...]:
    """The names of all steps in order."""
    return tuple(step.name for step in STEPS)


def choose(wanted: Collection[str] | None) -> tuple[Step, ...]:
    """The steps of these names, in order; None for all that need not be asked for. Raises UsageError for a stranger."""
    if wanted is None:
        return tuple(step for step in STEPS if not step.asked_for)
    if strangers := set(wanted) - set(names()):
        raise UsageError(f"there is no step {min(strangers)}", hint=f"steps are {', '.join(names())}")
    return tuple(step for step in STEPS if step.name in wanted)


def apply(steps: Collection[Step], site: Site) -> None:
    """Apply each step that can be; `site` then says which are in, and why others are not."""
    for step in steps:
        if reason := why_left_out(step, site):
            site.refused[step.name] = reason
            continue
        step.apply(site)
        site.applied.append(step.name)


def why_left_out(step: Step, site: Site) -> str:
    """Why a step does not hold for the networks of a site, which may be without weights; "" where it does."""
    foreign = why_not_staged(site.unet) if step.kind != "network" else ""
    return foreign or step.why_not(site)


def compile_late(site: Site) -> str:
    """Put the step `compiled` in where it belongs, after the others were applied; why not, or "" where it is in."""
    late = [step for step in STEPS if step.kind == "around" and step.name in {"compiled", *site.applied}]
    reason = why_not_staged(site.unet) or compiled.why_no_compiler(site.device)
    if reason or "compiled" in site.applied:
        return reason
    site.release()
    site.stages.bare()
    site.applied = [name for name in site.applied if name not in {step.name for step in late}]
    apply(late, site)
    return ""
