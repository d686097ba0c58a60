"""Signing from a recipe: what is refused before anything runs, and what is delivered, locked and verified."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from command import CommandLine

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.marks import trial_authority

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")

from signers import TIME_STAMPING, made  # noqa: E402 (it needs what comes with c2pa-python)

RECIPE = """
name: shoot
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out, sign: {certificate: keys/certificate.pem, key: keys/key.pem}}
size: {long_side: 96}
"""


@pytest.fixture
def recipe(shoot: Path) -> Path:
    trial_authority.make(shoot / "keys")
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def states(out: Path) -> list[str]:
    """How the library finds the delivered files."""
    return [c2pa.Reader(str(path)).get_validation_state() for path in files(out)]


def files(out: Path) -> list[Path]:
    return sorted(p for p in out.rglob("*_make-it-winter*") if ".ip2pbatch" not in p.parts)


def test_files_are_signed_once_and_verified_as_they_were_before(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, "--backend", "fake").code == 0
    assert states(out) == ["Valid"] * 3
    before = [path.read_bytes() for path in files(out)]
    assert "0 files delivered" in command("run", recipe, "--backend", "fake").out
    assert [path.read_bytes() for path in files(out)] == before
    assert command("lock", recipe).code == 0
    altered = files(out)[0]
    data = bytearray(altered.read_bytes())
    data[-100] ^= 1
    altered.write_bytes(data)
    said = command("verify", recipe.with_name("recipe.lock.yaml"), "--level", "bitwise", "--against", out)
    assert (said.code, "1 differs of 3" in said.out) == (4, True)
    altered.write_bytes(before[0])
    times = altered.stat()
    altered.write_bytes(data)
    os.utime(altered, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk's doing, and nobody's
    said = command("check", out, "--repair")
    assert (said.code, "for the next run" in said.out) == (4, True)
    assert "1 file delivered" in command("run", recipe, "--backend", "fake").out
    assert (states(out), command("check", out).code) == (["Valid"] * 3, 0)
    shutil.rmtree(recipe.parent / "keys")  # whoever compares needs nobody's certificate
    assert command("lock", recipe, "--check").code == 0
    assert command("verify", out, "--level", "bitwise").code == 0
    lock = recipe.with_name("recipe.lock.yaml")
    assert command("verify", lock, "--level", "bitwise", "--against", out).code == 0
    assert "sign: true" in lock.read_text()
    recipe.write_text(RECIPE.split(", sign:")[0] + "}\nsize: {long_side: 96}\n")
    said = command("lock", recipe, "--check")
    assert (said.code, "output sign is none, was on" in said.out) == (4, True)
    assert command("run", recipe, "--backend", "fake").code == 0
    assert states_or_none(out) == [None] * 3, "the same names, signed no longer"
    rows = [json.loads(line) for line in (out / ".ip2pbatch/deliveries.jsonl").read_text().splitlines()]
    signed = {row["path"]: row["unsigned"] for row in rows if row["unsigned"]}
    plain = {row["path"]: row["sha256"] for row in rows if not row["unsigned"] and not row.get("begun")}
    assert signed == plain, "bit for bit what was signed"


def test_workers_sign_as_one_process_does(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake", "--devices", "cpu").code == 0
    assert command("run", recipe, "--backend", "fake", "-o", recipe.parent / "one").code == 0
    assert states(recipe.parent / "out") == ["Valid"] * 3
    two, one = (signed_digests(recipe.parent / out) for out in ("out", "one"))
    assert two == one
    assert "0 files delivered" in command("run", recipe, "--backend", "fake").out


def signed_digests(out: Path) -> dict[str, str]:
    """Of each file as it was before it was signed."""
    rows = [json.loads(line) for line in (out / ".ip2pbatch/deliveries.jsonl").read_text().splitlines()]
    return {row["path"]: row["unsigned"] for row in rows if not row.get("begun")}


def states_or_none(out: Path) -> list[object]:
    return [c2pa.Reader.try_create(str(path)) for path in files(out)]


def test_without_a_signature_digests_are_as_they_were() -> None:
    assert DeliverySettings().recorded.keys() == {"format", "quality", "full_resolution", "gps", "prompt"}
    assert DeliverySettings(sign="ab").digest != DeliverySettings().digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("keys/certificate.pem", "keys/none.pem"), "keys/none.pem: No such file or directory"),
        (("key: keys/key.pem", "key: keys/none.pem"), "keys/none.pem: No such file or directory"),
        (("keys/certificate.pem", "keys/key.pem"), "key.pem holds no certificate"),
        (("keys/certificate.pem", "keys/authority.pem"), "is not allowed for C2PA"),
        ((", key: keys/key.pem", ""), "no command signs"),
    ],
)
def test_what_cannot_sign_is_refused_before_anything_runs(
    command: CommandLine, recipe: Path, change: tuple[str, str], said: str
) -> None:
    recipe.write_text(RECIPE.replace(*change))
    ended = command("run", recipe, "--backend", "fake")
    assert (ended.code, said in ended.err, "hint:" in ended.err) == (2, True, True)
    assert not (recipe.parent / "out").exists()


def test_a_missing_library_is_an_exit_code_and_a_pip_line(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.pictures.marks.manifests.find_spec", lambda name: None)
    ended = command("run", recipe, "--backend", "fake")
    assert (ended.code, "pip install 'ip2pbatch[c2pa]'" in ended.err) == (6, True)
    assert not (recipe.parent / "out").exists()


def test_no_secret_is_in_a_recipe_or_shown(command: CommandLine, recipe: Path) -> None:
    secret = "MIGHAgEAMBMGByqG"
    for wrong in (f'key: "-----BEGIN PRIVATE KEY----- {secret}"', f"key: keys/key.pem, passphrase: {secret}",
                  f'key: keys/key.pem, timestamp: "http://me:{secret}@tsa.example"'):  # fmt: skip
        recipe.write_text(RECIPE.replace("key: keys/key.pem", wrong))
        ended = command("run", recipe, "--backend", "fake")
        assert (ended.code, "recipe.yaml:6:" in ended.err, secret in ended.err + ended.out) == (2, True, False)


def test_a_full_disk_leaves_nothing_half_signed(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = recipe.parent / "out"

    def full(path: Path, data: bytes, **_: object) -> None:
        path.with_name(".ip2p-half.tmp").write_bytes(data[: len(data) // 2])
        raise disk_error(OSError(errno.ENOSPC, "no space"), path)

    with monkeypatch.context() as patch:
        patch.setattr("ip2pbatch.disk.files_at.write_beside", full)
        assert command("run", recipe, "--backend", "fake").code == 7
    assert files(out) == []
    ended = command("run", recipe, "--backend", "fake")
    assert (ended.code, states(out), list(out.rglob(".ip2p-*"))) == (0, ["Valid"] * 3, [])


@contextmanager
def authority(folder: Path, *, answers: bool) -> Iterator[str]:
    """The address of a time-stamp authority of ours, by OpenSSL."""
    config = "[tsa]\nserial={0}/serial\ncrypto_device=builtin\nsigner_digest=sha256\ndefault_policy=1.2.3.4\n"
    config += "digests=sha256,sha384,sha512\nordering=no\ntsa_name=no\ness_cert_id_chain=no\n"
    folder.mkdir()
    (folder / "tsa.cnf").write_text(config.format(folder))
    (folder / "serial").write_text("01")
    made(folder, "ps256", purpose=TIME_STAMPING)

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (folder / "query").write_bytes(query)
            reply = b""
            if answers:
                openssl(folder, "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa", "-queryfile", "query",
                        "-signer", "certificate.pem", "-inkey", "key.pem", "-out", "reply")  # fmt: skip
                reply = (folder / "reply").read_bytes()
            self.send_response(200 if answers else 503)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_time_stamp_is_asked_for_and_its_absence_told_before_anything_runs(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    out = recipe.parent / "out"
    with authority(tmp_path / "none", answers=False) as address:
        recipe.write_text(RECIPE.replace("key.pem}", f"key.pem, timestamp: {address!r}}}"))
        ended = command("run", recipe, "--backend", "fake")
    assert (ended.code, f"the time-stamp authority {address} gave no time-stamp" in ended.err) == (6, True)
    assert not out.exists()
    with authority(tmp_path / "tsa", answers=True) as address:
        recipe.write_text(RECIPE.replace("key.pem}", f"key.pem, timestamp: {address!r}}}"))
        assert command("run", recipe, "--backend", "fake").code == 0
    for path in files(out):
        reader = c2pa.Reader(str(path))
        codes = [one["code"] for one in reader.get_validation_results()["activeManifest"]["success"]]
        assert (reader.get_validation_state(), "timeStamp.validated" in codes) == ("Valid", True)
        assert reader.get_active_manifest()["signature_info"]["time"]
    assert command("verify", out, "--level", "bitwise").code == 0, "a time-stamp is no difference"
