"""Objects as files: addresses, the copies that are kept, and that these are never another version's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from store_server import HALF, SECRET, Bucket, StoreServer

from ip2pbatch.disk.buckets.locations import LocationError, is_object, location, read_location, shown
from ip2pbatch.disk.buckets.objects import Objects
from ip2pbatch.disk.buckets.stores import StoreError, opened_store, store_of
from ip2pbatch.errors import MissingError, UnreachableError


def read(objects: Objects, path: Path) -> bytes:
    with objects.open(path) as file:
        return file.read()


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize(("written", "key"), [("b/a/ü x.jpg", "a/ü x.jpg"), ("b/a/", "a"), ("b", ""), ("b/", "")])
def test_an_address_survives_pathlib(scheme: str, written: str, key: str) -> None:
    path = read_location(f"{scheme}://{written}")
    assert isinstance(path, Path)
    assert is_object(path)
    assert is_object(str(path))
    assert (location(path).bucket, location(path).key) == ("b", key)
    assert shown(path) == f"{scheme}://b" + (f"/{key}" if key else "")
    assert read_location(str(path)) == path
    assert read_location(shown(path)) == path


@pytest.mark.parametrize("other", ["a/s3:/b", "/s3://b", "http://b/a", "s3", "C:/a"])
def test_what_is_no_address_is_a_path(other: str) -> None:
    assert not is_object(other)
    assert shown(other) == other


@pytest.mark.parametrize("text", ["s3://k:hidden@b/a", "s3://k:hid/den@b/a", "az://c/a?sv=1&sig=hidden", "s3://b/\n"])
def test_an_address_that_may_hold_a_secret_is_not_quoted(text: str) -> None:
    with pytest.raises(LocationError) as refused:
        read_location(text)
    assert "hid" not in str(refused.value) + refused.value.hint


def test_copies_are_bounded_and_those_read_longest_ago_go_first(
    bucket: Bucket, store: StoreServer, tmp_path: Path
) -> None:
    objects = Objects(tmp_path / "kept", most_bytes=3500)
    for name in "abcd":
        bucket.put(name, name.encode() * 1000)
    paths = {name: read_location(f"s3://{bucket.name}/{name}") for name in "abcd"}
    for turn, name in enumerate("abcad"):
        assert read(objects, paths[name]) == name.encode() * 1000
        for copy in (tmp_path / "kept").glob("??/*"):  # which was read when, whatever the disk's clock says
            if copy.read_bytes()[:1] == name.encode():
                os.utime(copy, (turn, turn))
    left = {copy.read_bytes()[:1] for copy in (tmp_path / "kept").glob("??/*")}
    assert left == {b"a", b"d"}
    store.asked.clear()
    assert read(objects, paths["b"]) == b"b" * 1000
    assert store.counted("GET") == 1


def test_a_version_is_asked_for_once_a_minute(bucket: Bucket, store: StoreServer, tmp_path: Path) -> None:
    now = [0.0]
    objects, path = Objects(tmp_path, clock=lambda: now[0]), read_location(f"s3://{bucket.name}/a")
    bucket.put("a", b"first")
    assert [read(objects, path) for _ in range(3)] == [b"first"] * 3
    assert (store.counted("HEAD"), store.counted("GET")) == (1, 1)
    bucket.put("a", b"second")
    now[0] = 61
    assert read(objects, path) == b"second"
    bucket.put("a", b"third!")
    objects.doubt()
    assert read(objects, path) == b"third!"


def test_what_is_sent_is_the_version_that_was_asked_for(bucket: Bucket, store: StoreServer, tmp_path: Path) -> None:
    objects, path = Objects(tmp_path), read_location(f"s3://{bucket.name}/a")
    bucket.put("a", b"first")

    def meanwhile(line: str) -> None:
        if line.startswith("GET"):
            store.before = lambda line: None
            bucket.put("a", b"second")

    store.before = meanwhile
    with pytest.raises(StoreError, match="was changed meanwhile"):
        objects.open(path)
    assert [*tmp_path.rglob("*.*")] == []


def test_a_request_that_goes_wrong_once_is_asked_again(bucket: Bucket, store: StoreServer, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 4096
    bucket.put("a", whole)
    store.fails = [("GET", 503), ("GET", HALF), ("HEAD", 0)]
    assert read(Objects(tmp_path), read_location(f"s3://{bucket.name}/a")) == whole
    assert store.fails == []


def test_an_object_that_never_comes_whole_is_not_kept(bucket: Bucket, store: StoreServer, tmp_path: Path) -> None:
    bucket.put("a", bytes(1 << 20))
    store.fails = [("GET", HALF)] * 20
    with pytest.raises((StoreError, UnreachableError), match=f"s3://{bucket.name}"):
        Objects(tmp_path).open(read_location(f"s3://{bucket.name}/a"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_profile_is_read_where_the_environment_has_no_key(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(f"[other]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = {SECRET}\n")
    bucket.put("a", b"whole")
    opened_store.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert read(Objects(tmp_path / "kept"), read_location(f"s3://{bucket.name}/a")) == b"whole"
    monkeypatch.setitem(sys.modules, "boto3", None)
    opened_store.cache_clear()
    with pytest.raises(MissingError, match="boto3"):
        store_of(location(f"s3://{bucket.name}"))
