"""The shape of the code: functions that fit into a head, files that one reads in a sitting."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ip2pbatch"
FILES = sorted(PACKAGE.rglob("*.py"))


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Each function's name and lines, from its `def` to its end: methods and functions inside others too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1


def test_a_length_counts_from_def_to_the_last_line() -> None:
    assert dict(lengths("class A:\n    @property\n    def b(self):\n        def c(): ...\n\n        return c\n")) == {
        "b": 4,
        "c": 1,
    }


def test_nine_functions_of_ten_have_at_most_20_lines_and_none_has_more_than_60() -> None:
    found = [
        (count, f"{path.relative_to(PACKAGE)}: {name}")
        for path in FILES
        for name, count in lengths(path.read_text("utf-8"))
    ]
    assert statistics.quantiles([count for count, _ in found], n=10)[-1] <= 20
    assert [where for count, where in found if count > 60] == []


def test_no_file_has_more_than_400_lines() -> None:
    sizes = {path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


# What ends a command; a PhotoError is a row with a reason, and StoppedError a person's own wish.
ERRORS = {
    "RecipeError", "UsageError", "PlanError", "StaleError", "TrainingError", "NothingMatchedError", "ModelError",
    "MissingError", "ResourceError", "LockedError", "BrokenSampleError", "Mistake", "mistake",
}  # fmt: skip


def without_hint(source: str) -> Iterator[int]:
    """The lines where an error that ends a command is made without a hint."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            third = name == "mistake" and len(node.args) > 2  # StageConfig.mistake(why, at, hint)
            if name in ERRORS and not third and "hint" not in {keyword.arg for keyword in node.keywords}:
                yield node.lineno


def test_the_last_line_of_every_error_is_a_hint() -> None:
    assert list(without_hint("raise UsageError('a')\nraise Mistake('b', hint='c')\n")) == [1]
    found = [f"{path.relative_to(PACKAGE)}:{line}" for path in FILES for line in without_hint(path.read_text("utf-8"))]
    assert found == []
