"""What machines read of a run: lines that fit their schema, XML that parses, commands that cannot be broken out of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sheet import a_cell, a_gallery

from ip2pbatch.plan.edits import Guidance, Photo, Plan, make_edit
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.execute import Summary
from ip2pbatch.run.stale import Difference
from ip2pbatch.run.verify import Case, Distance, Finding
from ip2pbatch.show import ci

EDIT = make_edit("0" * 32, "make it winter", Guidance(7.5, 1.5), 7, steps=5, sampler="euler", size=(96, 64))
PLAN = Plan("demo", "tiny", (Photo("a.jpg", Path("a.jpg"), "0" * 32, (96, 64)),), (), (EDIT,))
SUMMARY = Summary({"done": 3, "failed": 1}, 4, 3, (("a.jpg", "disk full"),), 0, 12.5)
STALE = [Difference("photos", "added: a.jpg"), Difference("versions", "torch is 2, was 1")]
FINDINGS = [
    Finding(Case("0" * 32, "a.jpg", "make it winter"), "equal"),
    Finding(Case("1" * 32, "b.jpg", "make it night", "night", 2), "differs", "RMS 9", Distance(9.0, 30, 0.9)),
    Finding(Case("2" * 32, "c.jpg", "make it rain"), "absent", "its file is gone", Distance(0.0, 0, float("nan"))),
]
NASTY = st.text(max_size=60) | st.sampled_from(
    ["\n::error::x", "%0A", "a|b", "\x00\x1b[31m", "\ud800", "]]>", "<b>&", "`@x`"]
)


def lines() -> Iterator[str]:
    yield ci.plan_line(PLAN, 0)
    yield ci.item_line(EDIT, Record(EDIT.key, "done", 1.5, metrics={"l1": 0.5, "ssim": float("nan")}), "a.jpg")
    yield ci.item_line(EDIT, Record(EDIT.key, "failed", 0.0, "why\nso"), "caf\udce9.jpg")
    yield ci.warning_line("counting is not what the model can do")
    yield ci.error_line("no photo", None, 5)
    yield ci.summary_line(SUMMARY)
    yield from map(ci.stale_line, STALE)
    yield from map(ci.finding_line, FINDINGS)
    yield ci.verdict_line("out", {"equal": 1, "differs": 1}, 4)


def test_every_line_fits_the_schema() -> None:
    check = jsonschema.Draft202012Validator(ci.LINE)
    kinds = set()
    for line in lines():
        assert "\n" not in line
        line.encode()
        check.validate(json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")))
        kinds.add(json.loads(line)["type"])
    assert kinds == {
        "plan", "item", "warning", "error", "summary", "stale", "finding", "verdict",
    }  # fmt: skip
    assert not check.is_valid({"type": "item", "schema": 1})
    assert not check.is_valid({"type": "party", "schema": 1})


def test_the_last_line_has_the_exit_code() -> None:
    assert json.loads(ci.summary_line(SUMMARY))["exit_code"] == 3
    complete = replace(SUMMARY, states={"done": 4}, undelivered=())
    assert json.loads(ci.summary_line(complete))["exit_code"] == 0


def test_a_suite_counts_every_edit_once() -> None:
    states = ["done", "failed", "nan", "flagged", "skipped", "missing"]
    cells = [a_cell(f"{state}.jpg", state=state, detail=f"why {state}") for state in states]
    suite = ElementTree.fromstring(ci.junit(a_gallery(*cells, cells[1])))

    assert {key: suite.get(key) for key in ("tests", "errors", "failures", "skipped")} == {
        "tests": "6", "errors": "1", "failures": "1", "skipped": "3",
    }  # fmt: skip
    (error,) = suite.iter("error")
    assert error.get("message") == "why failed"
    assert [case.get("classname") for case in suite] == [f"{state}.jpg" for state in states]


@given(NASTY, NASTY, NASTY)
def test_no_text_breaks_a_suite(photo: str, words: str, why: str) -> None:
    text = ci.junit(a_gallery(replace(a_cell(), photo=photo, instruction=words, detail=why, state="failed")))
    assert ElementTree.fromstring(text.encode()).get("errors") == "1"


def test_annotations_stay_within_githubs_limit() -> None:
    failed = [a_cell(f"{n}.jpg", state="failed", detail="no") for n in range(40)]
    flagged = [a_cell(f"{n}.png", state="flagged") for n in range(10)]
    found = ci.github_annotations(a_gallery(*failed, *flagged), "recipe.yaml")

    errors = [line for line in found if line.startswith("::error ")]
    assert len(errors) == 10
    assert errors[0] == "::error file=recipe.yaml,title=failed%3A 0.jpg::make it winter: no"
    assert "and 31 more" in errors[-1]
    assert len([line for line in found if line.startswith("::warning ")]) == 10
    assert not any("more" in line for line in found if line.startswith("::warning "))


@given(NASTY, NASTY)
def test_no_text_breaks_out_of_an_annotation(photo: str, why: str) -> None:
    (line,) = ci.github_annotations(a_gallery(replace(a_cell(), photo=photo, detail=why, state="nan")))
    assert "\n" not in line
    assert "\r" not in line
    assert line.count("::") >= 2
    title = line.removeprefix("::error title=").partition("::")[0]
    assert "," not in title
    assert ":" not in title


def test_a_summary_says_all_and_stays_below_githubs_limit() -> None:
    few = ci.github_summary(a_gallery(a_cell(state="failed", detail="a|b <i>"), a_cell("b.jpg", state="done")))
    assert "1 done, 1 failed" in few
    assert few.splitlines()[-1] == r"| a.jpg | make it winter | failed | a\|b &lt;i&gt; |"

    many = ci.github_summary(a_gallery(*(a_cell(f"{n}.jpg", state="failed", detail="x" * 900) for n in range(5000))))
    assert len(many.encode()) < 1_000_000
    shown = many.count("| failed |")
    assert f"and {5000 - shown} more of 5000" in many
    assert shown > 1000


@given(NASTY, NASTY)
def test_no_text_adds_a_column_or_a_line_to_a_summary(photo: str, why: str) -> None:
    one = ci.github_summary(a_gallery(replace(a_cell(), photo=photo, detail=why, state="failed")))
    row = one.splitlines()[-1]
    assert row.replace(r"\|", "").count("|") == 5
    assert len(one.splitlines()) == 7


def test_a_comparison_is_a_case_and_what_differs_an_annotation() -> None:
    suite = ElementTree.fromstring(ci.junit_of_findings("verify out", FINDINGS))
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "1", "1"]
    (failure,) = suite.iter("failure")
    assert (failure.get("type"), failure.get("message")) == ("differs", "RMS 9")
    found = ci.github_findings(FINDINGS)
    assert found == [
        "::error title=differs%3A b.jpg::night, link 2: RMS 9",
        "::error title=absent%3A c.jpg::make it rain: its file is gone",
    ]
    assert len(ci.github_findings(FINDINGS * 40)) == 10


def test_a_lock_is_five_cases_and_each_reason_an_annotation() -> None:
    suite = ElementTree.fromstring(ci.junit_of_lock("a.lock.yaml", STALE))
    assert [suite.get(name) for name in ("tests", "failures")] == ["5", "2"]
    assert [case.get("name") for case in suite if len(case)] == ["photos", "versions"]
    assert ci.github_stale(STALE, "a.lock.yaml")[0] == "::error file=a.lock.yaml,title=stale%3A photos::added: a.jpg"
    assert ElementTree.fromstring(ci.junit_of_lock("a.lock.yaml", [])).get("failures") == "0"


@given(NASTY, NASTY)
def test_no_text_breaks_out_of_what_a_comparison_tells(photo: str, why: str) -> None:
    finding = Finding(Case("0" * 32, photo, "x"), "differs", why)
    assert ElementTree.fromstring(ci.junit_of_findings(photo, [finding]).encode()).get("failures") == "1"
    assert not set("\r\n") & set(ci.github_findings([finding])[0])
    jsonschema.validate(json.loads(ci.finding_line(finding)), ci.LINE)
