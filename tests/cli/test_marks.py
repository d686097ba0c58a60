"""`marks`: what it says of files that are marked, altered, signed by strangers, or not marked at all."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import CommandLine, Said
from PIL import Image

from ip2pbatch import jobs
from ip2pbatch.errors import ResourceError
from ip2pbatch.pictures.marks import certificates
from ip2pbatch.pictures.marks.signer import Parent, Signer
from ip2pbatch.pictures.metadata import Policy, Provenance
from ip2pbatch.plan.written.outputs import Signing

PROVENANCE = Provenance("0" * 32, "f" * 64, ("make it winter",), 7.5, 1.5, 7, 20, "euler_a", (96, 96), "tiny")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's output folder, delivered as it is by default."""
    folder = tmp_path_factory.mktemp("shoot")
    Image.linear_gradient("L").convert("RGB").save(folder / "one.jpg")
    edited = jobs.edit(folder / "one.jpg", "make it winter", folder / "out", machine=jobs.Machine(backend="fake"))
    assert edited.exit_code == 0
    return folder / "out"


def rows(said: Said) -> dict[str, dict[str, dict[str, object]]]:
    return {row["file"]: row for row in json.loads(said.out)["files"]}


def test_what_is_delivered_has_iptcs_mark_and_no_signature(command: CommandLine, unsigned: Path) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    said = command("marks", unsigned, "--json")
    (row,) = rows(said).values()  # the sheets of a run are nobody's photos
    assert row["iptc"] == {
        "state": "present", "source_type": "compositeWithTrainedAlgorithmicMedia", "system": row["iptc"]["system"],
        "version": row["iptc"]["version"], "prompt": "make it winter", "writer": "",
    }  # fmt: skip
    assert (row["c2pa"]["state"], row["watermark"], row["missing"]) == ("missing", "not checked", ["c2pa"])
    assert (said.code, json.loads(said.out)["exit_code"]) == (4, 4)
    assert "C2PA mark missing or broken: 1 file of 1" in command("marks", unsigned).out


def test_without_the_library_c2pa_is_not_checked_and_the_pip_line_said(
    command: CommandLine, unsigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.pictures.marks.manifests.find_spec", lambda name: None)
    said = command("marks", unsigned)
    assert (said.code, "not checked" in said.out) == (0, True)
    assert "note: C2PA is not checked: pip install 'ip2pbatch[c2pa]'" in said.err
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert command("marks", tmp_path / "plain.png").code == 4, "IPTC's mark is missing"
    said = command("marks", "--test-certificate", tmp_path / "keys")
    assert (said.code, "pip install 'ip2pbatch[c2pa]'" in said.err) == (6, True)


@pytest.fixture
def signer(command: CommandLine, tmp_path: Path) -> Signer:
    """Of the certificate that the command makes for trying."""
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    said = command("marks", "--test-certificate", tmp_path / "keys")
    authority, certificate, key = re.findall(r"^\w+: +(\S+\.pem)$", said.out, re.MULTILINE)
    assert (said.code, f"marks FILE --trust {authority}" in said.err) == (0, True)
    assert f"output: {{sign: {{certificate: {certificate}, key: {key}}}}}" in said.out
    assert Path(key).stat().st_mode & 0o077 == 0
    assert command("marks", "--test-certificate", tmp_path / "keys").code == 2, "no key is written over"
    return Signer(certificates.identity(Signing(certificate=certificate, key=key), None, datetime.now(UTC)))


def signed(signer: Signer, path: Path, out: Path) -> Path:
    parent = Parent(path, "jpeg")
    out.write_bytes(signer.sign(path.read_bytes(), "jpeg", parent, PROVENANCE, Policy()).data)
    return out


def test_a_signature_is_known_altered_or_a_strangers(
    command: CommandLine, unsigned: Path, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "signed"
    folder.mkdir()
    (delivered,) = unsigned.glob("*.jpg")
    long = "a name longer than a line of a terminal of 80 columns, as some " * 2 + ".jpg"
    whole = signed(signer, delivered, folder / long)
    data = bytearray(whole.read_bytes())
    data[-100] ^= 1
    (folder / "altered.jpg").write_bytes(data)
    (folder / "junk.jpg").write_bytes(b"junk")
    (folder / ".hidden.jpg").write_bytes(b"junk")
    said = command("marks", folder, "--json", "--trust", tmp_path / "keys/authority.pem")
    found = rows(said)
    assert {name: row["c2pa"]["state"] for name, row in found.items()} == {
        whole.name: "valid", "altered.jpg": "altered", "junk.jpg": "missing",
    }  # fmt: skip
    assert found[whole.name]["c2pa"]["signer"] == "ip2pbatch trial signer (for trying only)"
    assert (said.code, found[whole.name]["missing"], found["altered.jpg"]["missing"]) == (4, [], ["c2pa"])
    monkeypatch.setenv("COLUMNS", "80")
    said = command("marks", folder)
    assert "warning: altered.jpg: altered: its bytes are not those that were signed" in said.err
    assert max(map(len, said.out.splitlines())) <= 80
    said = command("marks", whole)
    assert (said.code, "unknown signer" in said.out, "--trust FILE" in said.err) == (0, True, True)


def test_a_cameras_own_signature_does_not_say_that_a_model_was_at_work(
    command: CommandLine, signer: Signer, tmp_path: Path
) -> None:
    import c2pa

    picture, out = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    builder = c2pa.Builder({})
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
    who = signer._identity
    builder.sign(c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.chain), "png", picture, out)
    (tmp_path / "camera.png").write_bytes(out.getvalue())
    said = command("marks", tmp_path / "camera.png", "--trust", tmp_path / "keys/authority.pem")
    assert (said.code, "valid, not as AI" in said.out, "digitalCapture" in said.out) == (4, True, True)


def test_a_signature_whose_certificate_has_expired_is_invalid_and_not_altered(
    signer: Signer, tmp_path: Path, unsigned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import c2pa

    (delivered,) = unsigned.glob("*.jpg")
    out = signed(signer, delivered, tmp_path / "out.jpg")
    told = json.loads(c2pa.Reader(str(out)).json())
    told["validation_state"] = "Invalid"  # as the library says it a day after
    told["validation_results"]["activeManifest"]["failure"].append(
        {"code": "signingCredential.expired", "explanation": "certificate expired"}
    )
    monkeypatch.setattr(c2pa.Reader, "json", lambda self: json.dumps(told))
    (row,) = jobs.marks(out).files
    assert (row.c2pa.state, row.c2pa.why, row.missing) == ("invalid", "certificate expired", ("c2pa",))


def test_the_page_about_marks_can_be_typed(command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    monkeypatch.chdir(shoot)
    text = (Path(__file__).parents[2] / "docs/marks.md").read_text("utf-8")
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    Path("recipe.yaml").write_text(f"model: tiny\n{recipe}")
    calls = re.findall(r"^ip2pbatch ([^#\n]*)", text, re.M)
    assert [call.split()[0] for call in calls] == ["marks", "run", "marks"]
    for call in calls:
        said = command(*call.split(), *(["--backend", "fake"] if call.startswith("run") else []))
        assert said.code == 0, f"{call}: {said.err}"
    assert "3 files: every mark that was looked for is there and holds" in said.out


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "marks takes either"),
        (["out", "--test-certificate", "keys"], 2, "marks takes either"),
        (["nowhere"], 2, "there is no such file or folder"),
        (["empty"], 5, "holds no picture"),
        (["empty", "--trust", "none.pem"], 2, "--trust: none.pem: No such file"),
        (["empty", "--trust", "words.txt"], 2, "holds no certificate"),
    ],
)
def test_what_cannot_be_looked_at_is_an_error_with_a_hint(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("words")
    ended = command("marks", *flags)
    assert (ended.code, said in ended.err, "hint:" in ended.err) == (code, True, True)


def test_no_key_is_made_where_a_disk_takes_none(tmp_path: Path) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")
    with pytest.raises(ResourceError):
        jobs.trial_certificate(tmp_path / "keys")
