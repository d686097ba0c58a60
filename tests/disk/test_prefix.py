"""What is believed of the objects below an address, and that puts and removals hang on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_server import Bucket, StoreServer

from ip2pbatch.disk.buckets import stores
from ip2pbatch.disk.buckets.locations import Location
from ip2pbatch.disk.buckets.prefix import NOTHING, Prefix, mark_of
from ip2pbatch.disk.buckets.stores import StoreError


@pytest.fixture
def prefix(bucket: Bucket) -> Prefix:
    bucket.put("out/a", b"one")
    bucket.put("out-2/b", b"none of it")
    return Prefix(Location("s3", bucket.name, "out"))


def a_file(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def test_one_listing_says_what_is_there_and_puts_are_added(
    prefix: Prefix, bucket: Bucket, store: StoreServer, tmp_path: Path
) -> None:
    store.asked.clear()
    assert prefix.mark("a") != NOTHING
    assert {prefix.mark(name) for name in ("b", "c", "out/a")} == {NOTHING}
    new = prefix.put("c", a_file(tmp_path, b"three"), None)
    assert prefix.mark("c") == mark_of(new.etag, 5) == mark_of(new.etag.strip('"'), 5)
    assert len(store.asked) == 2, store.asked
    bucket.delete("out/a")
    assert prefix.mark("a") != NOTHING
    prefix.look()
    assert prefix.mark("a") == NOTHING


def test_what_is_believed_by_the_thousand_stays_so(prefix: Prefix) -> None:
    before = prefix.mark("a")
    for number in range(20_000):
        prefix.believe(f"{number}", "etag", number)
    assert prefix.mark("a") == before
    assert all(prefix.mark(f"{number}") == mark_of("etag", number) for number in range(0, 20_000, 97))
    assert prefix.mark("20000") == NOTHING


def test_nothing_is_put_over_what_was_not_believed(prefix: Prefix, bucket: Bucket, tmp_path: Path) -> None:
    assert prefix.mark("c") == NOTHING
    bucket.put("out/c", b"theirs")
    file = a_file(tmp_path, b"ours")
    with pytest.raises(StoreError, match="was changed meanwhile"):
        prefix.put("c", file, None)
    known = prefix.replaced("a")
    bucket.put("out/a", b"another")
    with pytest.raises(StoreError, match="was changed meanwhile"):
        prefix.put("a", file, known)
    assert (bucket.get("out/c"), bucket.get("out/a")) == (b"theirs", b"another")
    assert prefix.put("c", a_file(tmp_path, b"theirs"), None).size == 6  # the same bytes: an answer may have been lost


def test_what_was_changed_since_it_was_looked_at_is_neither_replaced_nor_removed(
    prefix: Prefix, bucket: Bucket
) -> None:  # fmt: skip
    assert prefix.mark("a") != NOTHING
    bucket.put("out/a", b"another")
    with pytest.raises(StoreError, match="was changed meanwhile"):
        prefix.replaced("a")
    bucket.put("out/a", b"a third")
    assert not prefix.remove("a")
    assert prefix.remove("a")
    assert prefix.mark("a") == NOTHING
    keys = bucket.keys()
    assert "out/a" not in keys
    assert not prefix.remove("a")


def test_an_object_is_read_once_and_what_was_told_of_it_is_not_read(prefix: Prefix, store: StoreServer) -> None:
    prefix.tell_digest("a", "told")
    store.asked.clear()
    assert (prefix.digest("a"), prefix.digest("c"), store.asked) == ("told", None, [])
    prefix.look()
    assert (
        prefix.digest("a") == prefix.digest("a") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    )
    assert store.counted("GET", "/out/a") == 1


def test_one_that_lists_nothing_asks_for_each(bucket: Bucket, store: StoreServer) -> None:
    bucket.put("out/a", b"one")
    prefix = Prefix(Location("s3", bucket.name, "out"), listed=False)
    store.asked.clear()
    assert (prefix.mark("a") != NOTHING, prefix.mark("b"), prefix.mark("a") != NOTHING) == (True, NOTHING, True)
    assert [line.split()[0] for line in store.asked] == ["HEAD", "HEAD"]


def test_what_takes_long_to_send_is_waited_for(
    bucket: Bucket, store: StoreServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library's time for an answer begins with what is sent: on a slow line it would be over before the file is."""
    monkeypatch.setitem(stores._CLIENT, "read_timeout", "1ms")
    large = a_file(tmp_path, bytes(1 << 20))
    assert stores.Store("s3", bucket.name).put("large", large, None).size == 1 << 20
    assert len(bucket.get("large")) == 1 << 20
