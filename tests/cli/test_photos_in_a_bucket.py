"""Photos in a bucket: the same run as of a folder, and what goes wrong on the way is told by name."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from PIL import Image
from store_server import SECRET, Bucket, StoreServer

from ip2pbatch.run.directory.view import read_run

WINTER = ("-i", "make it winter", "--backend", "fake", "--size", "64")


def jpeg(seed: int) -> bytes:
    pixels, data = np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(data, "jpeg")
    return data.getvalue()


@pytest.fixture
def photos(bucket: Bucket, shoot: Path) -> str:
    """The photos of `shoot` in a bucket, beside what is no photo."""
    bucket.put_folder(shoot / "photos", "2024/trip")
    bucket.put("2024/trip/notes.txt", b"none")
    bucket.put("2024/trip-2/other.jpg", jpeg(1))
    bucket.put("2024/trip/old/.ip2pbatch/run.json", b"{}")
    bucket.put("2024/trip/old/one_make-it-winter.jpg", jpeg(2))
    return f"s3://{bucket.name}/2024/trip"


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_a_bucket_is_edited_as_a_folder_is(
    command: CommandLine, photos: str, shoot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "a cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    said = command("edit", photos, *WINTER, "-o", shoot / "out")
    assert said.code == 0, said.err
    assert "1 other file (.txt)" in said.out + said.err
    assert "the output of another run" in said.out + said.err
    here = command("edit", shoot / "photos", *WINTER, "-o", shoot / "here")
    assert here.code == 0, here.err
    pictures = [{name: data for name, data in files_below(shoot / out).items() if name.endswith((".jpg", ".png"))}
                for out in ("out", "here")]  # fmt: skip
    assert pictures[0].keys() == pictures[1].keys()
    assert "day2/two_make-it-winter.jpg" in pictures[0]
    assert {name: data for name, data in pictures[0].items() if "/edits/" in name} == {
        name: data for name, data in pictures[1].items() if "/edits/" in name
    }
    assert {photo.name for photo in read_run(shoot / "out").photos} == {"one.jpg", "day2/two.jpg", "three.png"}
    left = b"".join(files_below(shoot / "out").values()) + (said.out + said.err).encode()
    assert f'folder: "{photos}"'.encode() in left
    assert f'"folder":"{photos}","prefix":"trip","glob":"one.jpg"'.encode() in left  # of the report's recipe
    assert str(cache).encode() not in left
    everything = left + b"".join(files_below(cache).values())
    assert SECRET.encode() not in everything
    assert b"AKIAQUITEPUBLIC" not in everything


def test_going_on_asks_for_the_listing_alone(
    command: CommandLine, photos: str, shoot: Path, store: StoreServer
) -> None:
    assert command("edit", photos, *WINTER, "-o", shoot / "out").code == 0
    assert store.counted("GET", "list-type") == 1
    assert store.counted("GET") == 1 + 3  # each photo once, though it is looked at, edited and delivered
    store.asked.clear()
    again = command("run", shoot / "out", "--backend", "fake")
    assert "done: 0 edits made, 0 files delivered" in again.out, again.err
    assert len(store.asked) == 1
    store.asked.clear()
    assert command("edit", photos, "-i", "as a mosaic", *WINTER[2:], "-o", shoot / "out").code == 0
    assert store.counted("HEAD") == 3  # asked whether they are the same
    assert not store.counted("GET", ".jpg")  # and not sent


def test_what_a_photo_and_its_sidecar_say_comes_along(command: CommandLine, bucket: Bucket, shoot: Path) -> None:
    sidecar = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Label="Blue"/></rdf:RDF></x:xmpmeta>'
    )
    bucket.put("a.jpg", jpeg(3))
    bucket.put("a.xmp", sidecar.encode())
    assert command("edit", f"s3://{bucket.name}", *WINTER, "-o", shoot / "out").code == 0
    assert b"Blue" in (shoot / "out/a_make-it-winter.jpg").read_bytes()


def test_a_recipe_filters_buckets_and_folders_alike(
    command: CommandLine, photos: str, bucket: Bucket, shoot: Path
) -> None:
    """Two prefixes and a folder, whose names stand before their photos'; a CSV of edits; what is excluded."""
    bucket.put("more/four.jpg", jpeg(5))
    (shoot / "notes.csv").write_text("photo,instruction\ntwo.jpg,as a mosaic\n")
    recipe = _written(
        shoot / "recipe.yaml",
        f"photos:\n  - {{folder: '{photos}', exclude: [day2], include: ['**/*.jpg']}}\n  - s3://{bucket.name}/more/\n"
        "  - {folder: photos/day2, instructions: notes.csv}\nedits: [x]\n"
        "output: {folder: out}\nsize: {long_side: 64}\n",
    )
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0, said.err
    assert {path.relative_to(shoot / "out").as_posix() for path in (shoot / "out").rglob("*.jpg")} == {
        "trip/one_x.jpg", "more/four_x.jpg", "day2/two_x.jpg", "day2/two_as-a-mosaic.jpg"
    }  # fmt: skip


def test_one_photo_by_its_address(command: CommandLine, photos: str, shoot: Path) -> None:
    said = command("edit", f"{photos}/day2/two.jpg", *WINTER, "-o", shoot / "out")
    assert said.code == 0, said.err
    assert [path.name for path in (shoot / "out").glob("*.jpg")] == ["two_make-it-winter.jpg"]


@pytest.mark.parametrize("happens", ["vanishes", "changes"])
def test_a_key_that_goes_or_changes_in_the_middle_is_its_photos_row(
    happens: str, command: CommandLine, photos: str, bucket: Bucket, store: StoreServer, shoot: Path
) -> None:
    def meanwhile(line: str) -> None:
        if line.startswith("HEAD") and line.endswith("two.jpg"):  # it was listed and is about to be loaded
            store.before = lambda line: None
            bucket.delete("2024/trip/day2/two.jpg")
            if happens == "changes":
                bucket.put("2024/trip/day2/two.jpg", jpeg(4))

    store.before = meanwhile
    said = command("edit", photos, *WINTER, "-o", shoot / "out", "--json")
    rows = {row["photo"]: row for row in map(json.loads, said.out.splitlines()) if row["type"] == "item"}
    assert said.code == 3, said.err
    why = {"vanishes": "is not there", "changes": "has changed since it was planned"}[happens]
    assert (rows["day2/two.jpg"]["status"], why in rows["day2/two.jpg"]["detail"]) == ("failed", True), rows
    assert {rows[name]["status"] for name in ("one.jpg", "three.png")} == {"done"}
    if happens == "changes":
        again = command("run", shoot / "out", "--backend", "fake")
        assert again.code == 0, again.err


def test_a_store_that_dies_ends_the_run_and_loses_nothing(
    command: CommandLine, bucket: Bucket, store: StoreServer, shoot: Path
) -> None:
    for number in range(16):
        bucket.put(f"{number:02}.jpg", jpeg(number))

    def dies(line: str) -> None:
        store.down = store.down or store.counted("HEAD") > 8

    store.before = dies
    said = command("edit", f"s3://{bucket.name}", *WINTER, "-o", shoot / "out")
    assert (said.code, f"s3://{bucket.name} does not answer" in said.err) == (6, True), said.err
    made = sum(record.status == "done" for record in read_run(shoot / "out").records.values())
    store.reset()
    again = command("run", shoot / "out", "--backend", "fake")
    assert (again.code, f"done: {16 - made} edits made" in again.out) == (0, True), again.err


@pytest.mark.parametrize(
    ("address", "environment", "code", "says", "hint"),
    [
        ("s3://no-such-bucket/x", {}, 6, "there is no bucket s3://no-such-bucket", "check its name"),
        ("s3://{bucket}/nothing", {}, 2, "nothing is at s3://{bucket}/nothing", "photos: names a folder"),
        ("s3://{bucket}/no.jpg", {}, 2, "s3://{bucket}/no.jpg is not there", ""),
        ("s3://{bucket}", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 6, "does not answer", "check the network"),
        (
            "s3://{bucket}",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
             "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"},
            6, "no credentials were found", "a profile, or",
        ),
        ("s3://{bucket}", {"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"}, 6, "the profile nobody", "a profile, or"),
        ("s3://AKIAX:{secret}@{bucket}/x", {}, 2, "has a name or a password in it", "provider's own chain"),
        ("s3://{bucket}/x?X-Amz-Signature={secret}", {}, 2, "has a signature or a key", "provider's own chain"),
        ("s3://-/x", {}, 2, "is no address of a bucket", "s3://bucket/photos"),
        ("s3://{bucket}/a/../b", {}, 2, "has an empty part", "s3://bucket/photos"),
    ],
    ids=["no bucket", "no key", "no photo", "no network", "no credentials", "no profile", "password", "signed", "empty",
         "dots"],
)  # fmt: skip
def test_what_cannot_be_had_is_told_by_name(
    address: str, environment: dict[str, str], code: int, says: str, hint: str, command: CommandLine, bucket: Bucket,
    shoot: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bucket.put("a.jpg", jpeg(1))
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    named = {"bucket": bucket.name, "secret": SECRET}
    photos, recipe = address.format_map(named), shoot / "recipe.yaml"
    recipe.write_text(f'photos: "{photos}"\nedits: [make it winter]\noutput: {{folder: out}}\n')
    for arguments in (("edit", photos, *WINTER, "-o", shoot / "out"), ("run", recipe, "--backend", "fake")):
        said = command(*arguments)
        assert (said.code, says.format_map(named) in said.err, hint in said.err) == (code, True, True), said.err
        assert SECRET not in said.out + said.err
        assert not (shoot / "out").exists()


@pytest.mark.parametrize(
    ("answer", "says", "hint"),
    [
        ("RequestTimeTooSkewed", "this machine's clock differs from the store's", "set this machine's clock"),
        ("SignatureDoesNotMatch", "no credentials were found, or they are not taken", "as the provider has it"),
        ("AccessDenied", "the store refuses it", "check who may list and read it"),
    ],
)
def test_what_a_store_answers_is_told_in_our_words(
    answer: str, says: str, hint: str, command: CommandLine, bucket: Bucket, store: StoreServer, shoot: Path
) -> None:
    store.fails = [("list-type", f"<Error><Code>{answer}</Code><StringToSign>{SECRET}</StringToSign></Error>")]
    said = command("edit", f"s3://{bucket.name}", *WINTER, "-o", shoot / "out")
    assert (said.code, says in said.err, hint in said.err) == (6, True, True), said.err
    assert SECRET not in said.out + said.err


def test_a_secret_is_quoted_nowhere_else_either(command: CommandLine, shoot: Path) -> None:
    spoilt = f"s3://AKIAX:{SECRET}@bucket/out"
    recipe, manifest = shoot / "recipe.yaml", shoot / "photos.csv"
    manifest.write_text(f"name,path\na.jpg,{spoilt}\n")
    for said in (
        command("edit", shoot / "photos", *WINTER, "-o", spoilt),
        *(command("run", _written(recipe, text)) for text in (
            f'photos: photos\nedits: [x]\noutput: {{folder: "{spoilt}"}}',
            f'photos: {{folder: photos, instructions: "{spoilt}"}}\nedits: [x]',
            "photos: {manifest: photos.csv}\nedits: [x]",
        )),
    ):  # fmt: skip
        assert (said.code, "password" in said.err, SECRET in said.err + said.out) == (2, True, False), said.err


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_manifest_names_objects(
    command: CommandLine, photos: str, bucket: Bucket, shoot: Path, store: StoreServer
) -> None:
    """By a folder that is an address, and by addresses of their own; with digests no object is sent to plan them."""
    recipe, listed = shoot / "recipe.yaml", shoot / "listed.csv"
    listed.write_text(f"name,path\none.jpg,\nelsewhere.jpg,s3://{bucket.name}/2024/trip-2/other.jpg\n")
    text = f"photos: {{manifest: {{}}, folder: '{photos}'}}\nedits: [x]\noutput: {{folder: out}}\n"
    recipe.write_text(text.replace("{{}}", "{}").replace("{}", "listed.csv"))
    assert command("plan", recipe, "--write-manifest", shoot / "full.csv").code == 0
    full = (shoot / "full.csv").read_text().splitlines()
    assert full[1].startswith(f"one.jpg,{photos}/one.jpg,")
    assert f"s3://{bucket.name}/2024/trip-2/other.jpg" in full[2]
    recipe.write_text(text.replace("{{}}", "{}").replace("{}", "full.csv").replace(f", folder: '{photos}'", ""))
    store.asked.clear()
    assert command("plan", recipe).code == 0
    assert store.asked == []
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0, said.err
    assert {path.name for path in (shoot / "out").glob("*.jpg")} == {"one_x.jpg", "elsewhere_x.jpg"}


def test_without_the_library_it_is_one_line_and_exit_6(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    said = command("edit", "s3://bucket/photos", *WINTER, "-o", shoot / "out")
    assert said.code == 6
    assert "pip install 'ip2pbatch[s3]'" in said.err
    assert command("edit", shoot / "photos", *WINTER, "-o", shoot / "out").code == 0


def test_nothing_of_a_store_is_imported_where_no_bucket_is_named(shoot: Path) -> None:
    program = (
        "import sys; from ip2pbatch.cli.app import main\n"
        "sys.argv = ['ip2pbatch', 'edit', 'photos', '-i', 'x', '-o', 'out', '--backend', 'fake', '--size', '64']\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "bad = [n for n in sys.modules if n.partition('.')[0] in ('obstore', 'boto3', 'botocore')]\n"
        "bad += [n for n in sys.modules if n in ('ip2pbatch.disk.buckets.' + m for m in ('stores', 'objects'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=shoot, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
