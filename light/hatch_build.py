"""Takes the code from the folder above, or from here, where a source distribution has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CodeOfThePackage(BuildHookInterface):
    """All of the package but the embedded model's weights and vocabulary; its small files say a recipe's defaults."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name each file, and where it goes: below `ip2pbatch_light` in the wheel."""
        here = Path(self.root)
        code = next(folder for folder in (here / "ip2pbatch", here.parent / "ip2pbatch") if folder.is_dir())
        place = "ip2pbatch" if self.target_name == "sdist" else "ip2pbatch_light/ip2pbatch"
        for file in sorted(code.rglob("*")):
            if file.is_file() and _is_light(file):
                build_data["force_include"][str(file)] = f"{place}/{file.relative_to(code).as_posix()}"


def _is_light(file: Path) -> bool:
    return file.suffix not in (".pyc", ".safetensors") and file.parent.name != "tokenizer"
