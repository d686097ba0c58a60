"""A signed file: it holds in any format, says what was done, keeps the photo's chain; nothing else of it changes."""

from __future__ import annotations

import io
import json
import random
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from runs import many

from ip2pbatch.errors import UsageError
from ip2pbatch.pictures import images
from ip2pbatch.pictures.deliver import DeliverySettings, Prepared, prepare, render
from ip2pbatch.pictures.metadata import Policy, Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.pictures.placing import Place
from ip2pbatch.plan.formats import FORMATS

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")

from signers import KEYS, SERVER, made  # noqa: E402 (it needs what comes with c2pa-python)

from ip2pbatch.pictures.marks import certificates, credentials  # noqa: E402
from ip2pbatch.pictures.marks.signer import Parent, Signer  # noqa: E402

PHOTO = skimage.data.coffee()[:96, :144]
PROVENANCE = Provenance(
    "0123456789abcdef" * 2, "feedc0de" * 8, ("make it <winter>", "färb den Himmel rot ☾"), 7.5, 1.25, 1371, 20,
    "euler_a", (80, 120), "timbrooks/instruct-pix2pix", "ffeeddccbbaa99887766",
)  # fmt: skip
SIGNED = DeliverySettings(sign="ab")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(certificates.identity(made(tmp_path_factory.mktemp("keys")), None, datetime.now(UTC)))


def photo(path: Path, pixels: np.ndarray = PHOTO) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def delivered(path: Path, out: Path, signer: Signer, settings: DeliverySettings = SIGNED) -> Prepared:
    done = prepare(Original(path), PHOTO[:88] // 2, settings, PROVENANCE, Place(out.parent, out.name), signer)
    assert done.file is not None
    done.file.appear()
    return done


def read(path: Path) -> dict[str, object]:
    """What the library says of a file; Reader goes by content, not by name."""
    told = json.loads(c2pa.Reader(str(path)).json())
    return told | {"newest": told["manifests"][told["active_manifest"]]}


def pair(folder: Path, signer: Signer, kind: str) -> tuple[Path, Path]:
    """A file that was signed, and the same one without a signature."""
    source, suffix = photo(folder / "a.jpg"), FORMATS[kind].suffixes[0]
    signed, plain = folder / f"signed{suffix}", folder / f"plain{suffix}"
    settings = replace(SIGNED, format=kind)
    done = delivered(source, signed, signer, settings)
    assert (done.sha256 != done.unsigned, done.notes) == (True, ())
    plain.write_bytes(render(Original(source), PHOTO[:88] // 2, replace(settings, sign=""), PROVENANCE).data)
    return signed, plain


WRITTEN = [one.name for one in FORMATS.values() if one.encode and not one.missing()]


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_format_that_is_written_is_signed_and_shows_the_same(tmp_path: Path, signer: Signer, kind: str) -> None:
    signed, plain = pair(tmp_path, signer, kind)
    assert read(signed)["validation_state"] == "Valid"
    assert np.array_equal(images.load(signed, colours="own").pixels, images.load(plain, colours="own").pixels)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_a_signature_changes_nothing_that_a_file_says(tmp_path: Path, signer: Signer) -> None:
    rows = tags(*(path for kind in WRITTEN for path in pair(tmp_path, signer, kind)))
    for kind, signed, plain in zip(WRITTEN, rows[::2], rows[1::2], strict=True):
        assert (kind, signed) == (kind, plain)


def tags(*paths: Path) -> list[dict[str, object]]:
    """What exiftool reads, less what lies where and the credentials themselves."""
    done = subprocess.run(["exiftool", "-json", "-a", "-G1", "-n", "-struct", *paths], capture_output=True, check=True)
    places = ("Salt", "Offset", "Extent", "StripByteCounts", "MetaDataSize", "MediaDataSize")
    groups = ("System", "JUMBF", "CBOR", "JSON", "SourceFile", "File:FileSize", "C2PA")
    return [
        {tag: value for tag, value in rows.items() if not tag.startswith(groups) and not tag.endswith(places)}
        for rows in json.loads(done.stdout)
    ]


def test_it_says_what_was_done_by_which_model_and_words(tmp_path: Path, signer: Signer) -> None:
    delivered(photo(tmp_path / "a.jpg"), tmp_path / "out.jpg", signer)
    newest = read(tmp_path / "out.jpg")["newest"]
    (actions,) = (one["data"]["actions"] for one in newest["assertions"] if one["label"].startswith("c2pa.actions"))
    assert [one["action"] for one in actions] == ["c2pa.opened", "c2pa.edited"]
    edited = actions[1]
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert edited["parameters"]["ip2pbatch.model"] == "InstructPix2Pix (timbrooks/instruct-pix2pix)"
    assert edited["parameters"]["ip2pbatch.instructions"] == list(PROVENANCE.instructions)
    assert [(one["title"], one["relationship"]) for one in newest["ingredients"]] == [("a.jpg", "parentOf")]


def test_the_instruction_is_not_told_where_it_may_not_be(tmp_path: Path, signer: Signer) -> None:
    settings = replace(SIGNED, prompt=False)
    delivered(photo(tmp_path / "a.jpg"), tmp_path / "out.jpg", signer, settings)
    newest = json.dumps(read(tmp_path / "out.jpg")["newest"], ensure_ascii=False)
    assert "InstructPix2Pix" in newest
    assert not [words for words in PROVENANCE.instructions if words in newest]
    assert b"winter" not in (tmp_path / "out.jpg").read_bytes()


def test_one_byte_altered_is_seen_by_another_process(tmp_path: Path, signer: Signer) -> None:
    out = tmp_path / "out.jpg"
    delivered(photo(tmp_path / "a.jpg"), out, signer)
    data = bytearray(out.read_bytes())
    data[-100] ^= 1
    (tmp_path / "altered.jpg").write_bytes(data)
    code = "import c2pa, sys; print([c2pa.Reader(path).get_validation_state() for path in sys.argv[1:]])"
    said = subprocess.run(
        [sys.executable, "-c", code, str(out), str(tmp_path / "altered.jpg")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "['Valid', 'Invalid']"


@pytest.mark.parametrize("kind", WRITTEN)
def test_one_bit_altered_anywhere_beside_the_statement_is_seen(tmp_path: Path, signer: Signer, kind: str) -> None:
    signed, plain = (path.read_bytes() for path in pair(tmp_path, signer, kind))
    store = signed.find(b"jumb") - 100
    beside = [at for at in range(len(signed)) if not store <= at < store + len(signed) - len(plain) + 200]
    draw = random.Random(kind)
    for at in draw.sample(beside, many(4, 400)):
        data = bytearray(signed)
        data[at] ^= 1 << draw.randrange(8)
        (tmp_path / "altered").write_bytes(data)
        # A length that is another one hides what follows it, as if nobody had signed.
        assert credentials.read(tmp_path / "altered", kind).state in ("altered", "missing"), at


def test_damaged_files_are_read_and_edited_without_a_crash(tmp_path: Path, signer: Signer) -> None:
    """Photos are anybody's: their credentials are read in this process."""
    whole = {kind: pair(tmp_path, signer, kind)[0].read_bytes() for kind in WRITTEN}
    draw, plain = random.Random(16), photo(tmp_path / "plain.jpg").read_bytes()
    for trial in range(many(40, 5000)):
        kind = draw.choice(WRITTEN)
        data = mutated(bytearray(whole[kind]), draw)
        path = tmp_path / "mutant"
        path.write_bytes(data)
        found = credentials.read(path, kind)
        assert found.state in ("unknown signer", "altered", "invalid", "missing"), trial
        signed = signer.sign(plain, "jpeg", Parent(path, kind, signed=True), PROVENANCE, Policy())
        assert c2pa.Reader("jpeg", io.BytesIO(signed.data)).get_validation_state() == "Valid", trial


def mutated(data: bytearray, draw: random.Random) -> bytes:
    """Bits, numbers or the length of a file changed, or a piece of it twice."""
    at, way = draw.randrange(len(data) - 4), draw.randrange(4)
    if way == 0:
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at : at + 4] = draw.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1"])
    else:
        data[at:at] = data[draw.randrange(len(data)) :][: draw.randint(1, 400)]
    return bytes(data)


def test_the_photos_own_credentials_stay_in_the_chain(tmp_path: Path, signer: Signer) -> None:
    first, second = tmp_path / "first.jpg", tmp_path / "second.png"
    delivered(photo(tmp_path / "a.jpg"), first, signer)
    done = delivered(first, second, signer, replace(SIGNED, format="png"))
    assert done.notes == ()
    told = read(second)
    assert told["validation_state"] == "Valid"
    assert told["newest"]["ingredients"][0]["active_manifest"] == read(first)["active_manifest"]
    unsigned = render(Original(first), PHOTO[:88], DeliverySettings(), PROVENANCE)
    assert unsigned.notes == ("Content Credentials (C2PA) left out: their signature is of the photo as it was",)


@pytest.mark.parametrize(("harmed", "further"), [(b"c2pa.claim", 60), (b"jumd", 4)])
def test_damaged_credentials_of_a_photo_are_named(tmp_path: Path, signer: Signer, harmed: bytes, further: int) -> None:
    first, out = tmp_path / "first.jpg", tmp_path / "out.jpg"
    delivered(photo(tmp_path / "a.jpg"), first, signer)
    data = bytearray(first.read_bytes())
    at = data.find(harmed) + further
    data[at : at + 4] = bytes(byte ^ 255 for byte in data[at : at + 4])
    first.write_bytes(data)
    done = delivered(first, out, signer)
    assert done.notes == ("Content Credentials (C2PA) of the photo left out of the new ones: they are damaged",)
    assert read(out)["validation_state"] == "Valid"


def test_where_a_photo_was_taken_does_not_come_through_its_chain(tmp_path: Path, signer: Signer) -> None:
    camera, out = tmp_path / "camera.jpg", tmp_path / "out.jpg"
    data = io.BytesIO()
    builder = c2pa.Builder(
        {"assertions": [{"label": "stds.exif", "data": {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"},
                                                        "exif:GPSLatitude": "48,12.5N"}}]}
    )  # fmt: skip
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
    who = signer._identity
    camera_s = c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.chain)
    builder.sign(camera_s, "jpeg", io.BytesIO(photo(tmp_path / "a.jpg").read_bytes()), data)
    camera.write_bytes(data.getvalue())
    for gps, notes, times in (("keep", 0, 1), ("strip", 1, 0)):
        done = delivered(camera, out.with_stem(gps), signer, replace(SIGNED, gps=gps))
        assert (len(done.notes), (tmp_path / f"{gps}.jpg").read_bytes().count(b"48,12.5N")) == (notes, times)
    assert done.notes == (
        "Content Credentials (C2PA) of the photo left out of the new ones: they say where it was taken",
    )


def test_a_photo_that_the_library_cannot_read_is_named_as_the_parent(tmp_path: Path, signer: Signer) -> None:
    delivered(photo(tmp_path / "a.bmp"), tmp_path / "out.jpg", signer)
    told = read(tmp_path / "out.jpg")
    assert told["validation_state"] == "Valid"
    assert told["newest"]["ingredients"][0]["title"] == "a.bmp"


def test_a_file_of_ours_is_known_again_though_no_signature_is_twice_the_same(tmp_path: Path, signer: Signer) -> None:
    source, out = photo(tmp_path / "a.png"), tmp_path / "out.png"
    assert delivered(source, out, signer).path == out
    assert delivered(source, out, signer).path == out
    data = bytearray(out.read_bytes())
    data[-20] ^= 1
    out.write_bytes(data)
    assert delivered(source, out, signer).path == tmp_path / "out_2.png", "somebody changed it: it is theirs"


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind != "k256"])
def test_every_kind_of_key_that_c2pa_allows_signs(tmp_path: Path, kind: str) -> None:
    who = certificates.identity(made(tmp_path / "keys", kind), None, datetime.now(UTC))
    assert who.algorithm == kind
    delivered(photo(tmp_path / "a.jpg"), tmp_path / "out.jpg", Signer(who))
    assert read(tmp_path / "out.jpg")["validation_state"] == "Valid"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"days": (-30, -2)}, "certificate.pem expired on "),
        ({"days": (2, 30)}, "certificate.pem is valid from "),
        ({"purpose": SERVER}, "not allowed for C2PA: its purpose (extended key usage) is none of "),
        ({"purpose": "2.5.29.37.0"}, "not allowed for C2PA: its purpose"),
        ({"own": True}, "not allowed for C2PA: it is signed by itself"),
        ({"authority": True}, "not allowed for C2PA: it is an authority's own"),
        ({"signs": False}, "not allowed for C2PA: its key usage is not digital signature"),
        ({"kind": "k256"}, "not allowed for C2PA: its key is of another kind"),
        ({"passphrase": "hunter2"}, "key.pem is locked with a passphrase"),
    ],
)
def test_a_certificate_that_will_not_do_is_refused_with_the_reason(
    tmp_path: Path, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        certificates.identity(made(tmp_path, **wrong), None, datetime.now(UTC))  # type: ignore[arg-type]
    assert said in str(refused.value)
    assert refused.value.hint


def test_a_key_must_be_the_certificates_and_open_by_its_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    locked, other = made(tmp_path / "locked", passphrase="hunter2"), made(tmp_path / "other")
    swapped = other.model_copy(update={"certificate": locked.certificate})
    with pytest.raises(UsageError, match="does not belong to the certificate"):
        certificates.identity(swapped, None, now)
    monkeypatch.setenv("IP2PBATCH_KEY_PASSPHRASE", "wrong1")
    with pytest.raises(UsageError, match="cannot be opened with the passphrase") as refused:
        certificates.identity(locked, None, now)
    assert "wrong1" not in f"{refused.value} {refused.value.hint} {refused.value.__context__ and ''}"
    monkeypatch.setenv("IP2PBATCH_KEY_PASSPHRASE", "hunter2")
    assert certificates.identity(locked, None, now).sign(b"bytes")
    assert certificates.identity(other, None, now).sign(b"a passphrase that is not needed is no mistake")


def test_a_command_signs_and_what_it_was_told_is_never_repeated(tmp_path: Path) -> None:
    written = made(tmp_path / "keys")
    without = written.model_copy(update={"key": None})
    now = datetime.now(UTC)
    with pytest.raises(UsageError, match="no command signs"):
        certificates.identity(without, None, now)
    program = (
        "import sys; from cryptography.hazmat.primitives import hashes, serialization as s; "
        "from cryptography.hazmat.primitives.asymmetric import ec, utils; "
        f"key = s.load_pem_private_key(open({str(written.key)!r}, 'rb').read(), None); "
        "r, t = utils.decode_dss_signature(key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256()))); "
        "sys.stdout.buffer.write(r.to_bytes(32, 'big') + t.to_bytes(32, 'big'))"
    )
    command = shlex.join([sys.executable, "-c", program])
    delivered(photo(tmp_path / "a.jpg"), tmp_path / "out.jpg", Signer(certificates.identity(without, command, now)))
    assert read(tmp_path / "out.jpg")["validation_state"] == "Valid"
    for wrong, said in (
        ("echo --pin 1234", "does not belong to the certificate"), ("false --pin 1234", "it ended with 1"),
        ("no-such-program --pin 1234", "cannot be run"), ("'", "is no command"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said) as refused:
            certificates.identity(without, wrong, now)
        assert "1234" not in f"{refused.value} {refused.value.hint}"
