"""A run that delivers into a bucket: the same files as in a folder, and what goes wrong on the way is told by name."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import CommandLine, Said
from PIL import Image
from store_server import HALF, LOST, SECRET, Bucket, StoreServer

from ip2pbatch import jobs
from ip2pbatch.errors import UsageError

FAKE = ("--backend", "fake", "--size", "64")
ASKED = ("photos", "-i", "make it winter", *FAKE)
FILES = {"one_make-it-winter.jpg", "day2/two_make-it-winter.jpg", "three_make-it-winter.png"}
DRAWN = {"report.html", "sheets/overview.png"}


@pytest.fixture
def out(bucket: Bucket, shoot: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address to deliver to; the working folder holds `photos`."""
    monkeypatch.chdir(shoot)
    return f"s3://{bucket.name}/2024/out"


def edited(command: CommandLine, out: str, *more: str) -> Said:
    return command("edit", *ASKED, "-o", out, "--state", "state", *more)


def names(bucket: Bucket) -> set[str]:
    """What lies below the address."""
    keys = bucket.keys()
    return {key.removeprefix("2024/out/") for key in keys}


def standing(command: CommandLine) -> dict[str, object]:
    said = command("status", "state", "--json")
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


def test_files_are_those_of_a_folder_and_the_run_goes_on(
    command: CommandLine, out: str, bucket: Bucket, store: StoreServer, shoot: Path
) -> None:
    said = edited(command, out)
    assert said.code == 0, said.err
    assert f"edited photos:   {out}" in said.out
    assert names(bucket) == FILES | DRAWN
    assert command("edit", *ASKED, "-o", "here").code == 0
    for name in FILES:
        assert bucket.get(f"2024/out/{name}") == (shoot / "here" / name).read_bytes()
    assert not [*(shoot / "state").rglob("*.jpg")]
    assert not [*(shoot / "state/.ip2pbatch/outgoing").glob(".ip2p-*")]
    assert bucket.kind("2024/out/report.html") == "text/html"
    page = bucket.get("2024/out/report.html").decode()
    assert set(re.findall(r'"file": ?"\./([^"]+)"', page)) == FILES
    assert not re.findall(r'"file": ?"[^"]', (shoot / "state/report.html").read_text())
    assert not re.findall(r'"original": ?"[^"]', page)  # what lies on this machine is no address there
    store.asked.clear()
    again = command("run", "state", "--backend", "fake")
    assert (again.code, "done: 0 edits made, 0 files delivered" in again.out) == (0, True), again.err
    assert len(store.asked) == 1, store.asked  # the listing
    assert (standing(command)["delivered"], standing(command)["changed"]) == (3, [])
    assert f"3 files delivered into {out}" in command("status", "state").out
    store.asked.clear()
    checked = command("check", "state")
    assert (checked.code, "3 of them not, for the bucket still has the version" in checked.out) == (0, True), (
        checked.out
    )
    assert len(store.asked) == 1, store.asked  # what has its ETag is not read
    left = b"".join(path.read_bytes() for path in (shoot / "state").rglob("*") if path.is_file())
    assert SECRET.encode() not in left + (said.out + said.err).encode() + page.encode()
    assert b"AKIAQUITEPUBLIC" not in left


def test_what_is_delivered_otherwise_takes_the_place_of_what_was(
    command: CommandLine, out: str, bucket: Bucket, store: StoreServer, shoot: Path
) -> None:
    assert edited(command, out).code == 0
    before = {name: bucket.get(f"2024/out/{name}") for name in FILES}
    store.asked.clear()
    assert command("deliver", "state", "--quality", "60").code == 0
    assert not store.counted("GET", "one_make")  # it is known by its ETag
    assert names(bucket) == FILES | DRAWN
    assert bucket.get("2024/out/one_make-it-winter.jpg") != before["one_make-it-winter.jpg"]
    bucket.put("2024/out/theirs.png", b"theirs")
    tidied = command("deliver", "state", "--format", "png", "--tidy")
    assert (tidied.code, "removed 2 files" in tidied.out) == (0, True), tidied.out + tidied.err
    assert names(bucket) == {name.replace(".jpg", ".png") for name in FILES} | DRAWN | {"theirs.png"}
    assert Image.open(io.BytesIO(bucket.get("2024/out/one_make-it-winter.png"))).size == (128, 96)
    assert command("check", "state").code == 0


def test_a_recipe_says_the_address_and_a_flag_the_folder(command: CommandLine, out: str, bucket: Bucket) -> None:
    Path("recipe.yaml").write_text(
        f"photos: photos\nedits: [as a mosaic]\noutput: {{folder: '{out}', sidecar: copy}}\nsize: {{long_side: 64}}\n"
    )
    Path("photos/one.xmp").write_text('<x:xmpmeta xmlns:x="adobe:ns:meta/"/>')
    assert command("plan", "recipe.yaml").code == 0
    assert command("validate", "recipe.yaml").code == 0
    refused = command("run", "recipe.yaml", "--backend", "fake")
    assert (refused.code, f"{out} is in a bucket" in refused.err, "--state DIR" in refused.err) == (2, True, True)
    assert command("run", "recipe.yaml", "--backend", "fake", "--state", "state").code == 0
    assert {"one_as-a-mosaic.jpg", "report.html"} < names(bucket)
    assert command("retry", "state", "--backend", "fake").code == 0
    assert command("report", "state").out.splitlines()[1] == f"{out}/report.html"
    assert command("apply", "state", "--cell", "1", "photos/day2").code == 0
    assert command("lock", "recipe.yaml", "-o", "state").code == 0
    assert command("edit", *ASKED, "-o", f"{out}2", "--state", "state").code == 2  # the run's files are elsewhere


def test_a_killed_run_goes_on_with_nothing_lost_and_nothing_twice(
    command: CommandLine, out: str, bucket: Bucket, store: StoreServer
) -> None:
    run = [sys.executable, "-m", "ip2pbatch", "edit", *ASKED, "-o", out, "--state", "state"]
    process = subprocess.Popen(run, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kills(line: str) -> None:
        if store.counted("PUT", "make-it-winter") == 2:
            process.send_signal(signal.SIGKILL)
            process.wait()

    store.before = kills  # the second is passed on all the same, and nobody hears of it
    assert process.wait() == -signal.SIGKILL
    store.before = lambda line: None
    again = command("run", "state", "--backend", "fake")
    assert again.code == 0, again.err
    assert names(bucket) == FILES | DRAWN
    assert command("check", "state").code == 0


@pytest.mark.parametrize("how", [500, 0, HALF, LOST])
def test_a_put_that_fails_half_way_is_sent_again(
    how: int, command: CommandLine, out: str, bucket: Bucket, store: StoreServer
) -> None:
    store.fails = [("PUT /", how), ("report.html", how)]
    said = edited(command, out)
    assert (said.code, store.fails) == (0, []), said.err
    assert names(bucket) == FILES | DRAWN
    assert command("check", "state").code == 0


@pytest.mark.parametrize(
    ("how", "says", "hint"),
    [(503, "answers 503", "then run again"), ("<Code>AccessDenied</Code>", "the store refuses it", "or write there")],
)
def test_a_store_that_takes_nothing_ends_the_run_which_goes_on(
    how: int | str, says: str, hint: str, command: CommandLine, out: str, bucket: Bucket, store: StoreServer
) -> None:
    store.fails = [("PUT /", how)] * 20
    said = edited(command, out)
    assert (said.code, says in said.err, hint in said.err) == (6, True, True), said.err
    assert names(bucket) == set()
    store.reset()
    again = command("run", "state", "--backend", "fake")
    assert again.code == 0, again.err
    assert names(bucket) == FILES | DRAWN


def test_objects_of_strangers_are_never_overwritten(
    command: CommandLine, out: str, bucket: Bucket, store: StoreServer
) -> None:
    theirs = ["one_make-it-winter.jpg", "report.html"]
    for name in theirs:
        bucket.put(f"2024/out/{name}", b"theirs")
    said = edited(command, out)
    assert said.code == 0, said.err
    assert f"{out}/report.html is there, and not of this run: it was left as it is" in said.err
    assert names(bucket) == FILES | DRAWN | {"one_make-it-winter_2.jpg"}
    assert {bucket.get(f"2024/out/{name}") for name in theirs} == {b"theirs"}
    for name in ("one_make-it-winter_2.jpg", "three_make-it-winter.png"):
        bucket.put(f"2024/out/{name}", b"changed by hand")
    bucket.delete("2024/out/day2/two_make-it-winter.jpg")
    found = standing(command)
    assert found["deleted"] == ["day2/two_make-it-winter.jpg"]
    assert found["changed"] == ["one_make-it-winter_2.jpg", "three_make-it-winter.png"]
    assert command("check", "state").code == 4
    assert command("check", "state", "--repair").code == 0
    assert "day2/two_make-it-winter.jpg" in names(bucket)
    assert command("deliver", "state", "--quality", "60", "--tidy").code == 0
    assert {"one_make-it-winter_3.jpg", "three_make-it-winter_2.png"} < names(bucket)
    for name in ("one_make-it-winter_2.jpg", "three_make-it-winter.png"):
        assert bucket.get(f"2024/out/{name}") == b"changed by hand"


def test_a_key_that_somebody_writes_meanwhile_is_theirs(
    command: CommandLine, out: str, bucket: Bucket, store: StoreServer
) -> None:
    """Between the listing and the put, of a new key and of one that is replaced."""

    def meanwhile(line: str) -> None:
        if line.startswith("PUT") and "one_make-it-winter.jpg" in line:
            store.before = lambda line: None
            bucket.put("2024/out/one_make-it-winter.jpg", b"theirs")

    store.before = meanwhile
    said = edited(command, out)
    assert (said.code, "not delivered: one_make-it-winter.jpg: it could not be put" in said.err) == (3, True), said.err
    assert command("run", "state", "--backend", "fake").code == 0
    assert "one_make-it-winter_2.jpg" in names(bucket)
    assert bucket.get("2024/out/one_make-it-winter.jpg") == b"theirs"

    def again(line: str) -> None:
        if line.startswith("PUT") and "one_make-it-winter_2.jpg" in line:
            store.before = lambda line: None
            bucket.put("2024/out/one_make-it-winter_2.jpg", b"theirs too")

    store.before = again
    assert command("deliver", "state", "--quality", "60").code == 3
    assert bucket.get("2024/out/one_make-it-winter_2.jpg") == b"theirs too"
    assert command("deliver", "state", "--quality", "60").code == 0
    assert {bucket.get(f"2024/out/one_make-it-winter{n}.jpg") for n in ("", "_2")} == {b"theirs", b"theirs too"}


def test_a_state_that_was_lost_takes_nothing_for_its_own_but_the_same_bytes(
    command: CommandLine, out: str, bucket: Bucket
) -> None:
    assert edited(command, out).code == 0
    shutil.rmtree("state")
    assert edited(command, out).code == 0
    assert names(bucket) == FILES | DRAWN


def test_workers_deliver_there_too(command: CommandLine, out: str, bucket: Bucket) -> None:
    said = edited(command, out, "--devices", "cpu:2")
    assert said.code == 0, said.err
    assert names(bucket) == FILES | DRAWN
    assert standing(command)["delivered"] == 3
    assert command("check", "state").code == 0


@pytest.mark.parametrize(
    ("more", "environment", "code", "says"),
    [
        (("-o", "s3://no-such-bucket/x", "--state", "state"), {}, 6, "there is no bucket s3://no-such-bucket"),
        (("-o", "{out}", "--state", "state"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 6, "does not answer"),
        (
            ("-o", "{out}", "--state", "state"),
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
             "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"},
            6, "no credentials were found",
        ),
        (("-o", "s3://AKIAX:{secret}@b/x", "--state", "state"), {}, 2, "has a name or a password in it"),
        (("-o", "{out}"), {}, 2, "what a run needs to go on is kept in a folder of this machine"),
        (("-o", "here", "--state", "state"), {}, 2, "--state is for an output folder in a bucket"),
        (("-o", "{out}", "--state", "state", "--dates", "source"), {}, 2, "a store gives objects their times"),
        (("-o", "{out}", "--state", "photos/state"), {}, 2, "is inside the photos' folder"),
    ],
    ids=["no bucket", "no network", "no credentials", "password", "no state", "no bucket's", "dates", "inside"],
)  # fmt: skip
def test_what_cannot_be_is_told_by_name_before_anything_is_made(
    more: tuple[str, ...], environment: dict[str, str], code: int, says: str, command: CommandLine, out: str,
    monkeypatch: pytest.MonkeyPatch, shoot: Path,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    said = command("edit", *ASKED, *(one.format(out=out, secret=SECRET) for one in more))
    assert (said.code, says in said.err, "hint: " in said.err) == (code, True, True), said.err
    assert SECRET not in said.out + said.err
    assert sorted(path.name for path in shoot.iterdir()) == ["photos"]


def test_what_cannot_go_with_it_yet_is_refused_by_name(command: CommandLine, out: str, bucket: Bucket) -> None:
    recipe = f"photos: photos\nedits: [x]\noutput: {{folder: '{out}'}}\nsize: {{long_side: 64}}\n"
    Path("recipe.yaml").write_text(recipe)
    Path("two.yaml").write_text(f"compare: [tiny, timbrooks/instruct-pix2pix]\n{recipe}")
    Path("inside.yaml").write_text(recipe.replace("photos: photos", f"photos: s3://{bucket.name}/2024"))
    Path("listed.csv").write_text(f"name,path\na.jpg,{out}/a.jpg\n")
    Path("listed.yaml").write_text(recipe.replace("photos: photos", "photos: {manifest: listed.csv}"))
    for key in ("2024/a.jpg", "2024/out/a.jpg"):
        bucket.put(key, Path("photos/one.jpg"))
    assert edited(command, out).code == 0
    state = ("--state", "another")
    for arguments, says in (
        (("run", "recipe.yaml", *state, "--shard", "1/2"), "--shard cannot deliver into a bucket yet"),
        (("run", "recipe.yaml", *state, "--on", "ray"), "--on ray cannot deliver into a bucket yet"),
        (("run", "two.yaml", *state), "a comparison of models cannot deliver into a bucket yet"),
        (("watch", "photos", "recipe.yaml"), "watch cannot deliver into a bucket yet"),
        (("watch", "photos", "recipe.yaml", "-o", "state"), "watch cannot deliver into a bucket yet"),
        (("studio", "state", "--no-browser"), "the studio cannot deliver into a bucket yet"),
        (("run", "inside.yaml", *state), "is inside the photos' folder"),
        (("run", "listed.yaml", *state), f"a.jpg lies in the output folder {out}"),
        (("status", out), "the one that `--state` named"),
        (("status", "recipe.yaml"), "is in a bucket"),
        (("retry", "recipe.yaml"), "is in a bucket"),
    ):
        said = command(*arguments)
        assert (said.code, says in said.err) == (2, True), (arguments, said.err)
    with pytest.raises(UsageError, match="is in a bucket"):
        jobs.run("recipe.yaml")
