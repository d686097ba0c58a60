"""The four networks on onnxruntime: an exported model on the CPU, CUDA or TensorRT provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ip2pbatch.backends import weights
from ip2pbatch.backends.artefact import Artefact, check_files
from ip2pbatch.backends.onnx import providers, tensorrt
from ip2pbatch.backends.onnx.exported import EXACT, ExportedBackend, as_input
from ip2pbatch.backends.onnx.providers import Place
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.rows import Row
from ip2pbatch.run.engine import OutOfMemory

_MEMORY = ("Failed to allocate memory", "out of memory", "bad allocation", "BFCArena::AllocateRawInternal")


class OrtBackend(ExportedBackend):
    """The Backend on onnxruntime; see `load`."""

    def __init__(
        self, artefact: Artefact, place: Place, sizes: Sequence[tuple[int, int]], say: Callable[[str], None], *,
        checker: bool,
    ) -> None:  # fmt: skip
        device = torch.device("cpu") if place.provider == "cpu" else torch.device("cuda", place.device)
        super().__init__(artefact, device, place.provider, artefact.precision, checker=checker)
        self._place, self._sizes, self._say = place, tuple(sizes), say
        self._workers = ThreadPoolExecutor(max(1, place.threads), thread_name_prefix="rows")
        self._sessions: dict[tuple[str, int], Any] = {}
        for name in artefact.networks:
            if name not in (EXACT, "unet"):
                self._session(name)
        self._session("unet", self._parts(self.limits.default_rows, place.threads))

    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32."""
        inputs = {"sample": torch.cat([latents, image], dim=1), "timestep": timestep.float(), "text": text}
        parts = self._parts(len(latents), self._place.threads)
        if parts == 1:
            return self._run("unet", inputs, tuple(latents.shape))
        session, shape = self._session("unet", parts), (len(latents) // parts, *latents.shape[1:])
        cut = [
            {name: value.chunk(parts)[part] if value.ndim else value for name, value in inputs.items()}
            for part in range(parts)
        ]
        with memory():
            return torch.cat(list(self._workers.map(lambda one: self._run_bound(session, one, shape), cut)))

    def _session(self, network: str, parts: int = 1) -> Any:
        """The session of `network` for calls that are cut into `parts`, opened when it is first asked for."""
        if (network, parts) not in self._sessions:
            self._sessions[network, parts] = self._open(network, self._place.threads // parts)
        return self._sessions[network, parts]

    def _open(self, network: str, threads: int) -> Any:
        """A session of `network`; TensorRT may build an engine first, and says so."""
        file = self.artefact.file(network)
        if self._place.provider != "tensorrt":
            return providers.open_session(file, dataclasses.replace(self._place, threads=threads))
        providers.refuse_missing(self._place)
        wanted = tensorrt.buckets(self._sizes, self.limits.row_bucket)
        shapes = tensorrt.profiles(self.artefact, network, wanted)
        facts = tensorrt.machine_facts(self._place.device)
        cache = tensorrt.cache_folder(self.artefact, network, shapes, facts)
        if not any(cache.glob("*.engine")):
            cache.mkdir(parents=True, exist_ok=True)
            self._say(f"building the TensorRT engine of the {network} for {len(wanted)} sizes, once: it takes minutes")
        return providers.open_session(file, self._place, tensorrt.options(self.artefact, network, shapes, cache))

    def _run(self, network: str, inputs: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The one output of `network`, float32 of `shape`, on the backend's device."""
        session = self._session(network)
        with memory():
            return self._run_bound(session, inputs, shape)

    def _run_bound(self, session: Any, inputs: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The same of an open session. Its inputs and its output are bound where they lie: nothing is copied."""
        held = {name: as_input(value).to(self.device) for name, value in inputs.items()}
        answer = torch.empty(shape, dtype=torch.float32, device=self.device)
        binding, device, index = session.io_binding(), self.device.type, self._place.device
        for name, value in held.items():
            kind = np.int64 if value.dtype == torch.int64 else np.float32
            binding.bind_input(name, device, index, kind, tuple(value.shape), value.data_ptr())
        binding.bind_output(session.get_outputs()[0].name, device, index, np.float32, shape, answer.data_ptr())
        if device == "cuda":
            accelerators.finish(self.device)  # onnxruntime works on a stream of its own
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return answer


def load(
    artefact: Artefact, place: Place, sizes: Sequence[tuple[int, int]] = (), say: Callable[[str], None] = print, *,
    checker: bool = True,
) -> OrtBackend:  # fmt: skip
    """An exported model on `place`. TensorRT builds engines for `sizes` (width, height), and `say` hears of it.

    Raises ModelError (6) where a file is not the exported one, MissingError (6) where the provider cannot be had.
    """
    check_files(artefact, weights.file_digests(artefact.path, artefact.loaded(checker)))
    try:
        with quiet(), memory():
            return OrtBackend(artefact, place, sizes, say, checker=checker)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{artefact.path} cannot be loaded: {error}", hint="export the model again") from error


@contextmanager
def memory() -> Iterator[None]:
    """onnxruntime's ways to say that memory ran out, as the condition that `execute` answers."""
    try:
        yield
    except Exception as error:  # its exceptions share no base class of their own
        if any(words in str(error) for words in _MEMORY):
            raise OutOfMemory(str(error).splitlines()[0]) from error
        raise
