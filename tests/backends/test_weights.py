"""Names become checked folders; whatever is not a safe model in the known layout is refused with its reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_model

from ip2pbatch.backends import weights
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import EMBEDDED

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "kl")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "kl"))


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_resolves_to_itself_with_the_digest_of_what_is_loaded(model: Path, tmp_path: Path) -> None:
    first = weights.resolve(str(model))
    (model / "README.md").write_text("not loaded")
    elsewhere = Path(shutil.copytree(model, tmp_path / "other"))
    assert (first.path, first.revision) == (model, "")
    assert weights.resolve(str(elsewhere)).digest == first.digest


def test_one_changed_bit_of_a_weight_is_another_digest(model: Path) -> None:
    before = weights.resolve(str(model)).digest
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert weights.resolve(str(model)).digest != before


def test_gigabytes_are_hashed_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.resolve(str(model)).digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert weights.resolve(str(model)).digest == before


def only_pickles(model: Path) -> None:
    for file in model.rglob("*.safetensors"):
        file.rename(file.with_name("diffusion_pytorch_model.bin"))


def no_index(model: Path) -> None:
    (model / "model_index.json").unlink()
    (model / "v1-5.ckpt").write_bytes(b"pickle")


def unknown_class(model: Path) -> None:
    edit_json(model / "model_index.json", unet=["diffusers", "SD3Transformer2DModel"])


def unknown_library(model: Path) -> None:
    edit_json(model / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])


def custom_pipeline(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name=["pipeline", "StableDiffusionInstructPix2PixPipeline"])


def other_pipeline(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name="StableDiffusion3Pipeline")


def sdxl(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name="StableDiffusionXLPipeline")


def own_code(model: Path) -> None:
    (model / "unet" / "modeling.py").write_text("raise SystemExit")


def auto_map(model: Path) -> None:
    edit_json(model / "text_encoder" / "config.json", auto_map={"AutoModel": "modeling.Mine"})


def traversal(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../../etc/passwd.safetensors"}}
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def truncated(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def tampered_header(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])


def missing_weights(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def text_to_image(model: Path) -> None:
    edit_json(model / "unet" / "config.json", in_channels=4)


def inpainting(model: Path) -> None:
    edit_json(model / "unet" / "config.json", in_channels=9)


def xl_conditioning(model: Path) -> None:
    edit_json(model / "unet" / "config.json", addition_embed_type="text_time")


def class_labels(model: Path) -> None:
    edit_json(model / "unet" / "config.json", num_class_embeds=10)


def predicts_pictures(model: Path) -> None:
    edit_json(model / "scheduler" / "scheduler_config.json", prediction_type="sample")


def unknown_noise(model: Path) -> None:
    edit_json(model / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid")


def other_text_width(model: Path) -> None:
    edit_json(model / "unet" / "config.json", cross_attention_dim=768)


def damaged_json(model: Path) -> None:
    (model / "vae" / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (only_pickles, "a pickle, which is never loaded"),
        (no_index, "v1-5.ckpt, a pickle, which is never loaded"),
        (unknown_class, "unet is diffusers.SD3Transformer2DModel, which is not loaded"),
        (unknown_library, "unet is my_unet.UNet2DConditionModel, which is not loaded"),
        (custom_pipeline, "brings its own code"),
        (other_pipeline, "is a StableDiffusion3Pipeline, not an InstructPix2Pix"),
        (
            sdxl,
            "is an SDXL model (StableDiffusionXLPipeline), which can be trained here and neither edits",
        ),
        (own_code, "brings its own code (unet/modeling.py), which is never run"),
        (auto_map, "asks for code of its own (auto_map), which is never run"),
        (traversal, "points out of the model's folder"),
        (truncated, "is damaged or incomplete"),
        (tampered_header, "is damaged or incomplete"),
        (missing_weights, "has no diffusion_pytorch_model.safetensors"),
        (text_to_image, "draws pictures from text: its UNet takes no photo"),
        (inpainting, "the UNet takes 9 channels and gives 4, but this autoencoder's latents have 4"),
        (xl_conditioning, "the UNet needs addition_embed_type"),
        (class_labels, "the UNet needs num_class_embeds = 10"),
        (predicts_pictures, "its UNet predicts 'sample', and samplers here take epsilon or v_prediction"),
        (
            unknown_noise,
            "its noise grows by 'sigmoid', and samplers here know linear, scaled_linear",
        ),
        (other_text_width, "the UNet reads text of width 768, the text encoder gives 32"),
        (damaged_json, "cannot be read"),
    ],
)
def test_what_is_not_a_safe_editing_model_is_refused(model: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(model)
    with pytest.raises(ModelError) as caught:
        weights.resolve(str(model))
    assert reason in str(caught.value)
    assert caught.value.exit_code == 6


def test_a_pickle_is_never_executed(model: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError):
        weights.resolve(str(model))
    assert not (tmp_path / "executed").exists()


def test_a_missing_folder_is_not_taken_for_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(ModelError, match="there is no model folder"):
        weights.resolve("./models/mine/v2")


def test_a_missing_model_offline_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(ModelError) as caught:
        weights.resolve("timbrooks/instruct-pix2pix")
    assert sum(slept) < 5
    assert "`ip2pbatch models pull timbrooks/instruct-pix2pix`" in str(caught.value.hint)
    assert "--model tiny" in str(caught.value.hint)


def test_offline_mode_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        weights.resolve("timbrooks/instruct-pix2pix")


class FakeHub(BaseHTTPRequestHandler):
    """Enough of the hub's HTTP for one repository: its file list at a commit, and its files."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        name = self.path.partition(f"/resolve/{COMMIT}/")[2] or self.path.partition("/resolve/main/")[2]
        self.asked.append(name or self.path)
        if name:
            data = (self.folder / name).read_bytes()
        elif self.path.startswith("/api/models/owner/kl"):
            names = sorted(
                file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file()
            )
            sizes = {name: (self.folder / name).stat().st_size for name in names if "blobs=" in self.path}
            files = [{"rfilename": name, "size": sizes.get(name)} for name in names]
            listing = {"id": "owner/kl", "sha": COMMIT, "siblings": files}
            data = json.dumps(listing).encode()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    handler = type("Handler", (FakeHub,), {"folder": model, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_without_pickles_or_code(
    hub: type[FakeHub], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (model / "handler.py").write_text("raise SystemExit")
    (model / "whole-model.safetensors").write_bytes(b"7 GB")
    said: list[str] = []
    fetched = weights.resolve("owner/kl", note=lambda text: said.append(f"{text} ({len(hub.asked)} asked before)"))
    whole = [path for path in fetched.path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in whole) / 1e6
    assert said == [f"downloading owner/kl from the hub: {len(whole)} files, {size:.1f} MB (3 asked before)"]
    assert fetched.revision == COMMIT
    assert not [name for name in hub.asked if name.endswith((".bin", ".py")) or name.startswith("whole")]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights.resolve("owner/kl") == fetched
    assert weights.resolve(f"owner/kl@{COMMIT}").digest == fetched.digest
    assert [(known.name, known.revision) for known in weights.list_models() if known.name not in EMBEDDED] == [
        ("owner/kl", COMMIT)
    ]


def test_a_damaged_file_of_the_cache_is_named(hub: type[FakeHub]) -> None:
    path = weights.pull("owner/kl").path / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(bytes(data))
    with pytest.raises(ModelError, match="is damaged: its sha256"):
        weights.resolve("owner/kl")


def test_a_download_that_was_cut_short_is_fetched_on(hub: type[FakeHub]) -> None:
    whole = weights.pull("owner/kl")
    (unet := whole.path / "unet" / "diffusion_pytorch_model.safetensors").resolve().unlink()
    shutil.rmtree(unet.parent)
    said: list[str] = []
    assert weights.resolve("owner/kl", note=said.append) == whole
    assert len(said) == 1
    assert int(said[0].split(": ")[1].split()[0]) < len([path for path in whole.path.rglob("*") if path.is_file()])


def test_a_name_the_hub_does_not_know_is_said_so(hub: type[FakeHub]) -> None:
    with pytest.raises(ModelError, match="the hub refused owner/typo") as caught:
        weights.pull("owner/typo")
    assert "name" in str(caught.value.hint)


def test_the_half_size_weights_are_fetched_where_there_are_both() -> None:
    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin", "tokenizer/merges.txt"]
    names += [f"unet/diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16", ".non_ema")]
    names += ["vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.non_ema.safetensors"]
    assert set(weights.wanted_files(names)) == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
    }
