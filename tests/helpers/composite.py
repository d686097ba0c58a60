"""A composite GitHub action's steps, carried out as a runner does: expressions, files of outputs, one shell a step."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
NAME = re.compile(r"\b(inputs|steps|runner|github)((?:\.[\w-]+)+)|!(?!=)|\|\||&&")


@dataclass
class Ran:
    """What became of an action: its outputs, what it printed, and for each step that ran its `with`."""

    code: int = 0
    said: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)


class Composite:
    """The action at `path`, its defaults filled in with `inputs`."""

    def __init__(self, path: Path, inputs: Mapping[str, str]) -> None:
        self.path = path
        self.spec: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
        assert set(inputs) <= set(self.spec["inputs"])
        self.inputs = {name: inputs.get(name, one.get("default", "")) for name, one in self.spec["inputs"].items()}
        self.outputs: dict[str, dict[str, str]] = {}

    def run(self, folder: Path, environment: Mapping[str, str]) -> Ran:
        """Carry out the steps in `folder`, with these variables too; after a failure those of `!cancelled()`."""
        ran = Ran()
        for step in self.spec["runs"]["steps"]:
            condition = str(step.get("if", "true"))
            if (ran.code and "cancelled()" not in condition) or not self._value(condition):
                continue
            if "uses" in step:
                ran.used[step.get("name", step["uses"])] = {key: self.fill(str(v)) for key, v in step["with"].items()}
            else:
                self._shell(step, folder, environment, ran)
        ran.outputs = {name: self.fill(one["value"]) for name, one in self.spec["outputs"].items()}
        return ran

    def fill(self, text: str) -> str:
        """A text with its expressions' values."""
        return EXPRESSION.sub(lambda found: str(self._value(found[1])), text)

    def _shell(self, step: Mapping[str, Any], folder: Path, environment: Mapping[str, str], ran: Ran) -> None:
        assert step["shell"] == "bash"
        outputs = folder.parent / "outputs"
        outputs.write_text("")
        variables = {name: self.fill(str(value)) for name, value in step.get("env", {}).items()}
        runner = {"GITHUB_OUTPUT": str(outputs), "GITHUB_ACTION_PATH": str(self.path.parent), "GITHUB_ACTIONS": "true"}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.fill(step["run"])], cwd=folder,
            env=os.environ | dict(environment) | runner | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        ran.code, ran.said = ran.code or done.returncode, ran.said + done.stdout + done.stderr
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in outputs.read_text().splitlines())

    def _value(self, expression: str) -> object:
        """An expression's value: names, strings, `==`, `!=`, `!`, `&&`, `||`, and the functions of action.yml."""
        text = EXPRESSION.sub(r"\1", expression).strip()
        python = NAME.sub(self._python, re.sub(r"\btrue\b(?!')", "True", text))
        return eval(python, {"cancelled": lambda: False, "hashFiles": lambda _: "digest"})

    def _python(self, found: re.Match[str]) -> str:
        if found[1] is None:
            return {"!": " not ", "||": " or ", "&&": " and "}[found[0]]
        words = found[2][1:].split(".")
        if found[1] == "inputs":
            return repr(self.inputs[words[0]])
        if found[1] == "steps":
            return repr(self.outputs.get(words[0], {}).get(words[2], ""))
        return repr(words[-1])
