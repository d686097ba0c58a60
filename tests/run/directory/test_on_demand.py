"""Runs too large for memory are read where they stand: what comes of it is what reading line by line gives."""

from __future__ import annotations

import json
import random
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from galleries import make_run
from runs import SPEC, Wrapped, carry_out, make_photos, make_plan, many

from ip2pbatch import jobs
from ip2pbatch.disk.journal import Journal, seal, sealed_lines
from ip2pbatch.run.directory import stored_plans
from ip2pbatch.run.directory.books import read_books
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import BRIEF, DELIVERY, DELIVERY_BRIEF, RECORD, Delivery, Record
from ip2pbatch.run.directory.photo_numbers import PhotoNumbers
from ip2pbatch.run.directory.records import read_records
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show import cells
from ip2pbatch.show.report import write_report

Place = tuple[str, str]


class Books:
    """Line by line, as it is meant: what was delivered, announced, and under which other names before."""

    def __init__(self) -> None:
        self.delivered: dict[Place, Delivery] = {}
        self.announced: dict[Place, Delivery] = {}
        self.earlier: dict[Place, dict[str, str]] = {}
        self.holders: dict[str, Place] = {}

    def hear(self, row: Delivery) -> None:
        place = row.strip, row.edit
        last = self.delivered.get(place)
        if row.begun:
            if last is None or (last.turn, last.path, last.sha256) != (row.turn, row.path, row.sha256):
                self.announced[place] = row
            return
        self.announced.pop(place, None)
        if last is not None and last.path != row.path:
            self.earlier.setdefault(place, {})[last.path] = last.sha256
        self.deliver(row)

    def deliver(self, row: Delivery) -> None:
        place = row.strip, row.edit
        before = self.holders.get(row.path, place)
        if before != place and before in self.delivered and self.delivered[before].path == row.path:
            del self.delivered[before]
        self.holders[row.path] = place
        self.delivered[place] = row


def lines_about_files(chance: random.Random) -> list[Delivery]:
    """Of few places and paths, so that they get in each other's way."""
    return [
        Delivery(
            f"{chance.randrange(4):x}", f"{chance.randrange(2):x}", f"{chance.randrange(5)}.jpg", "0",
            f"{chance.randrange(3):x}", turn=chance.randrange(1, 4), begun=chance.random() < 0.4,
        )
        for _ in range(chance.randrange(1, 30))
    ]  # fmt: skip


@pytest.mark.parametrize("shards", [1, 2])
def test_books_on_demand_say_what_the_lines_say_one_by_one(tmp_path: Path, shards: int) -> None:
    for trial in range(many(25, 300)):
        chance, folder = random.Random(trial), tmp_path / f"{trial}"
        expected, rows = Books(), lines_about_files(chance)
        of = [chance.randrange(shards) for _ in rows]
        for number in range(shards):
            journal = Journal(folder / f"deliveries-{number + 1}of{shards}.jsonl", sealed=True)
            journal.append(*(asdict(row) for row, own in zip(rows, of, strict=True) if own == number))
            journal.close()
        for row, _ in sorted(zip(rows, of, strict=True), key=lambda pair: (pair[0].turn, pair[1])):
            expected.hear(row)
        books = read_books(Layout(folder))
        assert dict(books.delivered) == expected.delivered
        assert books.announced == expected.announced
        assert len(books.delivered) == len(expected.delivered)
        assert books.turn == max(row.turn for row in rows)
        for place in {(row.strip, row.edit) for row in rows}:
            assert books.delivered.earlier(place) == expected.earlier.get(place, {})
        for row in lines_about_files(chance):  # and what a session adds
            expected.deliver(row)
            books.delivered.add(row)
            assert dict(books.delivered) == expected.delivered
            assert len(books.delivered) == len(expected.delivered)


def naive(rows: list[list[Record]], there: dict[str, int]) -> tuple[dict[str, Record], set[str]]:
    """The last Record of every Edit over all shards, line by line, and those whose picture is gone."""
    merged: dict[str, Record] = {}
    lost = set()

    def done(record: Record) -> bool:
        return record.status == "done" and there.get(record.edit) == record.bytes

    for part in rows:
        own: dict[str, Record] = {}
        for record in part:
            before = own.get(record.edit)
            if before is None or done(record) or not done(before):
                own[record.edit] = record
        for key, record in own.items():
            known = merged.get(key)
            if record.status == "done" and not done(record):
                lost.add(key)
            elif known is not None and known.status == record.status == "done" and known.digest == record.digest:
                merged[key] = replace(known, metrics=record.metrics | known.metrics)
            elif known is None or known.status != "done" or (record.status == "done" and record.digest > known.digest):
                merged[key] = record
    return merged, lost


def test_records_on_demand_say_what_the_lines_say_one_by_one(tmp_path: Path) -> None:
    for trial in range(many(25, 300)):
        chance, layout = random.Random(trial), Layout(tmp_path / f"{trial}")
        keys = [f"{number:02x}" for number in range(6)]
        there = {key: chance.randrange(1, 3) for key in keys if chance.random() < 0.7}
        for key, size in there.items():
            layout.picture(key).parent.mkdir(parents=True)
            layout.picture(key).write_bytes(bytes(size))
        parts = [
            [
                Record(
                    chance.choice(keys), chance.choice(("done", "done", "failed", "nan")), 1.0,
                    chance.choice(("", "why")), {chance.choice("ab"): 1.0}, chance.randrange(1, 3),
                    chance.choice(("", "0")),
                )
                for _ in range(chance.randrange(8))
            ]
            for _ in range(3)
        ]  # fmt: skip
        for number, part in enumerate(parts):
            journal = Journal(layout.folder / f"results-{number + 1}of3.jsonl", sealed=True)
            journal.append(*map(asdict, part))
            journal.close()
        lost: list[Record] = []
        records = read_records(layout, lost=lost)
        expected, gone = naive(parts, there)
        assert dict(records) == expected
        assert {record.edit for record in lost} == gone
        if chance.random() < 0.5:  # a session adds some, and they are held as the others are
            more = [Record(chance.choice(keys), "failed", 2.0, "again") for _ in range(chance.randrange(4))]
            journal = Journal(layout.results(None), sealed=True)
            journal.append(*map(asdict, more))
            journal.close()
            records.update({record.edit: record for record in more})
            assert len(records) == len(expected | {record.edit: record for record in more})
            records.fold(layout.results(None))
            expected |= {record.edit: record for record in more}
            assert len(records) == len(expected)
            assert records.newer == 0
        assert {key: records.status(key) for key in keys} == {
            key: expected[key].status if key in expected else None for key in keys
        }
        for key in keys:
            record = expected.get(key)
            says = record if record is not None and (record.detail or record.status != "done") else None
            assert records.with_detail(key) == says


def test_a_large_run_is_looked_at_as_a_small_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_run(tmp_path / "a").root
    plan = make_plan(make_photos(tmp_path / "in", 6), ("make it winter", "make it night"), keep=(1, 2))
    carry_out(tmp_path / "b", plan, Wrapped())
    for out in (made, tmp_path / "b"):
        standing, small = jobs.status(out), read_run(out)
        page = write_report(small, tmp_path / "small.html").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(stored_plans, "_LARGE", 0)
            patch.setattr(cells, "_FEW", 0)
            large = read_run(out)
            assert not isinstance(large.plan.edits, tuple)
            assert large.plan == small.plan
            assert [*reversed(large.plan.edits)] == [*reversed(small.plan.edits)]
            assert jobs.status(out) == standing
            assert write_report(large, tmp_path / "small.html").read_bytes() == page
            assert [*cells.gallery(large).cells[1:3]] == [*cells.gallery(small).cells[1:3]]


def test_what_is_read_on_demand_is_found_though_a_journal_is_mended_meanwhile(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 3))
    carry_out(tmp_path / "out", plan, Wrapped())
    results = tmp_path / "out/.ip2pbatch/results.jsonl"
    results.write_bytes(b"damaged\n" + results.read_bytes())
    view = read_run(tmp_path / "out")
    with open_run(tmp_path / "out", SPEC) as run:
        assert b"damaged" not in results.read_bytes()
        assert {edit.key for edit in plan.edits} == run.done
        assert [view.records[edit.key] for edit in plan.edits] == [run.records[edit.key] for edit in plan.edits]


def test_what_is_noted_of_a_line_is_what_its_shape_says_however_it_is_damaged() -> None:
    chance = random.Random(7)
    record = Record("0a", "done", 0.25, "", {"l1": 0.1, "changed": 1.5e-05}, 12, "ab", "", "cpu")
    words = Record("0a", "flagged", 3.0, "the “checker” said so: a\\b", {}, 0)
    file = Delivery("0a", "b", "Größe/a b.jpg", "c", "d", 0.5, 9, 1.5, strength=0.25, moved=-1.0, turn=3)
    lost = replace(file, path="../x.jpg")
    strange = replace(file, path="\udcff..jpg")  # a name that is not Unicode
    cases = [(BRIEF, RECORD, _record_told, asdict(one)) for one in (record, words)]
    files = file, lost, strange, replace(file, gate=None, begun=True)
    cases += [(DELIVERY_BRIEF, DELIVERY, _delivery_told, asdict(one)) for one in files]
    known = 0
    for noted, shape, told, row in cases:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        block = list[bytes]()
        for _ in range(many(300, 20_000)):
            mutated = bytearray(line)
            for _ in range(chance.randrange(3)):
                at = chance.randrange(len(mutated))
                mutated[at : at + chance.randrange(2)] = bytes([chance.choice(b'0919.-+e"\\{}[],:/a\xc3\x00 ')])
            whole = bytes(mutated)
            for sealed in (whole + b"\n", (seal(whole) if whole.endswith(b"}") else whole) + b"\n", whole):
                expected, (columns, bad) = shape(sealed), noted(sealed)
                known += expected is not None
                assert bad == ([0] if expected is None else []), sealed
                assert [*zip(*columns, strict=True)] == ([] if expected is None else [told(expected)]), sealed
                if sealed.endswith(b"\n") and b"\n" not in sealed[:-1]:
                    block.append(sealed)
        for some in (block[start : start + 20] for start in range(0, len(block), 20)):  # one with many damaged or none
            rows = [shape(one) for one in some]
            columns, bad = noted(b"".join(some))
            assert bad == [number for number, row in enumerate(rows) if row is None]
            assert [*zip(*columns, strict=True)] == [told(row) for row in rows if row is not None]
    assert known > 300


def _record_told(record: Record) -> tuple[str, ...]:
    return record.edit, record.status, record.detail, str(record.bytes)


def _delivery_told(file: Delivery) -> tuple[str, ...]:
    return file.edit, file.strip, file.path, str(file.turn), "true" if file.begun else ""


def test_a_number_that_stands_where_a_torn_line_was_is_read_as_it_is_now(tmp_path: Path) -> None:
    path, names = tmp_path / "numbers.jsonl", ["1.jpg", "2.jpg", "3.jpg"]
    with closing(Journal(path)) as journal:
        journal.write(sealed_lines({"photo": name, "n": n} for n, name in enumerate(names, 1)))
    path.write_bytes(path.read_bytes()[:-16] + bytes(16))
    known = PhotoNumbers(path)
    lines = sealed_lines({"photo": name, "n": n} for name, n in known.given(names))
    with closing(Journal(path)) as journal:
        journal.write(lines)
    assert known.goes_on()
    assert dict(known) == {name: n for n, name in enumerate(names, 1)}
