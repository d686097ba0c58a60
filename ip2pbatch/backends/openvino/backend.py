"""The four networks on OpenVINO: an exported model, compiled for each shape that calls have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends import weights
from ip2pbatch.backends.artefact import Artefact, check_files
from ip2pbatch.backends.onnx.exported import ExportedBackend, as_input
from ip2pbatch.backends.openvino.compiling import Compiler, Place, memory, openvino
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.recent import Recent
from ip2pbatch.disk.remembered import cache_folder
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.rows import Row

_KEPT = 6  # shapes of a network that stay compiled: a network that fills all cores alone keeps one, for its weights


class OpenVinoBackend(ExportedBackend):
    """The Backend on OpenVINO; see `load`."""

    def __init__(
        self, artefact: Artefact, place: Place, precision: str, say: Callable[[str], None], *, checker: bool
    ) -> None:
        super().__init__(artefact, torch.device("cpu"), place.kind, precision, checker=checker)
        self._place, self._say = place, say
        version = str(openvino().__version__).partition("-")[0]
        folder = cache_folder() / "openvino" / f"{version}-{artefact.model_digest[:16]}"
        self._compiler = Compiler(place, folder)
        self._compiled: dict[str, Recent[list[Any]]] = {}

    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32, in as many equal parts at once as share the threads."""
        inputs = {"sample": torch.cat([latents, image], dim=1), "timestep": timestep.float(), "text": text}
        parts = self._parts(len(latents), self._place.threads) if self._place.kind == "cpu" else 1
        cut = [
            {name: value.chunk(parts)[part] if value.ndim else value for name, value in inputs.items()}
            for part in range(parts)
        ]
        return torch.cat(self._ask("unet", cut))

    def _run(self, network: str, inputs: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        (answer,) = self._ask(network, [inputs])
        return answer.reshape(shape)

    def _ask(self, network: str, calls: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """The answers of `network` to calls of one shape, which are worked on at the same time."""
        held = [{name: as_input(value).numpy() for name, value in call.items()} for call in calls]
        shapes = {name: value.shape for name, value in held[0].items()}
        with memory():
            requests = self._requests(network, shapes, len(calls))
            for request, given in zip(requests, held, strict=True):
                request.start_async(given, share_inputs=True)
            for request in requests:
                request.wait()
            return [torch.from_numpy(request.get_output_tensor(0).data.copy()) for request in requests]

    def _requests(self, network: str, shapes: Mapping[str, tuple[int, ...]], calls: int) -> list[Any]:
        recent = self._compiled.setdefault(network, Recent(_KEPT if self._is_small() else 1))
        return recent.get((calls, *shapes.items()), partial(self._compile, network, shapes, calls))

    def _compile(self, network: str, shapes: Mapping[str, tuple[int, ...]], calls: int) -> list[Any]:
        if network == "unet" and not self._is_small():
            self._say(f"compiling the UNet for {' × '.join(map(str, shapes['sample']))}, which takes a while")
        file, precision = self.artefact.file(network), self._precision_of(network)
        compiled = self._compiler.compile(file, precision, shapes, streams=calls)
        return [compiled.create_infer_request() for _ in range(calls)]

    def _precision_of(self, network: str) -> str:
        """On a CPU the autoencoder is in float32 whatever the rest is in, as it is on torch."""
        return "fp32" if self._place.kind == "cpu" and network.startswith("vae") else self.precision


def load(
    artefact: Artefact, place: Place, precision: str, say: Callable[[str], None] = print, *, checker: bool = True
) -> OpenVinoBackend:
    """An exported model on `place`. Raises ModelError (6) where a file is not the exported one, MissingError (6)."""
    check_files(artefact, weights.file_digests(artefact.path, artefact.loaded(checker)))
    try:
        with quiet(), memory():
            return OpenVinoBackend(artefact, place, precision, say, checker=checker)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{artefact.path} cannot be loaded: {error}", hint="export the model again") from error
